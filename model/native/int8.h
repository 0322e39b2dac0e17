// A matrix product of int8 by FBGEMM with all that belongs to it: see model.products.Int8Product, whose steps it takes
// in one call.
#pragma once

#include <ATen/native/quantized/PackedParams.h>
#include <ATen/ops/cat.h>
#include <torch/custom_class.h>

#include <tuple>
#include <utility>

#include "layers.h"

namespace ferry {

class FbgemmProduct : public torch::CustomClassHolder {
 public:
  using Packed = c10::intrusive_ptr<LinearPackedParamsBase>;

  // `packed` integer weights (O, I) with a scale for each channel, bias (O), what is added to each row's scale.
  FbgemmProduct(Packed packed, at::Tensor bias, double smallest)
      : packed_(std::move(packed)), bias_(std::move(bias)), smallest_(smallest) {}

  // Rows (..., I) to (..., O).
  at::Tensor multiply(const at::Tensor& inputs) {
    auto sizes = inputs.sizes().vec();
    sizes.back() = bias_.size(0);
    return product(inputs.reshape({-1, inputs.size(-1)})).view(sizes);
  }

  // h_t and c_t (N, H) of the inputs (N, I) and of h_{t-1} and c_{t-1}, which `packed` multiplies side by side.
  std::tuple<at::Tensor, at::Tensor> lstm(const at::Tensor& inputs, const at::Tensor& hidden, const at::Tensor& cell) {
    return lstm_gates(product(at::cat({inputs, hidden}, 1)), cell);
  }

 private:
  at::Tensor product(const at::Tensor& rows) {
    auto [scaled, scales] = scale_rows(rows, smallest_);
    at::Tensor products = packed_->apply_with_input_q_dq_qweight_dq_output_fp32(scaled, 1.0, zero);
    return restore_rows_(products, scales, bias_);
  }

  static constexpr int64_t zero = 128;  // FBGEMM wants activations without a sign

  Packed packed_;
  at::Tensor bias_;
  double smallest_;
};

}  // namespace ferry
