"""Which models translate between two languages, by BCP 47 tags: one, or two by way of a third language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from app.translation import LanguagePair, PivotedPair, UnsupportedPairError


class DuplicatePairError(ValueError):
    """Two checkpoints translate the same pair, or have the same name."""


class LanguagePairs:
    """The pairs that can be translated.

    With ``pivot``, two pairs that meet in a third language make up for one that is missing. Chains are of two pairs,
    never longer; where several third languages would do, the pairs that come first in ``pairs`` decide.
    """

    def __init__(self, pairs: Sequence[LanguagePair], *, pivot: bool = False) -> None:
        """Raises DuplicatePairError if two pairs, or the names of two models, are the same."""
        self.pairs = tuple(pairs)
        self._by_tags = {(pair.source.lower(), pair.target.lower()): pair for pair in pairs}
        if len(self._by_tags) < len(pairs) or len({pair.model for pair in pairs}) < len(pairs):
            listed = ", ".join(f"{pair.model} ({pair})" for pair in pairs)
            raise DuplicatePairError(f"each language pair and each name may stand only once, got {listed}")
        self._pivoted = self._chains() if pivot else dict[tuple[str, str], PivotedPair]()

    @property
    def pivoted(self) -> tuple[PivotedPair, ...]:
        """The pairs that take two models."""
        return tuple(self._pivoted.values())

    def find(self, source: str, target: str) -> LanguagePair:
        """The pair of one model for two tags: the exact one, else that of a broader tag, such as en for en-US.

        Raises UnsupportedPairError.
        """
        for tags in _candidates(source, target):
            if pair := self._by_tags.get(tags):
                return pair
        raise UnsupportedPairError(source, target, (*self.pairs, *self.pivoted))

    def among(self, source: str | None, target: str | None) -> tuple[LanguagePair, ...]:
        """The pairs that serve the tags that are given, as in :meth:`find`; None leaves a language open.

        Raises UnsupportedPairError if both are given and no pair serves them.
        """
        if source is not None and target is not None:
            return (self.find(source, target),)
        pairs = self.pairs
        if source is not None:
            pairs = _nearest(source, {pair: pair.source for pair in pairs})
        if target is not None:
            pairs = _nearest(target, {pair: pair.target for pair in pairs})
        return pairs

    def route(self, source: str, target: str) -> tuple[LanguagePair, ...]:
        """The pairs to go through, one after the other: the one of :meth:`find`, or two where that one is missing.

        Raises UnsupportedPairError.
        """
        try:
            return (self.find(source, target),)
        except UnsupportedPairError:
            for tags in _candidates(source, target):
                if chain := self._pivoted.get(tags):
                    return chain.first, chain.second
            raise

    def _chains(self) -> dict[tuple[str, str], PivotedPair]:
        chains: dict[tuple[str, str], PivotedPair] = {}
        for first in self.pairs:
            for second in self.pairs:
                source, target = first.source.lower(), second.target.lower()
                meet = second.source.lower() in _lookup(first.target)
                served = any(tags in self._by_tags for tags in _candidates(source, target))
                if meet and not served and not _same_language(source, target):
                    chains.setdefault((source, target), PivotedPair(first, second))
        return chains


def _candidates(source: str, target: str) -> Iterator[tuple[str, str]]:
    """Pairs of tags that serve two tags, the nearest first."""
    return ((source_tag, target_tag) for source_tag in _lookup(source) for target_tag in _lookup(target))


def _nearest(tag: str, languages: Mapping[LanguagePair, str]) -> tuple[LanguagePair, ...]:
    """Those with this language, or the nearest broader one that any of them has."""
    for wanted in _lookup(tag):
        if found := tuple(pair for pair, language in languages.items() if language.lower() == wanted):
            return found
    return ()


def _same_language(one: str, other: str) -> bool:
    """Whether one of the tags is the other or broader than it."""
    return one in _lookup(other) or other in _lookup(one)


def _lookup(tag: str) -> Iterator[str]:
    """The tag and ever broader ones, as RFC 4647, section 3.4 has it; case does not matter."""
    parts = tag.lower().split("-")
    while parts:
        yield "-".join(parts)
        parts.pop()
        if parts and len(parts[-1]) == 1:  # a singleton only introduces the subtag that has just gone
            parts.pop()
