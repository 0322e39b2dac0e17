"""No dev or test pair may stand in the training text unseen."""

from pathlib import Path

import pytest

from training.corpus_config import CorpusConfig
from training.hashes import hash_pairs
from training.overlap import OverlapError, check_overlap, find_overlaps, held_out_hashes


def corpus(path: Path, *lines: str) -> CorpusConfig:
    path.write_text("".join(f"{line}\n" for line in lines))
    return CorpusConfig(tsv=path)


def test_a_held_out_pair_in_the_training_text_is_an_error_with_count_and_places(tmp_path: Path) -> None:
    train = corpus(tmp_path / "train", "Hi\tHallo", "Yes.\tJa.", "Yes.\tJa.", "No.\tNein.")
    dev = corpus(tmp_path / "dev", "Go\tGeh", " Yes. \tJa.")
    test = corpus(tmp_path / "test", "No.\tNein.")
    with pytest.raises(
        OverlapError, match=r"^2 dev or test pairs .* dev:2 is train:2: 'Yes\.' = 'Ja\.'; test:1 is train:4"
    ):
        check_overlap([train], [dev, test])


def test_one_equal_side_is_no_overlap(tmp_path: Path) -> None:
    train = corpus(tmp_path / "train", "Yes.\tJa.", "No.\tNein.", "\t")
    dev = corpus(tmp_path / "dev", "Yes.\tDoch.", "Nope.\tNein.", "\t")
    assert find_overlaps([train], [dev]) == []
    check_overlap([train], [dev])


def test_the_error_names_both_ways_out(tmp_path: Path) -> None:
    text = corpus(tmp_path / "both", "Yes.\tJa.")
    with pytest.raises(OverlapError, match=r"leave them out with data\.drop_overlap, .* with data\.allow_overlap"):
        check_overlap([text], [text])


def test_held_out_pairs_are_known_by_the_hashes_of_what_the_tokenizer_sees(tmp_path: Path) -> None:
    dev = corpus(tmp_path / "dev", " Yes. \tJa.", "No.\t", "\tNein.")
    test = corpus(tmp_path / "test", "Yes.\tJa.", "Go\tGeh")
    assert held_out_hashes([dev, test]).tolist() == sorted(hash_pairs([("Yes.", "Ja."), ("Go", "Geh")]).tolist())


def test_worker_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.workers._ALONE", 0)
    monkeypatch.setattr("training.reading.CHUNK_PAIRS", 2)
    train = corpus(tmp_path / "train", *(f"{number}\t{number}!" for number in range(9)))
    dev = corpus(tmp_path / "dev", "7\t7!", "8\t9!", "1\t1!")
    found = find_overlaps([train], [dev], workers=2)
    assert [(overlap.held_out, overlap.training) for overlap in found] == [("dev:3", "train:2"), ("dev:1", "train:8")]
