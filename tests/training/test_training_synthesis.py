"""Synthetic text is made chunk by chunk: what was made before a break stays, and nothing half-written is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from training.corpus_config import CorpusConfig
from training.reading import Pair, read_all
from training.synthesis import Made, Maker, Synthesis, SynthesisError, files, synthesize

PAIRS = [Pair(f"source {number}", f"reference {number}", number) for number in range(7)]


class Interrupted(Exception):
    """The maker is cut off."""


class Shouting:
    """A maker that writes the source in capitals; it notes what it was asked and can be told to break."""

    def __init__(self, version: int = 1, breaks_at: int | None = None, say: Callable[[str], str] = str.upper) -> None:
        self.version, self.breaks_at, self.say = version, breaks_at, say
        self.asked: list[int] = []

    def make(self, pairs: Sequence[Pair], first: int) -> Made:
        if first == self.breaks_at:
            raise Interrupted
        self.asked.append(first)
        return Made([(pair.source, self.say(pair.source)) for pair in pairs], 3 * len(pairs))

    def maker(self, held_out: str = "") -> Maker:
        return Maker(self.stream, self.make, lambda _, target: target == held_out, {"version": self.version})

    def stream(self) -> Iterator[Pair]:
        return iter(PAIRS)


def make(
    folder: Path, shouting: Shouting, *, overwrite: bool = False, messages: list[str] | None = None, held_out: str = ""
) -> Synthesis:
    heard = [] if messages is None else messages
    return synthesize(
        shouting.maker(held_out), folder, ("en", "de"), heard.append, overwrite=overwrite, chunk_sentences=3
    )


def text(folder: Path) -> list[tuple[str, str]]:
    source, target = files(folder, "en", "de")
    return [(pair.source, pair.target) for pair in read_all([CorpusConfig(source=source, target=target)])]


SHOUTED = [(pair.source, pair.source.upper()) for pair in PAIRS]


def test_the_text_is_what_was_made_in_order(tmp_path: Path) -> None:
    shouting = Shouting()
    result = make(tmp_path / "out", shouting)
    assert text(tmp_path / "out") == SHOUTED
    assert shouting.asked == [0, 3, 6]
    assert (result.pairs, result.untranslated, result.held_out, result.tokens) == (7, 0, 0, 21)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_run_that_was_cut_off_goes_on_with_the_chunk_it_was_at(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path / "out", Shouting(breaks_at=6))
    assert not (tmp_path / "out").exists()
    again, messages = Shouting(), list[str]()
    result = make(tmp_path / "out", again, messages=messages)
    assert again.asked == [6]
    assert text(tmp_path / "out") == SHOUTED
    assert (result.pairs, result.tokens) == (7, 21)
    assert messages[:2] == [f"{done} of 7 sentences were translated earlier" for done in (3, 6)]
    assert "7 of 7 sentences" in messages[2] and "target tokens/s" in messages[2]


def test_a_chunk_half_written_when_the_process_was_killed_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path / "out", Shouting(breaks_at=3))
    (working,) = tmp_path.iterdir()
    (working / ".000001.json.partial").write_text('{"pairs": [["sou')
    make(tmp_path / "out", Shouting())
    assert text(tmp_path / "out") == SHOUTED


def test_chunks_of_other_models_or_text_are_not_taken(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path / "out", Shouting(version=1, breaks_at=6))
    other = Shouting(version=2, say=str.title)
    make(tmp_path / "out", other)
    assert other.asked == [0, 3, 6]
    assert text(tmp_path / "out") == [(source, source.title()) for source, _ in SHOUTED]


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path / "out", Shouting(breaks_at=3))
    (working,) = tmp_path.iterdir()
    (working / "000000.json").write_text("{")
    with pytest.raises(SynthesisError, match=r"000000\.json is damaged"):
        make(tmp_path / "out", Shouting())


def test_finished_text_is_not_made_again(tmp_path: Path) -> None:
    first, again = make(tmp_path / "out", Shouting()), Shouting(breaks_at=0)
    assert make(tmp_path / "out", again) == first


def test_other_text_is_replaced_only_on_demand(tmp_path: Path) -> None:
    make(tmp_path / "out", Shouting())
    other = Shouting(version=2, say=str.title)
    with pytest.raises(SynthesisError, match="holds other synthetic text"):
        make(tmp_path / "out", other)
    assert text(tmp_path / "out") == SHOUTED
    make(tmp_path / "out", other, overwrite=True)
    assert text(tmp_path / "out")[0] == ("source 0", "Source 0")


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(SynthesisError, match="holds no synthetic text"):
        make(tmp_path / "out", Shouting(), overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_pairs_of_dev_or_test_and_pairs_without_a_translation_are_left_out_and_counted(tmp_path: Path) -> None:
    shouting = Shouting(say=lambda source: "" if source == "source 2" else source.upper())
    result = make(tmp_path / "out", shouting, held_out="SOURCE 4")
    assert text(tmp_path / "out") == [pair for pair in SHOUTED if pair[0] not in ("source 2", "source 4")]
    assert (result.pairs, result.untranslated, result.held_out) == (5, 1, 1)


def test_a_translation_is_one_line(tmp_path: Path) -> None:
    make(tmp_path / "out", Shouting(say=lambda source: f"{source}\nand\r\nmore\u2028lines"))
    assert text(tmp_path / "out")[1] == ("source 1", "source 1 and more lines")


def test_nothing_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SynthesisError, match="no synthetic pair"):
        make(tmp_path / "out", Shouting(say=lambda _: ""))
    assert not (tmp_path / "out").exists()
