// The training objective between its products: a row's loss, and its gradient in place of its logits.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "rows.h"

namespace ferry {

template <typename T>
void cross_entropy_rows(T* logits, const int64_t* targets, int64_t rows, int64_t vocabulary, float smoothing, float* losses, float* columns, int64_t threads) {
  constexpr int64_t size = Pair<T>::size;
  const int64_t padded = (vocabulary + size - 1) / size * size;
  const float share = smoothing / static_cast<float>(vocabulary);
  at::parallel_for(0, rows, std::max<int64_t>(1, (rows + threads - 1) / threads), [&](int64_t begin, int64_t end) {
    std::vector<float> held(padded), sums(padded, 0.0f);  // of the thread: a row in float32, and its columns' sums
    for (int64_t row = begin; row < end; ++row) {
      T* numbers = logits + row * vocabulary;
      Vec total(0.0f), peak(-std::numeric_limits<float>::infinity()), exponentials(0.0f);
      for (int64_t place = 0; place < vocabulary; place += size) {
        const auto [low, high] = Pair<T>::load(numbers + place, vocabulary - place);
        total = total + low + high;
        low.store(&held[place]);
        high.store(&held[place + Vec::size()]);
      }
      std::fill(held.begin() + vocabulary, held.end(), -std::numeric_limits<float>::infinity());
      const float truth = held[targets[row]];
      for (int64_t place = 0; place < padded; place += Vec::size()) peak = at::vec::maximum(peak, Vec::loadu(&held[place]));
      const float highest = largest(peak);
      for (int64_t place = 0; place < padded; place += Vec::size()) {
        const Vec power = exponential(Vec::loadu(&held[place]) - Vec(highest));
        exponentials = exponentials + power;
        power.store(&held[place]);
      }
      const float normaliser = sum(exponentials), logarithm = highest + std::log(normaliser);
      losses[2 * row] = logarithm - truth;
      losses[2 * row + 1] = logarithm - sum(total) / static_cast<float>(vocabulary);
      held[targets[row]] += (smoothing - 1.0f) * normaliser;
      const Vec factor(1.0f / normaliser), uniform(-share);
      for (int64_t place = 0; place < vocabulary; place += size) {
        const Vec low = at::vec::fmadd(Vec::loadu(&held[place]), factor, uniform);
        const Vec high = at::vec::fmadd(Vec::loadu(&held[place + Vec::size()]), factor, uniform);
        (Vec::loadu(&sums[place]) + low).store(&sums[place]);
        (Vec::loadu(&sums[place + Vec::size()]) + high).store(&sums[place + Vec::size()]);
        Pair<T>::store(low, high, numbers + place, vocabulary - place);
      }
    }
    std::copy_n(sums.begin(), vocabulary, columns + at::get_thread_num() * vocabulary);
  });
}

// What all objectives in place of their logits have in common. Logits (P N, V) are float32 or bfloat16, targets (N) int64; `write(logits, targets, N, V,
// losses, columns, threads)` makes them the gradient, writes F figures for each position and a thread's sums of the gradient's columns. Returns those
// figures (N, F), and the sums of all threads (V), taken before the gradient is rounded to bfloat16.
template <typename Write>
std::tuple<at::Tensor, at::Tensor> in_place_of_logits(at::Tensor logits, const at::Tensor& targets, int64_t passes, int64_t figures, const Write& write) {
  TORCH_CHECK(logits.dim() == 2 && logits.is_contiguous() && logits.size(1) > 0, "logits must be of pieces, two-dimensional and contiguous");
  TORCH_CHECK(targets.dim() == 1 && targets.scalar_type() == at::kLong && targets.is_contiguous(), "targets must be (N,) int64");
  const int64_t positions = targets.size(0), vocabulary = logits.size(1);
  TORCH_CHECK(logits.size(0) == passes * positions, "there must be ", passes == 1 ? "a row" : "two rows", " of logits for each target");
  const int64_t* truth = targets.const_data_ptr<int64_t>();
  for (int64_t place = 0; place < positions; ++place) TORCH_CHECK(truth[place] >= 0 && truth[place] < vocabulary, "a target is no piece: ", truth[place]);
  const auto options = logits.options().dtype(at::kFloat);
  const int64_t threads = at::get_num_threads();
  at::Tensor losses = at::empty({positions, figures}, options), columns = at::zeros({threads, vocabulary}, options);
  const auto run = [&](auto* numbers) {
    write(numbers, truth, positions, vocabulary, losses.mutable_data_ptr<float>(), columns.mutable_data_ptr<float>(), threads);
  };
  if (logits.scalar_type() == at::kFloat) {
    run(logits.mutable_data_ptr<float>());
  } else {
    TORCH_CHECK(logits.scalar_type() == at::kBFloat16, "logits must be float32 or bfloat16");
    run(logits.mutable_data_ptr<c10::BFloat16>());
  }
  return {losses, columns.sum(0)};
}

// Logits (N, V) become the gradient of their smoothed cross-entropy: softmax minus `1 - smoothing` on the target and `smoothing / V` on every piece.
// The figures of a row are the loss without smoothing and that of all pieces alike.
inline std::tuple<at::Tensor, at::Tensor> cross_entropy_(at::Tensor logits, const at::Tensor& targets, double smoothing) {
  return in_place_of_logits(std::move(logits), targets, 1, 2, [&](auto* numbers, const int64_t* truth, int64_t rows, int64_t vocabulary, float* losses, float* columns, int64_t threads) {
    cross_entropy_rows(numbers, truth, rows, vocabulary, static_cast<float>(smoothing), losses, columns, threads);
  });
}

}  // namespace ferry
