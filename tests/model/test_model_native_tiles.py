"""Products of int8 in tiles, by each unit that the processor has for them, and by loops that take the same steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from model import native
from model.encoder import reversal
from model.int8 import pack_weights
from model.native import NativeInt8Product, Operators
from model.products import SMALLEST

CPU = torch.device("cpu")
BUILT = native.operators(CPU)
UNITS = BUILT.int8_units() if BUILT else ["plain"]

every_count = pytest.mark.parametrize("count", [1, 16, 17, 32, 33, 80])  # of rows; a tile has 16, two are a block
# A tile of weights is 64 deep and 16 wide, and four are a block; those of gates stand for 16 units.
every_shape = pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (3, 20), (70, 24), (130, 132), (200, 400)])
every_layout = pytest.mark.parametrize("gates", [False, True])


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def operators(unit: str) -> Iterator[Operators]:
    if BUILT is None:
        pytest.skip("the operators are not built")

    def by_unit(weight: Tensor, scale: Tensor, bias: Tensor, smallest: float, gates: bool, _: str) -> NativeInt8Product:
        return BUILT.int8_by_tiles(weight, scale, bias, smallest, gates, unit)

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(1)
        yield BUILT._replace(int8_by_tiles=by_unit)


def tiled(operators: Operators, weight: Tensor, bias: Tensor, gates: bool) -> NativeInt8Product:
    return operators.int8_by_tiles(*pack_weights(weight), bias, SMALLEST, gates, "")


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as integers, and their scales."""
    scale = SMALLEST + rows.abs().amax(dim=1, keepdim=True) * torch.tensor(1 / 127)
    return (rows * scale.reciprocal()).round(), scale


@every_count
@every_shape
@every_layout
def test_products_are_those_of_the_integers(
    operators: Operators, count: int, inputs: int, outputs: int, gates: bool
) -> None:
    weight, bias, rows = torch.randn(outputs, inputs), torch.randn(outputs), torch.randn(count, inputs) * 5
    integers, scale = rounded(rows)
    packed, channels = pack_weights(weight)
    exact = (integers.double() @ packed.double().t()) * channels * scale + bias
    found = tiled(operators, weight, bias, gates).multiply(rows)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-5)


@every_count
@every_layout
def test_a_row_does_not_depend_on_the_others(operators: Operators, count: int, gates: bool) -> None:
    product = tiled(operators, torch.randn(132, 70), torch.randn(132), gates)
    rows = torch.randn(100, 70)
    assert torch.equal(product.multiply(rows[:count]), product.multiply(rows)[:count])


def test_threads_change_nothing(operators: Operators) -> None:
    product, rows = tiled(operators, torch.randn(1000, 300), torch.randn(1000), False), torch.randn(50, 300)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(product.multiply(rows))
    torch.set_num_threads(before)
    assert torch.equal(*found)


def test_integers_are_multiplied_as_they_are(operators: Operators) -> None:
    weight, rows = torch.randint(-63, 64, (20, 70)), torch.randint(-90, 91, (18, 70))
    product = operators.int8_by_tiles(weight.to(torch.int8), torch.ones(20), torch.zeros(20), 0.0, False, "")
    assert torch.equal(product.multiply_integers(rows.float()), (rows @ weight.t()).float())


def test_what_is_no_number_stays_none_and_no_rows_give_none(operators: Operators) -> None:
    product, rows = tiled(operators, torch.randn(20, 70), torch.randn(20), False), torch.randn(3, 70)
    rows[1, 5], rows[2, 69] = torch.nan, torch.inf
    found = product.multiply(rows)
    assert found[0].isfinite().all() and found[1:].isnan().all()
    assert product.multiply(rows[:0]).shape == (0, 20)


def test_rows_of_zeros_give_the_bias(operators: Operators) -> None:
    bias = torch.randn(20)
    assert torch.equal(
        tiled(operators, torch.randn(20, 70), bias, False).multiply(torch.zeros(2, 70)), bias.expand(2, 20)
    )


