"""The command explain: what it writes, what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import Result
from matplotlib.image import imread
from typer.testing import CliRunner

from model.checkpoint import load_checkpoint, save_checkpoint
from model.search import annotate
from model.seq2seq import Seq2Seq
from tokenizer.subword import load_tokenizers
from training.cli import app
from training.explain_plots import draw_attention
from training.explain_sentence import explain_checkpoints
from training.system import open_checkpoint

TEXT, TARGET = "The river.", "Der Fluss."
PICTURES = {"attention.png", "gates.png", "units.png", "gradients.png", "recurrence.png"}


def explain_command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["explain", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def rnn_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the tiny checkpoint, of plain recurrent layers."""
    lstm = load_checkpoint(tiny_checkpoint)
    config = lstm.config.model_copy(update={"model": lstm.config.model.model_copy(update={"cell": "rnn"})})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Seq2Seq(config.model)
    folder = tmp_path_factory.mktemp("rnn") / "en-de"
    files = {**load_tokenizers(tiny_checkpoint).files(), "README.md": b"# Random weights\n"}
    save_checkpoint(folder, config, model.state_dict(), files)
    return folder


def test_one_checkpoint_is_explained_in_pictures_and_words(tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = explain_command(tiny_checkpoint, "--text", TEXT, "--target", TARGET, "--output", tmp_path / "out")
    assert done.exit_code == 0
    assert done.stdout == ""
    assert {path.name for path in (tmp_path / "out").iterdir()} == PICTURES | {"distances.png", "explain.md"}
    text = (tmp_path / "out" / "explain.md").read_text()
    assert "forget gate" in text
    for picture in PICTURES | {"distances.png"}:
        assert f"({picture})" in text
        assert imread(tmp_path / "out" / picture).std() > 0


def test_several_checkpoints_are_compared_by_their_cells(
    tiny_checkpoint: Path, rnn_checkpoint: Path, tmp_path: Path
) -> None:
    done = explain_command(
        rnn_checkpoint,
        tiny_checkpoint,
        "--text",
        TEXT,
        "--target",
        TARGET,
        "--output",
        tmp_path,
        "--layer",
        "decoder.2",
    )
    assert done.exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"rnn", "lstm", "distances.png", "explain.md"}
    for cell in ("rnn", "lstm"):
        assert {path.name for path in (tmp_path / cell).iterdir()} == PICTURES
    text = (tmp_path / "explain.md").read_text()
    assert "The cell `rnn` has none" in text
    rows = [line for line in text.splitlines() if line.startswith(("| rnn |", "| lstm |"))]
    assert len(rows) == 14  # four encoder layers, two decoder layers and the full model, twice


def test_json_holds_the_raw_figures_and_writes_nothing(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = explain_command(tiny_checkpoint, "--text", TEXT, "--target", TARGET, "--json")
    printed = json.loads(done.stdout)
    system = open_checkpoint(tiny_checkpoint)
    source, target = (system.tokenizers.source.encode(text) for text in (TEXT, TARGET))
    (annotation,) = annotate(load_checkpoint(tiny_checkpoint).model, [source], [target])
    assert printed["target"] == TARGET
    assert printed["attention"] == [pytest.approx(row, abs=1e-6) for row in annotation.attention]
    assert len(printed["source_pieces"]) == len(source) + 1
    assert printed["target_inputs"] == ["<s>", *printed["target_pieces"][:-1]]
    layer = printed["layers"]["encoder.2.backward"]
    assert [len(layer["gates"]["forget"]), len(layer["hidden"])] == [len(source) + 1] * 2
    assert layer["reach"]["curve"][0] == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_target_the_model_explains_its_own_translation(tiny_checkpoint: Path) -> None:
    (explained,) = explain_checkpoints([tiny_checkpoint], TEXT, None, "decoder.1")
    assert explained.own
    assert [explained.target] == open_checkpoint(tiny_checkpoint).translate([TEXT])


def test_checkpoints_of_one_cell_are_numbered(tiny_checkpoint: Path, tiny_checkpoint_fr: Path) -> None:
    models = explain_checkpoints([tiny_checkpoint, tiny_checkpoint_fr], TEXT, TARGET, "decoder.1")
    assert [explained.label for explained in models] == ["lstm 1", "lstm 2"]


def test_dollars_in_a_sentence_set_no_formula(tiny_checkpoint: Path, tmp_path: Path) -> None:
    models = explain_checkpoints([tiny_checkpoint], "$", None, "decoder.1")
    pieces = ["$\\frac$", *models[0].source_pieces[1:]]
    draw_attention(models[0]._replace(source_pieces=pieces), tmp_path / "attention.png")
    assert (tmp_path / "attention.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--text", " "), "the text is empty"),
        (("--text", TEXT, "--target", ""), "the target is empty"),
        (("--text", "a dog " * 500), "of which at most 200 are explained; give a shorter sentence"),
        (
            ("--text", TEXT, "--layer", "decoder.3"),
            "no layer 'decoder.3'; it has encoder.1.forward, encoder.1.backward",
        ),
    ],
)
def test_a_mistake_ends_the_command_with_a_sentence(
    arguments: tuple[str, ...], sentence: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    done = explain_command(tiny_checkpoint, *arguments, "--output", tmp_path / "out")
    assert done.exit_code == 1
    assert sentence in done.stderr
    assert not (tmp_path / "out").exists()
