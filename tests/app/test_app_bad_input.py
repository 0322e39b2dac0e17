"""What the service answers to input it cannot take: always a problem document, and never the end of the service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI
from service_harness import running
from starlette.testclient import TestClient

from app.engine import Engine
from app.main import create_app
from app.settings import Settings
from app.translator import TranslationRequest, Translator

GOOD = {"text": "Hold on!", "source": "en", "target": "de"}
JSON = {"Content-Type": "application/json"}


class Case(NamedTuple):
    """A body that cannot be taken."""

    body: str | bytes
    status: int
    type: str
    says: str  # must stand in the detail


def bad(status: int, type_: str, says: str, **fields: Any) -> Case:
    return Case(json.dumps({**GOOD, **fields}), status, type_, says)


def invalid(says: str, **fields: Any) -> Case:
    return bad(422, "invalid-request", says, **fields)


CASES = {
    "empty list": invalid("text: must hold at least one text", text=[]),
    "too many texts": bad(413, "too-large", "10000 texts; at most 50 are allowed", text=["a"] * 10_000),
    "too long a text": bad(413, "too-large", "6001 characters; at most 6000 are allowed", text="a" * 6001),
    "number as text": invalid("text: must be a valid string", text=7),
    "null as text": invalid("text: must be a valid string, got null", text=None),
    "object as text": invalid("text: must be a valid string", text={"a": 1}),
    "number in a list": invalid("text[1]: must be a valid string, got 2", text=["a", 2]),
    "lone surrogate": invalid("text: the text holds a lone surrogate U+D800 at character 1", text="a\ud800b"),
    "lone surrogate in a list": invalid("text[1]: the text holds a lone surrogate", text=["a", "\udfff"]),
    "lone surrogate as language": invalid("source: the text holds a lone surrogate", source="\ud800"),
    "lone surrogate as field": invalid("lone surrogate", **{"\ud800": 1}),
    "misspelt field": invalid("not a known field; did you mean beam_size?", beamsize=5),
    "unknown field": invalid("frobnicate: is not a known field", frobnicate=True),
    "beam of nothing": invalid("beam_size: must be greater than or equal to 1, got 0", beam_size=0),
    "beam too wide": invalid("beam_size: must be at most 16, got 17", beam_size=17),
    "beam as string": invalid('beam_size: must be a valid integer, got "5"', beam_size="5"),
    "beam as boolean": invalid("beam_size: must be a valid integer, got true", beam_size=True),
    "more n-best than beam": invalid("n_best: must be at most the beam size", beam_size=3, n_best=4),
    "endless n-best": invalid("n_best: must be at most the beam size, 16, got 1000", n_best=1000),
    "penalty not a number": invalid("must be a finite number", length_penalty=float("nan")),
    "endless penalty": invalid("length_penalty: ", length_penalty=float("inf")),
    "unknown priority": invalid("priority: must be 'interactive' or 'bulk', got \"urgent\"", priority="urgent"),
    "partial as string": invalid('partial: must be a valid boolean, got "yes"', partial="yes"),
    "deadline too far": invalid("deadline_ms: must be at most 60000", deadline_ms=60_001),
    "deadline passed": bad(504, "deadline", "allow more time or send less text", text=["A river."] * 50, deadline_ms=1),
    "unsupported pair": bad(404, "unsupported-pair", "the pairs there are: en-de, en-fr", target="xx"),
    "language of 10,000 letters": bad(404, "unsupported-pair", "the pairs there are", source="x" * 10_000),
    "missing field": Case('{"text": "a", "source": "en"}', 422, "invalid-request", "target: is required"),
    "list as body": Case("[1, 2]", 422, "invalid-request", "body: must be a JSON object"),
    "string as body": Case('"text"', 422, "invalid-request", "body: must be a JSON object"),
    "null as body": Case("null", 422, "invalid-request", "body: "),
    "nothing as body": Case("", 400, "malformed-json", "The body is empty"),
    "broken JSON": Case('{"text": "a', 400, "malformed-json", "Unterminated string starting at at character 9"),
    "two values": Case("{}{}", 400, "malformed-json", "Extra data"),
    "not UTF-8": Case(b'{"text": "\xff"}', 400, "malformed-json", "send UTF-8"),
    "deep nesting": Case("[" * 100_000, 400, "malformed-json", "nest less deeply"),
    "endless number": Case('{"beam_size": ' + "9" * 10_000 + "}", 400, "malformed-json", "The body is not JSON"),
    "megabytes": Case(json.dumps({**GOOD, "text": "a" * 1_000_000}), 413, "too-large", "the limit of 200000 bytes"),
}  # fmt: skip


@pytest.fixture
def survivor(client: TestClient) -> Iterator[TestClient]:
    """The service, which must still translate when the test is over."""
    yield client
    assert client.post("/v1/translate", json=GOOD).status_code == 200


def problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document, checked for what all of them have."""
    assert response.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == response.status_code
    assert document["request_id"] == response.headers["X-Request-ID"]
    assert document["type"].startswith("urn:ferry:problem:") and document["title"]
    assert "Traceback" not in response.text and ".py" not in response.text
    assert len(response.content) < 5000
    return document


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_bad_body_is_answered_with_a_problem(survivor: TestClient, case: Case) -> None:
    response = survivor.post("/v1/translate", content=case.body, headers=JSON)
    document = problem(response)
    assert (response.status_code, document["type"]) == (case.status, f"urn:ferry:problem:{case.type}")
    assert case.says in document["detail"]
    assert ("errors" in document) == (case.type == "invalid-request")
    assert ("limit" in document) == (case.type == "too-large")
    assert ("pairs" in document) == (case.type == "unsupported-pair")