@every_count
@pytest.mark.parametrize("hidden", [5, 16, 24, 40])
@every_layout
def test_a_step_of_an_lstm_is_its_product_and_its_gates(
    operators: Operators, count: int, hidden: int, gates: bool
) -> None:
    weight, bias = torch.randn(4 * hidden, 12 + hidden), torch.randn(4 * hidden)
    inputs, state, cell = torch.randn(count, 12), torch.randn(count, hidden), torch.randn(count, hidden)
    product = tiled(operators, weight, bias, gates)
    expected = operators.lstm_gates(product.multiply(torch.cat([inputs, state], dim=1)), cell)
    assert all(torch.equal(*pair) for pair in zip(product.lstm(inputs, state, cell), expected, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 20])
def test_both_directions_step_through_a_sequence(operators: Operators, count: int, threads: int) -> None:
    hidden, sequence = 24, torch.randn(7, count, 12)
    reverse = reversal(torch.randint(1, 8, (count,)), 7)
    directions = [
        (
            tiled(operators, torch.randn(4 * hidden, 12), torch.randn(4 * hidden), False),
            tiled(operators, torch.randn(4 * hidden, hidden), torch.zeros(4 * hidden), True),
        )
        for _ in range(2)
    ]
    torch.set_num_threads(threads)
    try:
        found = operators.unroll_both(sequence, reverse, *directions[0], *directions[1])
    finally:
        torch.set_num_threads(1)
    ahead = stepped(operators, sequence, *directions[0])
    index = reverse.unsqueeze(-1)
    back = stepped(operators, sequence.gather(0, index.expand_as(sequence)), *directions[1])
    expected = torch.cat([ahead, back.gather(0, index.expand_as(back))], dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def stepped(operators: Operators, sequence: Tensor, inputs: NativeInt8Product, recurrent: NativeInt8Product) -> Tensor:
    """Outputs (T, N, H) of an LSTM, position by position."""
    state = cell = torch.zeros(sequence.shape[1], 24)
    outputs = []
    for step in sequence:
        state, cell = operators.lstm_gates(inputs.multiply(step) + recurrent.multiply(state), cell)
        outputs.append(state)
    return torch.stack(outputs)


def test_what_does_not_fit_is_refused(operators: Operators) -> None:
    product = tiled(operators, torch.randn(20, 70), torch.zeros(20), False)
    with pytest.raises(RuntimeError, match="71 numbers in a row, not 70"):
        product.multiply(torch.ones(2, 71))
    with pytest.raises(RuntimeError, match=r"must be \(O, I\) int8"):
        operators.int8_by_tiles(torch.ones(20, 70), torch.ones(20), torch.zeros(20), 0.0, False, "")
    with pytest.raises(RuntimeError, match="do not fit the weights"):
        operators.int8_by_tiles(torch.ones(20, 70, dtype=torch.int8), torch.ones(19), torch.zeros(20), 0.0, False, "")
    gates = tiled(operators, torch.randn(8, 2), torch.zeros(8), True)
    four = (gates, gates, gates, gates)
    with pytest.raises(IndexError, match="reverse is out of bounds"):
        operators.unroll_both(torch.ones(3, 1, 2), torch.full((3, 1), 3), *four)
    with pytest.raises(RuntimeError, match=r"reverse must be \(T, N\) int64"):
        operators.unroll_both(torch.ones(3, 1, 2), torch.zeros(2, 1).long(), *four)
    with pytest.raises(RuntimeError, match="four gates"):
        operators.int8_by_tiles(torch.ones(21, 70, dtype=torch.int8), torch.ones(21), torch.zeros(21), 0.0, True, "")


def test_the_largest_integers_are_exact(operators: Operators) -> None:
    """Units that add two products in 16 bits have no more than that."""
    signs = torch.tensor([1, -1]).repeat_interleave(35)
    weight, rows = torch.stack([signs, signs.abs(), -signs]) * 63, torch.stack([signs, -signs.abs()]) * 127
    product = operators.int8_by_tiles(weight.to(torch.int8), torch.ones(3), torch.zeros(3), 0.0, False, "")
    assert torch.equal(product.multiply_integers(rows.float()), (rows @ weight.t()).float())


def test_an_unknown_unit_is_refused_with_those_there_are() -> None:
    if BUILT is None:
        pytest.skip("the operators are not built")
    with pytest.raises(RuntimeError, match=r"no unit abacus; it has .*plain"):
        BUILT.int8_by_tiles(torch.ones(4, 4, dtype=torch.int8), torch.ones(4), torch.zeros(4), 0.0, False, "abacus")
