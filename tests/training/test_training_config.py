"""Recipes: what is read, what is refused, and whether the refusal helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config import ModelConfig
from training.config import ModelOptions, Recipe
from training.recipe_file import RecipeError, dump_recipe, load_recipe, recipe_sha256

RECIPES = Path(__file__).parents[2] / "training" / "recipes"

MINIMAL = """\
name: small
data:
  source: en
  target: de
  train: [{source: train.en, target: train.de}]
  dev: [{tsv: dev.tsv}]
export: {licence: CC0-1.0}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(MINIMAL)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe(path, overrides)
    return str(error.value)


def test_defaults_fill_what_is_not_said(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert loaded.folder == Path("runs/small")
    assert loaded.search.beam_size == 5


def test_model_options_are_the_model_config_without_vocabularies() -> None:
    left_out = {"source_vocabulary", "target_vocabulary", "pad", "unk", "bos", "eos"}
    wanted = {name: field.default for name, field in ModelConfig.model_fields.items() if name not in left_out}
    # What a checkpoint means that does not say, and what has paid since, are not the same.
    wanted |= {"lexical_shortcut": True, "layer_norm": False, "residual": False}
    assert {name: field.default for name, field in ModelOptions.model_fields.items()} == wanted


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_of_the_project_is_valid_and_opens_with_a_comment(path: Path) -> None:
    assert load_recipe(path).name == path.stem
    assert path.read_text(encoding="utf-8").startswith("#")


def test_dump_reads_back_as_the_same_recipe(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, ["search.tuning.alphas=[0.5]", "export.card.summary='Für alle: ja'"])
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(loaded), encoding="utf-8")
    assert load_recipe(again) == loaded
    assert recipe_sha256(load_recipe(again)) == recipe_sha256(loaded)


def test_overrides_reach_into_sections_and_lists(recipe: Path) -> None:
    loaded = load_recipe(recipe, ["training.learning_rate=2e-3", "data.train.0.weight=2", "model.input_feeding=true"])
    assert loaded.training.learning_rate == 2e-3
    assert loaded.data.train[0].weight == 2
    assert loaded.model.input_feeding


def test_variables_are_expanded(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_DATA", "/data")
    monkeypatch.delenv("FERRY_DATA", raising=False)
    loaded = load_recipe(recipe, ["data.train.0.source=${MY_DATA}/a", "data.train.0.target=${FERRY_DATA}/b"])
    assert loaded.data.train[0].files == (Path("/data/a"), Path("../shared/data/b"))


def test_an_unset_variable_is_named_with_its_key(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH", raising=False)
    message = refusal(recipe, "data.train.0.source=${NO_SUCH}/a")
    assert "NO_SUCH" in message
    assert "data.train.0.source" in message


@pytest.mark.parametrize(
    ("override", "unknown", "known"),
    [
        ("training.learning_rat=1", "training.learning_rat", "learning_rate"),
        ("modl.hidden=3", "modl", "model"),
        ("data.train.0.wieght=3", "data.train.0.wieght", "weight"),
        ("search.tuning.alpha=[1]", "search.tuning.alpha", "alphas"),
        ("training.early_stopping.patienc=3", "training.early_stopping.patienc", "patience"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest(recipe: Path, override: str, unknown: str, known: str) -> None:
    message = refusal(recipe, override)
    assert f"{recipe}: unknown key '{unknown}'; did you mean '{known}'?" in message
    assert f"--set {override}" in message


def test_a_far_off_key_is_answered_with_those_there_are(recipe: Path) -> None:
    assert "known keys here: beam_size, length_penalty" in refusal(recipe, "search.xyzzy=1")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.dropout=1.5", "model.dropout: input should be less than 1"),
        ("model.heads=3", "hidden (256) must be a multiple of heads (3)"),
        ("tokenizer.joint=false", "tied: all needs a joint vocabulary"),
        ("training.betas=[0.9, 1.5]", "training: betas are [0.9, 1.5]"),
        ("data.source=no", "quote the word"),
        ("data.dev.0.source=x", "data.dev.0: a corpus is either"),
        ("data.train=[]", "data.train: tuple should have at least 1 item"),
        ("export={}", "'export.licence' is missing"),
        ("training.schedule=cosin", "'cosine', 'inverse_sqrt' or 'plateau', not 'cosin'"),
    ],
)
def test_a_wrong_value_is_answered_with_a_sentence_that_names_the_key(
    recipe: Path, override: str, sentence: str
) -> None:
    assert sentence in refusal(recipe, override)


@pytest.mark.parametrize("override", ["training", "=3", "data.train.7.weight=1", "name.x=1", "seed=[1"])
def test_an_override_that_fits_nowhere_is_quoted(recipe: Path, override: str) -> None:
    assert f"--set {override}" in refusal(recipe, override)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name: a\nname: b\n", "key 'name' twice"),
        (b"- 1\n", "a YAML mapping"),
        (b"", "a YAML mapping"),
        (b"a: [", "not valid YAML"),
        (b"name: \xff", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    message = refusal(path)
    assert str(path) in message
    assert sentence in message


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    assert "nowhere.yaml: the recipe cannot be read" in refusal(tmp_path / "nowhere.yaml")


def test_a_recipe_is_immutable(recipe: Path) -> None:
    loaded: Recipe = load_recipe(recipe)
    with pytest.raises(ValueError, match="frozen"):
        loaded.seed = 2  # type: ignore[misc]
