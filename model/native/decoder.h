// A whole step of the decoder between token and features: model.decoder.Decoder.step for int8 LSTM layers and
// multi-head attention, call for call, without the way through Python between the calls.
#pragma once

#include <ATen/ops/embedding.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>
#include <torch/custom_class.h>

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "extensions.h"
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

  // Pieces (N) int64, the state (N, 2LH), which is h and c of each of L layers side by side, keys and values (B, S, 2H)
  // and mask (B, S) to the outputs (N, V) of the last product, or without it to the features (N, E), and the next state;
  // N is a multiple of B. The state may be wider, by what keeps its rows from lying a power of two apart, in the same few places of a cache.
  std::tuple<at::Tensor, at::Tensor> step(
      const at::Tensor& token, const at::Tensor& state, const at::Tensor& keys, const at::Tensor& mask, const std::optional<Product>& last) {
    TORCH_CHECK(!layers_.empty(), "there must be a layer");
    const int64_t parts = 2 * static_cast<int64_t>(layers_.size()), hidden = layers_.front().product->kernel().outputs() / 4;
    TORCH_CHECK(state.dim() == 2 && state.size(1) >= parts * hidden, "the state must be h and c of each layer side by side");
    at::Tensor following = at::empty_like(state);
    at::Tensor sequence, context;
    for (int64_t number = 0; number < parts / 2; ++number) {
      const Layer& layer = layers_[number];
      const auto part = [&](const at::Tensor& of, int64_t which) { return of.narrow(1, (2 * number + which) * hidden, hidden); };
      Parts rows = number ? Parts{sequence, context} : Parts{at::embedding(table_, token).to(at::kFloat).mul_(scale_)};
      rows.push_back(part(state, 0));
      const at::Tensor output = part(following, 0);
      layer.product->kernel().lstm(rows, part(state, 1), output, part(following, 1));
      sequence = layer.normalised(number && residual_ ? output.add(sequence) : output);
      if (number == 0) context = attended(sequence, keys, mask);
    }
    const at::Tensor features = at::tanh(combine_->kernel().multiply({sequence, context}));
    return {last.has_value() ? (*last)->kernel().multiply({features}) : features, following};
  }

  // Steps of a beam search, up to `most` of them, without a word from the host between them: as step and best_extensions, of pieces (N) and costs
  // (B, K) with N = B x K; after each step but the last every hypothesis is its best_extension, its state reordered. Ends before a step of
  // which the host must know, after it has been ranked: where a sentence has fewer than K extensions that go on, and with `alone` where an end
  // is among its best K. With pieces (R), which the columns of `last` stand for, and a penalty (B, R), only
  // those may follow. Returns the keys of each step (S, B, 2K), and the state after the last one, not reordered.
  std::tuple<at::Tensor, at::Tensor> stride(
      at::Tensor token, at::Tensor state, const at::Tensor& keys, const at::Tensor& mask, const Product& last, at::Tensor costs, int64_t most,
      int64_t padded, int64_t end, at::IntArrayRef barred, bool alone, const std::optional<at::Tensor>& pieces, const std::optional<at::Tensor>& penalty) {
    const int64_t sentences = costs.size(0), width = costs.size(1);
    std::vector<at::Tensor> ranked;
    for (;;) {
      at::Tensor logits, following;
      std::tie(logits, following) = step(token, state, keys, mask, last);
      if (penalty.has_value()) logits.view({sentences, width, -1}).add_(penalty->unsqueeze(1));
      ranked.push_back(best_extensions(logits, costs, width, padded, end, barred, std::nullopt, std::nullopt));
      const int64_t* found = ranked.back().const_data_ptr<int64_t>();
      if (static_cast<int64_t>(ranked.size()) >= most || known_to_host(found, sentences, width, alone)) return {at::stack(ranked), following};
      at::Tensor rows = at::empty_like(token);
      token = at::empty_like(token);
      costs = at::empty_like(costs);
      bool moved = false;
      for (int64_t row = 0; row < sentences * width; ++row) {
        const int64_t extension = found[row / width * 2 * width + row % width], place = extension & 0xFFFFFFFF;
        const int32_t bits = static_cast<int32_t>(extension >> 32);
        std::memcpy(costs.mutable_data_ptr<float>() + row, &bits, sizeof bits);
        rows.mutable_data_ptr<int64_t>()[row] = place / padded;
        token.mutable_data_ptr<int64_t>()[row] = pieces.has_value() ? pieces->const_data_ptr<int64_t>()[place % padded] : place % padded;
        moved |= place / padded != row;
      }
      state = moved ? following.index_select(0, rows) : following;
    }
  }

 private:
  // Whether after a step with these keys (B, 2K) something follows but its best extensions.
  static bool known_to_host(const int64_t* keys, int64_t sentences, int64_t width, bool alone) {
    for (int64_t sentence = 0; sentence < sentences; ++sentence, keys += 2 * width) {
      if (keys[width - 1] >= never) return true;
      if (alone && *std::min_element(keys + width, keys + 2 * width) <= keys[width - 1]) return true;
    }
    return false;
  }

  struct Layer {
    Product product;
    std::optional<at::Tensor> weight, bias;
    double epsilon;

    at::Tensor normalised(const at::Tensor& rows) const {
      return weight.has_value() ? at::layer_norm(rows, {rows.size(-1)}, weight, bias, epsilon) : rows;
    }
  };

  at::Tensor attended(const at::Tensor& sequence, const at::Tensor& keys, const at::Tensor& mask) const {
    const at::Tensor queries = query_->kernel().multiply({sequence}).view({mask.size(0), -1, sequence.size(1)});
    const at::Tensor contexts = std::get<0>(attend(queries, keys, mask, heads_));
    return output_->kernel().multiply({contexts.view({sequence.size(0), -1})});
  }

  at::Tensor table_;
  double scale_;
  Product query_, output_, combine_;
  int64_t heads_;
  bool residual_;
  std::vector<Layer> layers_;
};

}  // namespace ferry
