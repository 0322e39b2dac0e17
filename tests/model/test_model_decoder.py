"""The decoder: stepping equals the teacher-forced pass, and its state is data that can be reordered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_models import VOCABULARY, tiny_model
from torch import Tensor

from model.config import ModelConfig
from model.decoder import Memory, State
from model.seq2seq import Seq2Seq, word_mask

SOURCE = torch.tensor([[5, 6, 7, 8, 3], [9, 4, 3, 0, 0], [3, 0, 0, 0, 0]])
LENGTHS = torch.tensor([5, 3, 1])
TARGET = torch.tensor([[2, 4, 5, 6, 7], [2, 9, 8, 1, 4], [2, 10, 11, 10, 5]])


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def teacher_forced(model: Seq2Seq, source: Tensor = SOURCE, target: Tensor = TARGET) -> Tensor:
    """Logits (B, T, V)."""
    return model.logits(model(source, LENGTHS[: len(source)], target))


def stepped(model: Seq2Seq, state: State, memory: Memory, target: Tensor = TARGET) -> Tensor:
    """Logits (N, T, V)."""
    logits = []
    for token in target.t():
        step, state = model.step(state, token, memory)
        logits.append(step)
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("attention", ["additive", "general", "dot", "multihead"])
@pytest.mark.parametrize("input_feeding", [False, True], ids=["plain", "feeding"])
@pytest.mark.parametrize("tied", ["none", "target", "all"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("layer_norm", "residual"), [(True, True), (True, False), (False, True), (False, False)])
def test_stepping_equals_the_teacher_forced_pass(
    attention: str, input_feeding: bool, tied: str, layers: int, layer_norm: bool, residual: bool
) -> None:
    model = tiny_model(
        dtype=torch.float32,
        attention=attention,
        input_feeding=input_feeding,
        tied=tied,
        decoder_layers=layers,
        layer_norm=layer_norm,
        residual=residual,
    )
    memory = model.encode(SOURCE, LENGTHS)
    logits = stepped(model, model.start(memory), memory)
    torch.testing.assert_close(logits, teacher_forced(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("input_feeding", [False, True], ids=["plain", "feeding"])
class TestState:
    """``select`` on state and memory, with and without the fed-back output."""

    def test_it_repeats_rows_for_a_beam(self, input_feeding: bool) -> None:
        model = tiny_model(input_feeding=input_feeding)
        memory = model.encode(SOURCE, LENGTHS)
        state = model.start(memory).select(torch.tensor([0, 0, 1, 1, 2, 2]))
        branches = torch.stack([TARGET, TARGET.flip(1)], dim=1).flatten(0, 1)  # two hypotheses a sentence
        expected = torch.stack([teacher_forced(model), teacher_forced(model, target=TARGET.flip(1))], dim=1)
        torch.testing.assert_close(stepped(model, state, memory, branches), expected.flatten(0, 1))

    def test_it_reorders_and_drops_sentences_midway(self, input_feeding: bool) -> None:
        model = tiny_model(input_feeding=input_feeding)
        memory = model.encode(SOURCE, LENGTHS)
        state = model.start(memory)
        _, state = model.step(state, TARGET[:, 0], memory)
        order = torch.tensor([2, 0])
        logits = stepped(model, state.select(order), memory.select(order), TARGET[order, 1:])
        torch.testing.assert_close(logits, teacher_forced(model)[order, 1:])

    def test_it_keeps_a_hypothesis_of_another_row(self, input_feeding: bool) -> None:
        model = tiny_model(input_feeding=input_feeding)
        memory = model.encode(SOURCE[:1], LENGTHS[:1])
        state = model.start(memory).select(torch.tensor([0, 0]))
        _, state = model.step(state, torch.tensor([2, 2]), memory)
        _, state = model.step(state, torch.tensor([7, 8]), memory)
        logits, _ = model.step(state.select(torch.tensor([1, 1])), torch.tensor([5, 6]), memory)
        for row, last in enumerate([5, 6]):
            expected = teacher_forced(model, SOURCE[:1], torch.tensor([[2, 8, last]]))[0, -1]
            torch.testing.assert_close(logits[row], expected)

    def test_a_step_leaves_the_state_it_was_given_alone(self, input_feeding: bool) -> None:
        model = tiny_model(input_feeding=input_feeding)
        memory = model.encode(SOURCE, LENGTHS)
        state = model.start(memory)
        first, _ = model.step(state, TARGET[:, 0], memory)
        again, _ = model.step(state, TARGET[:, 0], memory)
        assert torch.equal(first, again)


def test_nothing_is_remembered_between_two_decodings() -> None:
    """Two sources decoded in turns on one model, as two searches would."""
    model = tiny_model(input_feeding=True)
    memories = [model.encode(SOURCE[row : row + 1], LENGTHS[row : row + 1]) for row in (0, 1)]
    states = [model.start(memory) for memory in memories]
    logits: list[list[Tensor]] = [[], []]
    for position in range(TARGET.shape[1]):
        for row in (0, 1):
            step, states[row] = model.step(states[row], TARGET[row : row + 1, position], memories[row])
            logits[row].append(step)
    for row in (0, 1):
        torch.testing.assert_close(torch.cat(logits[row]), teacher_forced(model)[row])


def test_keys_are_projected_once_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    memory = model.encode(SOURCE, LENGTHS)
    monkeypatch.setattr(model.decoder.attention, "project", None)
    stepped(model, model.start(memory), memory)


@pytest.mark.parametrize("input_feeding", [False, True], ids=["plain", "feeding"])
def test_no_position_sees_a_later_piece(input_feeding: bool) -> None:
    model = tiny_model(input_feeding=input_feeding)
    altered = TARGET.clone()
    altered[:, 3:] = 6
    torch.testing.assert_close(teacher_forced(model, target=altered)[:, :3], teacher_forced(model)[:, :3])


def test_source_padding_changes_nothing() -> None:
    model = tiny_model()
    alone = model.logits(model(SOURCE[1:2, :3], LENGTHS[1:2], TARGET[1:2]))
    torch.testing.assert_close(teacher_forced(model)[1:2], alone)


def test_input_feeding_feeds_the_last_output() -> None:
    model = tiny_model(input_feeding=True)
    memory = model.encode(SOURCE, LENGTHS)
    _, state = model.step(model.start(memory), TARGET[:, 0], memory)
    fed, _ = model.step(state, TARGET[:, 1], memory)
    assert state.feed is not None
    starved, _ = model.step(state._replace(feed=torch.zeros_like(state.feed)), TARGET[:, 1], memory)
    assert not torch.allclose(fed, starved)


def test_every_layer_sees_the_context() -> None:
    """The layer above the bottom one changes its state with the memory's values alone, its query unchanged."""
    model = tiny_model(attention="general", decoder_layers=2)
    memory = model.encode(SOURCE, LENGTHS)
    state = model.start(memory)
    _, seen = model.step(state, TARGET[:, 0], memory)
    _, altered = model.step(state, TARGET[:, 0], memory._replace(values=memory.values + 1))
    torch.testing.assert_close(seen.cells[0], altered.cells[0])
    assert not torch.allclose(seen.cells[1].hidden, altered.cells[1].hidden)


