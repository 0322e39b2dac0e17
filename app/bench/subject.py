"""What is measured: a model ready to search with, sentences for it, and what their translation takes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from app.bench.shape import Operations
from app.files import Input, InputError
from model.checkpoint import Checkpoint
from model.config import LengthLimit, ModelConfig
from model.search import SearchOptions
from model.seq2seq import Seq2Seq
from tokenizer.subword import load_tokenizers

PIECES, DEVIATION, SHORTEST, LONGEST = 14.0, 4.0, 5, 40  # of random sentences: as in captions (Multi30k)
LENGTHS = (5, 10, 20, 40, 80)  # for latency by length
Source = list[int]


class Subject(NamedTuple):
    """A model in the precision in which it is measured."""

    name: str
    model: Seq2Seq
    precision: str
    length_limit: LengthLimit
    options: SearchOptions
    operations: Operations  # of the model, whatever its precision
    sentences: Sentences

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.model.config

    def needed(self, target_pieces: float) -> float:
        """Operations of the matrix products of an average sentence whose translation has ``target_pieces``."""
        source, target = self.sentences.mean_pieces, target_pieces * self.options.beam_size
        return source * self.operations.source + target * self.operations.target


class Sentences:
    """Source sentences as ids: those of a text, or random ones."""

    def __init__(self, config: ModelConfig, text: Sequence[Source] = (), seed: int = 2) -> None:
        """Random pieces, normally distributed in length, unless there is a ``text``."""
        self._vocabulary, self._text, self._seed = config.source_vocabulary, text, seed
        self._reserved = {config.pad, config.unk, config.bos, config.eos}

    def take(self, count: int) -> list[Source]:
        """The first ``count``, the same at each call; a text that is shorter begins again."""
        if self._text:
            return [self._text[number % len(self._text)] for number in range(count)]
        draw = random.Random(self._seed)
        return [
            self._random(draw, min(max(round(draw.gauss(PIECES, DEVIATION)), SHORTEST), LONGEST)) for _ in range(count)
        ]

    def by_length(self, count: int) -> list[list[Source]]:
        """``count`` sentences of each of five lengths; of a text, some of each fifth of it by length."""
        if not self._text:
            draw = random.Random(self._seed)
            return [[self._random(draw, length) for _ in range(count)] for length in LENGTHS]
        ordered = sorted(self._text, key=len)
        ends = [len(ordered) * part // len(LENGTHS) for part in range(len(LENGTHS) + 1)]
        groups = [ordered[start:end] for start, end in itertools.pairwise(ends)]
        return [random.Random(self._seed).sample(group, min(count, len(group))) for group in groups if group]

    @property
    def mean_pieces(self) -> float:
        """Of a sentence, end-of-sentence not counted."""
        sample = self._text or self.take(1000)
        return sum(map(len, sample)) / len(sample)

    def _random(self, draw: random.Random, length: int) -> Source:
        pieces: Source = []
        while len(pieces) < length:
            piece = draw.randrange(self._vocabulary)
            if piece not in self._reserved:
                pieces.append(piece)
        return pieces


def read_text(file: Path, checkpoint: Checkpoint) -> list[Source]:
    """The lines of a file as the checkpoint's tokenizer cuts them, without blank ones.

    Raises InputError for a file without text or that is not UTF-8, and OSError.
    """
    subword = load_tokenizers(checkpoint.folder).source
    with file.open("rb") as stream:
        lines = [line.text for line in Input(stream, str(file), None).lines()]
    pieces = [found for found in subword.encode_batch(lines) if found]
    if not pieces:
        raise InputError(f"{file} holds no text; give it a sentence a line")
    return pieces
