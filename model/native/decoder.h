// A whole step of the decoder between token and features: model.decoder.Decoder.step for int8 LSTM layers and
// multi-head attention, call for call, without the way through Python between the calls.
#pragma once

#include <ATen/ops/constant_pad_nd.h>
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
    const State before = parts(state), after = parts(at::empty_like(state));
    const Scratch scratch(*this, state.size(0), mask.size(0));
    compute_features(scratch, token.contiguous(), before, after, keys.contiguous(), mask.contiguous());
    return {last.has_value() ? (*last)->kernel().multiply({scratch.features}) : scratch.features, after.joined};
  }

  // Steps of a beam search, up to `most` of them, without a word from the host between them: as step and best_extensions, of pieces (N) and costs
  // (B, J) with N = B x J, J being the `width` K or, in the first step of all, 1; after each step but the last the K hypotheses are its best
  // extensions, the state reordered. Ends before a step of which the host must know, after it has been ranked: where a sentence has fewer than K
  // extensions that go on, and with `alone` where an end is among its best K. With pieces (R), which the columns of `last` stand for, and a
  // penalty (B, R), only those may follow. Returns the keys of each step (S, B, 2K), `never` where a first step has fewer ends, and the state
  // after the last one, not reordered; and the tensors that it was given. torch takes Python's lock for each of those when C++ lets go of it, and
  // would do so here, where the lock was given up: once a tensor, each time waiting for whoever has it. The caller drops them with the lock.
  std::tuple<at::Tensor, at::Tensor, std::vector<at::Tensor>> stride(
      at::Tensor token, const at::Tensor& state, const at::Tensor& memories, const at::Tensor& masked, const Product& last, at::Tensor costs, int64_t width,
      int64_t most, int64_t padded, int64_t end, at::IntArrayRef barred, bool alone, const std::optional<at::Tensor>& pieces,
      const std::optional<at::Tensor>& penalty) {
    std::vector<at::Tensor> given{token, state, memories, masked, costs};
    if (pieces.has_value()) given.push_back(*pieces);
    if (penalty.has_value()) given.push_back(*penalty);
    const int64_t sentences = costs.size(0);
    TORCH_CHECK(costs.size(1) == width || costs.size(1) == 1, "a sentence must have as many hypotheses as go on, or one");
    const at::Tensor keys = memories.contiguous(), mask = masked.contiguous();
    token = token.contiguous();
    State before = parts(state), after;
    std::optional<Scratch> scratch;
    at::Tensor logits;
    std::vector<at::Tensor> ranked;
    for (;;) {
      const int64_t rows = before.joined.size(0);
      if (!scratch || scratch->features.size(0) != rows) {
        scratch.emplace(*this, rows, sentences);
        logits = at::empty({rows, last->kernel().outputs()}, costs.options());
      }
      if (!after.joined.defined() || after.joined.size(0) != rows) after = parts(at::empty_like(before.joined));
      compute_features(*scratch, token, before, after, keys, mask);
      last->kernel().multiply_into({scratch->features}, logits);
      if (penalty.has_value()) add_to_each(*penalty, logits);
      at::Tensor best = best_extensions(logits, costs, width, padded, end, barred, penalty.has_value(), std::nullopt, std::nullopt);
      ranked.push_back(costs.size(1) == width ? best : at::constant_pad_nd(best, {0, width - costs.size(1)}, never));
      const int64_t* found = ranked.back().const_data_ptr<int64_t>();
      if (static_cast<int64_t>(ranked.size()) >= most || known_to_host(found, sentences, width, alone)) return {at::stack(ranked), after.joined, std::move(given)};
      if (ranked.size() == 1) {  // what was given stays as it is
        token = at::empty({sentences * width}, token.options()), costs = at::empty({sentences, width}, costs.options());
        before = State();
      }
      std::vector<int64_t> origins(sentences * width);
      bool moved = rows != sentences * width;
      for (int64_t row = 0; row < sentences * width; ++row) {
        const int64_t extension = found[row / width * 2 * width + row % width], place = extension & 0xFFFFFFFF;
        const int32_t bits = static_cast<int32_t>(extension >> 32);
        std::memcpy(costs.mutable_data_ptr<float>() + row, &bits, sizeof bits);
        token.mutable_data_ptr<int64_t>()[row] = pieces.has_value() ? pieces->const_data_ptr<int64_t>()[place % padded] : place % padded;
        origins[row] = place / padded;
        moved |= origins[row] != row;
      }
      if (moved) {
        if (!before.joined.defined() || before.joined.size(0) != sentences * width) {
          before = parts(at::empty({sentences * width, state.size(1)}, state.options()));
        }
        gather(after.joined, origins, before.joined);
      } else {
        std::swap(before, after);
      }
    }
  }

 private:
  // A state, and h and c (N, H) of each layer in it.
  struct State {
    at::Tensor joined;
    std::vector<at::Tensor> hidden, cell;
  };

  // What a step of N rows writes on its way.
  struct Scratch {
    Scratch(const DecoderStep& step, int64_t rows, int64_t sentences)
        : embedded(at::empty({rows, step.table_.size(1)}, at::TensorOptions().dtype(at::kFloat))),
          queries(at::empty({rows, step.query_->kernel().outputs()}, embedded.options())),
          contexts(at::empty_like(queries)),
          attended(at::empty({rows, step.output_->kernel().outputs()}, embedded.options())),
          features(at::empty({rows, step.combine_->kernel().outputs()}, embedded.options())),
          queries_of_sentences(queries.view({sentences, -1, queries.size(1)})) {}

    at::Tensor embedded, queries, contexts, attended, features, queries_of_sentences;
  };

  State parts(const at::Tensor& joined) const {
    TORCH_CHECK(!layers_.empty(), "there must be a layer");
    const int64_t hidden = layers_.front().product->kernel().outputs() / 4;
    TORCH_CHECK(joined.dim() == 2 && joined.size(1) >= 2 * static_cast<int64_t>(layers_.size()) * hidden, "the state must be h and c of each layer side by side");
    State state{joined, {}, {}};
    for (int64_t layer = 0; layer < static_cast<int64_t>(layers_.size()); ++layer) {
      state.hidden.push_back(joined.narrow(1, 2 * layer * hidden, hidden));
      state.cell.push_back(joined.narrow(1, (2 * layer + 1) * hidden, hidden));
    }
    return state;
  }

  // From `before` to `after`, and the features into their place in `scratch`.
  void compute_features(const Scratch& scratch, const at::Tensor& token, const State& before, const State& after, const at::Tensor& keys, const at::Tensor& mask) const {
    embed(token, scratch.embedded);
    at::Tensor sequence;
    for (size_t number = 0; number < layers_.size(); ++number) {
      const Layer& layer = layers_[number];
      Parts rows = number ? Parts{sequence, scratch.attended} : Parts{scratch.embedded};
      rows.push_back(before.hidden[number]);
      const at::Tensor& output = after.hidden[number];
      layer.product->kernel().lstm(rows, before.cell[number], output, after.cell[number]);
      sequence = layer.normalised(number && residual_ ? output.add(sequence) : output);
      if (number) continue;
      query_->kernel().multiply_into({sequence}, scratch.queries);
      attend_into(scratch.queries_of_sentences, keys, mask, heads_, scratch.contexts, nullptr);
      output_->kernel().multiply_into({scratch.contexts}, scratch.attended);
    }
    combine_->kernel().multiply_into({sequence, scratch.attended}, scratch.features);
    at::Tensor features = scratch.features;
    at::tanh_(features);
  }

  // Rows of the table for pieces (N) int64, times the scale, into (N, E).
  void embed(const at::Tensor& token, const at::Tensor& embedded) const {
    TORCH_CHECK(token.scalar_type() == at::kLong && token.dim() == 1 && token.is_contiguous() && token.size(0) == embedded.size(0), "token must be (N) int64");
    if (table_.scalar_type() == at::kHalf) return embed_of<c10::Half>(token, embedded);
    embed_of<float>(token, embedded);
  }

  template <typename T>
  void embed_of(const at::Tensor& token, const at::Tensor& embedded) const {
    const int64_t width = table_.size(1), pieces = table_.size(0);
    const T* table = table_.const_data_ptr<T>();
    const Vec scale(static_cast<float>(scale_));
    for (int64_t row = 0; row < token.size(0); ++row) {
      const int64_t piece = token.const_data_ptr<int64_t>()[row];
      TORCH_CHECK_INDEX(0 <= piece && piece < pieces, "piece ", piece, " is not in the table of ", pieces);
      float* to = embedded.mutable_data_ptr<float>() + row * width;
      for (int64_t place = 0; place < width; place += Pair<T>::size) {
        const auto [low, high] = Pair<T>::load(table + piece * width + place, width - place);
        Pair<float>::store(low * scale, high * scale, to + place, width - place);
      }
    }
  }

  // Adds (B, R) to the rows (N, R) of each sentence.
  static void add_to_each(const at::Tensor& penalty, const at::Tensor& logits) {
    check(penalty, "penalty", 2);
    const int64_t rows = logits.size(0), columns = logits.size(1), each = rows / penalty.size(0);
    TORCH_CHECK(penalty.size(1) == columns && each * penalty.size(0) == rows, "the penalty does not fit the logits");
    for_rows(rows, columns, [&](int64_t row) {
      const float* added = penalty.const_data_ptr<float>() + row / each * columns;
      float* mine = logits.mutable_data_ptr<float>() + row * columns;
      for_vectors(columns, [&](int64_t place, int64_t size) { store(load(mine + place, size) + load(added + place, size), mine + place, size); });
    });
  }

  // The rows `origins` of a state.
  static void gather(const at::Tensor& from, const std::vector<int64_t>& origins, const at::Tensor& to) {
    const int64_t width = from.size(1);
    TORCH_CHECK(from.is_contiguous(), "the state must be contiguous");
    for_rows(static_cast<int64_t>(origins.size()), width, [&](int64_t row) {
      std::copy_n(from.const_data_ptr<float>() + origins[row] * width, width, to.mutable_data_ptr<float>() + row * width);
    });
  }

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

  at::Tensor table_;
  double scale_;
  Product query_, output_, combine_;
  int64_t heads_;
  bool residual_;
  std::vector<Layer> layers_;
};

}  // namespace ferry
