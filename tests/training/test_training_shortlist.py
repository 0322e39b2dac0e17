"""IBM model 1 is the textbook's, a shortlist holds the translations, and a checkpoint gets one as a whole."""

from __future__ import annotations

import json
import lzma
import os
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from model.checkpoint import SHORTLIST, read_config
from model.shortlist import Shortlist
from tests.conftest import ENGLISH, GERMAN
from tokenizer.subword import TokenizerPair, train_subword
from training import links
from training.card import CARD
from training.cli import app
from training.config import ShortlistConfig
from training.corpus import Corpus, prepare_corpus
from training.corpus_config import CleaningConfig, CorpusConfig, SamplingConfig
from training.lexical_table import LexicalTable, learn_lexical_table
from training.shortlist import learn_shortlist
from training.system import open_checkpoint

NULL = -1


def encode(folder: Path, tokenizers: TokenizerPair, sources: Sequence[str], targets: Sequence[str]) -> Corpus:
    """A corpus of these pairs, with a sampled variant beside each that must not be read."""
    for name, texts in (("text.en", sources), ("text.de", targets)):
        (folder / name).write_text("".join(f"{text}\n" for text in texts))
    corpus = CorpusConfig(source=folder / "text.en", target=folder / "text.de")
    cleaning, sampling = CleaningConfig(drop_duplicates=False), SamplingConfig(variants=2, alpha=0.1)
    return prepare_corpus([corpus], tokenizers, cleaning, sampling, folder / "corpus")


@pytest.fixture
def toy(tmp_path: Path, tiny_tokenizer: TokenizerPair) -> Corpus:
    return encode(tmp_path, tiny_tokenizer, [*ENGLISH, "the the ferry"], [*GERMAN, "die Fähre die"])


def textbook(pairs: Sequence[tuple[list[int], list[int]]], iterations: int) -> dict[tuple[int, int], float]:
    """IBM model 1 (Brown et al. 1993) with dictionaries, p(target | source) by (source, target)."""
    table: dict[tuple[int, int], float] = defaultdict(lambda: 1.0)
    for _ in range(iterations):
        counts: Counter[tuple[int, int]] = Counter()
        for source, target in pairs:
            for word in target:
                total = sum(table[other, word] for other in [NULL, *source])
                for other in [NULL, *source]:
                    counts[other, word] += table[other, word] / total
        totals: Counter[int] = Counter()
        for (source_word, _), count in counts.items():
            totals[source_word] += count
        table = defaultdict(float, {key: count / totals[key[0]] for key, count in counts.items()})
    return dict(table)


def as_dictionary(table: LexicalTable) -> dict[tuple[int, int], float]:
    entries = zip(table.source.tolist(), table.target.tolist(), table.probability.tolist(), strict=True)
    null = {(NULL, target): value for target, value in enumerate(table.null.tolist()) if value}
    return {(source, target): value for source, target, value in entries} | null


