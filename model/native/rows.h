// What the operators share: vectors of the processor at hand, and loops over rows that are worth a thread.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

namespace ferry {

using Vec = at::vec::Vectorized<float>;

// Numbers to work through before a second thread pays for its waking.
constexpr int64_t worth_a_thread = 32768;

// Calls visit(row) for each of `rows`, shared among torch's threads; `each` numbers are worked through in a row.
template <typename Visit>
void for_rows(int64_t rows, int64_t each, const Visit& visit) {
  const int64_t grain = std::max<int64_t>(1, worth_a_thread / std::max<int64_t>(1, each));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) visit(row);
  });
}

// Calls visit(place, count) for vectors of `size` numbers in order; the last one may hold fewer.
template <typename Visit>
inline void for_vectors(int64_t size, const Visit& visit) {
  int64_t place = 0;
  for (; place + Vec::size() <= size; place += Vec::size()) visit(place, Vec::size());
  if (place < size) visit(place, size - place);
}

inline Vec load(const float* from, int64_t count) {
  return count == Vec::size() ? Vec::loadu(from) : Vec::loadu(from, count);
}

inline void store(const Vec& vector, float* to, int64_t count) {
  vector.store(to, static_cast<int>(count));
}

inline Vec sigmoid(const Vec& vector) {
  return Vec(1.0f) / (Vec(1.0f) + vector.neg().exp());
}

// To 1e-7, which is a unit in the last place of 1, at half the time of the vectors' own.
inline Vec tanh(const Vec& vector) {
  return Vec(1.0f) - Vec(2.0f) / ((vector + vector).exp() + Vec(1.0f));
}

inline float sum(const Vec& vector) {
  return at::vec::vec_reduce_all<float>([](Vec& left, Vec& right) { return left + right; }, vector);
}

inline float largest(const Vec& vector) {
  return at::vec::vec_reduce_all<float>([](Vec& left, Vec& right) { return at::vec::maximum(left, right); }, vector);
}

}  // namespace ferry
