"""A few operators in C++ for what stands between the matrix products of a decoder step, and of training, on a CPU.

A step of one sentence is bound by the number of calls of torch, not by their work. Each operator here does in one pass
over its rows what takes torch three to twenty calls. ``python -m model.native.build`` compiles them ahead of time; a
machine without the library does the same in plain torch, to the rounding of the last place, and is slower.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

SOURCES = Path(__file__).parent
FOLDER = SOURCES  # of the libraries


class NativeInt8Product(Protocol):
    """All of :class:`model.products.Int8Product` in one call."""

    def multiply(self, inputs: Tensor) -> Tensor:
        """Inputs (..., I) to (..., O)."""
        ...

    def lstm(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (N, I) and a state of (N, H) each, multiplied side by side, to the next ``h`` and ``c``."""
        ...

    def multiply_integers(self, rows: Tensor) -> Tensor:
        """Rows (N, I) of whole numbers from -127 to 127 to (N, O), without a scale of their own."""
        ...


class DecoderStep(Protocol):
    """:meth:`model.decoder.Decoder.step` with the embedding before it, in one call, without its attention weights."""

    def add_layer(self, product: NativeInt8Product, weight: Tensor | None, bias: Tensor | None, epsilon: float) -> None:
        """The next layer up, with its layer normalisation (H) if it has one."""
        ...

    def step(
        self, token: Tensor, state: Tensor, keys: Tensor, mask: Tensor, output: NativeInt8Product | None
    ) -> tuple[Tensor, Tensor]:
        """Pieces (N) int64, each layer's ``h`` and ``c`` side by side (N, 2 L H), the memory and what multiplies the
        features to logits (N, V), or without it features (N, E), and the next state."""
        ...

    def stride(
        self,
        token: Tensor,
        state: Tensor,
        keys: Tensor,
        mask: Tensor,
        output: NativeInt8Product,
        costs: Tensor,
        width: int,
        most: int,
        padded: int,
        end: int,
        barred: Sequence[int],
        alone: bool,
        pieces: Tensor | None,
        penalty: Tensor | None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Up to ``most`` such steps, ranked as ``best_extensions`` of costs (B, J), each sentence having ``width`` (K)
        hypotheses after them, its best extensions; J is K, or 1. Returns the keys of each step (S, B, 2K), no ends
        being there of rows that were not, the state after the last, not reordered, and what it was given: the last
        hold on a tensor of Python's must go where Python's lock is held.

        It ends early, the last step being ranked, where fewer than K extensions of a sentence go on, and with ``alone``
        where an end is among the best K. With ``pieces`` (R) int64, which the columns of ``output`` stand for, and a
        ``penalty`` (B, R) float32, which is added to their logits, only those follow.
        """
        ...


class Operators(NamedTuple):
    """All take and give contiguous float32 tensors on the CPU, and no number depends on another row.

    They raise RuntimeError for other shapes and types.
    """

    capability: str  # the instructions that they were compiled for, by torch's name: AVX2, AVX512, DEFAULT
    scale_rows: Callable[[Tensor, float], tuple[Tensor, Tensor]]
    """Rows (N, I) over their scales, and the scales (N, 1): ``smallest + max|x| / 127``."""
    restore_rows: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Products (N, O), scales (N, 1) and bias (O) to ``bias + scale * product``, in place."""
    lstm_gates: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """Products (N, 4H) in the order of :class:`model.cells.fused.LSTMLayer` and ``c`` (N, H) to ``h`` and ``c``."""
    masked_mean: Callable[[Tensor, Tensor], Tensor]
    """Outputs (B, S, H) and mask (B, S) bool to their means (B, H) over what is true, summed in float64."""
    attend: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
    """Queries (B, Q, H), keys and values side by side (B, S, 2H), mask (B, S) bool and the number of heads to their
    contexts side by side (B, Q, H) and their mean weights (B, Q, S): Vaswani et al. 2017, equation 1."""
    best_extensions: Callable[
        [Tensor, Tensor, int, int, int, Sequence[int], bool, Tensor | None, Tensor | None], Tensor
    ]
    """Logits (B * J, V), costs (B, J), how many are wanted, columns padded to, the end's column, barred columns, if
    they are those of a restriction, forced slots and columns (F) int64 to keys (B, M + J): see
    :func:`model.search.extensions.best_extensions`."""
    int8_by_fbgemm: Callable[[Any, Tensor, float], NativeInt8Product]
    """FBGEMM's packed weights, bias (O) and what is added to each row's scale."""
    int8_by_tiles: Callable[[Tensor, Tensor, Tensor, float, bool, str], NativeInt8Product]
    """Integer weights (O, I) from -63 to 63, scales and bias (O), what is added to each row's scale, whether they are
    gates, and one of ``int8_units``, which all give the same integers."""
    unroll_both: Callable[
        [Tensor, Tensor, NativeInt8Product, NativeInt8Product, NativeInt8Product, NativeInt8Product], Tensor
    ]
    """Sequence (T, N, I), the index (T, N) int64 that reverses it, and the products of an LSTM with its inputs and with
    ``h``, forwards, then backwards, to the outputs of both directions side by side (T, N, 2H), from zeros on."""
    int8_units: Callable[[], list[str]]
    """What of amx, avx512_vnni, avx512 and avx2 the processor multiplies int8 with, the fastest first; and last of all
    plain, which are loops for tests, far too slow."""
    decoder_step: Callable[
        [Tensor, float, NativeInt8Product, NativeInt8Product, NativeInt8Product, int, bool], DecoderStep
    ]
    """Embeddings (V, E) and their factor, the products of the query, the mixed heads and the features, the number of
    heads, and whether the layers are residual."""
    cross_entropy: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
    """Logits (N, V), float32 or bfloat16, targets (N) int64 and the smoothing; the logits become the gradient of the
    smoothed loss. Returns each row's losses (N, 2), without smoothing and for all pieces alike, and the gradient's sums
    (V) over the rows."""
    cross_entropy_and_divergence: Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor]]
    """The same of two passes, logits (2N, V), targets (N), smoothing and a factor: their losses and the factor times
    KL(p1 || p2) + KL(p2 || p1). Returns for each position the sums of both passes' losses, without smoothing and for
    all pieces alike, and the divergence (N, 3), and the gradient's sums (V)."""
    lstm_sequence: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """Products of a sequence (T, N, 4H), recurrent weights (4H, H) and ``h`` (N, H), all bfloat16, and ``c`` (N, H)
    float32 to ``h`` and ``c`` (T + 1, N, H) from there on, in those types; the products become the activations, which
    stand in their place as float16."""
    lstm_sequence_backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    """Gradients of the outputs (T, N, H) bfloat16 and of the last ``c`` (N, H) float32, with the weights, ``c`` and the
    activations, to those of the products (T, N, 4H) and the first ``h``, bfloat16, and of the first ``c``, float32."""
    transposed: Callable[[Tensor], Tensor]
    """A matrix (N, M) bfloat16 to (M, N)."""


