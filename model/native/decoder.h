// A whole step of the decoder between token and features: model.decoder.Decoder.step for int8 LSTM layers and
// multi-head attention, call for call, without the way through Python between the calls.
#pragma once

#include <ATen/ops/embedding.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/tanh.h>
#include <torch/custom_class.h>

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "int8.h"

namespace ferry {

class DecoderStep : public torch::CustomClassHolder {
 public:
  using Product = c10::intrusive_ptr<Int8Product>;

  // Embeddings (V, E) and what multiplies them, the three products around the attention, and whether layers above the
  // bottom add their input.
  DecoderStep(at::Tensor table, double scale, Product query, Product output, Product combine, int64_t heads, bool residual)
      : table_(std::move(table)),
        scale_(scale),
        query_(std::move(query)),
        output_(std::move(output)),
        combine_(std::move(combine)),
        heads_(heads),
        residual_(residual) {}

  // The next layer up, with the weight and bias (H) of its normalisation if it has one.
  void add_layer(Product product, std::optional<at::Tensor> weight, std::optional<at::Tensor> bias, double epsilon) {
    layers_.push_back({std::move(product), std::move(weight), std::move(bias), epsilon});
  }

  // Pieces (N) int64, the layers' hidden and cell states (N, H), keys and values (B, S, 2H) and mask (B, S) to features
  // (N, E) and the states after them; N is a multiple of B.
  std::tuple<at::Tensor, Parts, Parts> step(
      const at::Tensor& token, const Parts& hidden, const Parts& cell, const at::Tensor& keys, const at::Tensor& mask) {
    TORCH_CHECK(hidden.size() == layers_.size() && cell.size() == layers_.size(), "there must be a state for each layer");
    Parts hiddens, cells;
    at::Tensor sequence, context;
    for (size_t number = 0; number < layers_.size(); ++number) {
      const Layer& layer = layers_[number];
      Parts rows = number ? Parts{sequence, context} : Parts{at::embedding(table_, token).to(at::kFloat).mul_(scale_)};
      rows.push_back(hidden[number]);
      auto [output, after] = layer.product->kernel().lstm(rows, cell[number]);
      hiddens.push_back(output);
      cells.push_back(after);
      sequence = layer.normalised(number && residual_ ? output.add(sequence) : output);
      if (number == 0) context = attended(sequence, keys, mask);
    }
    return {at::tanh(combine_->kernel().multiply({sequence, context})), hiddens, cells};
  }

 private:
  struct Layer {
    Product product;
    std::optional<at::Tensor> weight, bias;
    double epsilon;

    at::Tensor normalised(const at::Tensor& rows) const {
      return weight.has_value() ? at::layer_norm(rows, {rows.size(-1)}, weight, bias, epsilon) : rows;
    }
  };

  at::Tensor attended(const at::Tensor& sequence, const at::Tensor& keys, const at::Tensor& mask) const {
    const at::Tensor queries = query_->multiply(sequence).view({mask.size(0), -1, sequence.size(1)});
    return output_->multiply(std::get<0>(attend(queries, keys, mask, heads_))).view(sequence.sizes());
  }

  at::Tensor table_;
  double scale_;
  Product query_, output_, combine_;
  int64_t heads_;
  bool residual_;
  std::vector<Layer> layers_;
};

}  // namespace ferry
