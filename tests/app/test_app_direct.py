"""The short way for a good body takes nothing that FastAPI's would not, and reads it alike."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from app.api.v1_request import TranslateBody

REST = ', "source": "en", "target": "de"'


@pytest.mark.parametrize(
    "body",
    [
        f'{{"text": "a"{REST}}}',
        f'{{"text": "a", "text": "b"{REST}}}',
        f'{{"text": ["a", "b"]{REST}, "length_penalty": 1}}',
        f'{{"text": "a"{REST}, "length_penalty": NaN}}',
        f'{{"text": "a"{REST}, "n_best": 1.0}}',
        f'{{"text": "a"{REST}, "beam_size": 99999999999999999999999}}',
        f'{{"text": "a"{REST}, "deadline_ms": "5"}}',
        f'{{"text": "a"{REST}, "scores": 1}}',
        f'{{"text": "\\ud800"{REST}}}',
        f'{{"text": "\\u0000"{REST}}}',
        f'{{"text": []{REST}}}',
        "[1]",
    ],
)
def test_a_body_is_read_alike_by_both_ways(body: str) -> None:
    def short() -> TranslateBody:
        return TranslateBody.model_validate_json(body)

    try:
        expected = TranslateBody.model_validate(json.loads(body))
    except ValidationError:
        with pytest.raises(ValidationError):
            short()
    else:
        assert short() == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_what_is_not_plain_utf_8_is_left_to_the_long_way(encoding: str) -> None:
    with pytest.raises(ValidationError):
        TranslateBody.model_validate_json(f'{{"text": "ä"{REST}}}'.encode(encoding))
