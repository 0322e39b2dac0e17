"""A comparison: which runs it plans, what it repeats, what a failure leaves, and what its table says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import Result
from safetensors.numpy import save_file
from typer.testing import CliRunner

from training import comparison, run_folders
from training.cli import app
from training.comparison import PlannedRun, Row, parse_rows, plan, train
from training.comparison_plot import draw_comparison
from training.comparison_table import Comparison, gather, markdown
from training.fit_record import FitRecord
from training.recipe_file import RecipeError, load_recipe
from training.run_folders import fit_key
from training.run_processes import ProcessError, Stopped, exclusive, in_use, run_command
from training.run_results import read_validations

WORDS = ["river", "ferry", "water", "deck", "captain", "rain", "rail", "side", "boat", "wave"]
TEST_SET = {"data": "harbour", "split": "test", "sentences": 2, "beam_size": 5, "length_penalty": "gnmt", "alpha": 1.0}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A tiny recipe with a test set."""
    corpora = {}
    for split, first, last in (("train", 0, 90), ("dev", 90, 95), ("test", 95, 100)):
        lines = [f"{WORDS[number // 10]} {WORDS[number % 10]}" for number in range(first, last)]
        for side in ("source", "target"):
            (tmp_path / f"{split}.{side}").write_text("".join(f"{line}\n" for line in lines))
        corpora[split] = [{side: str(tmp_path / f"{split}.{side}") for side in ("source", "target")}]
    path = tmp_path / "tiny.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "folder": str(tmp_path / "run"),
                "device": "cpu",
                "threads": 1,
                "precision": "float32",
                "data": {"source": "en", "target": "de", **corpora},
                "tokenizer": {"vocabulary_size": 280},
                "model": {"embedding": 8, "hidden": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1},
                "training": {"batch_tokens": 200, "max_steps": 2, "validate_every": 1, "samples": 0},
                "export": {"licence": "CC0-1.0"},
            }
        )
    )
    return path


