"""Pairs as people also type them: the source in small letters, neither side with a mark at the end.

After the modifiers of OpusTrainer (Bogoychev et al. 2023, arXiv:2311.14838, section 3). Its capitals are not among
them: text in capitals is read in small letters (:mod:`tokenizer.capitals`). An altered pair is one of the sampled
encodings of its pair (:mod:`training.encoding`), never a pair more.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tokenizer.normalize import normalize
from training.corpus_config import AugmentationConfig
from training.hashes import NO_HASHES, HashArray, hash_pairs
from training.reading import Pair

_END = ".!?\u2026\u3002\uff01\uff1f "  # also … and the marks of Chinese; with the space that French sets before one
_OPENING = "¿¡"


class Augmentation(NamedTuple):
    """What is altered, and what never may come of it. Can be pickled."""

    config: AugmentationConfig = AugmentationConfig()
    symbols: tuple[str, ...] = ()  # tokenizer.user_symbols, which stay as they are wherever they stand
    held_out: HashArray = NO_HASHES  # no altered pair is one of these, which dev or test ask

    def alter(self, pairs: Sequence[Pair], draw: random.Random) -> list[Pair | None]:
        """Of each normalised pair what is drawn for it, normalised; None where it stays as it is."""
        altered = [self._altered(pair, draw) for pair in pairs]
        hashes = hash_pairs([pair[:2] for pair in altered])
        asked = np.isin(hashes, self.held_out).tolist()
        return [
            None if shown or new == old or not (new.source and new.target) else new
            for new, old, shown in zip(altered, pairs, asked, strict=True)
        ]

    def _altered(self, pair: Pair, draw: random.Random) -> Pair:
        small, bare = draw.random() < self.config.lower_case, draw.random() < self.config.no_end_punctuation
        source, target = pair.source, pair.target
        if small:
            source = self._lower(source)
        if bare and source[-1] in _END and target[-1] in _END:
            source, target = _without_marks(source), _without_marks(target)
        # Unicode's mapping may decompose: the small letter of U+0130 is two characters.
        return Pair(normalize(source), normalize(target), pair.line)

    def _lower(self, text: str) -> str:
        if not self.symbols:
            return text.lower()
        longest_first = sorted(self.symbols, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        return "".join(part if place % 2 else part.lower() for place, part in enumerate(parts))


def _without_marks(text: str) -> str:
    return text.rstrip(_END).lstrip(_OPENING)


NO_AUGMENTATION = Augmentation()
