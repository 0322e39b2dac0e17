"""The one beam search: steppable, over a changing set of sentences.

``admit`` puts sentences in, ``step`` advances all of them by one piece and returns those that are decided, ``cancel``
takes sentences out, ``interrupt`` does so with the best that they have. A sentence's result does not depend on the
others, their order, or when it was admitted.

The algorithm, for one sentence with beam size k (the oracle in ``tests/model`` is the same in plain numpy):

1. Begin with one hypothesis, begin-of-sentence, of log-probability 0.
2. Extend every live hypothesis by every piece and rank the extensions by log-probability; of equal ones the extension
   of the better hypothesis comes first, then the smaller id. Those among the best k that end in end-of-sentence are
   finished; the best k of the others live on.
3. At the length limit only end-of-sentence may follow. While a forced prefix lasts only its next piece may follow.
4. Stop after the step in which the k-th hypothesis finishes (as fairseq does; Ott et al. 2019), so that a beam of 1 is
   greedy search, or when none lives on.
5. Finished hypotheses are ranked by ``log-probability / penalty(length)``, equal ones in the order in which they
   finished; the n best are the result.

Stopping comes earlier where the result is already certain. As log-probabilities only fall and the penalty only grows,
``log-probability / penalty(limit + 1)`` bounds what a live hypothesis can become; once that is not above the n-th best
finished score, nothing can change. So early stopping is exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from model.beam import Batch, Extended, extend, join, pad_ids, pad_sources, trim
from model.config import LengthLimit, LengthPenalty, ModelConfig
from model.ensemble import Model, as_ensemble
from model.restriction import Restriction
from model.seq2seq import Seq2Seq
from model.shortlist import Shortlist


class SearchOptions(NamedTuple):
    """What one sentence asks of the search."""

    beam_size: int = 5
    n_best: int = 1
    length_penalty: LengthPenalty = LengthPenalty()
    max_length: int | None = None  # pieces without end-of-sentence, instead of the search's length limit
    prefix: tuple[int, ...] = ()  # pieces with which every hypothesis must begin


class Hypothesis(NamedTuple):
    """A finished translation."""

    pieces: tuple[int, ...]  # end-of-sentence left out
    score: float  # log-probability over the length penalty
    log_probability: float  # of the pieces and end-of-sentence, natural logarithm


class Finished(NamedTuple):
    """A sentence that left: its hypotheses, best first, ``n_best`` of them (fewer only if there were fewer)."""

    ticket: int
    hypotheses: list[Hypothesis]
    complete: bool = True  # false where it was interrupted: these are the best so far


class _Sentence:
    """A sentence in the search: what it asked for and what it has finished so far."""

    def __init__(self, ticket: int, source_length: int, options: SearchOptions, limit: int) -> None:
        self.ticket, self.source_length, self.options, self.limit = ticket, source_length, options, limit
        self.finished: list[Hypothesis] = []  # the n best of them
        self.ended = 0
        self.bound_penalty = options.length_penalty.penalty(limit + 1)

    def finish(self, pieces: list[int], log_probability: float) -> None:
        score = log_probability / self.options.length_penalty.penalty(len(pieces) + 1)
        self.ended += 1
        self.finished.append(Hypothesis(tuple(pieces), score, log_probability))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)  # stable: of equal ones the earlier stays first
        del self.finished[self.options.n_best :]

    def decided(self, best_live: float, length: int) -> bool:
        """Whether the result stands, the best live hypothesis having the log-probability ``best_live``."""
        if self.ended >= self.options.beam_size or length > self.limit or best_live == -math.inf:
            return True
        if len(self.finished) < self.options.n_best:
            return False
        return best_live / self.bound_penalty <= self.finished[-1].score


class BeamSearch:
    """A set of sentences under translation by one model, or by several as an ensemble."""

    def __init__(self, model: Model, length_limit: LengthLimit, shortlist: Shortlist | None = None) -> None:
        """With a ``shortlist``, on the model's device, a sentence is translated with its pieces alone.

        Raises ShortlistError for one of other vocabularies.
        """
        self.model, self.length_limit, self.shortlist = as_ensemble(model), length_limit, shortlist
        if shortlist is not None:
            shortlist.check(self.model.config)
        self._tickets = itertools.count()
        self._sentences: list[_Sentence] = []
        self._batch: Batch | None = None

    @property
    def active(self) -> int:
        """Sentences under way."""
        return len(self._sentences)

    @property
    def rows(self) -> int:
        """Rows of the decoder's batch: slots times the widest beam."""
        return 0 if self._batch is None else self._batch.scores.numel()

    @property
    def padded_tokens(self) -> int:
        """Source positions held in memory, padding included."""
        return 0 if self._batch is None else self._batch.memory.mask.numel()

    @property
    def longest_source(self) -> int:
        """Source positions of a slot, padding included."""
        return 0 if self._batch is None else self._batch.memory.mask.shape[1]

    @torch.inference_mode()
    def admit(self, sources: Sequence[Sequence[int]], options: Sequence[SearchOptions]) -> list[int]:
        """Encode ``sources`` (ids without begin- or end-of-sentence) and add them; returns a ticket for each.

        Raises ValueError, admitting nothing, for an empty source, an id outside the vocabulary or impossible options.
        """
        if len(sources) != len(options):
            raise ValueError(f"{len(sources)} sources came with {len(options)} options; give one for each")
        for source, option in zip(sources, options, strict=True):
            _check(source, option, self.model.config)
        if not sources:
            return []
        sentences = [
            _Sentence(next(self._tickets), len(source), option, self._limit(len(source), option))
            for source, option in zip(sources, options, strict=True)
        ]
        arrived = self._encode(sources, sentences)
        self._batch = arrived if self._batch is None else join(self._batch, arrived)
        self._sentences.extend(sentences)
        return [sentence.ticket for sentence in sentences]

    @torch.inference_mode()
    def step(self) -> list[Finished]:
        """Advance every sentence by one piece; sentences that are decided leave and are returned."""
        if self._batch is None:
            return []
        batch = extend(self.model, self._batch)
        self._batch = batch.live
        self._collect(batch)
        best_live = batch.live.scores.amax(dim=1).tolist()
        lengths = batch.live.length.tolist()
        decided = [
            sentence.decided(best, length)
            for sentence, best, length in zip(self._sentences, best_live, lengths, strict=True)
        ]
        finished = [
            Finished(sentence.ticket, sentence.finished)
            for sentence, done in zip(self._sentences, decided, strict=True)
            if done
        ]
        self._keep([not done for done in decided])
        return finished

    @torch.inference_mode()
    def cancel(self, tickets: Iterable[int]) -> None:
        """Take sentences out at once, their rows with them; unknown tickets are ignored."""
        gone = set(tickets)
        self._keep([sentence.ticket not in gone for sentence in self._sentences])

    @torch.inference_mode()
    def interrupt(self, tickets: Iterable[int]) -> list[Finished]:
        """Take sentences out at once with the best that they have; unknown tickets are ignored.

        That is what has finished of them; of a sentence of which nothing has, its best live hypotheses, to which
        end-of-sentence is not added: ``score`` is their log-probability over the penalty of the pieces so far.
        """
        gone = set(tickets)
        interrupted = [
            Finished(sentence.ticket, sentence.finished or self._live(slot), complete=False)
            for slot, sentence in enumerate(self._sentences)
            if sentence.ticket in gone
        ]
        self._keep([sentence.ticket not in gone for sentence in self._sentences])
        return interrupted

    def _live(self, slot: int) -> list[Hypothesis]:
        """The best live hypotheses of a sentence, all of one length."""
        assert self._batch is not None
        options, length = self._sentences[slot].options, int(self._batch.length[slot])
        penalty = options.length_penalty.penalty(max(1, length))
        scores = self._batch.scores[slot, : options.n_best].tolist()
        pieces = self._batch.pieces[slot, : options.n_best, 1 : length + 1].tolist()
        return [
            Hypothesis(tuple(row), score / penalty, score)
            for row, score in zip(pieces, scores, strict=True)
            if score > -math.inf
        ]

    def _limit(self, source_length: int, options: SearchOptions) -> int:
        limit = self.length_limit.limit(source_length) if options.max_length is None else options.max_length
        return max(limit, len(options.prefix))

    def _encode(self, sources: Sequence[Sequence[int]], sentences: list[_Sentence]) -> Batch:
        """A batch of just the arrivals, as wide as their widest beam."""
        config, device = self.model.config, self.model.device
        memory = self.model.encode(*pad_sources(sources, config, device))
        slots, width = len(sentences), max(sentence.options.beam_size for sentence in sentences)
        rows = torch.arange(slots, device=device).repeat_interleave(width)
        longest = max(len(sentence.options.prefix) for sentence in sentences)
        prefix = [[*item.options.prefix] + [-1] * (longest - len(item.options.prefix)) for item in sentences]
        scores = torch.full((slots, width), -math.inf, device=device)
        scores[:, 0] = 0.0
        return Batch(
            memory=memory,
            state=self.model.start(memory).select(rows),
            restriction=self._restrict(sources, sentences),
            scores=scores,
            pieces=torch.full((slots, width, 1), config.bos, dtype=torch.int64, device=device),
            length=torch.zeros(slots, dtype=torch.int64, device=device),
            beam=torch.tensor([sentence.options.beam_size for sentence in sentences], device=device),
            limit=torch.tensor([sentence.limit for sentence in sentences], device=device),
            prefix=torch.tensor(prefix, dtype=torch.int64, device=device).view(slots, longest),
        )

    def _restrict(self, sources: Sequence[Sequence[int]], sentences: list[_Sentence]) -> Restriction | None:
        if self.shortlist is None:
            return None
        return Restriction.of(self.model, self.shortlist, sources, [item.options.prefix for item in sentences])

    def _collect(self, extended: Extended) -> None:
        """Hand the hypotheses that ended in this step to their sentences."""
        for slot, rank in extended.ended.nonzero().tolist():
            length = int(extended.live.length[slot]) - 1
            pieces = extended.candidates[slot, rank, 1 : length + 1].tolist()
            self._sentences[slot].finish(pieces, float(extended.values[slot, rank]))

    def _keep(self, kept: list[bool]) -> None:
        """Drop the sentences that are not kept; trim padding that only they needed."""
        if self._batch is None or all(kept):
            return
        self._sentences = [sentence for sentence, keep in zip(self._sentences, kept, strict=True) if keep]
        if not self._sentences:
            self._batch = None
            return
        slots = torch.tensor(kept, device=self._batch.scores.device).nonzero().squeeze(1)
        self._batch = trim(self._batch.select(slots))


