"""Recurrent dropout: some of the weights from hidden to hidden, the same at every position of a pass."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from tiny_models import tiny_model

from model.cells import CELLS, build_cell
from model.config import ModelConfig

TIME, ROWS, WIDTH = 5, 3, 32
RECURRENT = [kind for kind in CELLS if kind != "ssru"]

every_recurrent_cell = pytest.mark.parametrize("kind", RECURRENT)


@pytest.fixture
def sequence() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(TIME, ROWS, WIDTH)


@every_recurrent_cell
def test_it_drops_its_share_and_scales_the_rest(kind: str) -> None:
    torch.manual_seed(1)
    layer = build_cell(kind, WIDTH, WIDTH, recurrent_dropout=0.25)
    dropped = layer.recurrent()
    gone = dropped == 0
    assert float(gone.float().mean()) == pytest.approx(0.25, abs=0.05)
    torch.testing.assert_close(dropped[~gone], layer.weight_hh[~gone] / 0.75)


@every_recurrent_cell
def test_one_mask_serves_all_positions(kind: str, sequence: torch.Tensor) -> None:
    layer = build_cell(kind, WIDTH, WIDTH, recurrent_dropout=0.5)
    torch.manual_seed(3)
    outputs, _ = layer(sequence, layer.start(ROWS))
    torch.manual_seed(3)
    weights = layer.recurrent()
    state = layer.start(ROWS)
    for inputs, output in zip(sequence, outputs, strict=True):
        state = layer.step(inputs, state, weights)
        torch.testing.assert_close(output, state.hidden, atol=1e-5, rtol=0)


@every_recurrent_cell
def test_each_pass_draws_anew(kind: str, sequence: torch.Tensor) -> None:
    layer = build_cell(kind, WIDTH, WIDTH, recurrent_dropout=0.5)
    first, second = (layer(sequence, layer.start(ROWS))[0] for _ in range(2))
    torch.testing.assert_close(first[0], second[0])  # the first position has nothing behind it yet
    assert not torch.allclose(first[1:], second[1:])


@every_recurrent_cell
def test_what_was_dropped_does_not_learn(kind: str, sequence: torch.Tensor) -> None:
    layer = build_cell(kind, WIDTH, WIDTH, recurrent_dropout=0.5)
    torch.manual_seed(3)
    layer(sequence, layer.start(ROWS))[0].square().sum().backward()
    torch.manual_seed(3)
    gone = layer.recurrent() == 0
    assert not layer.weight_hh.grad[gone].any()
    assert layer.weight_hh.grad[~gone].all()


@every_recurrent_cell
def test_it_is_off_outside_training(kind: str, sequence: torch.Tensor) -> None:
    layer = build_cell(kind, WIDTH, WIDTH, recurrent_dropout=0.5).eval()
    assert layer.recurrent() is layer.weight_hh
    plain = build_cell(kind, WIDTH, WIDTH)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(sequence, layer.start(ROWS))[0], plain(sequence, plain.start(ROWS))[0])


def test_input_feeding_too_draws_one_mask_a_pass() -> None:
    model = tiny_model(input_feeding=True, recurrent_dropout=0.5, dropout=0.0, embedding_dropout=0.0)
    memory = model.encode(torch.tensor([[5, 6, 3]]), torch.tensor([3]))
    model.train()
    embedded = torch.randn(4, 1, model.config.embedding, dtype=torch.float64)
    torch.manual_seed(3)
    features, _ = model.decoder(embedded, model.start(memory), memory)
    torch.manual_seed(3)
    weights = [layer.recurrent() for layer in model.decoder.layers]
    state = model.start(memory)
    for piece, feature in zip(embedded, features, strict=True):
        expected, state, _ = model.decoder.step(piece, state, memory, weights)
        torch.testing.assert_close(feature, expected)


def test_an_ssru_has_none_to_drop() -> None:
    with pytest.raises(ValidationError, match="ssru has no recurrent weights to drop; set recurrent_dropout to 0"):
        ModelConfig(source_vocabulary=9, target_vocabulary=9, cell="ssru", recurrent_dropout=0.1)
