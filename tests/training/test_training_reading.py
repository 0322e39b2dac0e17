"""Parallel text files: every form is read alike, and every fault is named with its file and line."""

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from pydantic import ValidationError

from training.corpus_config import CorpusConfig
from training.reading import CorpusError, Pair, read_chunks, read_lines, read_pairs

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def write_pair(folder: Path, source: bytes, target: bytes) -> CorpusConfig:
    (folder / "text.en").write_bytes(source)
    (folder / "text.de").write_bytes(target)
    return CorpusConfig(source=folder / "text.en", target=folder / "text.de")


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_plain_and_compressed_files_give_the_same_pairs(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / f"text.en{suffix}", tmp_path / f"text.de{suffix}"
    source.write_bytes(COMPRESSORS[suffix](b"one\ntwo\n"))
    target.write_bytes(COMPRESSORS[suffix]("eins\nzwölf\n".encode()))
    pairs = list(read_pairs(CorpusConfig(source=source, target=target)))
    assert pairs == [Pair("one", "eins", 1), Pair("two", "zwölf", 2)]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_long_files_are_read_to_the_end(tmp_path: Path, suffix: str) -> None:
    lines = [f"line {number} {number**5}" for number in range(12_000)]
    path = tmp_path / f"text{suffix}"
    path.write_bytes(COMPRESSORS[suffix]("\n".join(lines).encode()))
    assert list(read_lines(path)) == lines


@pytest.mark.parametrize("first", [1, 3, 10_000])
def test_only_the_first_pairs_are_taken(tmp_path: Path, first: int) -> None:
    corpus = write_pair(tmp_path, b"a\nb\nc\nd\n", b"A\nB\nC\nD\n").model_copy(update={"first": first})
    assert [pair.target for pair in read_pairs(corpus)] == ["A", "B", "C", "D"][:first]
    assert sum(len(chunk.pairs()) for chunk in read_chunks([corpus, corpus])) == 2 * min(first, 4)


def test_zstandard_files_of_several_frames_are_read_whole(tmp_path: Path) -> None:
    compress = zstandard.ZstdCompressor().compress
    (tmp_path / "text.zst").write_bytes(compress(b"one\ntw") + compress(b"o\nthree\n"))
    assert list(read_lines(tmp_path / "text.zst")) == ["one", "two", "three"]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut short", "not compressed"])
def test_broken_compressed_files_are_named(tmp_path: Path, suffix: str, damage: str) -> None:
    data = b"".join(b"line %d\n" % number**5 for number in range(5000))
    whole = COMPRESSORS[suffix](data)
    path = tmp_path / f"text{suffix}"
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut short" else data)
    with pytest.raises(CorpusError, match=rf"text{suffix}: the compressed data is broken or cut short"):
        list(read_lines(path))


def test_tsv_gives_its_first_two_columns(tmp_path: Path) -> None:
    (tmp_path / "text.tsv").write_text("one\teins\tCC BY\nYes.\tJa.\n")
    pairs = list(read_pairs(CorpusConfig(tsv=tmp_path / "text.tsv")))
    assert pairs == [Pair("one", "eins", 1), Pair("Yes.", "Ja.", 2)]


def test_a_tsv_line_without_tab_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.tsv").write_text("one\teins\ntwo zwei\n")
    with pytest.raises(CorpusError, match=r"text\.tsv:2: the line has no tab; expected .*'two zwei'"):
        list(read_pairs(CorpusConfig(tsv=tmp_path / "text.tsv")))


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (b"a\nb\n", b"a\nb\nc\nd\n", r"text\.en has 2 lines but .*text\.de has 4, so line 3 has no counterpart"),
        (b"a\nb\nc\nd\n", b"a\n", r"text\.en has 4 lines but .*text\.de has 1, so line 2 has no counterpart"),
    ],
)
def test_unequal_line_counts_are_told_with_both_counts(
    tmp_path: Path, source: bytes, target: bytes, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        list(read_pairs(write_pair(tmp_path, source, target)))


def test_bytes_that_are_not_utf8_are_named_with_line_and_place(tmp_path: Path) -> None:
    corpus = write_pair(tmp_path, b"one\ntwo\n", "eins\nzwölf\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"text\.de:2: not UTF-8 at byte 3 of the line \(0xf6\)"):
        list(read_pairs(corpus))


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"text\.de: the file is empty"):
        list(read_pairs(write_pair(tmp_path, b"one\n", b"")))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"absent\.en\.xz: there is no such file"):
        list(read_lines(tmp_path / "absent.en.xz"))


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="this is a folder"):
        list(read_lines(tmp_path))


def test_only_line_feeds_end_lines(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("\ufeffone\u2028still one\x85\r\ntwo\x0b\x0ctwo\rtwo".encode())
    assert list(read_lines(tmp_path / "text")) == ["one\u2028still one\x85", "two\x0b\x0ctwo\rtwo"]


@pytest.mark.parametrize(
    "keys", [("source",), ("target",), ("source", "tsv"), ("source", "target", "tsv"), ()], ids="+".join
)
def test_a_corpus_is_two_files_or_one_tsv(keys: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="either 'source' and 'target'"):
        CorpusConfig.model_validate(dict.fromkeys(keys, "x"))


def test_chunks_end_by_pairs_or_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.reading.CHUNK_PAIRS", 3)
    monkeypatch.setattr("training.reading.CHUNK_BYTES", 100)
    texts = ["a", "b", "c", "d", "e" * 150, "f"]
    (tmp_path / "tsv").write_text("".join(f"{text}\t{text}\n" for text in texts))
    chunks = list(read_chunks([CorpusConfig(tsv=tmp_path / "tsv")] * 2))
    assert [(chunk.number, chunk.corpus, chunk.first_line) for chunk in chunks] == [
        (0, 0, 1), (1, 0, 4), (2, 0, 6), (3, 1, 1), (4, 1, 4), (5, 1, 6),
    ]  # fmt: skip
    assert [pair for chunk in chunks[:3] for pair in chunk.pairs()] == [
        Pair(text, text, line) for line, text in enumerate(texts, start=1)
    ]
