// R-Drop between its products (Liang et al. 2021): the losses of two passes over the same positions, how far they diverge, and the gradient
// of it all in place of the logits.
#pragma once

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "loss.h"

namespace ferry {

// softmax of a row of logits, of which it keeps a copy.
class Distribution {
 public:
  explicit Distribution(int64_t vocabulary)
      : vocabulary_(vocabulary), padded_((vocabulary + 2 * Vec::size() - 1) / (2 * Vec::size()) * 2 * Vec::size()), logits_(padded_), powers_(padded_) {}

  template <typename T>
  void read(const T* numbers) {
    constexpr int64_t size = Pair<T>::size;
    Vec total(0.0f), peak(-std::numeric_limits<float>::infinity()), exponentials(0.0f);
    for (int64_t place = 0; place < vocabulary_; place += size) {
      const auto [low, high] = Pair<T>::load(numbers + place, vocabulary_ - place);
      total = total + low + high;
      low.store(&logits_[place]);
      high.store(&logits_[place + Vec::size()]);
    }
    std::fill(logits_.begin() + vocabulary_, logits_.end(), -std::numeric_limits<float>::infinity());
    for (int64_t place = 0; place < padded_; place += Vec::size()) peak = at::vec::maximum(peak, Vec::loadu(&logits_[place]));
    const float highest = largest(peak);
    for (int64_t place = 0; place < padded_; place += Vec::size()) {
      const Vec power = exponential(Vec::loadu(&logits_[place]) - Vec(highest));
      exponentials = exponentials + power;
      power.store(&powers_[place]);
    }
    std::fill(logits_.begin() + vocabulary_, logits_.end(), 0.0f);  // or differences of them would be no numbers
    const float normaliser = sum(exponentials);
    factor_ = 1.0f / normaliser;
    logarithm_ = highest + std::log(normaliser);
    mean_ = sum(total) / static_cast<float>(vocabulary_);
  }

  float nll(int64_t piece) const { return logarithm_ - logits_[piece]; }
  float uniform() const { return logarithm_ - mean_; }

  // Of 16 or 8 pieces from `place` on.
  Vec probabilities(int64_t place) const { return Vec::loadu(&powers_[place]) * Vec(factor_); }
  Vec log_ratio(const Distribution& other, int64_t place) const {
    return Vec::loadu(&logits_[place]) - Vec::loadu(&other.logits_[place]) - Vec(logarithm_ - other.logarithm_);
  }

 private:
  int64_t vocabulary_, padded_;
  std::vector<float> logits_, powers_;
  float factor_ = 0.0f, logarithm_ = 0.0f, mean_ = 0.0f;
};

// `number` at one place of a vector, if it is one of its places, and else 0.
inline Vec at_place(int64_t place, float number) {
  float numbers[Vec::size()] = {};
  if (0 <= place && place < Vec::size()) numbers[place] = number;
  return Vec::loadu(numbers);
}

template <typename T>
void divergence_rows(T* logits, const int64_t* targets, int64_t rows, int64_t vocabulary, float smoothing, float factor, float* losses, float* columns, int64_t threads) {
  constexpr int64_t size = Pair<T>::size;
  const Vec share(smoothing / static_cast<float>(vocabulary)), weight(factor);
  at::parallel_for(0, rows, std::max<int64_t>(1, (rows + threads - 1) / threads), [&](int64_t begin, int64_t end) {
    Distribution first(vocabulary), second(vocabulary);
    std::vector<float> sums((vocabulary + size - 1) / size * size, 0.0f);
    for (int64_t row = begin; row < end; ++row) {
      T *to_first = logits + row * vocabulary, *to_second = logits + (rows + row) * vocabulary;
      const int64_t target = targets[row];
      first.read(to_first);
      second.read(to_second);
      Vec ahead(0.0f), back(0.0f);
      for (int64_t place = 0; place < vocabulary; place += Vec::size()) {
        const Vec ratio = first.log_ratio(second, place);
        ahead = at::vec::fmadd(first.probabilities(place), ratio, ahead);
        back = back - second.probabilities(place) * ratio;
      }
      const float there = sum(ahead), here = sum(back);
      float* loss = losses + 3 * row;
      loss[0] = first.nll(target) + second.nll(target);
      loss[1] = first.uniform() + second.uniform();
      loss[2] = there + here;
      const auto gradients = [&](int64_t place) {
        const Vec p1 = first.probabilities(place), p2 = second.probabilities(place), ratio = first.log_ratio(second, place);
        const Vec difference = p1 - p2;
        const Vec one = p1 - share + weight * (at::vec::fmadd(p1, ratio - Vec(there), difference));
        const Vec other = p2 - share - weight * (at::vec::fmadd(p2, ratio + Vec(here), difference));
        return std::make_tuple(one, other);
      };
      for (int64_t place = 0; place < vocabulary; place += size) {
        auto [one_low, other_low] = gradients(place);
        auto [one_high, other_high] = gradients(place + Vec::size());
        if (place <= target && target < place + size) {
          const Vec truth = at_place(target - place, 1.0f - smoothing), later = at_place(target - place - Vec::size(), 1.0f - smoothing);
          one_low = one_low - truth, other_low = other_low - truth;
          one_high = one_high - later, other_high = other_high - later;
        }
        (Vec::loadu(&sums[place]) + one_low + other_low).store(&sums[place]);
        (Vec::loadu(&sums[place + Vec::size()]) + one_high + other_high).store(&sums[place + Vec::size()]);
        Pair<T>::store(one_low, one_high, to_first + place, vocabulary - place);
        Pair<T>::store(other_low, other_high, to_second + place, vocabulary - place);
      }
    }
    std::copy_n(sums.begin(), vocabulary, columns + at::get_thread_num() * vocabulary);
  });
}

// Logits (2N, V) of N positions in a first pass and again in a second become the gradient of both smoothed cross-entropies, summed, and of `factor`
// times the divergence of their distributions p1 and p2, KL(p1 || p2) + KL(p2 || p1). The figures of a position are the sums over both passes of the
// loss without smoothing and of that of all pieces alike, and the divergence.
inline std::tuple<at::Tensor, at::Tensor> cross_entropy_and_divergence_(at::Tensor logits, const at::Tensor& targets, double smoothing, double factor) {
  return in_place_of_logits(std::move(logits), targets, 2, 3, [&](auto* numbers, const int64_t* truth, int64_t rows, int64_t vocabulary, float* losses, float* columns, int64_t threads) {
    divergence_rows(numbers, truth, rows, vocabulary, static_cast<float>(smoothing), static_cast<float>(factor), losses, columns, threads);
  });
}

}  // namespace ferry