def test_a_residual_adds_the_input_of_the_same_position() -> None:
    """With a silent second layer the model is the one without it."""
    deep = tiny_model(decoder_layers=2, layer_norm=False)
    shallow = Seq2Seq(deep.config.model_copy(update={"decoder_layers": 1})).double().eval()
    weights = {name: value for name, value in deep.state_dict().items() if name in shallow.state_dict()}
    size = 2 * deep.config.hidden
    weights |= {name: value[:size] for name, value in weights.items() if name.startswith("bridge")}
    shallow.load_state_dict(weights)
    for parameter in deep.decoder.layers[1].parameters():
        parameter.zero_()
    deep.bridge.project.weight[size:] = 0
    deep.bridge.project.bias[size:] = 0
    torch.testing.assert_close(teacher_forced(deep), teacher_forced(shallow))


@pytest.mark.parametrize(("tied", "tables"), [("none", 3), ("target", 2), ("all", 1)])
def test_tied_tables_are_one_tensor(tied: str, tables: int) -> None:
    model = tiny_model(tied=tied)
    assert sum(parameter.shape == (VOCABULARY, 6) for parameter in model.parameters()) == tables
    assert (model.output_weight() is model.target_embedding.weight) == (tied != "none")


def test_word_dropout_takes_whole_pieces_and_only_in_training() -> None:
    config = ModelConfig(source_vocabulary=9, target_vocabulary=9, embedding=4, hidden=4, word_dropout=0.5)
    model = Seq2Seq(config.model_copy(update={"embedding_dropout": 0.0}))
    ids = torch.arange(4, 9).repeat(30, 4)  # each piece four times in each of 30 sentences
    torch.manual_seed(1)
    zero = model.train()._embed(model.target_embedding, ids) == 0
    assert torch.equal(zero.any(dim=-1), zero.all(dim=-1))
    assert 0.3 < zero.float().mean().item() < 0.7
    assert (model.eval()._embed(model.target_embedding, ids) != 0).all()


def test_word_dropout_drops_a_piece_wherever_it_stands_in_its_sentence() -> None:
    """Of "the dog and the cat" may stay "- dog and - cat", never "- dog and the cat" (Gal & Ghahramani 2016)."""
    torch.manual_seed(1)
    the, dog, and_, cat = 4, 5, 6, 7
    mask = word_mask(torch.tensor([the, dog, and_, the, cat]).unsqueeze(1).expand(5, 200), 0.5)
    assert torch.equal(mask[0], mask[3])
    for place in (1, 2, 4):
        assert not torch.equal(mask[0], mask[place])
    assert 0 < mask[0].mean() < mask[0].max()  # not in all sentences alike


def test_word_dropout_leaves_the_expected_embedding_as_it_is() -> None:
    torch.manual_seed(1)
    mask = word_mask(torch.arange(100).unsqueeze(1).expand(100, 200), 0.3)
    torch.testing.assert_close(mask.mean(), torch.tensor(1.0), atol=0.02, rtol=0)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.7])


@pytest.mark.parametrize("tied", ["none", "target", "all"])
def test_the_output_table_begins_alike_whether_it_is_shared_or_not(tied: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sizes = {"source_vocabulary": 2000, "target_vocabulary": 2000, "embedding": 64, "hidden": 16}
        model = Seq2Seq(ModelConfig.model_validate(sizes | {"tied": tied}))
    assert float(model.output_weight().detach().std()) == pytest.approx(64**-0.5, rel=0.02)
