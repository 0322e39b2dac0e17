"""The encoder: bidirectional without packing, blind to padding, its dropout locked over time."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from model.cells import RecurrentLayer, build_cell
from model.config import ModelConfig
from model.encoder import BidirectionalLayer, Bridge, Encoder, LockedDropout, SelfAttention, reversal

TIME, ROWS, INPUTS, HIDDEN = 6, 4, 5, 8
LENGTHS = torch.tensor([6, 1, 4, 3])


@pytest.fixture
def sequence() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(TIME, ROWS, INPUTS)


def encoder(**choices: object) -> Encoder:
    torch.manual_seed(2)
    settings = {"source_vocabulary": 9, "target_vocabulary": 9, "embedding": INPUTS, "hidden": HIDDEN, **choices}
    return Encoder(ModelConfig.model_validate(settings)).eval().requires_grad_(False)


def test_reversal_leaves_padding_in_place() -> None:
    expected = [[3, 0, 1], [2, 1, 0], [1, 2, 2], [0, 3, 3]]
    assert reversal(torch.tensor([4, 1, 2]), 4).tolist() == expected


@torch.no_grad()
def test_without_packing_it_equals_torch_with_packing(sequence: Tensor) -> None:
    torch.manual_seed(3)
    layer = BidirectionalLayer(*(build_cell("lstm", INPUTS, HIDDEN // 2) for _ in range(2)))
    reference = nn.LSTM(INPUTS, HIDDEN // 2, bidirectional=True)
    for direction, suffix in ((layer.forward_layer, ""), (layer.backward_layer, "_reverse")):
        getattr(reference, f"weight_ih_l0{suffix}").copy_(direction.weight_ih)
        getattr(reference, f"weight_hh_l0{suffix}").copy_(direction.weight_hh)
        getattr(reference, f"bias_ih_l0{suffix}").copy_(direction.bias)
        getattr(reference, f"bias_hh_l0{suffix}").zero_()
    packed, _ = reference(pack_padded_sequence(sequence, LENGTHS, enforce_sorted=False))
    expected, _ = pad_packed_sequence(packed)
    output = layer(sequence, reversal(LENGTHS, TIME))
    real = (torch.arange(TIME).unsqueeze(1) < LENGTHS).unsqueeze(-1)
    torch.testing.assert_close(output * real, expected)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("over", [{}, {"self_attention": True}, {"lexical_shortcut": True}])
def test_padding_changes_nothing(sequence: Tensor, layer_norm: bool, over: dict[str, bool]) -> None:
    module = encoder(encoder_layers=3, layer_norm=layer_norm, **over)
    outputs = module(sequence, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = module(sequence[:length, row : row + 1], torch.tensor([length]))
        torch.testing.assert_close(outputs[:length, row : row + 1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("over", [{}, {"self_attention": True}, {"lexical_shortcut": True}])
def test_what_stands_in_padding_does_not_matter(sequence: Tensor, over: dict[str, bool]) -> None:
    module = encoder(**over)
    real = (torch.arange(TIME).unsqueeze(1) < LENGTHS).unsqueeze(-1)
    altered = module(sequence.masked_fill(~real, 99.0), LENGTHS)
    torch.testing.assert_close(altered * real, module(sequence, LENGTHS) * real)


def silence(module: nn.Module) -> None:
    """Make every recurrent layer inside answer zero."""
    for layer in module.modules():
        if isinstance(layer, RecurrentLayer):
            for parameter in layer.parameters():
                parameter.zero_()


def test_a_residual_adds_the_input_of_the_same_position(sequence: Tensor) -> None:
    module = encoder(encoder_layers=2, residual=True, layer_norm=False)
    first = module.layers[0](sequence, reversal(LENGTHS, TIME))
    silence(module.layers[1])
    torch.testing.assert_close(module(sequence, LENGTHS), first)


def test_without_residual_nothing_is_added(sequence: Tensor) -> None:
    module = encoder(encoder_layers=2, residual=False, layer_norm=False)
    silence(module.layers[1])
    assert not module(sequence, LENGTHS).any()


def test_the_lexical_shortcut_adds_a_map_of_the_embedding_of_the_same_position(sequence: Tensor) -> None:
    module = encoder(encoder_layers=2, lexical_shortcut=True, self_attention=True)
    outputs = module(sequence, LENGTHS)
    assert module.shortcut is not None
    added, module.shortcut = sequence @ module.shortcut.weight.t(), None
    assert added.any()
    torch.testing.assert_close(outputs, module(sequence, LENGTHS) + added)


def test_layer_norm_normalises_each_output(sequence: Tensor) -> None:
    outputs = encoder(encoder_layers=2, layer_norm=True)(sequence, LENGTHS)
    torch.testing.assert_close(outputs.mean(dim=-1), torch.zeros(TIME, ROWS), atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.std(dim=-1, correction=0), torch.ones(TIME, ROWS), atol=1e-2, rtol=0)


def test_self_attention_equals_torch() -> None:
    """Normalised before, added after, blind to padding."""
    torch.manual_seed(6)
    layer = SelfAttention(HIDDEN, heads=2, dropout=0.0).requires_grad_(False)
    reference = nn.MultiheadAttention(HIDDEN, 2, bias=False, batch_first=True)
    projections = torch.cat([layer.attention.query.weight, layer.attention.key_value.weight])
    reference.load_state_dict({"in_proj_weight": projections, "out_proj.weight": layer.attention.output.weight})
    sequence = torch.randn(TIME, ROWS, HIDDEN)
    normed = nn.functional.layer_norm(sequence, (HIDDEN,)).transpose(0, 1)
    padding = torch.arange(TIME) >= LENGTHS.unsqueeze(1)
    mixed, _ = reference(normed, normed, normed, key_padding_mask=padding)
    torch.testing.assert_close(layer(sequence, LENGTHS), sequence + mixed.transpose(0, 1), atol=1e-5, rtol=0)


def test_self_attention_needs_whole_heads() -> None:
    with pytest.raises(ValidationError, match="multiple of heads"):
        encoder(attention="dot", self_attention=True, heads=3)


def test_dropout_has_one_mask_over_time() -> None:
    torch.manual_seed(4)
    dropped = LockedDropout(0.25)(torch.ones(TIME, 50, 40))
    assert (dropped == dropped[:1]).all()
    assert {round(value, 4) for value in dropped.unique().tolist()} == {0.0, round(1 / 0.75, 4)}
    assert float((dropped[0] == 0).float().mean()) == pytest.approx(0.25, abs=0.04)


def test_dropout_has_a_mask_for_each_sentence() -> None:
    torch.manual_seed(4)
    first, second = LockedDropout(0.5)(torch.ones(1, 2, 64))[0]
    assert (first != second).any()


def test_dropout_is_off_outside_training() -> None:
    sequence = torch.ones(TIME, ROWS, INPUTS)
    assert LockedDropout(0.5).eval()(sequence) is sequence


def test_the_decoder_starts_from_the_mean_over_real_positions() -> None:
    torch.manual_seed(5)
    bridge = Bridge(ModelConfig(source_vocabulary=9, target_vocabulary=9, hidden=HIDDEN, decoder_layers=2))
    outputs, mask = torch.randn(2, 3, HIDDEN), torch.tensor([[True, True, False], [True, True, True]])
    cells = bridge(outputs, mask)
    mean = outputs[0, :2].mean(dim=0)
    expected = torch.tanh(bridge.project.weight @ mean + bridge.project.bias).split(HIDDEN)
    found = [part[0] for cell in cells for part in cell]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))
