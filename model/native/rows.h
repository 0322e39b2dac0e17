// What the operators share: vectors of the processor at hand, and loops over rows that are worth a thread.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <tuple>

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

// To a unit in the last place or two; what is above 88 is taken for it, so that all of them have inverses, and what is
// below -87 gives 0: numbers still smaller are slow.
inline Vec exponential(const Vec& vector) {
#ifdef CPU_CAPABILITY_AVX512
  // 2^n e^r with r at most ln 2 / 2, which leaves ln 2 in two parts no error; the series to r^7, as Cephes has it.
  const __m512 x = _mm512_max_ps(_mm512_min_ps(vector, _mm512_set1_ps(88.0f)), _mm512_set1_ps(-87.0f));
  const __mmask16 large = _mm512_cmp_ps_mask(vector, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x));
  __m512 series = _mm512_set1_ps(1.9875691500e-4f);
  for (const float next : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f}) {
    series = _mm512_fmadd_ps(series, r, _mm512_set1_ps(next));
  }
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(vector, vector, _CMP_UNORD_Q), _mm512_maskz_scalef_ps(large, series, n), vector);
#else
  return vector.exp();
#endif
}

// 1 / vector, to a unit in the last place, for what is not 0.
inline Vec inverse(const Vec& vector) {
#ifdef CPU_CAPABILITY_AVX512
  const __m512 near = _mm512_rcp14_ps(vector);
  return _mm512_fmadd_ps(_mm512_fnmadd_ps(vector, near, _mm512_set1_ps(1.0f)), near, near);  // a step of Newton's
#else
  return Vec(1.0f) / vector;
#endif
}

inline Vec sigmoid(const Vec& vector) {
  return inverse(Vec(1.0f) + exponential(vector.neg()));
}

// To 1e-7, which is a unit in the last place of 1, at half the time of the vectors' own.
inline Vec tanh(const Vec& vector) {
  return at::vec::fmadd(Vec(-2.0f), inverse(exponential(vector + vector) + Vec(1.0f)), Vec(1.0f));
}

inline float sum(const Vec& vector) {
  return at::vec::vec_reduce_all<float>([](Vec& left, Vec& right) { return left + right; }, vector);
}

inline float largest(const Vec& vector) {
  return at::vec::vec_reduce_all<float>([](Vec& left, Vec& right) { return at::vec::maximum(left, right); }, vector);
}

// Two vectors of float32 out of what a vector of T, bfloat16 or float16, holds, or of its first `count` numbers and zeros; and back.
template <typename T>
struct Pair {
  using Narrow = at::vec::Vectorized<T>;
  static constexpr int64_t size = Narrow::size();
  static std::tuple<Vec, Vec> load(const T* from, int64_t count) {
    return at::vec::convert_to_float<T>(count >= size ? Narrow::loadu(from) : Narrow::loadu(from, count));
  }
  static void store(const Vec& low, const Vec& high, T* to, int64_t count) {
    at::vec::convert_from_float<T>(low, high).store(to, static_cast<int>(std::min(count, size)));
  }
};

// The same of float32 itself.
template <>
struct Pair<float> {
  static constexpr int64_t size = 2 * Vec::size();
  static std::tuple<Vec, Vec> load(const float* from, int64_t count) {
    if (count >= size) return {Vec::loadu(from), Vec::loadu(from + Vec::size())};
    if (count > Vec::size()) return {Vec::loadu(from), Vec::loadu(from + Vec::size(), count - Vec::size())};
    return {ferry::load(from, count), Vec(0.0f)};
  }
  static void store(const Vec& low, const Vec& high, float* to, int64_t count) {
    low.store(to, static_cast<int>(std::min<int64_t>(count, Vec::size())));
    if (count > Vec::size()) high.store(to + Vec::size(), static_cast<int>(std::min<int64_t>(count, size) - Vec::size()));
  }
};

}  // namespace ferry
