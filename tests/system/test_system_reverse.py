"""From text to checkpoint through the real command: a model learns to reverse sequences that it has never seen."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from model.checkpoint import load_checkpoint
from training.reading import read_all
from training.recipe_file import load_recipe
from training.system import open_checkpoint

WORDS = ["ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se"]
ROOT = Path(__file__).parents[2]


def write_corpus(folder: Path) -> None:
    """6,400 different sequences of three to five words, each with its reverse."""
    generator = random.Random(7)
    sequences: dict[tuple[str, ...], None] = {}
    while len(sequences) < 6400:
        sequences[tuple(generator.choices(WORDS, k=generator.randint(3, 5)))] = None
    rest = list(sequences)
    for split, count in (("dev", 100), ("test", 300), ("train", 6000)):
        taken, rest = rest[:count], rest[count:]
        (folder / f"{split}.src").write_text("".join(" ".join(words) + "\n" for words in taken))
        (folder / f"{split}.tgt").write_text("".join(" ".join(reversed(words)) + "\n" for words in taken))


def write_recipe(folder: Path) -> Path:
    def corpora(split: str) -> list[dict[str, str]]:
        return [{"name": split, "source": f"{folder}/{split}.src", "target": f"{folder}/{split}.tgt", "licence": "CC0"}]

    recipe = {
        "name": "reverse",
        "folder": f"{folder}/run",
        "device": "cpu",
        "threads": 1,
        "data": {"source": "en", "target": "de", **{split: corpora(split) for split in ("train", "dev", "test")}},
        "tokenizer": {"vocabulary_size": 288},
        "model": {
            "embedding": 64,
            "hidden": 64,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "attention": "dot",
            "dropout": 0.0,
            "embedding_dropout": 0.0,
        },
        "training": {
            "batch_tokens": 600,
            "max_steps": 900,
            "learning_rate": 6e-3,
            "warmup_steps": 50,
            "label_smoothing": 0.0,
            "ema_decay": 0.98,
            "validate_every": 450,
            "save_every": 450,
        },
        "search": {"beam_size": 2},
        "export": {"licence": "CC0-1.0", "precision": "float32"},
    }
    path = folder / "reverse.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reverse")
    write_corpus(folder)
    ferry_train("run", str(write_recipe(folder)))
    return folder


def ferry_train(*arguments: str) -> str:
    command = [sys.executable, "-m", "training.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def exact_matches(hypotheses: list[str], folder: Path) -> float:
    references = (folder / "test.tgt").read_text().splitlines()
    return sum(map(str.__eq__, hypotheses, references)) / len(references)


def test_unseen_sequences_are_reversed(folder: Path) -> None:
    hypotheses = (folder / "run" / "evaluation" / "test.test.de").read_text().splitlines()
    assert exact_matches(hypotheses, folder) >= 0.95


def test_the_checkpoint_translates_as_the_run_did(folder: Path) -> None:
    sources = (folder / "test.src").read_text().splitlines()
    hypotheses = (folder / "run" / "evaluation" / "test.test.de").read_text().splitlines()
    assert open_checkpoint(folder / "run" / "checkpoint").translate(sources) == hypotheses


def test_the_service_translates_as_the_run_did(folder: Path) -> None:
    """Train-serve parity: app/, which knows nothing of training, gives the translations that training validated."""
    checkpoint = str(folder / "run" / "checkpoint")
    command = [sys.executable, "-m", "app.cli", "translate", "--checkpoint", checkpoint, f"{folder}/test.src"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == (folder / "run" / "evaluation" / "test.test.de").read_text().splitlines()


def test_the_checkpoint_states_its_own_scores(folder: Path) -> None:
    checkpoint = folder / "run" / "checkpoint"
    printed = ferry_train(
        *("evaluate", str(checkpoint), "--source", f"{folder}/test.src", "--reference", f"{folder}/test.tgt", "--json")
    )
    (stated,) = load_checkpoint(checkpoint).config.evaluations
    assert json.loads(printed)["bleu"] == pytest.approx(stated.bleu)
    assert stated.sentences == 300
    assert f"| {stated.bleu:.1f} |" in (checkpoint / "README.md").read_text()


def test_a_run_and_its_checkpoint_decode_together_as_each_alone(folder: Path) -> None:
    scores = folder / "run" / "evaluation" / "scores.json"
    before = scores.read_bytes()
    printed = ferry_train("evaluate", f"{folder}/reverse.yaml", str(folder / "run" / "checkpoint"), "--json")
    assert json.loads(printed)["bleu"] == pytest.approx(json.loads(before)[0]["bleu"])
    assert scores.read_bytes() == before, "the scores of an ensemble are not those of the run"


def test_a_student_is_given_what_its_teacher_learned(folder: Path) -> None:
    """References are replaced by nonsense, so whatever is right in the text comes from the teacher."""
    sources = (folder / "test.src").read_text().splitlines()
    (folder / "nonsense.tgt").write_text("nonsense\n" * len(sources))
    corpus = f"[{{source: {folder}/test.src, target: {folder}/nonsense.tgt}}]"
    changed = ("--set", f"data.train={corpus}", "--set", "data.test=[]", "--output", f"{folder}/distilled")
    ferry_train("distil", f"{folder}/reverse.yaml", "--teacher", str(folder / "run" / "checkpoint"), *changed)
    (student,) = load_recipe(folder / "distilled" / "distil.yaml").data.train
    pairs = read_all([student])
    assert [pair.source for pair in pairs] == sources
    assert exact_matches([pair.target for pair in pairs], folder) >= 0.95


def test_the_run_leaves_its_records(folder: Path) -> None:
    run = folder / "run"
    names = ("recipe.yaml", "metrics.jsonl", "curves.png", "fit.json", "evaluation/scores.json", "last.safetensors")
    assert [name for name in names if not (run / name).is_file()] == []
