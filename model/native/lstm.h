// An LSTM over a sequence and back, for training in bfloat16: the products with the recurrent weights are torch's, and what stands between two
// of them is one pass over the rows, in float32.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <tuple>

#include "rows.h"

namespace ferry {

using Brain = c10::BFloat16;

// The units of a row from `place` on, two vectors at a time: visit(place, count) for as many as a vector of bfloat16 holds, or fewer.
template <typename Visit>
inline void for_pairs(int64_t size, const Visit& visit) {
  for (int64_t place = 0; place < size; place += Pair<Brain>::size) visit(place, std::min(size - place, Pair<Brain>::size));
}

inline void check_sequence(const at::Tensor& tensor, const char* name, at::ScalarType type, at::IntArrayRef sizes) {
  TORCH_CHECK(tensor.scalar_type() == type && tensor.sizes() == sizes && tensor.is_contiguous(), name, " must be ", type, " ", sizes, " and contiguous, not ", tensor.scalar_type(), " ", tensor.sizes());
}

// Products of the inputs (T, N, 4H) bfloat16 in the order input, forget, candidate, output, recurrent weights (4H, H) bfloat16, h (N, H) bfloat16
// and c (N, H) float32 before the first position: h and c (T + 1, N, H) from there on. In place of the products come the activations in float16,
// whose steps are finer than bfloat16's where a gate is nearly open.
inline std::tuple<at::Tensor, at::Tensor> lstm_sequence_(at::Tensor products, const at::Tensor& weight, const at::Tensor& hidden, const at::Tensor& cell) {
  TORCH_CHECK(products.dim() == 3 && hidden.dim() == 2, "products must be (T, N, 4H) and hidden (N, H)");
  const int64_t time = products.size(0), rows = hidden.size(0), units = hidden.size(1);
  check_sequence(products, "products", at::kBFloat16, {time, rows, 4 * units});
  check_sequence(weight, "weight", at::kBFloat16, {4 * units, units});
  check_sequence(hidden, "hidden", at::kBFloat16, {rows, units});
  check_sequence(cell, "cell", at::kFloat, {rows, units});
  at::Tensor hiddens = at::empty({time + 1, rows, units}, hidden.options()), cells = at::empty({time + 1, rows, units}, cell.options());
  at::Tensor again = at::empty({rows, 4 * units}, hidden.options());
  hiddens[0].copy_(hidden);
  cells[0].copy_(cell);
  const at::Tensor transposed = weight.t();
  for (int64_t t = 0; t < time; ++t) {
    at::mm_out(again, hiddens[t], transposed);
    Brain* product = products.mutable_data_ptr<Brain>() + t * rows * 4 * units;
    const Brain* back = again.const_data_ptr<Brain>();
    const float* before = cells.const_data_ptr<float>() + t * rows * units;
    float* after = cells.mutable_data_ptr<float>() + (t + 1) * rows * units;
    Brain* h = hiddens.mutable_data_ptr<Brain>() + (t + 1) * rows * units;
    for_rows(rows, 32 * units, [&](int64_t row) {
      for_pairs(units, [&](int64_t place, int64_t count) {
        Vec low[4], high[4];
        for (int64_t part = 0; part < 4; ++part) {
          const int64_t at = (4 * row + part) * units + place;
          const auto [a, b] = Pair<Brain>::load(product + at, count);
          const auto [c, d] = Pair<Brain>::load(back + at, count);
          low[part] = part == 2 ? tanh(a + c) : sigmoid(a + c);
          high[part] = part == 2 ? tanh(b + d) : sigmoid(b + d);
          Pair<c10::Half>::store(low[part], high[part], reinterpret_cast<c10::Half*>(product + at), count);
        }
        const auto [c_low, c_high] = Pair<float>::load(before + row * units + place, count);
        const Vec new_low = at::vec::fmadd(low[1], c_low, low[0] * low[2]), new_high = at::vec::fmadd(high[1], c_high, high[0] * high[2]);
        Pair<float>::store(new_low, new_high, after + row * units + place, count);
        Pair<Brain>::store(low[3] * tanh(new_low), high[3] * tanh(new_high), h + row * units + place, count);
      });
    });
  }
  return {hiddens, cells};
}

// One vector of units backwards: the gradients of what the activations are of, in their order; that of c becomes the one before's.
struct Gradients {
  Vec input, forget, candidate, output;

