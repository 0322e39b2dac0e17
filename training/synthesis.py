"""Parallel text that a model makes, chunk by chunk: a run that is killed loses one chunk and goes on with the next.

While it is made its chunks lie in a hidden folder beside the corpus, named by a hash of all that decides the result;
each appears by a rename, and so does the whole corpus in the end. Nothing half-written is ever read.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pydantic import ValidationError

from model.config import Frozen
from tokenizer.normalize import normalize
from training.corpus_config import CorpusConfig
from training.hashes import hash_corpus
from training.publish import published
from training.reading import Pair
from training.state import write_atomically

CHUNK_SENTENCES = 2000
MANIFEST = "synthesis.json"
FORMAT = 1

Identity: TypeAlias = Mapping[str, object]


class SynthesisError(Exception):
    """Synthetic text cannot be made or used as asked; the message says what would be right."""


class Made(NamedTuple):
    """What a maker made of some pairs."""

    pairs: list[tuple[str, str]]  # source and target, as many as came in; an empty side: not translated
    tokens: int  # pieces written by the model, end-of-sentence included


class Maker(NamedTuple):
    """How synthetic pairs come about."""

    pairs: Callable[[], Iterator[Pair]]  # what they are made of; streamed once to count, once to translate
    make: Callable[[Sequence[Pair], int], Made]  # of consecutive pairs, the first having that number in the stream
    held_out: Callable[[str, str], bool]  # whether a synthetic pair would show what dev or test ask
    identity: Identity  # all that decides the result, as JSON values


class Synthesis(Frozen):
    """What a finished synthetic corpus came to, as in its ``synthesis.json``."""

    fingerprint: str
    pairs: int
    untranslated: int  # left out: too long, or without a translation
    held_out: int  # left out: would show what dev or test ask
    tokens: int  # written by the model, end-of-sentence included
    seconds: float  # of translating

    @property
    def tokens_per_second(self) -> float:
        """Pieces written a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


class _Chunk(Frozen):
    """A file of the hidden folder."""

    pairs: tuple[tuple[str, str], ...]
    untranslated: int
    held_out: int
    tokens: int
    seconds: float


def files(folder: Path, source: str, target: str) -> tuple[Path, Path]:
    """Where the two sides of a corpus in ``folder`` stand, languages ``source`` and ``target``."""
    return folder / f"train.{source}.xz", folder / f"train.{target}.xz"


def synthesize(
    maker: Maker,
    folder: Path,
    languages: tuple[str, str],
    message: Callable[[str], None],
    *,
    overwrite: bool = False,
    chunk_sentences: int = CHUNK_SENTENCES,
) -> Synthesis:
    """Makes a corpus in ``folder``, or goes on with it, or finds it made; ``message`` is told how far it is.

    Raises SynthesisError where ``folder`` holds something else, or another corpus that is not to be overwritten, or
    where nothing came of the text; OSError where it cannot be written; and what the maker raises.
    """
    fingerprint = _fingerprint({**maker.identity, "format": FORMAT, "chunk_sentences": chunk_sentences})
    if folder.exists() and any(folder.iterdir()):
        found = _read_manifest(folder)
        if found.fingerprint == fingerprint:
            message(f"{folder}: made already by the same models from the same text")
            return found
        if not overwrite:
            raise SynthesisError(f"{folder} holds other synthetic text; name another --output, or give --overwrite")
    working = folder.with_name(f".{folder.name}.{fingerprint[:16]}")
    chunks = _translate(maker, working, message, chunk_sentences)
    result = _publish(chunks, folder, languages, fingerprint)
    shutil.rmtree(working)
    return result


def held_out_pairs(pairs: Sequence[Pair]) -> set[tuple[str, str]]:
    """Dev and test pairs in the form in which synthetic ones are compared with them."""
    return {(normalize(pair.source), normalize(pair.target)) for pair in pairs}


def hashes(corpora: Sequence[CorpusConfig]) -> list[list[str]]:
    """SHA-256 of each corpus's files, for a maker's identity. Raises CorpusError."""
    return [hash_corpus(corpus) for corpus in corpora]


def _translate(maker: Maker, working: Path, message: Callable[[str], None], chunk_sentences: int) -> list[Path]:
    """Makes the chunks that are not there yet; returns the files of all of them in order."""
    working.mkdir(parents=True, exist_ok=True)
    total, done = sum(1 for _ in maker.pairs()), 0
    stream = maker.pairs()
    paths: list[Path] = []
    tokens, seconds, translated = 0, 0.0, 0
    while some := list(islice(stream, chunk_sentences)):
        path = working / f"{len(paths):06}.json"
        if not path.is_file():
            chunk = _make(maker, some, done)
            write_atomically(path, chunk.model_dump_json().encode())
            tokens, seconds, translated = tokens + chunk.tokens, seconds + chunk.seconds, translated + len(some)
        paths.append(path)
        done += len(some)
        if translated == 0:
            message(f"{done:,} of {total:,} sentences were translated earlier")
        else:
            left = seconds / translated * (total - done) / 60
            message(f"{done:,} of {total:,} sentences, {tokens / seconds:,.0f} target tokens/s, {left:.0f} min left")
    return paths


def _make(maker: Maker, some: Sequence[Pair], first: int) -> _Chunk:
    began = time.perf_counter()
    made = maker.make(some, first)
    seconds = time.perf_counter() - began
    # As one line each: a model can write the pieces of a line end.
    pairs = [(normalize(source), normalize(target)) for source, target in made.pairs]
    whole = [pair for pair in pairs if all(pair)]
    kept = tuple(pair for pair in whole if not maker.held_out(*pair))
    return _Chunk(
        pairs=kept,
        untranslated=len(pairs) - len(whole),
        held_out=len(whole) - len(kept),
        tokens=made.tokens,
        seconds=seconds,
    )


def _publish(paths: Sequence[Path], folder: Path, languages: tuple[str, str], fingerprint: str) -> Synthesis:
    """Joins the chunks to a corpus, which appears in the place of an older one when it is whole."""
    counts: Counter[str] = Counter()
    seconds = 0.0
    with published(folder, replace=True) as partial:
        sides = files(partial, *languages)
        with lzma.open(sides[0], "wb") as source, lzma.open(sides[1], "wb") as target:
            for path in paths:
                chunk = _read_chunk(path)
                source.write("".join(f"{pair[0]}\n" for pair in chunk.pairs).encode())
                target.write("".join(f"{pair[1]}\n" for pair in chunk.pairs).encode())
                counts.update(pairs=len(chunk.pairs), tokens=chunk.tokens)
                counts.update(untranslated=chunk.untranslated, held_out=chunk.held_out)
                seconds += chunk.seconds
        if not counts["pairs"]:
            raise SynthesisError(
                "no synthetic pair came of the text: it is empty, or nothing in it could be translated"
            )
        result = Synthesis(fingerprint=fingerprint, seconds=seconds, **counts)
        (partial / MANIFEST).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return result


def _read_chunk(path: Path) -> _Chunk:
    try:
        return _Chunk.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise SynthesisError(f"{path} is damaged; delete it and start the same command again") from error


def _read_manifest(folder: Path) -> Synthesis:
    """What lies in ``folder``: publishing replaces all of it, so it must be synthetic text and nothing else."""
    try:
        return Synthesis.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise SynthesisError(f"{folder} is there and holds no synthetic text; name another --output") from error


def _fingerprint(identity: Identity) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
