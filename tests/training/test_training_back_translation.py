"""Back-translated text is real target text, with sources that a model of the reverse direction made."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from synthesis_recipes import DEV, TRAIN, recipe_of, texts, write_recipe_of
from typer.testing import CliRunner

from tests.conftest import write_checkpoint
from tokenizer.normalize import normalize
from tokenizer.subword import TokenizerPair
from training import back_translation
from training.back_translation import BackTranslated, BackTranslationOptions, MonolingualText, back_translate
from training.cli import app
from training.config import Recipe
from training.recipe_file import load_recipe
from training.synthesis import SynthesisError, synthesize
from training.system import UnusableSystemError, open_checkpoint
from training.teachers import open_teachers

TARGETS = [target for _, target in TRAIN]


@pytest.fixture(scope="session")
def reverse_checkpoint(tiny_tokenizer: TokenizerPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint de-en with random weights."""
    return write_checkpoint(tmp_path_factory.mktemp("reverse") / "de-en", tiny_tokenizer, "de", "en", seed=4)


def run(
    recipe: Recipe,
    reverse: Path,
    folder: Path,
    text: MonolingualText | None = None,
    **options: object,
) -> BackTranslated:
    teachers = open_teachers([reverse], "de", "en", "cpu", 8192)
    chosen = BackTranslationOptions(**options)  # type: ignore[arg-type]
    return back_translate(recipe, teachers, folder, text, chosen, lambda _: None)


def test_the_recipes_own_targets_get_the_models_sources(reverse_checkpoint: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    made = run(recipe, reverse_checkpoint, tmp_path / "out")
    sources = open_checkpoint(reverse_checkpoint).translate(TARGETS)
    assert texts(made.corpus) == list(zip(map(normalize, sources), TARGETS, strict=True))
    assert made.extended.data.train == (*recipe.data.train, made.corpus)
    assert (made.extended.name, made.extended.folder) == ("tiny-back-translated", tmp_path / "run-back-translated")
    assert made.extended.export.folder is None
    assert made.corpus.name == "Ferry train, back-translated by de-en 0 (seed 4)"


def test_other_text_can_be_given_and_dev_targets_in_it_are_left_out(reverse_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "news.de"
    path.write_text(f"Der  Fluss ist da.\n\n{DEV[0][1]}\n{'Fluss ' * 300}\nWir lesen.\n")
    text = MonolingualText(path, "CC BY 4.0")
    made = run(recipe_of(tmp_path), reverse_checkpoint, tmp_path / "out", text)
    assert [target for _, target in texts(made.corpus)] == ["Der Fluss ist da.", "Wir lesen."]
    assert (made.synthesis.untranslated, made.synthesis.held_out) == (2, 1)
    assert made.corpus.name == "news.de, back-translated by de-en 0 (seed 4)"
    assert made.corpus.licence == "CC BY 4.0; back-translated by de-en 0 (seed 4): CC0-1.0"


def test_sampled_sources_follow_the_seed_and_not_the_chunks(
    reverse_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path, train=TRAIN + [(f"Again {source}", target) for source, target in TRAIN])
    whole = run(recipe, reverse_checkpoint, tmp_path / "whole", temperature=1.0)
    monkeypatch.setattr(back_translation, "synthesize", partial(synthesize, chunk_sentences=5))
    chunked = run(recipe, reverse_checkpoint, tmp_path / "chunked", temperature=1.0)
    assert texts(chunked.corpus) == texts(whole.corpus)
    other = run(recipe.model_copy(update={"seed": 9}), reverse_checkpoint, tmp_path / "other", temperature=1.0)
    assert texts(other.corpus) != texts(whole.corpus)
    by_target: dict[str, set[str]] = {}
    for source, target in texts(whole.corpus):
        by_target.setdefault(target, set()).add(source)
    assert all(len(sources) == 2 for sources in by_target.values()), "each occurrence of a target is drawn anew"


def test_a_tag_stands_before_each_source_and_becomes_a_piece(reverse_checkpoint: Path, tmp_path: Path) -> None:
    made = run(recipe_of(tmp_path), reverse_checkpoint, tmp_path / "out", tag="<BT>", weight=0.5)
    assert all(source.startswith("<BT> ") for source, _ in texts(made.corpus))
    assert made.extended.tokenizer.user_symbols == ("<BT>",)
    assert made.corpus.weight == 0.5


def test_a_tag_that_cannot_be_a_piece_is_refused(reverse_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SynthesisError, match="tag 'back translated'"):
        run(recipe_of(tmp_path), reverse_checkpoint, tmp_path / "out", tag="back translated")


def test_a_model_of_the_recipes_own_direction_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(UnusableSystemError, match="translates en into de; wanted is de into en"):
        open_teachers([tiny_checkpoint], "de", "en", "cpu", 8192)


def test_the_command_writes_the_extended_recipe(reverse_checkpoint: Path, tmp_path: Path) -> None:
    recipe = write_recipe_of(tmp_path)
    arguments = ["back-translate", recipe, "--model", reverse_checkpoint, "--sampling", "--weight", 0.5]
    arguments += ["--precision", "int8"]
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0
    assert "6 pairs" in done.stdout
    extended = load_recipe(tmp_path / "run" / "back-translated" / "back-translate.yaml")
    assert [corpus.weight for corpus in extended.data.train] == [1.0, 0.5]
    assert (extended.data.train[1].name or "").endswith(", in int8")
    refused = CliRunner().invoke(app, [*map(str, arguments), "--beam-size", "3"])
    assert refused.exit_code == 1
    assert "--sampling draws" in refused.stderr
