"""Is one system better than another on the same test set, or may chance explain the difference?

Paired bootstrap resampling (Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation") or paired
approximate randomization (Riezler & Maxwell 2005), as sacreBLEU has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, TypeAlias

from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest, Result

MetricName: TypeAlias = Literal["bleu", "bleu_lc", "chrf"]
TestName: TypeAlias = Literal["paired-bs", "paired-ar"]
LEVEL = 0.05
SEED = 12345  # sacreBLEU's own default
_LINES_TO_SHUFFLE = 6  # 2^(1 - 6) < 0.05
_SEED_VARIABLE = "SACREBLEU_SEED"


class SignificanceError(Exception):
    """Two systems cannot be compared; the message says what would be right."""


class Estimate(NamedTuple):
    """One system's score between 0 and 100, and what resampled test sets give."""

    score: float
    mean: float
    interval: float  # 95 % of the resampled scores lie within mean ± interval


class Verdict(NamedTuple):
    """What the test says about systems A and B."""

    metric: str  # as sacreBLEU calls it
    first: Estimate
    second: Estimate
    p: float | None  # None where the scores are equal: there is no difference that chance would have to explain
    signature: str

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < LEVEL

    def sentence(self, first: str = "A", second: str = "B") -> str:
        """The result in words."""
        if self.p is None:
            return f"{first} and {second} have the same score; there is no difference to test"
        if not self.significant:
            return f"the difference between {first} and {second} is not significant at {LEVEL}; p = {self.p:.3f}"
        better, worse = (second, first) if self.second.score > self.first.score else (first, second)
        return f"{better} is better than {worse}; p = {self.p:.3f}"


def compare_systems(
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[str],
    metric: MetricName = "bleu",
    test: TestName = "paired-bs",
    *,
    samples: int = 0,
    seed: int = SEED,
) -> Verdict:
    """Tests the hypotheses of systems A and B on the same references, a string a segment.

    ``samples`` is the number of resampled test sets (paired-bs; 0 is 1,000) or of shuffled ones (paired-ar; 10,000).
    Raises SignificanceError for different numbers of segments, none, or too few that differ for paired-ar.
    """
    _require_aligned(first, second, references)
    if test == "paired-ar":
        _require_shuffles(first, second)
    with _seeded(seed):
        paired = PairedTest(
            [("A", list(first)), ("B", list(second))],
            {metric: _metric(metric)},
            [list(references)],
            test_type=test.removeprefix("paired-"),
            n_samples=samples,
            n_ar_confidence=0 if test == "paired-ar" else -1,  # 0 is 1,000 resamples for the intervals
        )
        signatures, scores = paired()
    ((name, signature),) = signatures.items()
    one, two = (result for result in scores[name] if isinstance(result, Result))
    return Verdict(name, _estimate(one), _estimate(two), _p(one, two), f"{name}|{signature}")


def _p(first: Result, second: Result) -> float | None:
    """sacreBLEU counts resamples whose difference exceeds the real one: of equal systems none, which is no evidence."""
    return None if first.score == second.score or second.p_value is None else float(second.p_value)


def _estimate(result: Result) -> Estimate:
    assert result.mean is not None and result.ci is not None  # both tests are asked for intervals
    return Estimate(float(result.score), float(result.mean), float(result.ci))


def _metric(name: MetricName) -> Metric:
    return CHRF() if name == "chrf" else BLEU(lowercase=name == "bleu_lc")


def _require_aligned(first: Sequence[str], second: Sequence[str], references: Sequence[str]) -> None:
    counts = {"A": len(first), "B": len(second), "the reference": len(references)}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} has {count:,} lines" for name, count in counts.items())
        raise SignificanceError(f"{said}; all three must be of the same test set, line by line")
    if not references:
        raise SignificanceError("the test set is empty; a test needs at least one line")


def _require_shuffles(first: Sequence[str], second: Sequence[str]) -> None:
    """Shuffling n lines cannot give a p below 2^(1 - n); sacreBLEU, leaving ties out, prints smaller ones."""
    differing = sum(one != two for one, two in zip(first, second, strict=True))
    if 0 < differing < _LINES_TO_SHUFFLE:
        raise SignificanceError(
            f"A and B differ in {differing} of {len(first):,} lines; randomization needs {_LINES_TO_SHUFFLE} to show "
            f"anything at {LEVEL}: use paired-bs"
        )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """sacreBLEU takes its seed from the environment only."""
    former = os.environ.get(_SEED_VARIABLE)
    os.environ[_SEED_VARIABLE] = str(seed)
    try:
        yield
    finally:
        if former is None:
            del os.environ[_SEED_VARIABLE]
        else:
            os.environ[_SEED_VARIABLE] = former
