"""The operators in C++: each gives what plain torch gives, row by row; how they are built, found and done without."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor, nn

from model import native, packing
from model.attention import MultiHeadAttention
from model.cells.fused import LSTMLayer
from model.cells.layer import CellState
from model.int8 import FbgemmKernel, Kernel, TileKernel, exact, pack_weights
from model.native import Operators, build
from model.packing import PackedSeq2Seq
from model.precision import Precision, prepare
from model.products import SMALLEST, Int8Pack, Int8Product
from model.seq2seq import Seq2Seq

CPU = torch.device("cpu")

# Rows of whole vectors, of none, and of some and a rest; 16 floats is the longest vector.
every_width = pytest.mark.parametrize("width", [1, 7, 8, 16, 45, 512])
every_count = pytest.mark.parametrize("count", [1, 3, 200])


@every_width
@every_count
def test_rows_are_scaled(operators: Operators, count: int, width: int) -> None:
    rows = torch.randn(count, width)
    rows[-1] = 0
    scaled, scales = operators.scale_rows(rows, SMALLEST)
    torch.testing.assert_close(scales, rows.abs().amax(dim=1, keepdim=True) / 127 + SMALLEST)
    torch.testing.assert_close(scaled, rows / scales)
    assert (scaled[-1] == 0).all()


@every_width
@every_count
def test_products_are_restored_in_place(operators: Operators, count: int, width: int) -> None:
    products, scales, bias = torch.randn(count, width), torch.rand(count, 1), torch.randn(width)
    expected = bias + products * scales
    assert operators.restore_rows(products, scales, bias) is not None
    torch.testing.assert_close(products, expected)


@every_width
@every_count
def test_gates_are_those_of_the_layer(operators: Operators, count: int, width: int) -> None:
    products, cell = torch.randn(count, 4 * width) * 3, torch.randn(count, width)
    expected = LSTMLayer(2, width).advance(products, CellState(cell, cell))
    torch.testing.assert_close(operators.lstm_gates(products, cell), tuple(expected), rtol=1e-5, atol=3e-7)


def test_gates_of_very_large_products_are_open_or_shut(operators: Operators) -> None:
    products = torch.tensor([[1e4, -1e4, 1e4, 1e4], [1e4, 1e4, -1e4, 1e4]])
    hidden, cell = operators.lstm_gates(products, torch.tensor([[0.5], [0.5]]))
    assert cell.flatten().tolist() == [1.0, -0.5]
    torch.testing.assert_close(hidden, torch.tanh(cell))


class Unprojected(MultiHeadAttention):
    """Attention between its products."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__(hidden, heads)
        self.query, self.output = nn.Identity(), nn.Identity()


@pytest.mark.parametrize(("hidden", "heads"), [(8, 1), (12, 4), (64, 4), (512, 4)])
@pytest.mark.parametrize(("batch", "queries", "positions"), [(1, 5, 9), (7, 1, 1), (3, 4, 30)])
def test_attention_is_that_of_torch(
    operators: Operators, hidden: int, heads: int, batch: int, queries: int, positions: int
) -> None:
    query, keys = torch.randn(batch, queries, hidden), torch.randn(batch, positions, 2 * hidden)
    mask = torch.arange(positions) < torch.randint(1, positions + 1, (batch, 1))
    expected = Unprojected(hidden, heads)(query, keys.double(), keys, mask)
    context, weights = operators.attend(query, keys, mask, heads)
    torch.testing.assert_close(context, expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights, expected[1].float(), rtol=1e-5, atol=1e-6)


def test_attention_knows_nothing_of_padding(operators: Operators) -> None:
    """Not even where it is no number."""
    query, keys, mask = torch.randn(2, 3, 16), torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool)
    context, weights = operators.attend(query, keys, mask, 4)
    padded = torch.cat([keys, torch.full((2, 4, 32), math.nan)], dim=1)
    wider = torch.cat([mask, torch.zeros(2, 4, dtype=torch.bool)], dim=1)
    found = operators.attend(query, padded, wider, 4)
    assert torch.equal(found[0], context)
    assert torch.equal(found[1], torch.cat([weights, torch.zeros(2, 3, 4)], dim=2))


@pytest.fixture
def layer() -> Iterator[tuple[Tensor, Tensor]]:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no FBGEMM")
    yield torch.randn(4 * 24, 16 + 24), torch.randn(4 * 24)


