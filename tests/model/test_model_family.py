"""The whole model with each cell: decoding, padding, learning, and the way through a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import FILES, described
from pydantic import ValidationError
from tiny_models import LIMIT, random_sources, tiny_model
from torch import Tensor

from model.cells import CELLS, build_cell
from model.checkpoint import load_checkpoint, save_checkpoint
from model.config import ModelConfig
from model.search import SearchOptions, translate
from model.seq2seq import Seq2Seq

SOURCE = torch.tensor([[5, 6, 7, 8, 3], [9, 4, 3, 0, 0], [3, 0, 0, 0, 0]])
LENGTHS = torch.tensor([5, 3, 1])
TARGET = torch.tensor([[2, 4, 5, 6, 7], [2, 9, 8, 1, 4], [2, 10, 11, 10, 5]])

every_cell = pytest.mark.parametrize("cell", CELLS)
feeding = pytest.mark.parametrize("input_feeding", [False, True], ids=["plain", "feeding"])


def family(cell: str, input_feeding: bool = False, **choices: object) -> Seq2Seq:
    """A model of two layers on each side, residual and normalised."""
    return tiny_model(cell=cell, input_feeding=input_feeding, **choices)


def logits(model: Seq2Seq, source: Tensor = SOURCE, lengths: Tensor = LENGTHS, target: Tensor = TARGET) -> Tensor:
    return model.logits(model(source, lengths, target))


@every_cell
@feeding
def test_stepping_equals_the_teacher_forced_pass(cell: str, input_feeding: bool) -> None:
    """With rows of a sentence repeated, as a beam has them."""
    model = family(cell, input_feeding)
    memory = model.encode(SOURCE, LENGTHS)
    state = model.start(memory).select(torch.tensor([0, 0, 1, 1, 2, 2]))
    stepped = []
    for token in TARGET.repeat_interleave(2, dim=0).t():
        step, state = model.step(state, token, memory)
        stepped.append(step)
    torch.testing.assert_close(torch.stack(stepped, dim=1)[::2], logits(model))


@every_cell
@feeding
def test_padding_changes_nothing(cell: str, input_feeding: bool) -> None:
    model = family(cell, input_feeding, self_attention=True, lexical_shortcut=True)
    padded = logits(model)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = logits(model, SOURCE[row : row + 1, :length], LENGTHS[row : row + 1], TARGET[row : row + 1])
        torch.testing.assert_close(padded[row : row + 1], alone)


@every_cell
@feeding
def test_every_weight_learns(cell: str, input_feeding: bool) -> None:
    model = family(cell, input_feeding, self_attention=True, lexical_shortcut=True).train().requires_grad_(True)
    logits(model).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any() and parameter.grad.isfinite().all(), name


@every_cell
def test_the_bridge_makes_the_state_that_the_cell_has(cell: str) -> None:
    model = family(cell, decoder_layers=3)
    parts = CELLS[cell].parts
    assert parts == (2 if cell.endswith("lstm") else 1)
    assert model.bridge.project.weight.shape == (3 * parts * 8, 8)
    state = model.start(model.encode(SOURCE, LENGTHS))
    fresh = build_cell(cell, 8, 8).start(len(SOURCE))
    assert [[part.shape for part in layer] for layer in state.cells] == [[part.shape for part in fresh]] * 3


@every_cell
def test_a_checkpoint_translates_as_the_model_that_was_saved(cell: str, tmp_path: Path) -> None:
    model = family(cell, dtype=torch.float32, self_attention=True, lexical_shortcut=True)
    save_checkpoint(tmp_path / "saved", described(model), model.state_dict(), FILES)
    loaded = load_checkpoint(tmp_path / "saved").model
    assert loaded.config.cell == cell
    sources = random_sources(4, 3)
    options = SearchOptions(beam_size=3, n_best=3)
    assert translate(loaded, sources, options, LIMIT) == translate(model, sources, options, LIMIT)


def test_a_config_of_before_the_family_means_an_lstm_without_extras() -> None:
    config = ModelConfig(source_vocabulary=9, target_vocabulary=9)
    assert (config.cell, config.recurrent_dropout) == ("lstm", 0.0)
    assert not config.self_attention and not config.lexical_shortcut
    names = {name for name in Seq2Seq(config).state_dict() if "layers.0" in name}
    directions = ["encoder.layers.0.forward_layer", "encoder.layers.0.backward_layer", "decoder.layers.0"]
    assert names == {f"{layer}.{weight}" for layer in directions for weight in ("weight_ih", "weight_hh", "bias")}


def test_every_name_of_the_table_may_stand_in_a_config() -> None:
    for cell in CELLS:
        ModelConfig.model_validate({"source_vocabulary": 9, "target_vocabulary": 9, "cell": cell})
    with pytest.raises(ValidationError, match="cell"):
        ModelConfig.model_validate({"source_vocabulary": 9, "target_vocabulary": 9, "cell": "perceptron"})
    annotation = ModelConfig.model_fields["cell"].annotation
    assert set(annotation.__args__) == CELLS.keys()