def learn(corpus: Corpus, tokenizers: TokenizerPair, **options: float) -> LexicalTable:
    size = tokenizers.source.vocabulary_size
    return learn_lexical_table(corpus, size, size, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_the_table_is_that_of_ibm_model_1(toy: Corpus, tiny_tokenizer: TokenizerPair, iterations: int) -> None:
    pairs = [(source.tolist(), target.tolist()) for source, target in (toy.pair(index) for index in range(len(toy)))]
    found = as_dictionary(learn(toy, tiny_tokenizer, iterations=iterations, smallest=0.0))
    assert found == pytest.approx(textbook(pairs, iterations), rel=1e-9)


def test_chunks_of_any_size_give_the_same_table(
    toy: Corpus, tiny_tokenizer: TokenizerPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = as_dictionary(learn(toy, tiny_tokenizer, smallest=0.0))
    monkeypatch.setattr(links, "LINKS", 100)
    monkeypatch.setattr(links, "_PAIRS_AT_ONCE", 4)
    assert as_dictionary(learn(toy, tiny_tokenizer, smallest=0.0)) == pytest.approx(expected, rel=1e-9)


def test_pruning_forgets_small_entries_and_leaves_probabilities(toy: Corpus, tiny_tokenizer: TokenizerPair) -> None:
    every, pruned = (learn(toy, tiny_tokenizer, smallest=smallest) for smallest in (0.0, 0.05))
    assert 0 < len(pruned.source) < len(every.source)
    assert pruned.probability.min() >= 0.05
    assert np.bincount(pruned.source, pruned.probability).max() <= 1 + 1e-9


def test_the_table_keeps_to_its_bound(toy: Corpus, tiny_tokenizer: TokenizerPair) -> None:
    assert len(learn(toy, tiny_tokenizer, iterations=1, smallest=0.0, most_entries=100).source) == 100


def test_of_many_pairs_some_are_learned_from(toy: Corpus, tiny_tokenizer: TokenizerPair) -> None:
    pairs = [toy.pair(index) for index in (0, 3, 6)]
    expected = textbook([(source.tolist(), target.tolist()) for source, target in pairs], 5)
    found = as_dictionary(learn(toy, tiny_tokenizer, smallest=0.0, most_pairs=3))
    assert found == pytest.approx(expected, rel=1e-9)


WORDS = [f"{first}{second}{first}" for first in "bdfgklmnprst" for second in "aeiou"]


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TokenizerPair, Corpus]]:
    """Made-up sentences in which each word has one translation, the word in capitals, in another order."""
    draw = random.Random(1)
    sources = [" ".join(draw.choices(WORDS, k=draw.randint(2, 7))) for _ in range(600)]
    targets = [" ".join(draw.sample(source.upper().split(), len(source.split()))) for source in sources]
    tokenizers = TokenizerPair(
        train_subword(sources, model_type="unigram", vocabulary_size=330),
        train_subword(targets, model_type="unigram", vocabulary_size=330),
    )
    yield tokenizers, encode(tmp_path_factory.mktemp("dictionary"), tokenizers, sources, targets)


def rows(shortlist: Shortlist, piece: int) -> list[int]:
    return shortlist.ids[shortlist.offsets[piece] : shortlist.offsets[piece + 1]].tolist()


def test_the_shortlist_of_a_dictionary_holds_the_right_translations(dictionary: tuple[TokenizerPair, Corpus]) -> None:
    tokenizers, corpus = dictionary
    shortlist = learn_shortlist(corpus, tokenizers, ShortlistConfig(size=4, frequent=0))
    found = 0
    for word in WORDS:
        pieces, wanted = tokenizers.source.encode(word), tokenizers.target.encode(word.upper())
        allowed = set(shortlist.always.tolist()).union(*(rows(shortlist, piece) for piece in pieces))
        found += set(wanted) <= allowed
    assert found == len(WORDS)


def test_rows_are_short_ascending_and_without_what_is_always_allowed(
    dictionary: tuple[TokenizerPair, Corpus],
) -> None:
    tokenizers, corpus = dictionary
    shortlist = learn_shortlist(corpus, tokenizers, ShortlistConfig(size=3, frequent=5))
    each = [rows(shortlist, piece) for piece in range(tokenizers.source.vocabulary_size)]
    assert 0 < max(map(len, each)) <= 3
    assert all(row == sorted(set(row)) for row in each)
    assert not set(shortlist.ids.tolist()) & set(shortlist.always.tolist())


def test_reserved_ids_bytes_and_frequent_pieces_are_always_allowed(toy: Corpus, tiny_tokenizer: TokenizerPair) -> None:
    shortlist = learn_shortlist(toy, tiny_tokenizer, ShortlistConfig(size=3, frequent=2))
    counts = Counter(piece for index in range(len(toy)) for piece in toy.pair(index)[1].tolist())
    frequent = sorted(counts, key=lambda piece: (-counts[piece], piece))[:2]
    wanted = {0, 1, 2, 3, *tiny_tokenizer.target.byte_ids(), *frequent}
    assert shortlist.always.tolist() == sorted(wanted)
    assert len(tiny_tokenizer.target.byte_ids()) == 256


def test_of_a_joint_vocabulary_every_piece_may_be_copied(toy: Corpus, tiny_tokenizer: TokenizerPair) -> None:
    shortlist = learn_shortlist(toy, tiny_tokenizer, ShortlistConfig(size=1, frequent=0))
    always = set(shortlist.always.tolist())
    for piece in range(tiny_tokenizer.source.vocabulary_size):
        assert piece in always or piece in rows(shortlist, piece)


