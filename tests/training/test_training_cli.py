"""The command: what it prints, what it refuses, and with which exit status."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from tests.conftest import write_checkpoint
from tokenizer.subword import TokenizerPair
from training.cli import app
from training.evaluate import score
from training.state import state_file
from training.system import combine, open_checkpoint

SOURCES = ["The river is wide.", "She reads a book.", "It will rain."]
REFERENCES = ["Der Fluss ist breit.", "Sie liest ein Buch.", "Es wird regnen."]


def ferry_train(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe whose texts are there, and too small for its vocabulary."""
    files = {}
    for split, count in (("train", 3), ("dev", 2)):
        for side, lines in (("source", SOURCES), ("target", REFERENCES)):
            files[split, side] = tmp_path / f"{split}.{side}"
            files[split, side].write_text("".join(f"{split}: {line}\n" for line in lines[:count]))
    corpora = {split: [{side: str(files[split, side]) for side in ("source", "target")}] for split in ("train", "dev")}
    path = tmp_path / "tiny.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "folder": str(tmp_path / "run"),
                "data": {"source": "en", "target": "de", **corpora},
                "export": {"licence": "CC0-1.0"},
            }
        )
    )
    return path


@pytest.fixture
def test_set(tmp_path: Path) -> tuple[Path, Path]:
    source, reference = tmp_path / "test.en.xz", tmp_path / "test.de.xz"
    source.write_bytes(lzma.compress("\n".join(SOURCES).encode()))
    reference.write_bytes(lzma.compress("\n".join(REFERENCES).encode()))
    return source, reference


@pytest.mark.parametrize("command", ["tokenizer", "fit", "export", "run", "evaluate"])
def test_dump_prints_a_recipe_that_can_be_run_again_and_does_nothing(
    command: str, recipe: Path, tmp_path: Path
) -> None:
    first = ferry_train(command, recipe, "--set", "training.max_steps=7", "--dump")
    assert yaml.safe_load(first.stdout)["training"]["max_steps"] == 7
    again = tmp_path / "again.yaml"
    again.write_text(first.stdout)
    assert ferry_train(command, again, "--dump").stdout == first.stdout
    assert not (tmp_path / "run").exists()


def test_a_misspelt_key_ends_the_command_with_a_sentence(recipe: Path) -> None:
    done = ferry_train("fit", recipe, "--set", "training.max_step=7")
    assert done.exit_code == 1
    assert "unknown key 'training.max_step'; did you mean 'max_steps'?" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("tokenizer", "vocabulary_size of 8000 is too large"),
        ("fit", "run `ferry-train tokenizer`"),
        ("export", "run `ferry-train fit`"),
        ("evaluate", "run `ferry-train fit`"),
    ],
)
def test_a_command_out_of_turn_says_what_is_wanted_first(command: str, sentence: str, recipe: Path) -> None:
    done = ferry_train(command, recipe)
    assert done.exit_code == 1
    assert sentence in done.stderr


def test_a_folder_that_cannot_be_made_is_named(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    done = ferry_train("fit", recipe)
    assert done.exit_code == 1
    assert done.stderr == f"error: {tmp_path / 'run'}: File exists\n"


def test_a_missing_corpus_is_named(recipe: Path, tmp_path: Path) -> None:
    done = ferry_train("tokenizer", recipe, "--set", "data.train.0.source=/no/such/file")
    assert done.exit_code == 1
    assert "/no/such/file" in done.stderr


@pytest.mark.parametrize("command", ["tokenizer", "fit", "run"])
@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("training.init_from", "/no/such", "/no/such is no checkpoint folder (it has no SHA256SUMS) and no run folder"),
        ("training.word_distillation.teachers", "[/no/such]", "/no/such is not a folder; a checkpoint is a folder"),
    ],
)
def test_another_model_that_is_missing_is_named_before_anything_is_made(
    command: str, key: str, value: str, sentence: str, recipe: Path, tmp_path: Path
) -> None:
    done = ferry_train(command, recipe, "--set", f"{key}={value}")
    assert done.exit_code == 1
    assert f"{key}: {sentence}" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_no_longer_needs_the_model_that_it_began_with(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "state").mkdir(parents=True)
    state_file(tmp_path / "run").write_bytes(b"")
    done = ferry_train("fit", recipe, "--resume", "--set", "training.init_from=/no/such")
    assert "init_from" not in done.stderr
    assert "run `ferry-train tokenizer`" in done.stderr
    taught = ferry_train("fit", recipe, "--resume", "--set", "training.word_distillation.teachers=[/no/such]")
    assert "word_distillation.teachers: /no/such is not a folder" in taught.stderr  # its teachers it does need


def test_a_teacher_of_other_languages_is_refused_before_anything_is_made(
    recipe: Path, tiny_checkpoint_fr: Path, tmp_path: Path
) -> None:
    done = ferry_train("run", recipe, "--set", f"training.word_distillation.teachers=[{tiny_checkpoint_fr}]")
    assert done.exit_code == 1
    assert "translates en into fr; wanted is en into de" in done.stderr
    assert not (tmp_path / "run").exists()


