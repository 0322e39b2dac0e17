"""Drops pairs that would teach nothing or wrong things, and says which and why."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from model.config import Frozen
from tokenizer.normalize import normalize
from training.corpus_config import CleaningConfig, CorpusConfig
from training.hashes import HashSet, hash_pairs
from training.reading import CorpusError, Pair, read_pairs

Reason = Literal["empty", "too_short", "identical", "wrong_script", "duplicate", "too_long", "length_ratio"]

CHUNK_PAIRS = 8192  # pairs held in memory at a time

_Item = TypeVar("_Item")


class Dropped(Frozen):
    """How many pairs of a corpus were dropped for one reason, and the first of them."""

    count: int
    line: int
    source: str
    target: str


class CorpusReport(Frozen):
    """What cleaning did to one corpus."""

    corpus: str
    kept: int
    dropped: dict[Reason, Dropped]

    @property
    def read(self) -> int:
        """Pairs that stood in the files."""
        return self.kept + sum(entry.count for entry in self.dropped.values())


class CleaningReport(Frozen):
    """What cleaning did to each corpus of a list, in order."""

    corpora: tuple[CorpusReport, ...]

    def __str__(self) -> str:
        lines = []
        for report in self.corpora:
            lines.append(f"{report.corpus}: {report.read} pairs read, {report.kept} kept")
            for reason, entry in report.dropped.items():
                example = f"line {entry.line}: {entry.source[:40]!r} = {entry.target[:40]!r}"
                lines.append(f"  {entry.count} dropped: {reason} ({example})")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Writes the report as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


class Tally:
    """Counts what is kept and dropped of one corpus while it streams by."""

    def __init__(self, corpus: str) -> None:
        self.corpus = corpus
        self.kept = 0
        self._counts: dict[Reason, int] = {}
        self._examples: dict[Reason, Pair] = {}

    def drop(self, reason: Reason, pair: Pair) -> None:
        self._counts[reason] = self._counts.get(reason, 0) + 1
        self._examples.setdefault(reason, pair)

    def report(self) -> CorpusReport:
        dropped = {
            reason: Dropped(count=count, line=pair.line, source=pair.source[:200], target=pair.target[:200])
            for reason, count in self._counts.items()
            for pair in [self._examples[reason]]
        }
        return CorpusReport(corpus=self.corpus, kept=self.kept, dropped=dropped)


class Cleaner:
    """Cleans the corpora of one list in turn; remembers what it has seen, so that duplicates are found across them."""

    def __init__(self, config: CleaningConfig) -> None:
        self._config = config
        self._seen = HashSet()

    def clean(self, pairs: Iterable[Pair], tally: Tally) -> Iterator[list[Pair]]:
        """Yields chunks of normalised pairs that pass every check of text; those that do not are tallied."""
        for chunk in chunked(pairs, CHUNK_PAIRS):
            passing = [pair for pair in map(_normalized, chunk) if self._passes(pair, tally)]
            yield self._without_duplicates(passing, tally)

    def fits(self, pair: Pair, source_pieces: int, target_pieces: int, tally: Tally) -> bool:
        """Whether the encoded pair passes the checks of length; tallied as kept or dropped."""
        shorter, longer = sorted((source_pieces, target_pieces))
        ratio = self._config.max_length_ratio
        if shorter == 0:
            tally.drop("empty", pair)
        elif longer > self._config.max_pieces:
            tally.drop("too_long", pair)
        elif ratio is not None and longer > ratio * shorter:
            tally.drop("length_ratio", pair)
        else:
            tally.kept += 1
            return True
        return False

    def _passes(self, pair: Pair, tally: Tally) -> bool:
        reason = self._fault(pair)
        if reason is not None:
            tally.drop(reason, pair)
        return reason is None

    def _fault(self, pair: Pair) -> Reason | None:
        config = self._config
        if not pair.source or not pair.target:
            return "empty"
        if min(len(pair.source), len(pair.target)) < config.min_characters:
            return "too_short"
        if config.drop_identical and pair.source == pair.target:
            return "identical"
        sides = ((pair.source, config.source_scripts), (pair.target, config.target_scripts))
        if any(script_share(text, scripts) < config.min_script_share for text, scripts in sides if scripts):
            return "wrong_script"
        return None

    def _without_duplicates(self, pairs: list[Pair], tally: Tally) -> list[Pair]:
        if not self._config.drop_duplicates:
            return pairs
        new = self._seen.add(hash_pairs([(pair.source, pair.target) for pair in pairs]))
        for pair, is_new in zip(pairs, new, strict=True):
            if not is_new:
                tally.drop("duplicate", pair)
        return [pair for pair, is_new in zip(pairs, new, strict=True) if is_new]


def clean_texts(corpora: Sequence[CorpusConfig], config: CleaningConfig) -> Iterator[Pair]:
    """Streams the pairs that pass the checks of text, normalised: what a subword model is trained on.

    Checks of length in pieces need that model, so they are left to the encoding. Raises CorpusError.
    """
    cleaner = Cleaner(config)
    for corpus in corpora:
        tally = Tally(corpus.label)
        for chunk in cleaner.clean(read_pairs(corpus), tally):
            yield from chunk


def chunked(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of ``size`` items in order; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def script_share(text: str, scripts: Sequence[str]) -> float:
    """The share of the letters of ``text`` that belong to one of ``scripts``; 1 for text without letters."""
    found = [_script(character) for character in text if character.isalpha()]
    return sum(script in scripts for script in found) / len(found) if found else 1.0


@lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    # The first word of a letter's Unicode name is its script, but for Han ("CJK UNIFIED IDEOGRAPH-4E00").
    word = unicodedata.name(letter, "UNKNOWN").split(maxsplit=1)[0]
    return "Han" if word == "CJK" else word.capitalize()


def _normalized(pair: Pair) -> Pair:
    return Pair(normalize(pair.source), normalize(pair.target), pair.line)


def nothing_left(report: CleaningReport) -> CorpusError:
    """The error for a list of corpora of which cleaning left nothing."""
    return CorpusError(f"no pair is left after cleaning; loosen the recipe's 'cleaning' or mend the corpora:\n{report}")
