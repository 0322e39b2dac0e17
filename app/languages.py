"""Which model translates between two languages, by BCP 47 tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from app.translation import LanguagePair, UnsupportedPairError


class DuplicatePairError(ValueError):
    """Two checkpoints translate the same pair, or have the same name."""


class LanguagePairs:
    """The pairs that can be translated."""

    def __init__(self, pairs: Sequence[LanguagePair]) -> None:
        """Raises DuplicatePairError if two pairs, or the names of two models, are the same."""
        self.pairs = tuple(pairs)
        self._by_tags = {(pair.source.lower(), pair.target.lower()): pair for pair in pairs}
        if len(self._by_tags) < len(pairs) or len({pair.model for pair in pairs}) < len(pairs):
            listed = ", ".join(f"{pair.model} ({pair})" for pair in pairs)
            raise DuplicatePairError(f"each language pair and each name may stand only once, got {listed}")

    def find(self, source: str, target: str) -> LanguagePair:
        """The pair for two tags: the exact one, else that of a broader tag, such as en for en-US.

        Raises UnsupportedPairError.
        """
        for source_tag in _lookup(source):
            for target_tag in _lookup(target):
                if pair := self._by_tags.get((source_tag, target_tag)):
                    return pair
        raise UnsupportedPairError(source, target, self.pairs)


def _lookup(tag: str) -> Iterator[str]:
    """The tag and ever broader ones, as RFC 4647, section 3.4 has it; case does not matter."""
    parts = tag.lower().split("-")
    while parts:
        yield "-".join(parts)
        parts.pop()
        if parts and len(parts[-1]) == 1:  # a singleton only introduces the subtag that has just gone
            parts.pop()
