"""The LSTM in bfloat16 on a CPU, forwards and back by the operators of :mod:`model.native`.

What does not hang on the position before is one large product: that with all inputs, and the gradients of inputs and
weights. Only the recurrent product is left for each position, and what stands between two of them is one pass over its
rows in float32. oneDNN's own LSTM is slower, on its way back above all (`tests/bench/README.md`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model.native import Operators


class UnrolledLSTM(torch.autograd.Function):
    """``apply(native, sequence, weight_ih, weight_hh, bias, hidden, cell)`` to outputs (T, N, H) and last cell (N, H).

    All is bfloat16 but ``cell`` and the last one, which are float32: ``sequence`` (T, N, I), ``weight_ih`` (4H, I),
    ``weight_hh`` (4H, H), ``bias`` (4H), ``hidden`` and ``cell`` (N, H). Equations:
    :class:`model.cells.fused.LSTMLayer`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        native: Operators,
        sequence: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor,
        hidden: Tensor,
        cell: Tensor,
    ) -> tuple[Tensor, Tensor]:
        products = functional.linear(sequence, weight_ih, bias)
        hiddens, cells = native.lstm_sequence(products, weight_hh, hidden, cell)
        gates = products.view(torch.float16)
        ctx.native = native
        ctx.save_for_backward(sequence, weight_ih, weight_hh, hiddens, cells, gates)
        return hiddens[1:], cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outputs: Tensor, cell: Tensor) -> tuple[Tensor | None, ...]:
        """From the gradients of what :meth:`forward` gave."""
        sequence, weight_ih, weight_hh, hiddens, cells, gates = ctx.saved_tensors
        gradient, hidden, cell = ctx.native.lstm_sequence_backward(outputs.contiguous(), cell, weight_hh, cells, gates)
        rows = gradient.flatten(0, 1)  # (T N, 4H)
        columns = ctx.native.transposed(rows)  # a product with rows.t() would turn it round twice, and far more slowly
        return (
            None,
            (rows @ weight_ih).view_as(sequence) if ctx.needs_input_grad[1] else None,
            columns @ sequence.flatten(0, 1),
            columns @ hiddens[:-1].flatten(0, 1),
            rows.sum(dim=0),
            hidden,
            cell,
        )