GOOD_TEXTS = {
    "NUL": "The river\x00 is wide.",
    "emoji": "Hold on! 👩‍👩‍👧‍👦🏳️‍🌈 😀",
    "right to left": "هذا نهر واسع. שלום עולם!",
    "a word of 5,000 characters": "a" * 5000,
    "no spaces": "川は広い。" * 300,
    "combining marks": "a" + "\u0301" * 2000,
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\x85\u2028\u2029\ufeff\ufffe\uffff",
    "beyond the first plane": "\U0001d573\U00010380 \U0010ffff",
}


@pytest.mark.parametrize("text", GOOD_TEXTS.values(), ids=GOOD_TEXTS.keys())
def test_odd_text_is_translated(survivor: TestClient, text: str) -> None:
    options = {"beam_size": 2, "n_best": 2, "alignment": True, "scores": True}
    response = survivor.post("/v1/translate", json={**GOOD, "text": text, **options})
    assert response.status_code == 200, response.text
    (translation,) = response.json()["translations"]
    for segment in translation["alignment"]:
        assert all(0 <= piece["start"] <= piece["end"] <= len(text) for piece in segment["source"])
        assert all(0 <= piece["end"] <= len(translation["text"]) for piece in segment["target"])


def test_a_body_must_be_declared_as_json(survivor: TestClient) -> None:
    response = survivor.post("/v1/translate", content=json.dumps(GOOD), headers={"Content-Type": "text/plain"})
    assert (response.status_code, problem(response)["type"]) == (415, "urn:ferry:problem:not-json")


def test_a_body_that_streams_in_without_a_length_is_limited(survivor: TestClient) -> None:
    pieces = (b" " * 10_000 for _ in range(30))
    response = survivor.post("/v1/translate", content=pieces, headers=JSON)
    assert (response.status_code, problem(response)["limit"]) == (413, 200_000)


def test_unknown_paths_and_methods_are_problems(survivor: TestClient) -> None:
    missing = survivor.get("/v2/translate")
    assert (missing.status_code, problem(missing)["type"]) == (404, "urn:ferry:problem:no-such-path")
    assert survivor.get("/static/../settings.py").status_code == 404
    wrong = survivor.get("/v1/translate")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
    assert problem(wrong)["detail"] == "GET does not work on /v1/translate; use POST."


def test_what_nobody_foresaw_is_a_problem_without_its_reason(
    survivor: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Translator, request: TranslationRequest) -> None:
        raise RuntimeError("secret of the house")

    with monkeypatch.context() as patch:
        patch.setattr(Translator, "translate", broken)
        response = survivor.post("/v1/translate", json=GOOD)
    document = problem(response)
    assert (response.status_code, document["type"]) == (500, "urn:ferry:problem:internal")
    assert "secret" not in response.text and document["request_id"] in document["detail"]


def test_a_service_that_has_not_started_is_not_ready(tiny_checkpoint: Path) -> None:
    client = TestClient(create_app(Settings(checkpoints=(tiny_checkpoint,), threads=1)))
    for response in (client.get("/health/ready"), client.post("/v1/translate", json=GOOD)):
        assert (response.status_code, problem(response)["type"]) == (503, "urn:ferry:problem:not-ready")
        assert int(response.headers["Retry-After"]) >= 1
    assert client.get("/health/live").status_code == 200


def test_a_service_that_shuts_down_refuses_new_requests(tiny_checkpoint: Path) -> None:
    with running(checkpoints=(tiny_checkpoint,)) as client:
        assert isinstance(client.app, FastAPI)
        client.app.state.service.drain()
        response = client.post("/v1/translate", json=GOOD)
        assert response.status_code == 503 and "shutting down" in problem(response)["detail"]
        assert client.get("/health/ready").status_code == 503


def test_a_request_that_could_never_fit_the_queue_is_too_large(tiny_checkpoint: Path) -> None:
    with running(checkpoints=(tiny_checkpoint,), queue_tokens=64) as client:
        response = client.post("/v1/translate", json={**GOOD, "text": "We cross the water. " * 30})
        assert (response.status_code, problem(response)["limit"]) == (413, 64)
        assert client.post("/v1/translate", json=GOOD).status_code == 200


def test_what_the_queue_has_no_room_for_is_told_when_to_come_again(tiny_checkpoint: Path) -> None:
    with running(checkpoints=(tiny_checkpoint,), queue_tokens=100) as client:
        assert isinstance(client.app, FastAPI)
        responses = asyncio.run(_at_once(client.app, 20))
    statuses = sorted(response.status_code for response in responses)
    assert set(statuses) == {200, 429}
    for response in responses:
        if response.status_code == 429:
            assert problem(response)["type"] == "urn:ferry:problem:queue-full" and problem(response)["limit"] == 100
            assert int(response.headers["Retry-After"]) >= 1


async def _at_once(app: FastAPI, requests: int) -> list[httpx.Response]:
    engine = app.state.service.engine
    assert isinstance(engine, Engine)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ferry") as client:
        text = "We cross the water every morning."
        return await asyncio.gather(
            *(client.post("/v1/translate", json={**GOOD, "text": text}) for _ in range(requests))
        )
