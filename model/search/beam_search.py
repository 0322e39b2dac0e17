"""The search itself: sentences join, are stepped, and leave."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from model.config import LengthLimit
from model.ensemble import Model, as_ensemble
from model.padding import pad_sources
from model.restriction import Restriction
from model.search.batch import Batch, settle
from model.search.beams import Beams
from model.search.options import SearchOptions, check_sentence
from model.search.sentence import Finished, Sentence
from model.search.slots import Booleans
from model.shortlist import Shortlist

STRIDE = 12  # steps at a time where nobody looks in between: most of a short sentence


class BeamSearch:
    """A set of sentences under translation by one model, or by several as an ensemble."""

    def __init__(self, model: Model, length_limit: LengthLimit, shortlist: Shortlist | None = None) -> None:
        """With a ``shortlist``, on the model's device, a sentence is translated with its pieces alone.

        Raises ShortlistError for one of other vocabularies.
        """
        self.model, self.length_limit, self.shortlist = as_ensemble(model), length_limit, shortlist
        if shortlist is not None:
            shortlist.check(self.model.config)
        self.steps = 0  # taken so far
        self._tickets = itertools.count()
        self._batches: list[Batch] = []

    @property
    def active(self) -> int:
        """Sentences under way."""
        return sum(len(batch.beams) for batch in self._batches)

    @property
    def rows(self) -> int:
        """Rows of the decoder's batch: slots times the widest beam."""
        return self.active * max((batch.beams.width for batch in self._batches), default=0)

    @property
    def padded_tokens(self) -> int:
        """Source positions that a step attends to, padding included; up to as many again may be held in reserve."""
        return self.active * self.longest_source

    @property
    def longest_source(self) -> int:
        """Source positions of a slot, padding included."""
        return max((batch.beams.positions for batch in self._batches), default=0)

    @torch.inference_mode()
    def admit(self, sources: Sequence[Sequence[int]], options: Sequence[SearchOptions]) -> list[int]:
        """Encode ``sources`` (ids without begin- or end-of-sentence) and add them; returns a ticket for each.

        Raises ValueError, admitting nothing, for an empty source, an id outside the vocabulary or impossible options.
        """
        if len(sources) != len(options):
            raise ValueError(f"{len(sources)} sources came with {len(options)} options; give one for each")
        config = self.model.config
        for source, option in zip(sources, options, strict=True):
            check_sentence(source, option, config)
        if not sources:
            return []
        sentences = [
            Sentence(next(self._tickets), source, option, option.limit(len(source), self.length_limit))
            for source, option in zip(sources, options, strict=True)
        ]
        memory = self.model.encode(*pad_sources(sources, config, self.model.device))
        beams, restriction = Beams.begin(sentences, config.bos), self._restriction(sources, options)
        self._batches.append(Batch(self.model, beams, memory, restriction))
        return [sentence.ticket for sentence in sentences]

    @torch.inference_mode()
    def step(self, most: int = 1) -> list[Finished]:
        """Advance every sentence by one piece; sentences that are decided leave and are returned.

        Where a model can take several steps in one call, it takes up to ``most``, and gives what single ones give.
        """
        self._batches = settle(self._batches)
        ahead = [batch.ahead(most) for batch in self._batches]
        self.steps += max((len(item.steps) for item in ahead), default=0)
        found = [item for batch, each in zip(self._batches, ahead, strict=True) for item in batch.take(each)]
        self._batches = [batch for batch in self._batches if len(batch.beams)]
        return found

    @torch.inference_mode()
    def cancel(self, tickets: Iterable[int]) -> None:
        """Take sentences out at once, their rows with them; unknown tickets are ignored."""
        self._leave(_holding(tickets), Beams.interrupted)

    @torch.inference_mode()
    def interrupt(self, tickets: Iterable[int]) -> list[Finished]:
        """Take sentences out at once with the best that they have; unknown tickets are ignored.

        That is what has finished of them; of a sentence of which nothing has, its best live hypotheses, to which
        end-of-sentence is not added: ``score`` is their log-probability over the penalty of the pieces so far.
        """
        return self._leave(_holding(tickets), Beams.interrupted)

    def _restriction(self, sources: Sequence[Sequence[int]], options: Sequence[SearchOptions]) -> Restriction | None:
        if self.shortlist is None:
            return None
        return Restriction.of(self.model, self.shortlist, sources, [option.prefix for option in options])

    def _leave(self, choose: Callable[[Beams], Booleans], result: Callable[[Beams, int], Finished]) -> list[Finished]:
        """Take out the sentences that are chosen; returns their results."""
        left = []
        for batch in self._batches:
            chosen = choose(batch.beams)
            if chosen.any():
                left += [result(batch.beams, slot) for slot in np.flatnonzero(chosen).tolist()]
                batch.keep(~chosen)
        self._batches = [batch for batch in self._batches if len(batch.beams)]
        return left


def _holding(tickets: Iterable[int]) -> Callable[[Beams], Booleans]:
    wanted = set(tickets)
    return lambda beams: np.array([sentence.ticket in wanted for sentence in beams.sentences], dtype=np.bool_)