def translate(
    model: Model,
    sources: Sequence[Sequence[int]],
    options: SearchOptions,
    length_limit: LengthLimit,
    token_budget: int = 8192,
    shortlist: Shortlist | None = None,
) -> list[list[Hypothesis]]:
    """Translate ``sources`` (ids without begin- or end-of-sentence) and return their hypotheses in order.

    Sentences of like length share a batch, refilled as sentences leave; ``token_budget`` bounds its padded source
    positions times beam size. Raises ValueError as :class:`BeamSearch` does, before anything is translated.
    """
    for source in sources:
        _check(source, options, model.config)
    search = BeamSearch(model, length_limit, shortlist)
    waiting = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    place: dict[int, int] = {}
    results: list[list[Hypothesis]] = [[] for _ in sources]
    while waiting or search.active:
        arrivals = _arrivals(search, sources, waiting, token_budget // options.beam_size)
        tickets = search.admit([sources[index] for index in arrivals], [options] * len(arrivals))
        place.update(zip(tickets, arrivals, strict=True))
        for finished in search.step():
            results[place.pop(finished.ticket)] = finished.hypotheses
    return results


def _arrivals(search: BeamSearch, sources: Sequence[Sequence[int]], waiting: list[int], positions: int) -> list[int]:
    """Take from ``waiting``, longest first, what fits into ``positions`` padded source positions.

    A refill waits until half of the positions are free: small admissions cost an encoder call each.
    """
    if search.padded_tokens * 2 > positions:
        return []
    arrivals: list[int] = []
    longest = 0
    while waiting:
        longest = max(longest, len(sources[waiting[-1]]) + 1, search.longest_source)
        if arrivals and longest * (len(arrivals) + 1 + search.active) > positions:
            break
        if search.active and not arrivals and longest * (1 + search.active) > positions:
            break
        arrivals.append(waiting.pop())
    return arrivals


class Annotation(NamedTuple):
    """What the model thought of a translation: for its T pieces and then end-of-sentence."""

    log_probabilities: list[float]  # (T + 1), natural logarithm
    attention: list[list[float]]  # (T + 1) x (S + 1); the last column is the source's end-of-sentence; rows sum to 1


@torch.inference_mode()
def annotate(model: Seq2Seq, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[Annotation]:
    """Log-probabilities and attention of given translations, in one teacher-forced pass over all pairs.

    ``sources`` and ``targets`` are ids without begin- or end-of-sentence; a ValueError names an id outside the
    vocabulary. Search itself keeps neither figure: whoever asks for them pays for them.
    """
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources came with {len(targets)} targets; give one for each")
    if not sources:
        return []
    config = model.config
    for pieces, target in zip(sources, targets, strict=True):
        _check_ids("source", pieces, config.source_vocabulary)
        _check_ids("target", target, config.target_vocabulary)
    source, source_lengths = pad_sources(sources, config, model.device)
    target_input, _ = pad_ids([[config.bos, *target] for target in targets], config, model.device)
    target_output, _ = pad_ids([[*target, config.eos] for target in targets], config, model.device)
    features, attention = model.attend(source, source_lengths, target_input)
    scores = torch.log_softmax(model.logits(features).float(), dim=-1).gather(2, target_output.unsqueeze(-1)).squeeze(2)
    return [
        Annotation(row[: len(target) + 1].tolist(), weights[: len(target) + 1, : len(pieces) + 1].tolist())
        for row, weights, pieces, target in zip(scores, attention, sources, targets, strict=True)
    ]


def _check(source: Sequence[int], options: SearchOptions, config: ModelConfig) -> None:
    if not source:
        raise ValueError("a source is empty; give it at least one piece")
    _check_ids("source", source, config.source_vocabulary)
    _check_ids("prefix", options.prefix, config.target_vocabulary)
    reserved = {config.pad, config.bos, config.eos} & {*options.prefix}
    if reserved:
        raise ValueError(f"prefix holds the reserved ids {sorted(reserved)}; give pieces of text only")
    if not 1 <= options.n_best <= options.beam_size:
        raise ValueError(f"n_best is {options.n_best}; it must lie between 1 and the beam size, {options.beam_size}")
    if options.max_length is not None and options.max_length < 0:
        raise ValueError(f"max_length is {options.max_length}; it must not be negative")


def _check_ids(name: str, ids: Sequence[int], size: int) -> None:
    for id_ in ids:
        if not 0 <= id_ < size:
            raise ValueError(f"{name} holds the id {id_}; the vocabulary has ids 0 to {size - 1}")
