"""A student's text is what its teachers say, chosen as asked, and its recipe leads to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sacrebleu.metrics.bleu import BLEU
from synthesis_recipes import DEV, TRAIN, recipe_of, texts, write_recipe_of
from typer.testing import CliRunner

from tests.conftest import write_checkpoint
from tokenizer.normalize import normalize
from tokenizer.subword import TokenizerPair
from training.cli import app
from training.distillation import Distilled, DistilOptions, distil, nearest
from training.recipe_file import load_recipe
from training.synthesis import SynthesisError
from training.system import UnusableSystemError, combine, open_checkpoint
from training.teachers import Teachers, open_teachers

SOURCES = [source for source, _ in TRAIN]
BEST = DistilOptions()


@pytest.fixture(scope="session")
def other_checkpoint(tiny_tokenizer: TokenizerPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second teacher en-de."""
    return write_checkpoint(tmp_path_factory.mktemp("teacher") / "en-de", tiny_tokenizer, "en", "de", seed=3)


def teachers_of(*folders: Path, n_best: int = 1) -> Teachers:
    teachers = open_teachers(folders, "en", "de", "cpu", 8192)
    return teachers._replace(system=teachers.system.with_search(beam_size=3, n_best=n_best))


def run(folder: Path, teachers: Teachers, options: DistilOptions = BEST, **changes: object) -> Distilled:
    recipe = recipe_of(folder, **changes)  # type: ignore[arg-type]
    return distil(recipe, teachers, folder / "distilled", options, lambda _: None)