def test_learning_twice_gives_the_same_shortlist(toy: Corpus, tiny_tokenizer: TokenizerPair) -> None:
    one, other = (learn_shortlist(toy, tiny_tokenizer, ShortlistConfig(size=5, frequent=9)) for _ in range(2))
    assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


def command(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def enriched(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, given a shortlist by the command."""
    folder = tmp_path / "en-de"
    shutil.copytree(tiny_checkpoint, folder)
    for name, texts in (("en.xz", ENGLISH), ("de.xz", GERMAN)):
        (tmp_path / name).write_bytes(lzma.compress("".join(f"{text}\n" for text in texts).encode()))
    text = ("--source", tmp_path / "en.xz", "--target", tmp_path / "de.xz", "--name", "Ferry talk", "--workers", "1")
    command("shortlist", folder, *text, "--size", "7", "--frequent", "3")
    return folder


def test_the_command_adds_a_shortlist_and_changes_nothing_else(enriched: Path, tiny_checkpoint: Path) -> None:
    for name in os.listdir(tiny_checkpoint):
        if name not in ("config.json", "SHA256SUMS", CARD):
            assert (enriched / name).read_bytes() == (tiny_checkpoint / name).read_bytes(), name
    summary = read_config(enriched).shortlist
    assert summary is not None
    assert (summary.size, summary.frequent, summary.pairs) == (7, 3, 8)
    assert summary.data == ("Ferry talk: 8 pairs",)
    assert read_config(enriched).model_copy(update={"shortlist": None}) == read_config(tiny_checkpoint)


def test_the_card_speaks_of_the_shortlist_once(enriched: Path, tmp_path: Path) -> None:
    text = ("--source", tmp_path / "en.xz", "--target", tmp_path / "de.xz", "--workers", "1")
    command("shortlist", enriched, *text, "--size", "9")
    lines = [line for line in (enriched / CARD).read_text().splitlines() if "Shortlist" in line]
    assert len(lines) == 1
    assert "9 translations of each source piece" in lines[0]
    assert "8 pairs (en.xz: 8 pairs)" in lines[0]


def test_evaluate_translates_with_the_shortlist_when_asked_to(enriched: Path, tmp_path: Path) -> None:
    text = ("--source", tmp_path / "en.xz", "--reference", tmp_path / "de.xz", "--beam-size", "2", "--json")
    found = []
    for flags in ([], ["--shortlist"]):
        output = tmp_path / f"output{len(flags)}"
        command("evaluate", enriched, *text, *flags, "--output", output)
        (entry,) = json.loads((output / "scores.json").read_text())
        found.append((output / entry["hypotheses"]).read_text().removesuffix("\n").split("\n"))
    systems = (open_checkpoint(enriched, shortlist=asked).with_search(beam_size=2) for asked in (False, True))
    assert found == [system.translate(ENGLISH) for system in systems]
    assert found[0] != found[1]


def test_evaluate_says_where_there_is_no_shortlist(tiny_checkpoint: Path, enriched: Path, tmp_path: Path) -> None:
    text = ["--source", str(tmp_path / "en.xz"), "--reference", str(tmp_path / "de.xz"), "--shortlist"]
    result = CliRunner().invoke(app, ["evaluate", str(tiny_checkpoint), *text])
    assert result.exit_code == 1
    assert "has no shortlist; give it one with `ferry-train shortlist" in result.output


def test_a_disk_that_fills_up_leaves_the_checkpoint_as_it_was(
    enriched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in enriched.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.checkpoint.folder._replace", full)
    text = ["--source", str(tmp_path / "en.xz"), "--target", str(tmp_path / "de.xz"), "--workers", "1"]
    result = CliRunner().invoke(app, ["shortlist", str(enriched), *text])
    assert result.exit_code == 1
    assert {path.name: path.read_bytes() for path in enriched.iterdir()} == before
    assert SHORTLIST in before


def test_texts_without_counterpart_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["shortlist", str(tiny_checkpoint), "--source", "a", "--source", "b", "--target", "c"]
    )
    assert result.exit_code == 1
    assert "--source, --target and, if given, --name go together" in result.output
