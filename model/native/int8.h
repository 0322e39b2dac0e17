// A matrix product of int8 with all that belongs to it, in one call: model.products.Int8Product.
#pragma once

#include <ATen/native/quantized/PackedParams.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <torch/custom_class.h>

#include <memory>
#include <tuple>
#include <utility>

#include "tiles.h"

namespace ferry {

using Parts = std::vector<at::Tensor>;
using LSTMState = std::tuple<at::Tensor, at::Tensor>;
using Unrolled = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// Computes `bias + s_w s_x (Q_w q_x)` of float32 rows, which are given in parts that stand side by side.
class Int8Kernel {
 public:
  virtual ~Int8Kernel() = default;
  virtual int64_t outputs() const = 0;

  // Rows (N, I) to (N, O).
  virtual at::Tensor multiply(const Parts& rows) const = 0;

  // The same, written to `products`, contiguous.
  virtual void multiply_into(const Parts& rows, const at::Tensor& products) const { products.copy_(multiply(rows)); }

  // Of rows [x_t; h_{t-1}] and of c_{t-1} (N, H), writes h_t and c_t (N, H), whose rows may lie apart; the products are
  // gates.
  virtual void lstm(const Parts& rows, const at::Tensor& cell, at::Tensor hidden, at::Tensor after) const = 0;

  // Outputs (T, N, H) and the last state of an LSTM whose products with its inputs are given, (T, N, 4H), from h and c
  // (N, H) on; these are the products with h.
  virtual Unrolled unroll(const at::Tensor& products, at::Tensor hidden, at::Tensor cell) const = 0;

  // Rows (N, I) of integers to `bias + s_w (Q_w x)` (N, O).
  virtual at::Tensor multiply_integers(const at::Tensor& rows) const = 0;
};

class FbgemmKernel : public Int8Kernel {
 public:
  using Packed = c10::intrusive_ptr<LinearPackedParamsBase>;

  // `packed` integer weights (O, I) with a scale for each channel, bias (O), what is added to each row's scale.
  FbgemmKernel(Packed packed, at::Tensor bias, double smallest)
      : packed_(std::move(packed)), bias_(std::move(bias)), smallest_(smallest) {}

  int64_t outputs() const override { return bias_.size(0); }

  at::Tensor multiply(const Parts& rows) const override {
    auto [scaled, scales] = scale_rows(rows.size() == 1 ? rows.front() : at::cat(rows, 1), smallest_);
    at::Tensor products = packed_->apply_with_input_q_dq_qweight_dq_output_fp32(scaled, 1.0, zero);
    return restore_rows_(products, scales, bias_);
  }

  void lstm(const Parts& rows, const at::Tensor& cell, at::Tensor hidden, at::Tensor after) const override {
    const auto found = lstm_gates(multiply(rows), cell);
    hidden.copy_(std::get<0>(found));
    after.copy_(std::get<1>(found));
  }

  Unrolled unroll(const at::Tensor& products, at::Tensor hidden, at::Tensor cell) const override {
    std::vector<at::Tensor> steps;
    for (int64_t step = 0; step < products.size(0); ++step) {
      std::tie(hidden, cell) = lstm_gates(multiply({hidden}).add_(products[step]), cell);
      steps.push_back(hidden);
    }
    return {at::stack(steps), hidden, cell};
  }

  at::Tensor multiply_integers(const at::Tensor& rows) const override {
    return packed_->apply_with_input_q_dq_qweight_dq_output_fp32(rows, 1.0, zero).add_(bias_);
  }

 private:
  static constexpr int64_t zero = 128;  // FBGEMM wants activations without a sign

  Packed packed_;
  at::Tensor bias_;
  double smallest_;
};

class TileKernel : public Int8Kernel {
 public:
  TileKernel(const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& bias, double smallest, bool gates, Unit unit)
      : weights_(weight, scale, bias, gates, unit), smallest_(smallest) {}

  int64_t outputs() const override { return weights_.outputs; }

  at::Tensor multiply(const Parts& rows) const override { return product(TiledRows(rows, smallest_, weights_.flip)); }

  void multiply_into(const Parts& rows, const at::Tensor& products) const override {
    check(products, "products", 2);
    TORCH_CHECK(products.size(0) == rows.front().size(0) && products.size(1) == outputs(), "the products are of another shape");
    write(TiledRows(rows, smallest_, weights_.flip), products.mutable_data_ptr<float>());
  }

  // Rows to products (N, O).
  at::Tensor product(const TiledRows& rows) const {
    at::Tensor products = at::empty({rows.count, outputs()}, at::TensorOptions().dtype(at::kFloat));
    write(rows, products.mutable_data_ptr<float>());
    return products;
  }