def library_file(capability: str) -> Path:
    """Where the library for ``capability`` lies: it fits one version of torch, and these sources, alone."""
    sources = sorted(path for path in SOURCES.iterdir() if path.suffix in {".cpp", ".h"} or path.name == "build.py")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    return FOLDER / f"ferry-{torch.__version__}-{capability}-{digest}.so"


def operators(device: torch.device) -> Operators | None:
    """The operators for ``device``, loaded once; None off a CPU, and where they are not built, or set aside."""
    return None if _Loaded.aside or device.type != "cpu" else _Loaded.get()


def capability() -> str:
    """What the operators in use on a CPU were compiled for, or "none"."""
    found = operators(torch.device("cpu"))
    return found.capability if found else "none"


@contextmanager
def set_aside() -> Iterator[None]:
    """Within it there are no operators: for comparison with plain torch."""
    before, _Loaded.aside = _Loaded.aside, True
    try:
        yield
    finally:
        _Loaded.aside = before


class _Loaded:
    tried = False
    aside = False
    found: Operators | None = None

    @classmethod
    def get(cls) -> Operators | None:
        if not cls.tried:
            cls.tried, cls.found = True, _load(torch.backends.cpu.get_cpu_capability())
        return cls.found


def _load(capability: str) -> Operators | None:
    path = library_file(capability)
    if not path.exists():
        return None
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except OSError as error:
        build = "python -m model.native.build"
        warnings.warn(f"{path} cannot be loaded ({error}) and is done without; make it anew with {build}", stacklevel=2)
        return None
    known = torch.ops.ferry
    return Operators(
        capability,
        known.scale_rows.default,
        known.restore_rows_.default,
        known.lstm_gates.default,
        known.masked_mean.default,
        known.attend.default,
        known.best_extensions.default,
        known.int8_by_fbgemm.default,
        known.int8_by_tiles.default,
        known.unroll_both.default,
        known.int8_units.default,
        torch.classes.ferry.DecoderStep,
        known.cross_entropy_.default,
        known.cross_entropy_and_divergence_.default,
        known.lstm_sequence_.default,
        known.lstm_sequence_backward.default,
        known.transposed.default,
    )