def test_evaluate_prints_the_scores_of_a_checkpoint_as_json(tiny_checkpoint: Path, test_set: tuple[Path, Path]) -> None:
    source, reference = test_set
    done = ferry_train("evaluate", tiny_checkpoint, "--source", source, "--reference", reference, "--json")
    printed = json.loads(done.stdout)
    expected = score(open_checkpoint(tiny_checkpoint).translate(SOURCES), REFERENCES)
    assert {name: printed[name] for name in expected._fields} == expected._asdict()
    assert printed["sentences"] == 3
    assert printed["sentences_per_second"] > 0


def test_evaluate_decodes_with_several_checkpoints_at_once(
    tiny_checkpoint: Path, tiny_tokenizer: TokenizerPair, test_set: tuple[Path, Path], tmp_path: Path
) -> None:
    other = write_checkpoint(tmp_path / "other", tiny_tokenizer, "en", "de", seed=5)
    source, reference = test_set
    done = ferry_train("evaluate", tiny_checkpoint, other, "--source", source, "--reference", reference, "--json")
    together = combine([open_checkpoint(tiny_checkpoint), open_checkpoint(other)]).translate(SOURCES)
    assert together not in (
        open_checkpoint(tiny_checkpoint).translate(SOURCES),
        open_checkpoint(other).translate(SOURCES),
    )
    assert json.loads(done.stdout)["chrf2"] == score(together, REFERENCES).chrf2


def test_evaluate_computes_in_the_precision_asked_for(tiny_checkpoint: Path, test_set: tuple[Path, Path]) -> None:
    source, reference = test_set
    arguments = ("--source", source, "--reference", reference, "--json")
    plain, int8 = (
        json.loads(ferry_train("evaluate", tiny_checkpoint, *arguments, *more).stdout)
        for more in ((), ("--precision", "int8"))
    )
    assert (plain["precision"], int8["precision"]) == ("float32", "int8")
    expected = score(open_checkpoint(tiny_checkpoint).in_precision("int8").translate(SOURCES), REFERENCES)
    assert int8["chrf2"] == expected.chrf2
    table = ferry_train("evaluate", tiny_checkpoint, *arguments[:-1], "--precision", "int8").stdout
    assert "beam 5, length penalty power 1, int8" in table


def test_evaluate_refuses_an_ensemble_of_two_languages(
    tiny_checkpoint: Path, tiny_checkpoint_fr: Path, test_set: tuple[Path, Path]
) -> None:
    source, reference = test_set
    done = ferry_train("evaluate", tiny_checkpoint, tiny_checkpoint_fr, "--source", source, "--reference", reference)
    assert done.exit_code == 1
    assert "system 2 translates into fr, the first into de" in done.stderr


def test_evaluate_shows_a_table_and_writes_hypotheses(
    tiny_checkpoint: Path, test_set: tuple[Path, Path], tmp_path: Path
) -> None:
    source, reference = test_set
    arguments = ("--source", source, "--reference", reference, "--output", tmp_path / "out", "--beam-size", 2)
    done = ferry_train("evaluate", tiny_checkpoint, *arguments)
    assert "chrF2" in done.stdout
    assert "nrefs:1" in done.stdout
    (hypotheses,) = (tmp_path / "out").glob("*.de")
    assert len(hypotheses.read_text().split("\n")) == 4
    assert json.loads((tmp_path / "out" / "scores.json").read_text())[0]["beam_size"] == 2


@pytest.mark.parametrize("arguments", [(), ("--source", "x"), ("--source", "x", "--reference", "y", "--dump")])
def test_evaluate_refuses_a_checkpoint_without_its_files(tiny_checkpoint: Path, arguments: tuple[str, ...]) -> None:
    done = ferry_train("evaluate", tiny_checkpoint, *arguments)
    assert done.exit_code == 1
    assert "--reference" in done.stderr


def test_evaluate_names_what_a_folder_lacks_to_be_a_checkpoint(tmp_path: Path, test_set: tuple[Path, Path]) -> None:
    source, reference = test_set
    (tmp_path / "empty").mkdir()
    done = ferry_train("evaluate", tmp_path / "empty", "--source", source, "--reference", reference)
    assert done.exit_code == 1
    assert "SHA256SUMS" in done.stderr


def test_evaluate_names_the_recipe_in_the_folder_of_a_run(recipe: Path, tmp_path: Path) -> None:
    inside = tmp_path / "run" / "recipe.yaml"
    inside.parent.mkdir()
    recipe.rename(inside)
    done = ferry_train("evaluate", inside.parent)
    assert done.exit_code == 1
    assert f"{inside.parent} is the folder of a run; name its recipe, {inside}, or a checkpoint" in done.stderr
