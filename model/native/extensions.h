// The best extensions of the hypotheses of a beam search; what the keys are stands in model/search/extensions.py.

#pragma once

#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "rows.h"

namespace ferry {

constexpr int64_t never = 0x7F800000LL << 32;  // the key of an infinite cost

inline int64_t key(float cost, int64_t place) {
  const float positive = std::abs(cost);
  int32_t bits;
  std::memcpy(&bits, &positive, sizeof bits);
  return (static_cast<int64_t>(bits) << 32) + place;
}

// The smallest of the keys that it is shown, in order.
class Smallest {
 public:
  Smallest(int64_t* keys, int64_t wanted) : keys_(keys), wanted_(wanted) {}

  // Costs from here on are too high; of equal ones the first that is shown stays.
  float bar() const { return bar_; }

  void show(float cost, int64_t place) {
    const int64_t found = key(cost, place);
    int64_t rank = std::min(count_, wanted_ - 1);
    for (; rank > 0 && keys_[rank - 1] > found; --rank) keys_[rank] = keys_[rank - 1];
    keys_[rank] = found;
    count_ = std::min(count_ + 1, wanted_);
    if (count_ < wanted_) return;
    const int32_t bits = static_cast<int32_t>(keys_[wanted_ - 1] >> 32);
    std::memcpy(&bar_, &bits, sizeof bar_);
  }

 private:
  int64_t* keys_;
  int64_t wanted_, count_ = 0;
  float bar_ = std::numeric_limits<float>::infinity();
};

// A sum of numbers from 0 to 1 that is the same in every order: of their multiples of 2^-36, which 2^27 of them do not overflow.
class ExactSum {
 public:
  void add(const Vec& numbers) {
#ifdef CPU_CAPABILITY_AVX512
    const __m512 units = _mm512_mul_ps(numbers, _mm512_set1_ps(units_of_one));
    total_ = _mm512_add_epi64(total_, _mm512_cvtps_epi64(_mm512_castps512_ps256(units)));
    total_ = _mm512_add_epi64(total_, _mm512_cvtps_epi64(_mm512_extractf32x8_ps(units, 1)));
#else
    float each[Vec::size()];
    (numbers * Vec(units_of_one)).store(each);
    for (const float units : each) total_ += std::llrint(units);
#endif
  }

  float total() const {
#ifdef CPU_CAPABILITY_AVX512
    return static_cast<float>(_mm512_reduce_add_epi64(total_)) / units_of_one;
#else
    return static_cast<float>(total_) / units_of_one;
#endif
  }

 private:
  static constexpr float units_of_one = 68719476736.0f;
#ifdef CPU_CAPABILITY_AVX512
  __m512i total_ = _mm512_setzero_si512();
#else
  int64_t total_ = 0;
#endif
};

// log_softmax of a row is (x - largest) - logarithm. Of `restricted` columns there are others in other batches, of probability 0 or none, so that
// a number's place among them varies; their sum does not.
struct Normaliser {
  float largest, logarithm;

  Normaliser(const float* logits, int64_t columns, bool restricted) {
    Vec peak(-std::numeric_limits<float>::infinity());
    for_filled(logits, columns, [&](const Vec& numbers) { peak = at::vec::maximum(peak, numbers); });
    largest = ferry::largest(peak);
    const Vec shift(largest);
    if (restricted) {
      ExactSum total;
      for_filled(logits, columns, [&](const Vec& numbers) { total.add(exponential(numbers - shift)); });
      logarithm = std::log(total.total());
    } else {
      Vec total(0.0f);
      for_filled(logits, columns, [&](const Vec& numbers) { total = total + exponential(numbers - shift); });
      logarithm = std::log(sum(total));
    }
  }

  // Shows vectors of them, the last one filled up with minus infinity.
  template <typename Show>
  static void for_filled(const float* logits, int64_t columns, const Show& show) {
    int64_t place = 0;
    for (; place + Vec::size() <= columns; place += Vec::size()) show(Vec::loadu(logits + place));
    if (place == columns) return;
    float rest[Vec::size()];
    std::fill(std::copy(logits + place, logits + columns, rest), rest + Vec::size(), -std::numeric_limits<float>::infinity());
    show(Vec::loadu(rest));
  }