  Gradients(const Vec& i, const Vec& f, const Vec& g, const Vec& o, const Vec& before, const Vec& after, const Vec& hidden, Vec& cell) {
    const Vec one(1.0f), squashed = tanh(after);
    cell = at::vec::fmadd(hidden * o, one - squashed * squashed, cell);
    input = cell * g * i * (one - i);
    forget = cell * before * f * (one - f);
    candidate = cell * i * (one - g * g);
    output = hidden * squashed * o * (one - o);
    cell = cell * f;
  }
};

// Backwards: gradients of the outputs (T, N, H) bfloat16 and of the last c (N, H) float32, with the weights and what lstm_sequence_ made: gradients
// of the products (T, N, 4H) bfloat16 and of h (N, H) bfloat16 and c (N, H) float32 before the first position.
inline std::tuple<at::Tensor, at::Tensor, at::Tensor> lstm_sequence_backward(const at::Tensor& outputs, const at::Tensor& last, const at::Tensor& weight, const at::Tensor& cells, const at::Tensor& gates) {
  TORCH_CHECK(outputs.dim() == 3, "outputs must be (T, N, H)");
  const int64_t time = outputs.size(0), rows = outputs.size(1), units = outputs.size(2);
  check_sequence(outputs, "outputs", at::kBFloat16, {time, rows, units});
  check_sequence(last, "last", at::kFloat, {rows, units});
  check_sequence(weight, "weight", at::kBFloat16, {4 * units, units});
  check_sequence(cells, "cells", at::kFloat, {time + 1, rows, units});
  check_sequence(gates, "gates", at::kHalf, {time, rows, 4 * units});
  at::Tensor products = at::empty({time, rows, 4 * units}, outputs.options()), hidden = at::empty({rows, units}, outputs.options()).zero_();
  at::Tensor cell = last.clone();
  float* carried = cell.mutable_data_ptr<float>();
  for (int64_t t = time - 1; t >= 0; --t) {
    const Brain *out = outputs.const_data_ptr<Brain>() + t * rows * units, *back = hidden.const_data_ptr<Brain>();
    const float *before = cells.const_data_ptr<float>() + t * rows * units, *after = before + rows * units;
    const c10::Half* gate = gates.const_data_ptr<c10::Half>() + t * rows * 4 * units;
    Brain* to = products.mutable_data_ptr<Brain>() + t * rows * 4 * units;
    for_rows(rows, 32 * units, [&](int64_t row) {
      for_pairs(units, [&](int64_t place, int64_t count) {
        const int64_t at = row * units + place;
        const auto part = [&](int64_t number) { return Pair<c10::Half>::load(gate + (4 * row + number) * units + place, count); };
        const auto [i_low, i_high] = part(0);
        const auto [f_low, f_high] = part(1);
        const auto [g_low, g_high] = part(2);
        const auto [o_low, o_high] = part(3);
        const auto [b_low, b_high] = Pair<float>::load(before + at, count);
        const auto [a_low, a_high] = Pair<float>::load(after + at, count);
        const auto [x_low, x_high] = Pair<Brain>::load(out + at, count);
        const auto [h_low, h_high] = Pair<Brain>::load(back + at, count);
        auto [c_low, c_high] = Pair<float>::load(carried + at, count);
        const Gradients low(i_low, f_low, g_low, o_low, b_low, a_low, x_low + h_low, c_low);
        const Gradients high(i_high, f_high, g_high, o_high, b_high, a_high, x_high + h_high, c_high);
        Brain* row_to = to + 4 * row * units + place;
        Pair<Brain>::store(low.input, high.input, row_to, count);
        Pair<Brain>::store(low.forget, high.forget, row_to + units, count);
        Pair<Brain>::store(low.candidate, high.candidate, row_to + 2 * units, count);
        Pair<Brain>::store(low.output, high.output, row_to + 3 * units, count);
        Pair<float>::store(c_low, c_high, carried + at, count);
      });
    });
    at::mm_out(hidden, products[t], weight);
  }
  return {products, hidden, cell};
}

}  // namespace ferry
