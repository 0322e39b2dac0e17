"""In which media type to answer, by the client's Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


@lru_cache(32)  # clients send the same few
def negotiate(accept: str, offered: tuple[str, ...]) -> str | None:
    """The media type of ``offered`` that ``accept`` likes best; None if it takes none of them.

    Of those it likes equally, the one that it names more exactly, then the one offered first. An empty header takes
    anything. Parameters other than ``q`` do not count, and what is not a media range is passed over.
    """
    ranges = [found for part in accept.split(",") if (found := _read(part))]
    if not accept.strip():
        return offered[0]
    likings = [_liking(media_type, ranges) for media_type in offered]
    best = max(likings)
    return offered[likings.index(best)] if best.quality > 0 else None


class _Range(NamedTuple):
    main: str
    sub: str
    quality: float


class _Liking(NamedTuple):
    quality: float
    exactness: int  # 2 for type/subtype, 1 for type/*, 0 for */*


def _read(part: str) -> _Range | None:
    """A media range; None if it is none."""
    name, *parameters = (item.strip().lower() for item in part.split(";"))
    main, slash, sub = name.partition("/")
    if not (main and slash and sub) or (main == "*" and sub != "*"):
        return None
    quality = next((value.strip() for key, _, value in (item.partition("=") for item in parameters) if key == "q"), "1")
    return _Range(main, sub, float(quality)) if QUALITY.fullmatch(quality) else None


def _liking(media_type: str, ranges: Sequence[_Range]) -> _Liking:
    """The most exact range that a media type falls under decides how much it is liked."""
    main, sub = media_type.split("/")
    found = [
        (exactness, quality)
        for range_main, range_sub, quality in ranges
        for exactness, names in enumerate((("*", "*"), (main, "*"), (main, sub)))
        if (range_main, range_sub) == names
    ]
    exactness, quality = max(found, default=(0, 0.0))
    return _Liking(quality, exactness)
