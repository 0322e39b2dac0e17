"""Paired tests: what is said of clear, of chance and of no differences, and where the texts come from."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from model.search import SearchOptions
from training.cli import app
from training.evaluate import Result, score
from training.outputs import Output, matched, read_outputs
from training.scores import write_results
from training.significance import SignificanceError, compare_systems

WORDS = ["river", "ferry", "water", "deck", "captain", "rain", "rail", "side", "boat", "wave"]
DRAW = random.Random(3)
REFERENCES = [" ".join(DRAW.choices(WORDS, k=6)) for _ in range(60)]


def spoilt(share: float, seed: int) -> list[str]:
    """The references with that share of words made wrong."""
    draw = random.Random(seed)
    return [" ".join("X" if draw.random() < share else word for word in line.split()) for line in REFERENCES]


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_clear_difference_is_significant_whichever_way_it_points() -> None:
    good, bad = spoilt(0.1, 1), spoilt(0.5, 2)
    verdict = compare_systems(bad, good, REFERENCES, samples=200)
    assert verdict.p is not None and verdict.p < 0.01
    assert verdict.sentence() == f"B is better than A; p = {verdict.p:.3f}"
    assert compare_systems(good, bad, REFERENCES, samples=200).sentence().startswith("A is better than B")


@pytest.mark.parametrize("test", ["paired-bs", "paired-ar"])
def test_a_difference_between_equally_good_systems_is_put_down_to_chance(test: str) -> None:
    verdict = compare_systems(spoilt(0.3, 1), spoilt(0.3, 2), REFERENCES, test=test, samples=200)
    assert verdict.second.score != verdict.first.score
    assert verdict.p is not None and verdict.p > 0.05
    assert "not significant at 0.05" in verdict.sentence()


def test_randomization_of_a_few_lines_is_refused() -> None:
    first = spoilt(0.3, 1)
    with pytest.raises(SignificanceError, match="differ in 1 of 60 lines"):
        compare_systems(first, [*first[:-1], REFERENCES[-1]], REFERENCES, test="paired-ar")


def test_equal_systems_show_no_difference() -> None:
    verdict = compare_systems(spoilt(0.3, 1), spoilt(0.3, 1), REFERENCES, samples=100)
    assert verdict.p is None
    assert not verdict.significant
    assert "same score" in verdict.sentence()


@pytest.mark.parametrize(("metric", "name"), [("bleu", "bleu"), ("bleu_lc", "bleu_lc"), ("chrf", "chrf2")])
def test_scores_are_those_of_evaluate_and_lie_in_their_intervals(metric: str, name: str) -> None:
    hypotheses = [line.title() if number % 2 else line for number, line in enumerate(spoilt(0.2, 1))]
    verdict = compare_systems(hypotheses, spoilt(0.3, 2), REFERENCES, metric, samples=200)
    assert verdict.first.score == pytest.approx(getattr(score(hypotheses, REFERENCES), name))
    assert abs(verdict.first.score - verdict.first.mean) < verdict.first.interval


def test_the_seed_decides_the_resampling_and_the_environment_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    systems = (spoilt(0.3, 1), spoilt(0.3, 2), REFERENCES)
    first = compare_systems(*systems, samples=100)
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    assert compare_systems(*systems, samples=100) == first
    assert os.environ["SACREBLEU_SEED"] == "7"
    assert compare_systems(*systems, samples=100, seed=9).first.mean != first.first.mean


def test_different_lengths_are_named() -> None:
    with pytest.raises(SignificanceError, match="A has 60 lines, B has 59 lines, the reference has 60 lines"):
        compare_systems(REFERENCES, REFERENCES[1:], REFERENCES)


def test_two_run_folders_are_compared_on_their_common_test_set_by_its_own_references(tmp_path: Path) -> None:
    reference = write(tmp_path / "test.de", REFERENCES)
    corpus = {"source": str(write(tmp_path / "test.en", REFERENCES)), "target": str(reference), "name": "harbour test"}
    for name, share in (("old", 0.6), ("new", 0.1)):
        hypotheses = spoilt(share, 1)
        results = [Result("harbour", "test", score(hypotheses, REFERENCES), 1.0, hypotheses)]
        write_results(results, SearchOptions(), "de", tmp_path / name / "evaluation")
        recipe = {
            "name": name,
            "data": {"source": "en", "target": "de", "train": [corpus], "dev": [corpus], "test": [corpus]},
            "export": {"licence": "CC0-1.0"},
        }
        (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["significance", str(tmp_path / "old"), str(tmp_path / "new"), "--samples", "100", "--json"]
    (entry,) = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    assert entry["test"] == "harbour test"
    assert entry["b"]["score"] > entry["a"]["score"]
    assert entry["sentence"].startswith("B is better than A")
    assert "seed:12345" in entry["signature"]


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", REFERENCES)
    done = CliRunner().invoke(app, ["significance", str(file), str(file)])
    assert done.exit_code == 1
    assert "--reference" in done.stderr


def test_a_checkpoint_translates_the_source_it_is_given(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "source.txt", ["The river is wide.", "", "She reads a book."])
    (output,) = read_outputs(tiny_checkpoint, source)
    assert len(output.hypotheses) == 3
    with pytest.raises(SignificanceError, match="--source"):
        read_outputs(tiny_checkpoint)


def test_a_folder_without_an_evaluation_says_so(tmp_path: Path) -> None:
    with pytest.raises(SignificanceError, match="no evaluation and no checkpoint"):
        read_outputs(tmp_path)


def test_only_test_sets_that_both_have_are_matched() -> None:
    first = [Output("a test", ["x"], None), Output("b test", ["y"], None)]
    second = [Output("b test", ["z"], None)]
    assert matched(first, second) == [(first[1], second[0])]
    with pytest.raises(SignificanceError, match="no test set in common: 'a test' and 'b test'"):
        matched(first[:1], second)