@every_count
def test_a_product_of_int8_is_one_call(operators: Operators, layer: tuple[Tensor, Tensor], count: int) -> None:
    inputs = torch.randn(count, 40)
    whole = Int8Pack(FbgemmKernel)(*layer)
    with native.set_aside():
        plain = Int8Pack(FbgemmKernel)(*layer)
    assert whole.whole is not None and plain.whole is None
    torch.testing.assert_close(whole(inputs), plain(inputs))
    shaped = inputs.view(count, 1, 40)
    assert torch.equal(whole(shaped), whole(inputs).unsqueeze(1))


@every_count
def test_a_step_of_an_lstm_of_int8_is_one_call(operators: Operators, layer: tuple[Tensor, Tensor], count: int) -> None:
    product = Int8Pack(FbgemmKernel)(*layer)
    inputs, hidden, cell = torch.randn(count, 16), torch.randn(count, 24), torch.randn(count, 24)
    assert product.whole is not None
    found = product.whole.lstm(inputs, hidden, cell)
    expected = operators.lstm_gates(product(torch.cat([inputs, hidden], dim=1)), cell)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda known: known.scale_rows(torch.ones(3), 0.0), "rows has 1 dimensions, not 2"),
        (lambda known: known.scale_rows(torch.ones(3, 2).double(), 0.0), "rows must be float32"),
        (lambda known: known.lstm_gates(torch.ones(3, 9), torch.ones(3, 2)), "do not fit the cells"),
        (lambda known: known.restore_rows(torch.ones(3, 9), torch.ones(2, 1), torch.ones(9)), "do not fit"),
        (
            lambda known: known.attend(torch.ones(1, 2, 8), torch.ones(1, 3, 16), torch.ones(1, 3), 2),
            "mask must be",
        ),
    ],
)
def test_what_does_not_fit_is_refused(operators: Operators, call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(RuntimeError, match=message):
        call(operators)


def test_they_are_for_the_cpu_alone_and_can_be_set_aside() -> None:
    assert native.operators(torch.device("meta")) is None
    with native.set_aside():
        assert native.operators(CPU) is None
        with native.set_aside():
            pass
        assert native.operators(CPU) is None


def test_a_damaged_library_is_named_and_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    assert native._load("AVX2") is None  # there is none
    native.library_file("AVX2").write_bytes(b"half a library")
    with pytest.warns(UserWarning, match=r"cannot be loaded .*python -m model.native.build"):
        assert native._load("AVX2") is None


def test_the_library_is_of_one_version_of_torch_and_of_these_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = native.library_file("AVX512").name
    assert torch.__version__ in before
    for source in native.SOURCES.glob("*.h"):
        (tmp_path / source.name).write_bytes(source.read_bytes() + b" ")
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    assert native.library_file("AVX512").name != before


def test_operators_take_what_is_not_contiguous(operators: Operators) -> None:
    query, keys, mask = torch.randn(3, 2, 8), torch.randn(3, 5, 16), torch.ones(3, 5, dtype=torch.bool)
    expected = operators.attend(query, keys, mask, 2)
    strided = [part.transpose(0, 1).contiguous().transpose(0, 1) for part in (query, keys, mask)]
    found = operators.attend(*strided, 2)  # type: ignore[call-arg]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("int8", 0.1)])
@pytest.mark.parametrize("over", ["self_attention", "lexical_shortcut"])
def test_what_stands_over_the_encoder_is_served(
    operators: Operators, precision: Precision, tolerance: float, over: str
) -> None:
    trained = tiny_model(3, dtype=torch.float32, **{over: True})
    source, lengths = torch.tensor([[5, 6, 7, 3], [9, 3, 0, 0]]), torch.tensor([4, 2])
    memory, expected = prepare(trained, precision).model.encode(source, lengths), trained.encode(source, lengths)
    torch.testing.assert_close(memory.values[expected.mask], expected.values[expected.mask], atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("kernel", [FbgemmKernel, TileKernel])
def test_the_directions_of_an_encoder_layer_have_a_thread_each(
    operators: Operators, monkeypatch: pytest.MonkeyPatch, kernel: Kernel
) -> None:
    weight = torch.randn(8, 8)
    if not exact(kernel, *pack_weights(weight), [torch.ones(1, 8)]):
        pytest.skip("this machine does not have that kernel")
    monkeypatch.setattr(packing, "fastest_kernel", lambda *_: kernel)
    trained = tiny_model(3, dtype=torch.float32, lexical_shortcut=True)
    source, lengths = torch.tensor([[5, 6, 7, 3], [9, 3, 0, 0]]), torch.tensor([4, 2])
    packed = prepare(trained, "int8").model
    assert all(isinstance(layer, packing.NativeBidirectionalLayer) for layer in packed.encoder.layers)
    with torch.inference_mode():
        alone = packed.encode(source, lengths).values
        torch.set_num_threads(2)
        try:
            shared = packed.encode(source, lengths).values
        finally:
            torch.set_num_threads(1)
    assert torch.equal(alone, shared)
    expected = trained.encode(source, lengths)
    torch.testing.assert_close(shared[expected.mask], expected.values[expected.mask], atol=0.1, rtol=1e-5)


def test_a_build_that_fails_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler: .*; install g\+\+"):
        build.build("AVX2")
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho a missing brace >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(build.BuildError, match="a missing brace"):
        build.build("AVX2")
    assert [path.name for path in tmp_path.iterdir()] == ["compiler"]


def test_the_command_ends_with_the_compilers_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model.native.build", "--all"]
    done = subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", "CXX": "/no/compiler"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("no C++ compiler: ")


@pytest.mark.parametrize(
    "choices", [{}, {"decoder_layers": 1}, {"decoder_layers": 3, "residual": False}, {"layer_norm": False}]
)
def test_a_whole_step_is_the_sum_of_its_parts_bit_by_bit(operators: Operators, choices: dict[str, object]) -> None:
    prepared = prepare(tiny_model(3, dtype=torch.float32, **choices), "int8").model
    assert isinstance(prepared, PackedSeq2Seq)
    if not isinstance(prepared.decoder.combine, Int8Product) or prepared.decoder.combine.whole is None:
        pytest.skip("no kernel with an operator is the fastest here")
    memory = prepared.encode(torch.tensor([[5, 6, 7, 3], [9, 3, 0, 0]]), torch.tensor([4, 2]))
    rows = torch.tensor([0, 0, 1, 1])
    whole, state = prepared.start(memory).select(rows), Seq2Seq.start(prepared, memory).select(rows)
    assert prepared.whole_step is not None
    for token in (torch.tensor([2, 2, 2, 2]), torch.tensor([4, 5, 6, 7])):
        logits, whole = prepared.step(whole, token, memory)
        expected, state = Seq2Seq.step(prepared, state, token, memory)
        assert torch.equal(logits, expected)
        parts = torch.cat(sum(state.cells, ()), dim=1)
        assert torch.equal(whole.cells[0].hidden[:, : parts.shape[1]], parts)


@pytest.mark.parametrize("choices", [{"cell": "gru"}, {"attention": "additive"}, {"input_feeding": True}])
def test_what_has_no_operator_is_stepped_in_parts(choices: dict[str, object]) -> None:
    prepared = prepare(tiny_model(3, dtype=torch.float32, **choices), "int8").model
    assert isinstance(prepared, PackedSeq2Seq) and prepared.whole_step is None


def test_gates_that_are_far_open_or_shut_are_as_torch_has_them(operators: Operators) -> None:
    """Where exponentials overflow and vanish, and at what is no number."""
    extremes = torch.tensor([-1e30, -200.0, -104.0, -88.5, -20.0, -1e-6, 0.0, 1e-6, 20.0, 88.5, 104.0, 200.0, 1e30])
    values = torch.cat([extremes, torch.linspace(-12, 12, 200), torch.tensor([math.inf, -math.inf, math.nan])])
    gates = values.repeat(4).unsqueeze(0)
    hidden, cell = operators.lstm_gates(gates, values.clamp(-3, 3).unsqueeze(0))
    write, candidate = torch.sigmoid(values), torch.tanh(values)
    expected = write * values.clamp(-3, 3) + write * candidate
    torch.testing.assert_close(cell[0], expected, rtol=1e-6, atol=3e-7, equal_nan=True)
    torch.testing.assert_close(hidden[0], write * torch.tanh(expected), rtol=1e-6, atol=3e-7, equal_nan=True)