  void write(const TiledRows& rows, float* numbers) const {
    const int64_t width = outputs();
    weights_.multiply(rows, [&](int64_t block, int64_t first, int64_t count, const TiledWeights::Sums& sums) {
      const float *scales = weights_.scales(block), *biases = weights_.biases(block);
      const auto restored = [&](int64_t row, int64_t number, int64_t place) {
        const int32_t* integers = sums.of(row / tile_side, number) + row % tile_side * tile_side + place;
        const int64_t column = number * tile_side + place;
        return at::vec::fmadd(scaled(integers, Vec::loadu(scales + column)), Vec(rows.scales[first + row]), Vec::loadu(biases + column));
      };
      const bool whole = !weights_.gates && (block + 1) * block_columns <= width;
      for (int64_t row = 0; row < count; ++row) {  // a row's columns together: the next row is in another page
        float* mine = numbers + (first + row) * width;
        for (int64_t number = 0; number < block_tiles; ++number) {
          const auto columns = weights_.place(block, number);
          if (whole) {
            for (int64_t place = 0; place < tile_side; place += Vec::size()) restored(row, number, place).store(mine + columns.first + place);
          } else {
            for_vectors(columns.count, [&](int64_t place, int64_t size) { store(restored(row, number, place), mine + columns.first + place, size); });
          }
        }
      }
    });
  }

  void lstm(const Parts& rows, const at::Tensor& cell, at::Tensor hidden, at::Tensor after) const override {
    const int64_t count = rows.front().size(0), units = outputs() / block_tiles;
    if (weights_.gates) return advance(TiledRows(rows, smallest_, weights_.flip), nullptr, State(cell, count, units), State(hidden, count, units), State(after, count, units));
    const auto found = lstm_gates(multiply(rows), cell);
    hidden.copy_(std::get<0>(found));
    after.copy_(std::get<1>(found));
  }

  Unrolled unroll(const at::Tensor& products, at::Tensor hidden, at::Tensor given) const override {
    TORCH_CHECK(weights_.gates, "there must be four gates");
    check(products, "products", 3);
    const int64_t steps = products.size(0), count = products.size(1), units = outputs() / block_tiles;
    TORCH_CHECK(products.size(2) == outputs(), "the products are of another width");
    at::Tensor found = at::empty({steps, count, units}, products.options()), cell = given.clone(at::MemoryFormat::Contiguous);
    const State cells(cell, count, units);
    State before(hidden, count, units);
    for (int64_t step = 0; step < steps; ++step) {
      const State after{found.mutable_data_ptr<float>() + step * count * units, units};
      const TiledRows rows(count, {{before.numbers, units, before.stride}}, smallest_, weights_.flip);
      advance(rows, products.const_data_ptr<float>() + step * count * outputs(), cells, after, cells);
      before = after;
    }
    return {found, steps ? found[steps - 1] : hidden, cell};
  }

  at::Tensor multiply_integers(const at::Tensor& rows) const override { return product(TiledRows({rows}, 0.0, weights_.flip, false)); }

 private:
  // Part of a state, (N, H), whose rows may lie apart.
  struct State {
    State(float* numbers, int64_t stride) : numbers(numbers), stride(stride) {}
    State(const at::Tensor& part, int64_t rows, int64_t hidden) : numbers(part.data_ptr<float>()), stride(part.stride(0)) {
      check_rows(part, "cells");
      TORCH_CHECK(part.size(0) == rows && part.size(1) == hidden, "the products do not fit the cells");
    }
    float* at(int64_t row, int64_t unit) const { return numbers + row * stride + unit; }
    float* numbers;
    int64_t stride;
  };

  // `added` (N, 4H) to the gates, if it is there, instead of the bias; `cells` may be `before`.
  void advance(const TiledRows& rows, const float* added, const State& before, const State& hiddens, const State& cells) const {
    const int64_t hidden = outputs() / block_tiles;
    weights_.multiply(rows, [&](int64_t block, int64_t first, int64_t count, const TiledWeights::Sums& sums) {
      const auto units = weights_.place(block, 0);
      const float *scales = weights_.scales(block), *biases = weights_.biases(block);
      const int64_t stride = added ? hidden : tile_side;  // from a gate's addends to the next one's
      for_vectors(units.count, [&](int64_t place, int64_t size) {
        const auto scale = [&](int64_t number) { return Vec::loadu(scales + number * tile_side + place); };
        const Vec all[block_tiles] = {scale(0), scale(1), scale(2), scale(3)};
        for (int64_t row = 0; row < count; ++row) {
          const Vec factor(rows.scales[first + row]);
          const int64_t high = row / tile_side, unit = units.first + place;
          const int64_t within = row % tile_side * tile_side + place;
          const float* addends = added ? added + (first + row) * block_tiles * hidden + unit : biases + place;
          const auto gate = [&](int64_t number) {
            return at::vec::fmadd(scaled(sums.of(high, number) + within, all[number]), factor, load(addends + number * stride, size));
          };
          lstm_units(gate(0), gate(1), gate(2), gate(3), before.at(first + row, unit), hiddens.at(first + row, unit), cells.at(first + row, unit), size);
        }
      });
    });
  }

