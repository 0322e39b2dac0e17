"""Transfer: every weight that can go over does, piece by piece where vocabularies differ, and the rest is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from model.config import ModelConfig
from model.seq2seq import Seq2Seq
from tokenizer.subword import TokenizerPair, train_subword
from training.transfer import Origin, TransferError, inherited_data, open_origin, transfer

ENGLISH = ["The ferry crosses the river.", "We wait for the boat.", "The captain reads a book.", "Rain on the water."]
GERMAN = ["Die Fähre fährt los.", "Wir warten auf das Boot.", "Der Kapitän liest.", "Regen auf dem Wasser."]


def subword(texts: list[str], size: int):
    return train_subword(texts, model_type="bpe", vocabulary_size=size)


OLD = subword(ENGLISH, 300)
NEW = subword(ENGLISH + GERMAN, 330)
TARGET = subword(GERMAN, 300)


def model(tokenizers: TokenizerPair, seed: int = 1, **choices: Any) -> Seq2Seq:
    torch.manual_seed(seed)
    sizes = {
        "source_vocabulary": tokenizers.source.vocabulary_size,
        "target_vocabulary": tokenizers.target.vocabulary_size,
    }
    made = Seq2Seq(ModelConfig(**{**sizes, "embedding": 8, "hidden": 8, "heads": 2, **choices}))
    with torch.no_grad():
        made.output_bias.normal_()
    return made


def origin(tokenizers: TokenizerPair, **choices: Any) -> Origin:
    return Origin("old", ("old text",), model(tokenizers, seed=7, **choices).state_dict(), tokenizers)


RECIPE = """\
name: old
data:
  source: en
  target: de
  train: [{name: English and German, tsv: train.tsv, licence: CC0-1.0}, {tsv: more.tsv}]
  dev: [{tsv: dev.tsv}]
