"""What a checkpoint's card says, and what export refuses to do. A whole export runs in tests/system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from model.checkpoint import CheckpointConfig, Evaluation, ShortlistSummary, load_checkpoint, read_config
from training.card import CARD, render_card, with_shortlist
from training.config import CardConfig, Recipe, ShortlistConfig
from training.export import ExportError, export
from training.fit_record import FitRecord
from training.recipe_file import load_recipe
from training.shortlist import learn_shortlist
from training.system import open_run
from training.trainer import fit

CARD_WORDS = CardConfig(
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
    card = render_card(config, CARD_WORDS, 1_234_567)
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


def test_the_card_of_a_checkpoint_with_a_shortlist_says_so(config: CheckpointConfig) -> None:
    summary = ShortlistSummary(size=30, frequent=800, pairs=1234, data=("river|side: 1,234 pairs",))
    card = render_card(config.model_copy(update={"shortlist": summary}), CARD_WORDS, 1000)
    assert "30 translations of each source piece" in card
    assert "1,234 pairs (river\\|side: 1,234 pairs)" in card
    assert with_shortlist(render_card(config, CARD_WORDS, 1000), summary) == card


def test_a_card_in_other_words_gets_a_table_for_its_shortlist() -> None:
    summary = ShortlistSummary(size=30, frequent=800, pairs=1234, data=("rivers",))
    once = with_shortlist("# A model\n", summary)
    assert once.startswith("# A model\n\n| | |\n|---|---|\n| Shortlist | ")
    again = with_shortlist(once, summary.model_copy(update={"size": 7}))
    assert again == once.replace("optional: 30", "optional: 7")


def test_an_exported_checkpoint_has_the_shortlist_that_the_recipe_asks_for(recipe: Callable[..., Recipe]) -> None:
    asked = recipe("limited", max_steps=2)
    FitRecord(**fit(asked, resume=False, run_folder=asked.folder)._asdict(), device="cpu").save(asked.folder)
    for options in (ShortlistConfig(size=4, frequent=9), None):
        changed = asked.model_copy(update={"export": asked.export.model_copy(update={"shortlist": options})})
        exported = export(changed, changed.folder, "limited.yaml", lambda _: None)
        found = load_checkpoint(exported.folder)
        assert (found.shortlist is None) == (found.config.shortlist is None) == (options is None)
        assert ("| Shortlist |" in (exported.folder / CARD).read_text()) == (options is not None)
        if options is not None and found.shortlist is not None:
            run = open_run(changed, changed.folder)
            expected = learn_shortlist(run.train, run.system.tokenizers, options)
            assert all(torch.equal(one, other) for one, other in zip(found.shortlist, expected, strict=True))
