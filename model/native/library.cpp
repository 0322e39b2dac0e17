// The operators as torch knows them: torch.ops.ferry. model/native/__init__.py says what each does.

#include <torch/library.h>

#include "decoder.h"
#include "divergence.h"
#include "extensions.h"
#include "int8.h"
#include "layers.h"
#include "loss.h"
#include "lstm.h"
#include "transpose.h"

TORCH_LIBRARY(ferry, library) {
  library.class_<ferry::Int8Product>("Int8Product")
      .def("multiply", &ferry::Int8Product::multiply)
      .def("lstm", &ferry::Int8Product::lstm)
      .def("multiply_integers", &ferry::Int8Product::multiply_integers);
  library.def("int8_by_fbgemm", ferry::int8_by_fbgemm);
  library.def("int8_by_tiles", ferry::int8_by_tiles);
  library.def("unroll_both", ferry::unroll_both);
  library.def("int8_units() -> str[]", ferry::int8_units);
  library.class_<ferry::DecoderStep>("DecoderStep")
      .def(torch::init<at::Tensor, double, ferry::DecoderStep::Product, ferry::DecoderStep::Product,
                       ferry::DecoderStep::Product, int64_t, bool>())
      .def("add_layer", &ferry::DecoderStep::add_layer)
      .def("step", &ferry::DecoderStep::step)
      .def("stride", &ferry::DecoderStep::stride);
  library.def("scale_rows(Tensor rows, float smallest) -> (Tensor, Tensor)", ferry::scale_rows);
  library.def("restore_rows_(Tensor(a!) products, Tensor scales, Tensor bias) -> Tensor(a!)", ferry::restore_rows_);
  library.def("lstm_gates(Tensor products, Tensor cells) -> (Tensor, Tensor)", ferry::lstm_gates);
  library.def("masked_mean(Tensor outputs, Tensor mask) -> Tensor", ferry::masked_mean);
  library.def("attend(Tensor queries, Tensor keys, Tensor mask, int heads) -> (Tensor, Tensor)", ferry::attend);
  library.def(
      "best_extensions(Tensor logits, Tensor costs, int wanted, int padded, int end, int[] barred, bool restricted, "
      "Tensor? forced_slots, Tensor? forced_columns) -> Tensor",
      ferry::best_extensions);
  library.def("transposed(Tensor matrix) -> Tensor", ferry::transposed);
  library.def("lstm_sequence_(Tensor(a!) products, Tensor weight, Tensor hidden, Tensor cell) -> (Tensor, Tensor)", ferry::lstm_sequence_);
  library.def(
      "lstm_sequence_backward(Tensor outputs, Tensor last, Tensor weight, Tensor cells, Tensor gates) -> (Tensor, Tensor, Tensor)",
      ferry::lstm_sequence_backward);
  library.def(
      "cross_entropy_and_divergence_(Tensor(a!) logits, Tensor targets, float smoothing, float factor) -> (Tensor, Tensor)",
      ferry::cross_entropy_and_divergence_);
  library.def("cross_entropy_(Tensor(a!) logits, Tensor targets, float smoothing) -> (Tensor, Tensor)", ferry::cross_entropy_);
}
