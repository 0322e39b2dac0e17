"""Prepared corpora: what is stored is what was read, once, whole or not at all."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tokenizer.subword import TokenizerPair
from training.augmentation import Augmentation
from training.corpus import Corpus, prepare_corpus
from training.corpus_config import AugmentationConfig, CleaningConfig, CorpusConfig, SamplingConfig
from training.reading import CHUNK_PAIRS, CorpusError

TEXTS = [
    ("The river is wide.", "Der Fluss ist breit."),
    ("We cross the water.", "Wir überqueren das Wasser."),
    ("Please hold on!", "Bitte festhalten!"),
    ("She reads.", "Sie liest ein Buch auf dem Deck."),
]
CANONICAL = SamplingConfig()
KEEP = CleaningConfig(drop_duplicates=False, max_length_ratio=None)


def write_tsv(path: Path, texts: list[tuple[str, str]]) -> CorpusConfig:
    path.write_text("".join(f"{source}\t{target}\n" for source, target in texts))
    return CorpusConfig(tsv=path)


def prepare(
    folder: Path,
    tokenizers: TokenizerPair,
    *corpora: CorpusConfig,
    cleaning: CleaningConfig = KEEP,
    sampling: SamplingConfig = CANONICAL,
    seed: int = 0,
) -> Corpus:
    return prepare_corpus(corpora, tokenizers, cleaning, sampling, folder / "corpus", seed=seed)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A full disk, as near as a test may come: the system refuses to let files grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_canonical_variant_is_the_tokenizers_encoding(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    corpus = prepare(tmp_path, tiny_tokenizer, write_tsv(tmp_path / "tsv", TEXTS), sampling=SamplingConfig(variants=3))
    assert len(corpus) == len(TEXTS)
    for index, (source, target) in enumerate(TEXTS):
        pieces = corpus.pair(index)
        assert pieces[0].tolist() == tiny_tokenizer.source.encode(source)
        assert pieces[1].tolist() == tiny_tokenizer.target.encode(target)


def test_sampled_variants_spell_the_same_text_otherwise(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    corpus = prepare(tmp_path, tiny_tokenizer, write_tsv(tmp_path / "tsv", TEXTS), sampling=SamplingConfig(variants=4))
    spellings = [[corpus.pair(index, variant)[1].tolist() for variant in range(4)] for index in range(len(TEXTS))]
    for (_, target), variants in zip(TEXTS, spellings, strict=True):
        assert {tiny_tokenizer.target.decode(pieces) for pieces in variants} == {target}
    assert any(len({tuple(pieces) for pieces in variants}) > 1 for variants in spellings)


def test_sampling_is_decided_by_its_seed(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    text = write_tsv(tmp_path / "tsv", TEXTS)
    corpora = [
        prepare(tmp_path / place, tiny_tokenizer, text, sampling=SamplingConfig(variants=3), seed=seed)
        for place, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    shards = [(corpus.folder / "target.pieces").read_bytes() for corpus in corpora]
    assert shards[0] == shards[1] != shards[2]


def test_a_sample_longer_than_the_limit_gives_way_to_the_canonical_encoding(
    tmp_path: Path, tiny_tokenizer: TokenizerPair
) -> None:
    longest = max(len(tiny_tokenizer.target.encode(text)) for pair in TEXTS for text in pair)
    cleaning = KEEP.model_copy(update={"max_pieces": longest})
    text = write_tsv(tmp_path / "tsv", TEXTS)
    corpus = prepare(tmp_path, tiny_tokenizer, text, cleaning=cleaning, sampling=SamplingConfig(variants=8))
    lengths = [len(corpus.pair(index, variant)[1]) for index in range(len(corpus)) for variant in range(8)]
    assert len(corpus) == len(TEXTS)
    assert max(lengths) == longest


def test_corpora_follow_each_other_with_their_weights(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    first = write_tsv(tmp_path / "a", TEXTS[:1])
    second = write_tsv(tmp_path / "b", TEXTS[1:]).model_copy(update={"weight": 2.5})
    corpus = prepare(tmp_path, tiny_tokenizer, first, second)
    assert corpus.parts == ((0, 1, 1.0), (1, 3, 2.5))
    assert [report.kept for report in corpus.report.corpora] == [1, 3]


def test_corpora_of_many_chunks_are_whole_and_in_order(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    texts = [(f"{number}", f"{number + 1}") for number in range(CHUNK_PAIRS + 3)]
    corpus = prepare(tmp_path, tiny_tokenizer, write_tsv(tmp_path / "tsv", texts))
    assert len(corpus) == len(texts)
    for index in (0, CHUNK_PAIRS - 1, CHUNK_PAIRS, CHUNK_PAIRS + 2):
        assert tiny_tokenizer.source.decode(corpus.pair(index)[0].tolist()) == str(index)


def test_length_ratio_is_that_of_target_to_source_pieces(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    corpus = prepare(tmp_path, tiny_tokenizer, write_tsv(tmp_path / "tsv", TEXTS))
    encode = tiny_tokenizer.source.encode
    ratios = [len(encode(target)) / len(encode(source)) for source, target in TEXTS]
    assert corpus.length_ratio() == pytest.approx((np.mean(ratios), np.std(ratios)))


def test_duplicates_are_found_across_corpora_and_told_with_their_line(
    tmp_path: Path, tiny_tokenizer: TokenizerPair
) -> None:
    first, second = write_tsv(tmp_path / "a", TEXTS), write_tsv(tmp_path / "b", [("New.", "Neu."), *TEXTS[1:3]])
    corpus = prepare(tmp_path, tiny_tokenizer, first, second, cleaning=CleaningConfig(max_length_ratio=None))
    assert [report.kept for report in corpus.report.corpora] == [4, 1]
    duplicate = corpus.report.corpora[1].dropped["duplicate"]
    assert (duplicate.count, duplicate.line, duplicate.source) == (2, 2, TEXTS[1][0])
    assert tiny_tokenizer.source.decode(corpus.pair(4)[0].tolist()) == "New."


def test_a_second_run_reuses_the_folder(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    text = write_tsv(tmp_path / "tsv", TEXTS)
    written = [prepare(tmp_path, tiny_tokenizer, text).folder.stat().st_mtime_ns for _ in range(2)]
    assert written[0] == written[1]


def test_others_may_read_the_folder(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    folder = prepare(tmp_path, tiny_tokenizer, write_tsv(tmp_path / "tsv", TEXTS)).folder
    assert folder.stat().st_mode & 0o777 == 0o755


def test_moved_files_and_new_weights_reuse_the_folder(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    (tmp_path / "moved").mkdir()
    here = write_tsv(tmp_path / "tsv", TEXTS)
    there = write_tsv(tmp_path / "moved" / "tsv", TEXTS).model_copy(update={"weight": 3.0})
    corpora = prepare(tmp_path, tiny_tokenizer, here), prepare(tmp_path, tiny_tokenizer, there)
    assert corpora[0].folder == corpora[1].folder
    assert [part.weight for part in corpora[1].parts] == [3.0]


def test_changed_text_or_settings_are_encoded_anew(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    text = write_tsv(tmp_path / "tsv", TEXTS)
    folders = [prepare(tmp_path, tiny_tokenizer, text).folder]
    folders.append(prepare(tmp_path, tiny_tokenizer, text, cleaning=CleaningConfig(max_pieces=50)).folder)
    folders.append(prepare(tmp_path, tiny_tokenizer, text, sampling=SamplingConfig(variants=2)).folder)
    fewer = text.model_copy(update={"first": 2})
    corpus = prepare(tmp_path, tiny_tokenizer, fewer)
    assert [part.pairs for part in corpus.parts] == [2]
    folders.append(corpus.folder)
    folders.append(prepare(tmp_path, tiny_tokenizer, write_tsv(tmp_path / "tsv", TEXTS[:3])).folder)
    assert len(set(folders)) == 5


def test_a_faulty_line_leaves_nothing_behind(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    (tmp_path / "tsv").write_text("Yes.\tJa.\nno tab\n")
    with pytest.raises(CorpusError, match=r"tsv:2"):
        prepare(tmp_path, tiny_tokenizer, CorpusConfig(tsv=tmp_path / "tsv"))
    assert list((tmp_path / "corpus").iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    text = write_tsv(tmp_path / "tsv", TEXTS * 100)
    with files_of_at_most(2000), pytest.raises(CorpusError, match="the encoded corpus cannot be written"):
        prepare(tmp_path, tiny_tokenizer, text)
    assert list((tmp_path / "corpus").iterdir()) == []
    assert len(prepare(tmp_path, tiny_tokenizer, text)) == 400


def test_a_file_cut_short_is_told(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    text = write_tsv(tmp_path / "tsv", TEXTS)
    pieces = prepare(tmp_path, tiny_tokenizer, text).folder / "target.pieces"
    pieces.write_bytes(pieces.read_bytes()[:-1])
    with pytest.raises(CorpusError, match=r"target\.pieces: expected \d+ bytes, found \d+; .* delete the folder"):
        prepare(tmp_path, tiny_tokenizer, text)


@pytest.mark.parametrize("name", ["source.pieces", "target.offsets"])
def test_a_file_with_a_changed_bit_is_told(tmp_path: Path, tiny_tokenizer: TokenizerPair, name: str) -> None:
    text = write_tsv(tmp_path / "tsv", TEXTS)
    path = prepare(tmp_path, tiny_tokenizer, text).folder / name
    content = bytearray(path.read_bytes())
    content[8] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=rf"{name}: bytes 0 and following differ from what was written; .* delete"):
        prepare(tmp_path, tiny_tokenizer, text)


def test_checksums_hold_for_files_of_many_blocks(
    tmp_path: Path, tiny_tokenizer: TokenizerPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.shards._CHECKED_BYTES", 50)
    monkeypatch.setattr("training.shards._CHECKS", 3)
    text = write_tsv(tmp_path / "tsv", TEXTS * 20)
    folder = prepare(tmp_path, tiny_tokenizer, text).folder
    size = (folder / "target.pieces").stat().st_size
    assert (folder / "target.pieces.crc32").stat().st_size == 4 * -(-size // 50)
    for place in (0, size - 1):
        content = bytearray((folder / "target.pieces").read_bytes())
        content[place] ^= 1
        (folder / "target.pieces").write_bytes(content)
        with pytest.raises(CorpusError, match="differ from what was written"):
            prepare(tmp_path, tiny_tokenizer, text)
        content[place] ^= 1
        (folder / "target.pieces").write_bytes(content)
    assert len(prepare(tmp_path, tiny_tokenizer, text)) == 80


def test_the_number_of_workers_changes_nothing(
    tmp_path: Path, tiny_tokenizer: TokenizerPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.workers._ALONE", 0)
    monkeypatch.setattr("training.reading.CHUNK_PAIRS", 10)
    noise = [(f"{number} river", f"{number * 7 % 60} Fluss") for number in range(90)]
    texts = write_tsv(tmp_path / "a", [*noise, ("", "Ja."), *noise[:30], ("Yes.", "Ja. " * 200), *TEXTS])
    corpora = [
        prepare_corpus(
            [texts, write_tsv(tmp_path / "b", [*TEXTS, ("New.", "Neu.")])],
            tiny_tokenizer,
            CleaningConfig(),
            SamplingConfig(variants=3, alpha=0.5),
            tmp_path / str(workers),
            augmentation=Augmentation(AugmentationConfig(lower_case=0.3, no_end_punctuation=0.3), ("River",)),
            workers=workers,
        )
        for workers in (1, 3)
    ]
    files = [{path.name: path.read_bytes() for path in corpus.folder.iterdir()} for corpus in corpora]
    assert files[0] == files[1]
    assert {reason: entry.count for reason, entry in corpora[1].report.corpora[0].dropped.items()} == {
        "empty": 1,
        "duplicate": 30,
        "too_long": 1,
    }
    assert [entry.kept for entry in corpora[1].report.corpora] == [94, 1]


def test_a_workers_error_names_file_and_line_and_leaves_nothing_behind(
    tmp_path: Path, tiny_tokenizer: TokenizerPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.workers._ALONE", 0)
    monkeypatch.setattr("training.reading.CHUNK_PAIRS", 2)
    path = tmp_path / "tsv"
    path.write_bytes(b"Yes.\tJa.\n" * 20 + b"Yes.\tJ\xff.\n" + b"Yes.\tJa.\n" * 20)
    with pytest.raises(CorpusError, match=r"tsv:21: not UTF-8 at byte 7 of the line \(0xff\)"):
        prepare_corpus([CorpusConfig(tsv=path)], tiny_tokenizer, KEEP, CANONICAL, tmp_path / "corpus", workers=2)
    assert list((tmp_path / "corpus").iterdir()) == []


def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, tiny_tokenizer: TokenizerPair, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr("training.workers._ALONE", 1)
    monkeypatch.setattr("training.reading.CHUNK_PAIRS", 1)
    text = write_tsv(tmp_path / "tsv", TEXTS)

    def interrupt(written: int) -> None:
        if written == 3:  # the workers are at it
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus([text], tiny_tokenizer, KEEP, CANONICAL, tmp_path / "corpus", workers=2, progress=interrupt)
    assert list((tmp_path / "corpus").iterdir()) == []


def test_corpora_of_which_nothing_is_left_are_an_error_with_reasons(
    tmp_path: Path, tiny_tokenizer: TokenizerPair
) -> None:
    with pytest.raises(CorpusError, match=r"no pair is left(.|\n)*4 dropped: too_long"):
        prepare(tmp_path, tiny_tokenizer, write_tsv(tmp_path / "tsv", TEXTS), cleaning=CleaningConfig(max_pieces=1))


def test_progress_is_told_in_pairs(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> None:
    told: list[int] = []
    corpora = [write_tsv(tmp_path / "a", TEXTS[:1]), write_tsv(tmp_path / "b", TEXTS[1:])]
    prepare_corpus(corpora, tiny_tokenizer, KEEP, SamplingConfig(), tmp_path / "corpus", progress=told.append)
    assert told == [1, 4]
