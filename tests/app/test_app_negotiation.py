"""Which media type the header Accept asks for."""

from __future__ import annotations

import pytest

from app.api.negotiation import negotiate

JSON, LINES, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json, text/plain, */*", JSON),
        (f"{JSON}, {EVENTS}", JSON),
        (LINES, LINES),
        (EVENTS, EVENTS),
        ("text/*", EVENTS),
        ("Application/X-NDJSON", LINES),
        (f"{LINES}; charset=utf-8", LINES),
        (f"{JSON};q=0.5, {LINES};q=0.8", LINES),
        (f"{JSON} ; q=0.5 , {EVENTS}", EVENTS),
        (f"{LINES}, */*", LINES),
        (f"{LINES};q=0.9, */*", JSON),
        (f"{JSON};q=0, */*", LINES),
        ("application/*;q=0, */*;q=0.1", EVENTS),
        ("nonsense, ,;q=1, */json, text/event-stream", EVENTS),
        ("image/png", None),
        ("nonsense", None),
        ("*/*;q=0", None),
        (f"{JSON};q=0.000", None),
        (f"{JSON};q=2", None),
        (f"{JSON};q=nan", None),
    ],
)
def test_the_best_liked_of_the_media_types_is_chosen(accept: str, answered: str | None) -> None:
    assert negotiate(accept, (JSON, LINES, EVENTS)) == answered
