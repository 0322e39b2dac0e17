"""Cleaning: each reason drops what it says and nothing else, and the report tells it."""

from pathlib import Path

import numpy as np
import pytest

from training.cleaning import Cleaner, CleaningReport, Reason, Tally, clean_texts, script_share
from training.corpus_config import CleaningConfig, CorpusConfig
from training.hashes import HashSet, hash_pairs
from training.reading import Pair

NOTHING = CleaningConfig(max_length_ratio=None, drop_duplicates=False)


def clean(config: CleaningConfig, *texts: tuple[str, str]) -> tuple[list[tuple[str, str]], dict[Reason, int]]:
    tally = Tally("corpus")
    pairs = [Pair(source, target, line) for line, (source, target) in enumerate(texts, start=1)]
    kept = [pair[:2] for chunk in Cleaner(config).clean(pairs, tally) for pair in chunk]
    return kept, {reason: entry.count for reason, entry in tally.report().dropped.items()}


def test_pairs_with_an_empty_side_are_always_dropped() -> None:
    kept, dropped = clean(NOTHING, ("", "Ja."), ("Yes.", " \u200a\x00 "), ("Yes.", "Ja."))
    assert kept == [("Yes.", "Ja.")]
    assert dropped == {"empty": 2}


def test_kept_text_is_normalised() -> None:
    assert clean(NOTHING, ("  two\u3000 words ", "scho\u0308n"))[0] == [("two words", "schön")]


def test_only_the_first_of_equal_pairs_is_kept() -> None:
    kept, dropped = clean(CleaningConfig(), ("Yes.", "Ja."), ("Yes. ", "Ja."), ("Yes.", "Doch."), ("Yes.", "Ja."))
    assert kept == [("Yes.", "Ja."), ("Yes.", "Doch.")]
    assert dropped == {"duplicate": 2}


def test_duplicates_are_found_across_corpora(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"Yes.\tJa.\n{name}\t{name}\n")
    corpora = [CorpusConfig(tsv=tmp_path / name) for name in ("a", "b")]
    assert [pair.source for pair in clean_texts(corpora, CleaningConfig())] == ["Yes.", "a", "b"]


def test_short_sides_are_dropped_by_characters() -> None:
    kept, dropped = clean(NOTHING.model_copy(update={"min_characters": 3}), ("Yes", "Ja."), ("No", "Nein"))
    assert kept == [("Yes", "Ja.")]
    assert dropped == {"too_short": 1}


@pytest.mark.parametrize("drop", [True, False])
def test_identical_sides_are_dropped_on_request(drop: bool) -> None:
    kept, _ = clean(NOTHING.model_copy(update={"drop_identical": drop}), ("Tom", "Tom"), ("Yes", "Ja"))
    assert len(kept) == (1 if drop else 2)


def test_a_wrong_script_is_dropped_and_text_without_letters_is_not() -> None:
    config = NOTHING.model_copy(update={"target_scripts": ("Latin",)})
    kept, dropped = clean(config, ("Yes", "Да"), ("Yes", "Ja, да"), ("42", "42!"), ("Да", "Ja"))
    assert [target for _, target in kept] == ["Ja, да", "42!", "Ja"]
    assert dropped == {"wrong_script": 1}


def test_script_shares_add_up_over_scripts() -> None:
    assert script_share("漢字かな", ["Han"]) == 0.5
    assert script_share("漢字かな", ["Han", "Hiragana"]) == 1.0


@pytest.mark.parametrize(
    ("source_pieces", "target_pieces", "reason"),
    [
        (10, 10, None),
        (11, 10, "too_long"),
        (10, 11, "too_long"),
        (2, 6, None),
        (2, 7, "length_ratio"),
        (7, 2, "length_ratio"),
    ],
)
def test_lengths_in_pieces_are_bounded(source_pieces: int, target_pieces: int, reason: Reason | None) -> None:
    tally = Tally("corpus")
    cleaner = Cleaner(CleaningConfig(max_pieces=10, max_length_ratio=3))
    assert cleaner.fits(Pair("a", "b", 1), source_pieces, target_pieces, tally) == (reason is None)
    assert list(tally.report().dropped) == ([reason] if reason else [])


def test_the_report_shows_an_example_and_survives_json(tmp_path: Path) -> None:
    tally = Tally("tatoeba")
    tally.kept = 5
    tally.drop("duplicate", Pair("Yes.", "Ja.", 7))
    tally.drop("duplicate", Pair("No.", "Nein.", 8))
    report = CleaningReport(corpora=(tally.report(),))
    assert str(report).splitlines() == [
        "tatoeba: 7 pairs read, 5 kept",
        "  2 dropped: duplicate (line 7: 'Yes.' = 'Ja.')",
    ]
    report.save(tmp_path / "report.json")
    assert CleaningReport.model_validate_json((tmp_path / "report.json").read_bytes()) == report


def test_a_hash_set_agrees_with_a_set_of_integers() -> None:
    generator = np.random.default_rng(1)
    ours, plain = HashSet(), set[int]()
    for _ in range(50):
        chunk = generator.integers(3000, size=generator.integers(100)).astype(np.uint64)
        expected = []
        for value in chunk.tolist():
            expected.append(value not in plain)
            plain.add(value)
        assert ours.add(chunk).tolist() == expected
    assert len(ours) == len(plain)


def test_hashes_tell_where_one_side_ends() -> None:
    assert len(set(hash_pairs([("ab", "c"), ("a", "bc"), ("abc", ""), ("ab", "c")]).tolist())) == 3
