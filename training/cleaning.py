"""Drops pairs that would teach nothing or wrong things, and says which and why."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import compress, islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from model.config import Frozen
from tokenizer.normalize import normalize
from training.corpus_config import CleaningConfig
from training.hashes import NO_HASHES, HashArray, HashSet, hash_pairs
from training.reading import CHUNK_PAIRS, CorpusError, Pair

Reason = Literal["empty", "too_short", "identical", "wrong_script", "duplicate", "too_long", "length_ratio", "held_out"]

FaultArray = npt.NDArray[np.uint8]
FAULTS: tuple[Reason | None, ...] = (None, *get_args(Reason))  # a fault's code is its place here
KEPT = FAULTS.index(None)
DUPLICATE = FAULTS.index("duplicate")
HELD_OUT = FAULTS.index("held_out")


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

    def add(self, faults: FaultArray, pair: Callable[[int], Pair]) -> None:
        """Counts some pairs by their faults, (N,); ``pair`` gives the one at a place, where an example is wanted."""
        counts = np.bincount(faults, minlength=len(FAULTS))
        self.kept += int(counts[KEPT])
        for code in np.flatnonzero(counts).tolist():
            reason = FAULTS[code]
            if reason is not None:
                self._counts[reason] = self._counts.get(reason, 0) + int(counts[code])
                if reason not in self._examples:
                    self._examples[reason] = pair(int(np.argmax(faults == code)))

    def report(self) -> CorpusReport:
        dropped = {
            reason: Dropped(count=count, line=pair.line, source=pair.source[:200], target=pair.target[:200])
            for reason, count in self._counts.items()
            for pair in [self._examples[reason]]
        }
        return CorpusReport(corpus=self.corpus, kept=self.kept, dropped=dropped)


def normalized(pair: Pair) -> Pair:
    """The pair as the tokenizer sees it."""
    return Pair(normalize(pair.source), normalize(pair.target), pair.line)


def text_fault(pair: Pair, config: CleaningConfig) -> Reason | None:
    """What is wrong with a normalised pair by itself, if anything."""
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


def length_fault(source_pieces: int, target_pieces: int, config: CleaningConfig) -> Reason | None:
    """What is wrong with the lengths of an encoded pair, if anything."""
    shorter, longer = sorted((source_pieces, target_pieces))
    if shorter == 0:
        return "empty"
    if longer > config.max_pieces:
        return "too_long"
    if config.max_length_ratio is not None and longer > config.max_length_ratio * shorter:
        return "length_ratio"
    return None


def clean_pairs(pairs: Iterable[Pair], config: CleaningConfig, held_out: HashArray = NO_HASHES) -> Iterator[Pair]:
    """Streams the pairs that pass the checks of text, normalised: what a subword model is trained on.

    Those whose hashes are in ``held_out`` are left out. Checks of length in pieces need that model, so they are left to
    the encoding.
    """
    seen = HashSet()
    passing = (pair for pair in map(normalized, pairs) if text_fault(pair, config) is None)
    while some := list(islice(passing, CHUNK_PAIRS)):
        hashes = hash_pairs([pair[:2] for pair in some])
        kept = ~np.isin(hashes, held_out)
        if config.drop_duplicates:
            kept &= seen.add(hashes)
        yield from compress(some, kept)


def script_share(text: str, scripts: Sequence[str]) -> float:
    """The share of the letters of ``text`` that belong to one of ``scripts``; 1 for text without letters."""
    found = [_script(character) for character in text if character.isalpha()]
    return sum(script in scripts for script in found) / len(found) if found else 1.0


@lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    # The first word of a letter's Unicode name is its script, but for Han ("CJK UNIFIED IDEOGRAPH-4E00").
    word = unicodedata.name(letter, "UNKNOWN").split(maxsplit=1)[0]
    return "Han" if word == "CJK" else word.capitalize()


def nothing_left(report: CleaningReport) -> CorpusError:
    """The error for a list of corpora of which cleaning left nothing."""
    return CorpusError(f"no pair is left after cleaning; loosen the recipe's 'cleaning' or mend the corpora:\n{report}")