  float cost(float before, float logit) const { return before - ((logit - largest) - logarithm); }
  Vec cost(const Vec& before, const Vec& logit) const { return before - ((logit - Vec(largest)) - Vec(logarithm)); }
};

// As model.search.extensions.best_extensions, for float32 logits on a CPU; keys of what does not live are `never`.
inline at::Tensor best_extensions(
    const at::Tensor& logits,
    const at::Tensor& costs,
    int64_t wanted,
    int64_t padded,
    int64_t end,
    at::IntArrayRef barred,
    bool restricted,
    const std::optional<at::Tensor>& forced_slots,
    const std::optional<at::Tensor>& forced_columns) {
  TORCH_CHECK(logits.dim() == 2 && logits.scalar_type() == at::kFloat && logits.is_contiguous(), "logits must be (N, V) float32");
  TORCH_CHECK(costs.dim() == 2 && costs.scalar_type() == at::kFloat && costs.is_contiguous(), "costs must be (B, J) float32");
  const int64_t sentences = costs.size(0), rows = costs.size(1), columns = logits.size(1);
  TORCH_CHECK(logits.size(0) == sentences * rows, "there must be a row of logits for each cost");
  TORCH_CHECK(wanted > 0 && 0 <= end && end < columns && columns <= padded, "wanted, end or padded are out of bounds");
  at::Tensor keys = at::full({sentences, wanted + rows}, never, costs.options().dtype(at::kLong));
  const float *given = logits.const_data_ptr<float>(), *cost = costs.const_data_ptr<float>();
  int64_t* found = keys.mutable_data_ptr<int64_t>();

  std::vector<int64_t> only(sentences, -1);  // the column that may follow, where a prefix lasts
  if (forced_slots.has_value() && forced_columns.has_value()) {
    const at::Tensor slots = forced_slots->contiguous(), following = forced_columns->contiguous();
    for (int64_t index = 0; index < slots.size(0); ++index) {
      const int64_t column = following.const_data_ptr<int64_t>()[index];
      TORCH_CHECK(0 <= column && column < columns, "a prescribed column is out of bounds");
      only.at(slots.const_data_ptr<int64_t>()[index]) = column;
    }
  }

  for_rows(sentences, 4 * rows * columns, [&](int64_t sentence) {
    int64_t* mine = found + sentence * (wanted + rows);
    Smallest smallest(mine, wanted);
    for (int64_t row = sentence * rows; row < (sentence + 1) * rows; ++row) {
      const float before = cost[row];
      if (!(before < std::numeric_limits<float>::infinity())) continue;
      const float* scores = given + row * columns;
      const Normaliser normaliser(scores, columns, restricted);
      if (only[sentence] >= 0) {
        if (row == sentence * rows) {
          const float prescribed = normaliser.cost(before, scores[only[sentence]]);
          mine[0] = key(prescribed, row * padded + only[sentence]);
        }
        continue;
      }
      mine[wanted + row - sentence * rows] = key(normaliser.cost(before, scores[end]), row * padded + end);
      const auto offer = [&](int64_t column) {
        const float after = normaliser.cost(before, scores[column]);
        if (!(after < smallest.bar())) return;
        if (std::find(barred.begin(), barred.end(), column) != barred.end()) return;
        smallest.show(after, row * padded + column);
      };
      const Vec base(before);
      int64_t place = 0;
      for (; place + Vec::size() <= columns; place += Vec::size()) {
        const Vec after = normaliser.cost(base, Vec::loadu(scores + place));
        // Lanes that are not below the bar become 0; a cost that is 0 is found by the second question.
        if ((after < Vec(smallest.bar())).zero_mask() == (1 << Vec::size()) - 1) continue;
        for (int64_t column = place; column < place + Vec::size(); ++column) offer(column);
      }
      for (; place < columns; ++place) offer(place);
    }
  });
  return keys;
}

}  // namespace ferry
