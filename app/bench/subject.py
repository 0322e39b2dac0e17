"""What is measured: a model ready to search with, sentences for it, and what their translation takes."""

from __future__ import annotations

import itertools
import lzma
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Literal, NamedTuple, cast

import torch

from app.bench import machine, shape
from app.bench.shape import Operations
from app.files import Input, InputError
from model.checkpoint import Checkpoint
from model.config import LengthLimit, ModelConfig
from model.packing import PackedSeq2Seq
from model.precision import Precision, prepare
from model.products import Float32Product
from model.search import BeamSearch, Hypothesis, SearchOptions, translate
from model.seq2seq import Seq2Seq
from model.shortlist import Shortlist
from tokenizer.subword import load_tokenizers

PIECES, DEVIATION, SHORTEST, LONGEST = 14.0, 4.0, 5, 40  # of random sentences: as in captions (Multi30k)
LENGTHS = (5, 10, 20, 40, 80)  # for latency by length
Source = list[int]


class Subject(NamedTuple):
    """A model in the precision in which it is measured."""

    name: str
    model: Seq2Seq
    precision: Precision
    length_limit: LengthLimit
    options: SearchOptions
    operations: Operations  # whatever the precision
    sentences: Sentences
    shortlist: Shortlist | None = None
    measured: Mapping[str, float] = MappingProxyType({})  # seconds of a step, by precision, where one was chosen

    @classmethod
    def prepared(
        cls,
        name: str,
        model: Seq2Seq,
        precision: Precision | Literal["auto"],
        length_limit: LengthLimit,
        options: SearchOptions,
        sentences: Sentences,
        shortlist: Shortlist | None = None,
    ) -> Subject:
        """A trained model as it is served. Raises PrecisionError."""
        operations = shape.operations(model)  # packed weights cannot be counted
        if shortlist is not None:
            operations = _shortened(operations, model, shortlist, sentences)
        ready = prepare(model, precision)
        return cls(
            name,
            ready.model,
            ready.precision,
            length_limit,
            options,
            operations,
            sentences,
            shortlist,
            ready.measured,
        )

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.model.config

    def search(self) -> BeamSearch:
        """A new search, of no sentences."""
        return BeamSearch(self.model, self.length_limit, self.shortlist)

    def translate(self, sources: Sequence[Source]) -> list[list[Hypothesis]]:
        """The hypotheses of each of ``sources``."""
        return translate(self.model, sources, self.options, self.length_limit, shortlist=self.shortlist)

    def product_rate(self, rows: int) -> float:
        """Measured operations a second of a product of ``rows`` rows with weights of a layer's size."""
        hidden = self.config.hidden
        pack = self.model.pack if isinstance(self.model, PackedSeq2Seq) else Float32Product
        return machine.product_rate(pack(torch.randn(4 * hidden, hidden), None), rows, hidden, 4 * hidden)

    def needed(self, target_pieces: float) -> float:
        """Operations of the matrix products of an average sentence whose translation has ``target_pieces``."""
        source, target = self.sentences.mean_pieces, target_pieces * self.options.beam_size
        return source * self.operations.source + target * self.operations.target


class Sentences:
    """Source sentences as ids: those of a text, or random ones."""

    def __init__(self, config: ModelConfig, text: Sequence[Source] = (), seed: int = 2) -> None:
        """Random pieces unless there is a ``text``: as frequent as words are, in sentences of normal lengths."""
        self._text, self._seed = text, seed
        reserved = {config.pad, config.unk, config.bos, config.eos}
        self._pieces = [piece for piece in range(config.source_vocabulary) if piece not in reserved]
        self._weights = list(itertools.accumulate(shape.zipf(len(self._pieces))))

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
        return draw.choices(self._pieces, cum_weights=self._weights, k=length)


def _shortened(operations: Operations, model: Seq2Seq, shortlist: Shortlist, sentences: Sentences) -> Operations:
    """With an output layer of only those pieces that an average sentence may use by itself."""
    sources = sentences.take(100)
    vocabulary, width = model.output_weight().shape
    allowed = shortlist.allowed(sources, [()] * len(sources), vocabulary).sum() / len(sources)
    return operations._replace(target=operations.target - 2 * width * round(vocabulary - float(allowed)))


def read_text(file: Path, checkpoint: Checkpoint) -> list[Source]:
    """The lines of a file, also one compressed as .xz, as the checkpoint's tokenizer cuts them, without blank ones.

    Raises InputError for a file without text or that is not UTF-8, and OSError.
    """
    subword = load_tokenizers(checkpoint.folder).source
    with cast(BinaryIO, lzma.open(file)) if file.suffix == ".xz" else file.open("rb") as stream:
        lines = [line.text for line in Input(stream, str(file), None).lines()]
    pieces = [found for found in subword.encode_batch(lines) if found]
    if not pieces:
        raise InputError(f"{file} holds no text; give it a sentence a line")
    return pieces