  TiledWeights weights_;
  double smallest_;
};

class Int8Product : public torch::CustomClassHolder {
 public:
  using Pointer = c10::intrusive_ptr<Int8Product>;

  explicit Int8Product(std::unique_ptr<const Int8Kernel> kernel) : kernel_(std::move(kernel)) {}

  const Int8Kernel& kernel() const { return *kernel_; }

  // Rows (..., I) to (..., O).
  at::Tensor multiply(const at::Tensor& inputs) const {
    auto sizes = inputs.sizes().vec();
    sizes.back() = kernel_->outputs();
    return kernel_->multiply({inputs.reshape({-1, inputs.size(-1)})}).view(sizes);
  }

  // h_t and c_t (N, H) of the inputs (N, I), and of h_{t-1} and c_{t-1}.
  LSTMState lstm(const at::Tensor& inputs, const at::Tensor& hidden, const at::Tensor& cell) const {
    at::Tensor next = at::empty_like(hidden), after = at::empty_like(cell);
    kernel_->lstm({inputs, hidden}, cell, next, after);
    return {next, after};
  }

  // Outputs (T, N, H) and the last state of an LSTM over (T, N, I) from h and c (N, H) on; `recurrent` multiplies h.
  Unrolled unroll(const at::Tensor& sequence, const Pointer& recurrent, const at::Tensor& hidden, const at::Tensor& cell) const {
    return recurrent->kernel_->unroll(multiply(sequence), hidden, cell);
  }

  // See Int8Kernel.
  at::Tensor multiply_integers(const at::Tensor& rows) const { return kernel_->multiply_integers(rows); }

 private:
  std::unique_ptr<const Int8Kernel> kernel_;
};

inline c10::intrusive_ptr<Int8Product> int8_by_fbgemm(const FbgemmKernel::Packed& packed, const at::Tensor& bias, double smallest) {
  return c10::make_intrusive<Int8Product>(std::make_unique<FbgemmKernel>(packed, bias, smallest));
}

// Weights (O, I) int8, a scale and a bias (O) for each channel; `gates` if they are those of an LSTM; by one of int8_units().
inline c10::intrusive_ptr<Int8Product> int8_by_tiles(
    const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& bias, double smallest, bool gates, const std::string& unit) {
  return c10::make_intrusive<Int8Product>(std::make_unique<TileKernel>(weight, scale, bias, smallest, gates, unit_of(unit)));
}

// Outputs (T, N, 2H) of an LSTM over the sequence (T, N, I) and of one over the same reversed by the index (T, N) int64, whose outputs are reversed
// again: side by side, both from zeros on. Each direction is a thread's, which meets the other once and not after every position.
inline at::Tensor unroll_both(
    const at::Tensor& sequence,
    const at::Tensor& reverse,
    const Int8Product::Pointer& ahead_inputs,
    const Int8Product::Pointer& ahead,
    const Int8Product::Pointer& back_inputs,
    const Int8Product::Pointer& back) {
  check(sequence, "sequence", 3);
  const int64_t time = sequence.size(0), rows = sequence.size(1), inputs = sequence.size(2), units = ahead->kernel().outputs() / 4;
  TORCH_CHECK(reverse.scalar_type() == at::kLong && reverse.is_contiguous() && reverse.sizes() == at::IntArrayRef({time, rows}), "reverse must be (T, N) int64");
  TORCH_CHECK(back->kernel().outputs() == 4 * units, "both directions must have the same width");
  const int64_t* index = reverse.const_data_ptr<int64_t>();
  for (int64_t place = 0; place < time * rows; ++place) TORCH_CHECK_INDEX(0 <= index[place] && index[place] < time, "reverse is out of bounds");
  at::Tensor both = at::empty({time, rows, 2 * units}, sequence.options());
  float* outputs = both.mutable_data_ptr<float>();
  at::parallel_for(0, 2, 1, [&](int64_t begin, int64_t end) {
    for (int64_t direction = begin; direction < end; ++direction) {
      const auto source = [&](int64_t place) { return direction ? index[place] * rows + place % rows : place; };
      at::Tensor seen = sequence;
      if (direction) {
        seen = at::empty({time, rows, inputs}, at::TensorOptions().dtype(at::kFloat));
        for (int64_t place = 0; place < time * rows; ++place) {
          std::copy_n(sequence.const_data_ptr<float>() + source(place) * inputs, inputs, seen.mutable_data_ptr<float>() + place * inputs);
        }
      }
      const at::Tensor zeros = at::zeros({rows, units}, at::TensorOptions().dtype(at::kFloat));
      const at::Tensor found = std::get<0>((direction ? back_inputs : ahead_inputs)->unroll(seen, direction ? back : ahead, zeros, zeros));
      for (int64_t place = 0; place < time * rows; ++place) {
        std::copy_n(found.const_data_ptr<float>() + source(place) * units, units, outputs + (2 * place + direction) * units);
      }
    }
  });
  return both;
}

}  // namespace ferry