def test_the_text_is_the_sources_and_the_teachers_beam_output(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = run(tmp_path, teachers_of(tiny_checkpoint))
    expected = open_checkpoint(tiny_checkpoint).with_search(beam_size=3).translate(SOURCES)
    assert texts(made.corpus) == list(zip(SOURCES, map(normalize, expected), strict=True))
    assert made.synthesis.tokens == sum(
        len(pieces) + 1 for pieces in open_checkpoint(tiny_checkpoint).tokenizers.target.encode_batch(expected)
    )


def test_several_teachers_translate_as_an_ensemble(
    tiny_checkpoint: Path, other_checkpoint: Path, tmp_path: Path
) -> None:
    made = run(tmp_path, teachers_of(tiny_checkpoint, other_checkpoint))
    both = combine([open_checkpoint(tiny_checkpoint), open_checkpoint(other_checkpoint)])
    expected = both.with_search(beam_size=3).translate(SOURCES)
    assert [target for _, target in texts(made.corpus)] == [normalize(text) for text in expected]
    assert "en-de 0 (seed 1) and en-de 0 (seed 3)" in made.corpus.name


def test_a_text_is_made_in_the_precision_asked_for_and_says_so(tiny_checkpoint: Path, tmp_path: Path) -> None:
    plain = teachers_of(tiny_checkpoint)
    made = run(tmp_path, plain.in_precision("int8"))
    expected = plain.system.in_precision("int8").translate(SOURCES)
    assert [target for _, target in texts(made.corpus)] == [normalize(text) for text in expected]
    assert "translated by en-de 0 (seed 1), in int8" in made.corpus.name
    with pytest.raises(SynthesisError, match="holds other synthetic text"):
        run(tmp_path, plain)


def test_interpolation_takes_of_the_n_best_the_one_nearest_to_the_reference(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """References of which some stand lower among the n best than the first."""
    found = teachers_of(tiny_checkpoint, n_best=3).system.n_best(SOURCES)
    train = [(source, found[index][index % 3]) for index, source in enumerate(SOURCES)]
    made = run(tmp_path, teachers_of(tiny_checkpoint, n_best=3), DistilOptions("interpolate"), train=train)
    assert texts(made.corpus) == [(source, normalize(target)) for source, target in train]


def test_nearest_is_by_sentence_bleu_and_the_first_of_equals() -> None:
    reference = "the ferry is slow and the river is wide"
    hypotheses = ["the ferry is slow", "the ferry is slow and the river wide", "a river", "the ferry is slow"]
    assert nearest(hypotheses, reference) == hypotheses[1]
    assert nearest(["no word", "nothing alike"], "of these") == "no word"
    scores = [BLEU(effective_order=True).sentence_score(one, [reference]).score for one in hypotheses]
    assert max(scores) == scores[1]


def test_a_source_with_two_references_is_interpolated_for_each(tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = teachers_of(tiny_checkpoint, n_best=3).system.n_best(SOURCES[:1])[0]
    train = [(SOURCES[0], found[2]), (SOURCES[0], found[1])]
    made = run(tmp_path, teachers_of(tiny_checkpoint, n_best=3), DistilOptions("interpolate"), train=train)
    assert [target for _, target in texts(made.corpus)] == [normalize(found[2]), normalize(found[1])]


def test_the_student_learns_from_the_distilled_text_and_is_judged_as_before(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    made = run(tmp_path, teachers_of(tiny_checkpoint), DistilOptions(weight=2.0))
    recipe, student = load_recipe(tmp_path / "tiny.yaml"), made.student
    assert student.data.train == (made.corpus,)
    assert made.corpus.weight == 2.0
    assert (student.data.dev, student.data.test) == (recipe.data.dev, recipe.data.test)
    assert (student.name, student.folder) == ("tiny-distilled", tmp_path / "run-distilled")
    assert student.export.folder is None, "the student must not replace what the recipe's own export made"


def test_the_original_text_can_stay_beside_the_distilled(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = run(tmp_path, teachers_of(tiny_checkpoint), DistilOptions(keep_original=True))
    assert made.student.data.train == (*load_recipe(tmp_path / "tiny.yaml").data.train, made.corpus)


def test_the_corpus_says_what_it_was_made_of_by_whom_and_under_which_licences(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    corpus = run(tmp_path, teachers_of(tiny_checkpoint)).corpus
    assert corpus.name == "Ferry train, translated by en-de 0 (seed 1)"
    assert corpus.licence == "CC0-1.0; translated by en-de 0 (seed 1): CC0-1.0"


def test_a_pair_that_became_a_dev_pair_is_left_out(tiny_checkpoint: Path, tmp_path: Path) -> None:
    said = open_checkpoint(tiny_checkpoint).with_search(beam_size=3).translate(SOURCES[:1])[0]
    made = run(tmp_path, teachers_of(tiny_checkpoint), dev=[*DEV, (SOURCES[0], said)])
    assert [source for source, _ in texts(made.corpus)] == SOURCES[1:]
    assert made.synthesis.held_out == 1


def test_sources_longer_than_cleaning_allows_are_not_translated(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = run(tmp_path, teachers_of(tiny_checkpoint), train=[*TRAIN, ("river " * 300, "Fluss")])
    assert [source for source, _ in texts(made.corpus)] == SOURCES
    assert made.synthesis.untranslated == 1


def test_teachers_of_other_languages_are_refused(tiny_checkpoint_fr: Path) -> None:
    with pytest.raises(UnusableSystemError, match="translates en into fr; wanted is en into de"):
        teachers_of(tiny_checkpoint_fr)


def test_more_hypotheses_than_the_beam_holds_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SynthesisError, match="--n-best is 4"):
        run(tmp_path, teachers_of(tiny_checkpoint, n_best=4), DistilOptions("interpolate"))


def test_the_command_writes_a_recipe_that_can_be_run(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = write_recipe_of(tmp_path)
    arguments = ["distil", recipe, "--teacher", tiny_checkpoint, "--beam-size", 2, "--select", "interpolate"]
    arguments += ["--precision", "bfloat16"]
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0
    assert "6 pairs" in done.stdout and "target tokens/s" in done.stdout
    student = load_recipe(tmp_path / "run" / "distilled" / "distil.yaml")
    assert len(texts(student.data.train[0])) == 6
    assert student.name == "tiny-distilled"
    assert student.data.train[0].name.endswith(", in bfloat16")


def test_ctrl_c_says_how_to_go_on(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.commands.distil.distil", stopped)
    done = CliRunner().invoke(app, ["distil", str(write_recipe_of(tmp_path)), "--teacher", str(tiny_checkpoint)])
    assert done.exit_code == 130
    assert "the same command goes on" in done.stderr
