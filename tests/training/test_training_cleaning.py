"""Cleaning: each reason drops what it says and nothing else, and the report tells it."""

from pathlib import Path

import numpy as np
import pytest

from training.cleaning import (
    DUPLICATE,
    KEPT,
    CleaningReport,
    Reason,
    Tally,
    clean_pairs,
    length_fault,
    normalized,
    script_share,
    text_fault,
)
from training.corpus_config import CleaningConfig
from training.hashes import HashSet, hash_pairs
from training.reading import Pair

NOTHING = CleaningConfig(max_length_ratio=None, drop_duplicates=False)


def clean(config: CleaningConfig, *texts: tuple[str, str]) -> tuple[list[tuple[str, str]], list[Reason | None]]:
    """What is kept, and the fault of each pair by itself."""
    pairs = [Pair(source, target, line) for line, (source, target) in enumerate(texts, start=1)]
    kept = [pair[:2] for pair in clean_pairs(pairs, config)]
    return kept, [text_fault(normalized(pair), config) for pair in pairs]


def test_pairs_with_an_empty_side_are_always_dropped() -> None:
    kept, faults = clean(NOTHING, ("", "Ja."), ("Yes.", " \u200a\x00 "), ("Yes.", "Ja."))
    assert kept == [("Yes.", "Ja.")]
    assert faults == ["empty", "empty", None]


def test_kept_text_is_normalised() -> None:
    assert clean(NOTHING, ("  two\u3000 words ", "scho\u0308n"))[0] == [("two words", "schön")]


def test_only_the_first_of_equal_pairs_is_kept() -> None:
    kept, _ = clean(CleaningConfig(), ("Yes.", "Ja."), ("Yes. ", "Ja."), ("Yes.", "Doch."), ("Yes.", "Ja."))
    assert kept == [("Yes.", "Ja."), ("Yes.", "Doch.")]


@pytest.mark.parametrize("drop_duplicates", [True, False])
def test_held_out_pairs_are_left_out(drop_duplicates: bool) -> None:
    pairs = [Pair("Yes. ", "Ja.", 1), Pair("No.", "Nein.", 2), Pair("Yes.", "Doch.", 3)]
    config = NOTHING.model_copy(update={"drop_duplicates": drop_duplicates})
    kept = [pair[:2] for pair in clean_pairs(pairs, config, hash_pairs([("Yes.", "Ja."), ("Maybe.", "Vielleicht.")]))]
    assert kept == [("No.", "Nein."), ("Yes.", "Doch.")]


def test_short_sides_are_dropped_by_characters() -> None:
    kept, faults = clean(NOTHING.model_copy(update={"min_characters": 3}), ("Yes", "Ja."), ("No", "Nein"))
    assert kept == [("Yes", "Ja.")]
    assert faults == [None, "too_short"]


@pytest.mark.parametrize("drop", [True, False])
def test_identical_sides_are_dropped_on_request(drop: bool) -> None:
    kept, _ = clean(NOTHING.model_copy(update={"drop_identical": drop}), ("Tom", "Tom"), ("Yes", "Ja"))
    assert len(kept) == (1 if drop else 2)


def test_a_wrong_script_is_dropped_and_text_without_letters_is_not() -> None:
    config = NOTHING.model_copy(update={"target_scripts": ("Latin",)})
    kept, faults = clean(config, ("Yes", "Да"), ("Yes", "Ja, да"), ("42", "42!"), ("Да", "Ja"))
    assert [target for _, target in kept] == ["Ja, да", "42!", "Ja"]
    assert faults == ["wrong_script", None, None, None]


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
    assert length_fault(source_pieces, target_pieces, CleaningConfig(max_pieces=10, max_length_ratio=3)) == reason


def test_the_report_shows_an_example_and_survives_json(tmp_path: Path) -> None:
    tally = Tally("tatoeba")
    pairs = [Pair("A.", "A.", 6), Pair("Yes.", "Ja.", 7), Pair("No.", "Nein.", 8)]
    tally.add(np.array([KEPT, DUPLICATE, DUPLICATE], dtype=np.uint8), pairs.__getitem__)
    tally.add(np.array([KEPT, KEPT, KEPT], dtype=np.uint8), pairs.__getitem__)
    report = CleaningReport(corpora=(tally.report(),))
    assert str(report).splitlines() == [
        "tatoeba: 6 pairs read, 4 kept",
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


def test_a_hash_set_on_disk_agrees_with_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    chunks = [generator.integers(1 << 64, size=100, dtype=np.uint64) for _ in range(20)]
    chunks += [generator.choice(np.concatenate(chunks), 50) for _ in range(5)]
    in_memory = HashSet()
    expected = [in_memory.add(chunk).tolist() for chunk in chunks]
    monkeypatch.setattr("training.hashes._IN_MEMORY", 64)
    on_disk = HashSet(tmp_path)
    assert [on_disk.add(chunk).tolist() for chunk in chunks] == expected
    assert sum(map(sum, expected)) == 2000
    assert list(tmp_path.iterdir()) == []


def test_hashes_tell_where_one_side_ends() -> None:
    assert len(set(hash_pairs([("ab", "c"), ("a", "bc"), ("abc", ""), ("ab", "c")]).tolist())) == 3