class FakeTraining:
    """Stands in for the processes: leaves behind what a fit and an evaluation leave, and remembers its commands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.refuse: Callable[[str, Path], Exception | None] = lambda command, folder: None
        monkeypatch.setattr(run_folders, "run_command", self.run)
        monkeypatch.setattr(comparison, "run_command", self.run)

    def run(self, arguments: Sequence[str | Path], folder: Path, lock: int, keep_going: Callable[[], bool]) -> None:
        command, path, *rest = map(str, arguments)
        self.commands.append([command, *rest])
        error = self.refuse(command, folder)
        if error is not None:
            raise error
        seed = int(yaml.safe_load(Path(path).read_text())["seed"])
        if command == "tokenizer":
            (folder / "tokenizer").mkdir()
        elif command == "fit":
            finish_fit(folder, bleu=30.0 + seed)
        else:
            write_scores(Path(rest[1]), bleu=20.0 + seed)

    def count(self, command: str) -> int:
        return sum(arguments[0] == command for arguments in self.commands)


def finish_fit(folder: Path, bleu: float, interrupted: bool = False) -> None:
    record = {"best_step": 2, "steps": 2, "target_tokens": 6000, "seconds": 60.0, "device": "cpu"}
    FitRecord(**record, best_score=bleu, interrupted=interrupted).save(folder)
    save_file({"weight": np.zeros((10, 20), np.float32)}, folder / "best.safetensors")
    lines = [{"kind": "validation", "step": step, "loss": 2.0, "bleu": bleu - 2 + step} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_scores(folder: Path, bleu: float) -> None:
    entry = {**TEST_SET, "bleu": bleu, "bleu_lc": bleu + 1, "chrf2": bleu + 20, "signatures": {"bleu": "nrefs:1|x"}}
    (folder / "scores.json").write_text(json.dumps([entry]))


def trained(recipe: Path, rows: Sequence[Row], seeds: int = 1) -> tuple[list[PlannedRun], Comparison]:
    runs = plan(recipe, [], rows, seeds, 1)
    return runs, gather(runs, train(runs, 1, lambda text: None, lambda: True), "ferry-train compare ...")


def ferry_train(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_several_vary_make_the_product_and_a_short_key_stands_for_the_whole_one() -> None:
    rows = parse_rows(["cell=gru,lstm", "training.betas=[0.9, 0.98],[0.9, 0.999]"], [])
    assert [row.settings for row in rows] == [
        ("model.cell=gru", "training.betas=[0.9, 0.98]"),
        ("model.cell=gru", "training.betas=[0.9, 0.999]"),
        ("model.cell=lstm", "training.betas=[0.9, 0.98]"),
        ("model.cell=lstm", "training.betas=[0.9, 0.999]"),
    ]
    assert rows[0].name == "cell=gru training.betas=[0.9, 0.98]"


def test_named_rows_come_after_a_baseline_and_may_change_several_keys() -> None:
    assert parse_rows([], ["no norm: layer_norm=false residual=false"]) == [
        Row("baseline"),
        Row("no norm", ("model.layer_norm=false", "model.residual=false")),
    ]


def test_a_row_may_begin_a_section_anew_and_then_set_keys_in_it() -> None:
    (_, row) = parse_rows([], ["small: search.tuning=null search.tuning.alphas=[1]"])
    assert row.settings == ("search.tuning=null", "search.tuning.alphas=[1]")


@pytest.mark.parametrize(
    ("vary", "row", "sentence"),
    [
        (["alpha=1,2"], [], "'alpha' may mean tokenizer.sampling.alpha, search.length_penalty.alpha"),
        (["cel=gru"], [], "did you mean 'model.cell'"),
        (["cell"], [], "must be KEY=VALUE,VALUE"),
        (["cell="], [], "must be KEY=VALUE,VALUE"),
        (["seed=1,2"], [], "--seeds decides it"),
        (["export.version=1,2"], [], "scores do not depend on it"),
        (["cell=gru", "model.cell=lstm"], [], "give all its values at once: model.cell=VALUE,VALUE"),
        (["search.tuning.alphas=[1]", "search.tuning=null"], [], "--vary is given twice for 'search.tuning'"),
        ([], ["deep"], 'must be "NAME: key=value'),
        ([], ["deep: encoder_layers"], 'must be "NAME: key=value'),
        ([], ["deep: encoder_layers=2 cell=gru model.encoder_layers=3"], "sets 'model.encoder_layers' twice"),
        ([], ["baseline: cell=gru"], "two rows are called 'baseline'"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused(vary: list[str], row: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence.replace(".", r"\.")):
        parse_rows(vary, row)


def test_a_value_that_the_recipe_does_not_allow_is_refused_before_anything_is_trained(recipe: Path) -> None:
    done = ferry_train("compare", recipe, "--vary", "cell=lstm,lstn")
    assert done.exit_code == 1
    assert "model.cell" in done.stderr
    assert not (recipe.parent / "run").exists()


def test_only_what_decides_the_weights_decides_the_folder(recipe: Path) -> None:
    same = ["threads=3", "name=other", "search.beam_size=2", "export.name=x", "data.workers=2"]
    (base,) = plan(recipe, [], [Row("a")], 1, 1)
    (search,) = plan(recipe, [], [Row("a", tuple(same))], 1, 1)
    assert search.recipe.folder == base.recipe.folder
    assert search.evaluation != base.evaluation
    for change in ("model.hidden=16", "training.max_steps=3", "tokenizer.vocabulary_size=281", "precision=bfloat16"):
        assert plan(recipe, [change], [Row("a")], 1, 1)[0].recipe.folder != base.recipe.folder


def test_jobs_share_out_the_cores_unless_the_recipe_names_its_threads(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert plan(recipe, [], [Row("a")], 1, 4)[0].recipe.threads == 1
    assert plan(recipe, ["threads=null"], [Row("a")], 1, 4)[0].recipe.threads == 2
    assert plan(recipe, ["threads=null"], [Row("a")], 1, 1)[0].recipe.threads is None


def test_rows_share_tokenizers_and_rows_of_one_fit_share_it(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTraining(monkeypatch)
    rows = parse_rows(["hidden=8,16", "search.beam_size=1,5"], [])
    runs, _ = trained(recipe, rows, seeds=2)
    assert (fake.count("tokenizer"), fake.count("fit"), fake.count("evaluate")) == (2, 4, 8)
    corpora = {(run.recipe.folder / "corpus").resolve() for run in runs}
    assert corpora == {recipe.parent / "run" / "compare" / "corpus"}


@pytest.mark.parametrize("drop_overlap", [False, True])
def test_the_test_set_is_part_of_a_fit_that_leaves_out_what_it_holds(recipe: Path, drop_overlap: bool) -> None:
    drops = f"data.drop_overlap={str(drop_overlap).lower()}"
    with_test, without = (load_recipe(recipe, [drops, *settings]) for settings in ([], ["data.test=[]"]))
    assert (fit_key(with_test) == fit_key(without)) is not drop_overlap


@pytest.mark.parametrize(("drop_overlap", "tokenizers"), [(False, 1), (True, 2)])
def test_rows_with_other_held_out_pairs_share_tokenizers_unless_pairs_are_left_out(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, drop_overlap: bool, tokenizers: int
) -> None:
    fake = FakeTraining(monkeypatch)
    drops = f"data.drop_overlap={str(drop_overlap).lower()}"
    test = recipe.parent / "test"
    rows = parse_rows([], [f"other dev: {drops} data.dev.0.source={test}.source data.dev.0.target={test}.target"])
    trained(recipe, [Row("same", (drops,)), rows[1]])
    assert fake.count("tokenizer") == tokenizers


def test_what_is_finished_is_not_repeated(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTraining(monkeypatch)
    rows = parse_rows(["cell=gru,lstm"], [])
    _, first = trained(recipe, rows)
    fake.commands.clear()
    runs, again = trained(recipe, rows)
    assert fake.commands == []
    assert again == first
    (runs[0].evaluation / "scores.json").write_text("[{")
    trained(recipe, rows)
    assert [command for command, *_ in fake.commands] == ["evaluate"]


def test_a_fit_that_was_cut_off_is_resumed(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTraining(monkeypatch)
    (run,) = plan(recipe, [], [Row("a")], 1, 1)
    (run.recipe.folder / "state").mkdir(parents=True)
    (run.recipe.folder / "state" / "state.pt").touch()
    finish_fit(run.recipe.folder, 1.0, interrupted=True)
    assert run.state == "begun"
    train([run], 1, lambda text: None, lambda: True)
    assert ["fit", "--resume"] in fake.commands
    assert run.state == "finished"


def test_a_failing_row_says_why_and_does_not_stop_the_others(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTraining(monkeypatch)
    fake.refuse = lambda command, folder: (
        ProcessError("out of memory")
        if command == "fit" and "cell: gru" in (folder / "recipe.yaml").read_text()
        else None
    )
    done = ferry_train("compare", recipe, "--vary", "cell=gru,lstm", "--jobs", 2)
    assert done.exit_code == 1
    table = json.loads((recipe.parent / "run" / "compare" / "compare.json").read_text())
    assert [row["runs"][0]["error"] for row in table["rows"]] == ["out of memory", None]
    text = (recipe.parent / "run" / "compare" / "compare.md").read_text()
    assert "- Not finished: cell=gru, seed 1: out of memory" in text
    assert "| cell=gru | 0 of 1 |" in text


def test_a_stopped_comparison_starts_nothing_more(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTraining(monkeypatch)
    fake.refuse = lambda command, folder: Stopped() if command == "fit" else None
    runs = plan(recipe, [], parse_rows(["cell=gru,lstm"], []), 1, 1)
    assert train(runs, 1, lambda text: None, lambda: fake.count("fit") == 0) == ["stopped before its end"] * 2
    assert fake.count("fit") == 1


def test_the_table_has_means_deviations_and_its_command(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTraining(monkeypatch)
    _, found = trained(recipe, [Row("a")], seeds=3)
    text = markdown(found)
    assert "| a | 3 | 32.00 ± 1.00 | 22.00 ± 1.00 | 23.00 ± 1.00 | 42.00 ± 1.00 | 0.00 M | 100 | 1.0 |" in text
    assert "ferry-train compare ..." in text
    assert "bleu: nrefs:1|x" in text


def test_one_seed_has_no_deviation(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTraining(monkeypatch)
    assert "| a | 1 | 31.00 | 21.00 |" in markdown(trained(recipe, [Row("a")])[1])


def test_the_picture_is_drawn_of_what_has_finished(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    FakeTraining(monkeypatch)
    _, found = trained(recipe, parse_rows(["cell=gru,lstm"], []), seeds=2)
    assert draw_comparison(found, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    nothing = found.model_copy(update={"rows": ()})
    assert not draw_comparison(nothing, tmp_path / "nothing.png")


def test_a_dry_run_lists_the_runs_and_trains_nothing(recipe: Path) -> None:
    done = ferry_train("compare", recipe, "--vary", "cell=gru,lstm", "--seeds", 2, "--dry-run")
    assert done.stdout.count("to do") == 4
    assert not (recipe.parent / "run").exists()


def test_a_damaged_run_folder_is_an_error_of_its_row(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTraining(monkeypatch)
    runs, _ = trained(recipe, [Row("a"), Row("b", ("model.hidden=16",))])
    (runs[0].recipe.folder / "best.safetensors").unlink()
    found = gather(runs, [None, None], "")
    assert [bool(row.runs[0].error) for row in found.rows] == [True, False]


def test_validations_are_read_while_a_line_is_being_written(tmp_path: Path) -> None:
    finish_fit(tmp_path, 10.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "valida')
    assert [found.step for found in read_validations(tmp_path)] == [1, 2]


def test_a_folder_is_in_use_while_its_lock_is_held(tmp_path: Path) -> None:
    with exclusive(tmp_path, lambda: True, lambda text: None):
        assert in_use(tmp_path)
        with pytest.raises(Stopped), exclusive(tmp_path, lambda: False, lambda text: None):
            pass
    assert not in_use(tmp_path)


def test_a_process_keeps_its_folder_locked_when_the_one_that_started_it_is_gone(tmp_path: Path) -> None:
    with exclusive(tmp_path, lambda: True, lambda text: None) as lock:
        process = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    assert in_use(tmp_path)
    process.terminate()
    process.wait()
    assert not in_use(tmp_path)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that puts a shell script in place of the interpreter which runs the commands."""

    def write(text: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setattr("training.run_processes.sys.executable", str(path))

    return write


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("echo 'error: train.en: there is no such file' >&2; echo more; exit 1", "train.en: there is no such file"),
        ("echo 'Traceback ...'; echo 'ValueError: odd'; exit 1", "ValueError: odd"),
        ("echo 'step 7'; kill -KILL $$", "ended by SIGKILL"),
        ("exit 130", "a signal from elsewhere ended it"),
    ],
)
def test_a_failure_brings_its_own_words(
    script: Callable[[str], None], text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "log.txt").write_text("error: of an earlier run\n")
    script(text)
    with exclusive(tmp_path, lambda: True, lambda text: None) as lock, pytest.raises(ProcessError) as found:
        run_command(["fit"], tmp_path, lock, lambda: True)
    assert str(found.value).startswith(sentence)
    assert "log.txt" in str(found.value)


def test_a_process_that_is_no_longer_wanted_is_asked_to_stop(script: Callable[[str], None], tmp_path: Path) -> None:
    script("trap 'echo saved; exit 130' TERM; while :; do sleep 0.1; done")
    with exclusive(tmp_path, lambda: True, lambda text: None) as lock, pytest.raises(Stopped):
        run_command(["fit"], tmp_path, lock, lambda: False)
    assert (tmp_path / "log.txt").read_text() == "saved\n"


def test_real_processes_train_and_score_a_row(recipe: Path) -> None:
    """The one test here that trains."""
    done = ferry_train("compare", recipe, "--set", "model.cell=gru")
    assert done.exit_code == 0, done.output
    assert "baseline" in done.stdout
    (row,) = json.loads((recipe.parent / "run" / "compare" / "compare.json").read_text())["rows"]
    figures = row["runs"][0]["figures"]
    assert figures["steps"] == 2
    assert figures["tests"][0]["sentences"] == 5
