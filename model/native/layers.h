// What stands between the matrix products of a decoder step, each in one pass over its rows. Every number is computed
// from its own row alone and in an order that depends on nothing else, so that no batch changes it.

#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "rows.h"

namespace ferry {

inline void check(const at::Tensor& tensor, const char* name, int64_t dimensions) {
  TORCH_CHECK(tensor.dim() == dimensions, name, " has ", tensor.dim(), " dimensions, not ", dimensions);
  TORCH_CHECK(tensor.scalar_type() == at::kFloat, name, " must be float32");
  TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

// Rows may lie apart.
inline void check_rows(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.dim() == 2, name, " has ", tensor.dim(), " dimensions, not 2");
  TORCH_CHECK(tensor.scalar_type() == at::kFloat, name, " must be float32");
  TORCH_CHECK(tensor.stride(1) == 1, name, " must be contiguous within a row");
}

// A row's scale, of the largest of its numbers; `smallest` is added for rows of zeros.
inline float row_scale(const Vec& peak, double smallest) {
  return static_cast<float>(smallest) + largest(peak) * static_cast<float>(1.0 / 127.0);
}

// Rows (N, I) over their scales (N, 1), max|x| / 127 each, and those scales.
inline std::tuple<at::Tensor, at::Tensor> scale_rows(const at::Tensor& given, double smallest) {
  const at::Tensor rows = given.contiguous();
  check(rows, "rows", 2);
  const int64_t count = rows.size(0), width = rows.size(1);
  at::Tensor scaled = at::empty_like(rows), scales = at::empty({count, 1}, rows.options());
  const float* from = rows.const_data_ptr<float>();
  float *to = scaled.mutable_data_ptr<float>(), *scale = scales.mutable_data_ptr<float>();
  for_rows(count, 2 * width, [&](int64_t row) {
    const float* numbers = from + row * width;
    Vec peak(0.0f);  // what a last, shorter vector lacks is 0 as well
    for_vectors(width, [&](int64_t place, int64_t size) { peak = at::vec::maximum(peak, load(numbers + place, size).abs()); });
    scale[row] = row_scale(peak, smallest);
    const Vec factor(1.0f / scale[row]);
    for_vectors(width, [&](int64_t place, int64_t size) {
      store(load(numbers + place, size) * factor, to + row * width + place, size);
    });
  });
  return {scaled, scales};
}

// Products (N, O) times their rows' scales (N, 1), plus bias (O), in place.
inline at::Tensor restore_rows_(at::Tensor products, const at::Tensor& scales, const at::Tensor& bias) {
  check(products, "products", 2);
  check(scales, "scales", 2);
  check(bias, "bias", 1);
  const int64_t count = products.size(0), width = products.size(1);
  TORCH_CHECK(scales.size(0) == count && bias.size(0) == width, "scales or bias do not fit the products");
  float* numbers = products.mutable_data_ptr<float>();
  const float *scale = scales.const_data_ptr<float>(), *added = bias.const_data_ptr<float>();
  for_rows(count, width, [&](int64_t row) {
    const Vec factor(scale[row]);
    float* mine = numbers + row * width;
    for_vectors(width, [&](int64_t place, int64_t size) {
      store(load(added + place, size) + load(mine + place, size) * factor, mine + place, size);
    });
  });
  return products;
}

// LSTM: writes h_t and c_t, of `size` units, of their gates before the nonlinearities and of c_{t-1}.
inline void lstm_units(const Vec& input, const Vec& forget, const Vec& candidate, const Vec& output, const float* before, float* hidden, float* cell, int64_t size) {
  const Vec after = at::vec::fmadd(sigmoid(forget), load(before, size), sigmoid(input) * tanh(candidate));
  store(after, cell, size);
  store(sigmoid(output) * tanh(after), hidden, size);
}

// LSTM: h_t and c_t (N, H) of the products (N, 4H), in the order input, forget, candidate, output, and c_{t-1} (N, H).
inline std::tuple<at::Tensor, at::Tensor> lstm_gates(const at::Tensor& products, const at::Tensor& given) {
  const at::Tensor cells = given.contiguous();
  check(products, "products", 2);
  check(cells, "cells", 2);
  const int64_t count = cells.size(0), hidden = cells.size(1);
  TORCH_CHECK(products.size(0) == count && products.size(1) == 4 * hidden, "the products do not fit the cells");
  at::Tensor hiddens = at::empty_like(cells), after = at::empty_like(cells);
  const float *gates = products.const_data_ptr<float>(), *before = cells.const_data_ptr<float>();
  float *h = hiddens.mutable_data_ptr<float>(), *c = after.mutable_data_ptr<float>();
  for_rows(count, 16 * hidden, [&](int64_t row) {  // five of them are exponentials
    const float* gate = gates + 4 * row * hidden;
    for_vectors(hidden, [&](int64_t place, int64_t size) {
      const auto at = [&](int64_t number) { return load(gate + number * hidden + place, size); };
      lstm_units(at(0), at(1), at(2), at(3), before + row * hidden + place, h + row * hidden + place, c + row * hidden + place, size);
    });
  });
  return {hiddens, after};
}

// Means (B, H) over the positions of outputs (B, S, H) at which mask (B, S) is true, summed in float64; 0/0 if none is.
inline at::Tensor masked_mean(const at::Tensor& outputs, const at::Tensor& masked) {
  const at::Tensor mask = masked.contiguous();
  TORCH_CHECK(outputs.dim() == 3 && outputs.scalar_type() == at::kFloat && outputs.stride(2) == 1, "outputs must be (B, S, H) float32");
  const int64_t batch = outputs.size(0), positions = outputs.size(1), hidden = outputs.size(2);
  TORCH_CHECK(mask.scalar_type() == at::kBool && mask.dim() == 2 && mask.size(0) == batch && mask.size(1) == positions, "mask must be (B, S) bool");
  at::Tensor means = at::empty({batch, hidden}, outputs.options());
  const float* numbers = outputs.const_data_ptr<float>();
  const bool* real = mask.const_data_ptr<bool>();
  float* mean = means.mutable_data_ptr<float>();
  const int64_t sentence_stride = outputs.stride(0), position_stride = outputs.stride(1);
  for_rows(batch, 2 * positions * hidden, [&](int64_t sentence) {
    std::vector<double> sums(hidden, 0.0);
    int64_t count = 0;
    for (int64_t position = 0; position < positions; ++position) {
      if (!real[sentence * positions + position]) continue;
      const float* from = numbers + sentence * sentence_stride + position * position_stride;
      for (int64_t unit = 0; unit < hidden; ++unit) sums[unit] += from[unit];
      ++count;
    }
    for (int64_t unit = 0; unit < hidden; ++unit) mean[sentence * hidden + unit] = static_cast<float>(sums[unit] / static_cast<double>(count));
  });
  return means;
}

// Multi-head attention between its products: queries (B, Q, H), keys and values side by side (B, S, 2H), mask (B, S), all contiguous; writes the
// heads' contexts side by side (B, Q, H), and if `means` is there their mean weights (B, Q, S).
inline void attend_into(
    const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& mask, int64_t heads, const at::Tensor& contexts, float* means) {
  check(queries, "queries", 3);
  check(keys, "keys", 3);
  TORCH_CHECK(mask.scalar_type() == at::kBool && mask.dim() == 2 && mask.is_contiguous(), "mask must be (B, S) bool");
  const int64_t batch = queries.size(0), count = queries.size(1), hidden = queries.size(2), positions = keys.size(1);
  TORCH_CHECK(keys.size(0) == batch && keys.size(2) == 2 * hidden, "the keys do not fit the queries");
  TORCH_CHECK(mask.size(0) == batch && mask.size(1) == positions, "the mask does not fit the keys");
  TORCH_CHECK(heads > 0 && hidden % heads == 0, "hidden must be a multiple of heads");
  const int64_t width = hidden / heads;
  const float *asked = queries.const_data_ptr<float>(), *held = keys.const_data_ptr<float>();
  const bool* real = mask.const_data_ptr<bool>();
  float* context = contexts.mutable_data_ptr<float>();
  const float shrink = 1.0f / std::sqrt(static_cast<float>(width)), share = 1.0f / static_cast<float>(heads);
  for_rows(batch * count, 2 * positions * hidden, [&](int64_t row) {
    const int64_t sentence = row / count;
    const float* memory = held + sentence * positions * 2 * hidden;
    const bool* kept = real + sentence * positions;
    std::vector<float> weights(positions), average(means ? positions : 0, 0.0f);
    for (int64_t head = 0; head < heads; ++head) {
      const float* query = asked + row * hidden + head * width;
      float highest = -std::numeric_limits<float>::infinity();
      for (int64_t position = 0; position < positions; ++position) {
        if (!kept[position]) continue;
        const float* key = memory + position * 2 * hidden + head * width;
        Vec products(0.0f);
        for_vectors(width, [&](int64_t place, int64_t size) {
          products = at::vec::fmadd(load(query + place, size), load(key + place, size), products);
        });
        weights[position] = sum(products) * shrink;
        highest = std::max(highest, weights[position]);
      }
      float total = 0.0f;
      for (int64_t position = 0; position < positions; ++position) {
        if (!kept[position]) continue;
        weights[position] = std::exp(weights[position] - highest);
        total += weights[position];
      }
      float* mixed = context + row * hidden + head * width;
      std::fill(mixed, mixed + width, 0.0f);
      for (int64_t position = 0; position < positions; ++position) {
        if (!kept[position]) continue;
        const float weight = weights[position] / total;
        if (means) average[position] += weight * share;
        const float* value = memory + position * 2 * hidden + hidden + head * width;
        const Vec factor(weight);
        for_vectors(width, [&](int64_t place, int64_t size) {
          store(at::vec::fmadd(factor, load(value + place, size), load(mixed + place, size)), mixed + place, size);
        });
      }
    }
    if (means) std::copy(average.begin(), average.end(), means + row * positions);
  });
}

// The same of any strides: contexts and mean weights.
inline std::tuple<at::Tensor, at::Tensor> attend(const at::Tensor& asking, const at::Tensor& memories, const at::Tensor& masked, int64_t heads) {
  const at::Tensor queries = asking.contiguous(), keys = memories.contiguous(), mask = masked.contiguous();
  check(queries, "queries", 3);
  check(keys, "keys", 3);
  at::Tensor contexts = at::empty_like(queries), means = at::empty({queries.size(0), queries.size(1), keys.size(1)}, queries.options());
  attend_into(queries, keys, mask, heads, contexts, means.mutable_data_ptr<float>());
  return {contexts, means};
}

}  // namespace ferry
