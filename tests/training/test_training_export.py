"""What a checkpoint's card says, and what export refuses to do. A whole export runs in tests/system."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from model.checkpoint import CheckpointConfig, Evaluation, read_config
from training.card import render_card
from training.config import CardConfig
from training.export import ExportError, export
from training.recipe_file import load_recipe

CARD = CardConfig(
    summary="Crosses rivers.", attribution="Text by the ferrymen.", strengths=("rivers",), limits=("oceans",)
)


@pytest.fixture
def config(tiny_checkpoint: Path) -> CheckpointConfig:
    scores = {"bleu": 33.26, "bleu_lc": 34.0, "chrf2": 55.5, "ter": 50.0}
    entry = Evaluation(
        data="river|side",
        split="test",
        sentences=1234,
        beam_size=5,
        **scores,
        signatures={"bleu": "nrefs:1|case:mixed"},
    )
    return read_config(tiny_checkpoint).model_copy(update={"evaluations": (entry,)})


def test_the_card_states_data_licence_attribution_scores_and_limits(config: CheckpointConfig) -> None:
    card = render_card(config, CARD, 1_234_567)
    for wanted in (
        "Crosses rivers.",
        "none: random weights",
        "CC0-1.0",
        "Text by the ferrymen.",
        "- rivers",
        "- oceans",
    ):
        assert wanted in card
    assert "| river\\|side test | 1,234 | 5 | 33.3 | 34.0 | 55.5 | 50.0 |" in card
    assert "`nrefs:1|case:mixed`" in card
    assert "1.2 million" in card


def test_a_card_without_scores_has_no_empty_section(config: CheckpointConfig) -> None:
    card = render_card(config.model_copy(update={"evaluations": ()}), CardConfig(), 1000)
    assert "Scores" not in card
    assert "good at" not in card


def test_a_folder_that_is_no_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    corpus = {"tsv": "x.tsv"}
    recipe = {
        "name": "small",
        "data": {"source": "en", "target": "de", "train": [corpus], "dev": [corpus]},
        "export": {"licence": "CC0-1.0", "folder": str(tmp_path / "home")},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ExportError, match="not a checkpoint"):
        export(load_recipe(tmp_path / "small.yaml"), tmp_path, "small.yaml", lambda text: None)
    assert (tmp_path / "home" / "letter").read_text() == "dear"
