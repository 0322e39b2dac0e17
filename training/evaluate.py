"""How good a model is: beam search over a test set, and the scores of sacreBLEU with their signatures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from model.checkpoint import Evaluation
from model.precision import Precision
from model.search import SearchOptions
from training.corpus_config import CorpusConfig
from training.reading import read_all
from training.system import System


class EvaluationError(Exception):
    """There is nothing to evaluate; the message says what would be right."""


class Scores(NamedTuple):
    """Corpus scores between 0 and 100, and the signature of each by its name."""

    bleu: float
    bleu_lc: float
    chrf2: float
    ter: float
    signatures: dict[str, str]


class Result(NamedTuple):
    """What a system did on one test set."""

    data: str
    split: str
    scores: Scores
    sentences_per_second: float  # encoding, search and decoding of text; loading and scoring left out
    hypotheses: list[str]
    precision: Precision = "float32"  # of products with weights

    def evaluation(self, options: SearchOptions) -> Evaluation:
        """The entry in a checkpoint's ``config.json``."""
        return Evaluation(
            data=self.data,
            split=self.split,
            sentences=len(self.hypotheses),
            beam_size=options.beam_size,
            **self.scores._asdict(),
        )


def evaluate(system: System, corpus: CorpusConfig, split: str = "test") -> Result:
    """Translates the sources of ``corpus`` and scores them by its targets. Raises CorpusError for unusable files."""
    pairs = read_all([corpus])
    began = time.perf_counter()
    hypotheses = system.translate([pair.source for pair in pairs])
    seconds = time.perf_counter() - began
    scores = score(hypotheses, [pair.target for pair in pairs])
    name = corpus.label.removesuffix(f" {split}")
    return Result(name, split, scores, len(pairs) / seconds, hypotheses, system.precision)


def score(hypotheses: Sequence[str], references: Sequence[str]) -> Scores:
    """The figures that the command ``sacrebleu`` prints: BLEU cased and lower-cased, chrF2, TER."""
    metrics = {"bleu": BLEU(), "bleu_lc": BLEU(lowercase=True), "chrf2": CHRF(), "ter": TER()}
    figures = {name: metric.corpus_score(hypotheses, [references]).score for name, metric in metrics.items()}
    return Scores(**figures, signatures={name: str(metric.get_signature()) for name, metric in metrics.items()})