export: {licence: CC0-1.0}
"""
OLD_PIECES, NEW_PIECES, TARGET_PIECES = OLD.pieces(), NEW.pieces(), TARGET.pieces()
JOINT_OLD, JOINT_NEW, SEPARATE = TokenizerPair(OLD, OLD), TokenizerPair(NEW, NEW), TokenizerPair(OLD, TARGET)


def test_the_same_model_and_vocabulary_go_over_whole() -> None:
    old, new = origin(JOINT_OLD), model(JOINT_OLD)
    report = transfer(new, JOINT_OLD, old)
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, old.weights[name]), name
    assert (report.fresh, report.unused) == ({}, ())
    assert report.remapped["target_embedding.weight"] == (OLD.vocabulary_size, 0, 0)


def test_a_piece_keeps_its_row_in_another_vocabulary() -> None:
    old, new = origin(JOINT_OLD), model(JOINT_NEW)
    report = transfer(new, JOINT_NEW, old)
    shared = set(OLD_PIECES) & set(NEW_PIECES)
    for piece in shared:
        here, there = NEW_PIECES.index(piece), OLD_PIECES.index(piece)
        assert torch.equal(new.target_embedding.weight[here], old.weights["target_embedding.weight"][there]), piece
        assert torch.equal(new.output_bias[here], old.weights["output_bias"][there]), piece
    assert report.remapped["target_embedding.weight"].same == len(shared)


def test_a_new_piece_is_the_mean_of_its_parts_or_fresh() -> None:
    old, untouched, new = origin(JOINT_OLD), model(JOINT_NEW), model(JOINT_NEW)
    report = transfer(new, JOINT_NEW, old)
    table, composed, fresh = old.weights["target_embedding.weight"], 0, 0
    for row, piece in enumerate(NEW_PIECES):
        if piece in OLD_PIECES:
            continue
        if parts := OLD.cover(piece):
            composed += 1
            torch.testing.assert_close(new.target_embedding.weight[row], table[parts].mean(dim=0))
        else:
            fresh += 1
            assert torch.equal(new.target_embedding.weight[row], untouched.target_embedding.weight[row])
    assert composed > 0 and fresh > 0  # "ä" is no English character
    assert report.remapped["target_embedding.weight"][1:] == (composed, fresh)


def test_a_joint_table_takes_rows_from_both_of_two_separate_ones() -> None:
    old, new = origin(SEPARATE, tied="target"), model(JOINT_NEW)
    transfer(new, JOINT_NEW, old)
    english = next(piece for piece in NEW_PIECES if piece in OLD_PIECES and piece not in TARGET_PIECES)
    german = next(piece for piece in NEW_PIECES if piece in TARGET_PIECES and piece not in OLD_PIECES)
    for piece, name, tokenizer in (
        (english, "source_embedding.weight", OLD),
        (german, "target_embedding.weight", TARGET),
    ):
        there = old.weights[name][tokenizer.pieces().index(piece)]
        assert torch.equal(new.target_embedding.weight[NEW_PIECES.index(piece)], there)


def test_untied_tables_begin_with_the_one_they_were_tied_to() -> None:
    old, new = origin(JOINT_OLD), model(JOINT_OLD, tied="none")
    transfer(new, JOINT_OLD, old)
    for table in (new.source_embedding, new.target_embedding, new.output):
        assert torch.equal(table.weight, old.weights["target_embedding.weight"])


def test_what_does_not_fit_stays_fresh_and_is_named() -> None:
    old = origin(JOINT_OLD, encoder_layers=2, decoder_layers=1)
    untouched, new = (model(JOINT_OLD, encoder_layers=1, decoder_layers=2) for _ in range(2))
    report = transfer(new, JOINT_OLD, old)
    assert report.fresh["bridge.project.weight"] == "shape [16, 8] in the origin, [32, 8] here"
    assert torch.equal(new.bridge.project.weight, untouched.bridge.project.weight)
    assert any(name.startswith("decoder.layers.1.") for name in report.fresh)
    assert report.unused and all(name.startswith(("encoder.", "bridge.")) for name in report.unused)
    assert set(report.copied) | set(report.fresh) | set(report.remapped) == set(new.state_dict())
    assert "fresh: bridge.project.weight (shape [16, 8] in the origin, [32, 8] here)" in str(report)


def test_a_model_of_which_nothing_fits_is_refused() -> None:
    old = Origin("old", (), {"something": torch.zeros(3)}, JOINT_OLD)
    with pytest.raises(TransferError, match="nothing in old fits"):
        transfer(model(JOINT_OLD), JOINT_OLD, old)


def test_weights_beside_a_foreign_tokenizer_are_refused() -> None:
    old = origin(JOINT_OLD)._replace(tokenizers=JOINT_NEW)
    with pytest.raises(TransferError, match="300 rows, but its tokenizer 330 pieces"):
        transfer(model(JOINT_NEW), JOINT_NEW, old)


def test_a_checkpoint_is_an_origin(tiny_checkpoint: Path, tiny_tokenizer: TokenizerPair) -> None:
    opened = open_origin(tiny_checkpoint)
    assert opened.name == f"en-de 0 ({tiny_checkpoint})"
    assert opened.data == ("none: random weights",)
    assert opened.tokenizers.target.pieces() == tiny_tokenizer.target.pieces()
    assert opened.weights["target_embedding.weight"].shape == (380, 32)


def test_the_best_weights_of_a_run_are_an_origin(tmp_path: Path) -> None:
    old = origin(SEPARATE, tied="target")
    save_file(old.weights, tmp_path / "best.safetensors")
    (tmp_path / "tokenizer").mkdir()
    for name, content in SEPARATE.files().items():
        (tmp_path / "tokenizer" / name).write_bytes(content)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    opened = open_origin(tmp_path)
    assert opened.data == ("English and German (CC0-1.0)", "more.tsv")
    assert opened.weights.keys() == old.weights.keys()
    assert opened.tokenizers.target.pieces() == TARGET_PIECES


def test_a_run_remembers_on_what_its_origin_was_trained(tmp_path: Path) -> None:
    assert inherited_data(tmp_path) == ()
    transfer(model(JOINT_OLD), JOINT_OLD, origin(JOINT_OLD)).save(tmp_path)
    assert inherited_data(tmp_path) == ("old text [through old]",)
    (tmp_path / "transfer.json").write_text("{")
    with pytest.raises(TransferError, match=r"transfer\.json is damaged"):
        inherited_data(tmp_path)


def test_a_folder_that_is_neither_is_named(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"init_from: .*no checkpoint folder .*SHA256SUMS.*no run folder"):
        open_origin(tmp_path)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"half")
    with pytest.raises(TransferError, match=r"best\.safetensors cannot be read"):
        open_origin(tmp_path)
