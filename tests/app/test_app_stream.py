"""Answers that are streamed, segment by segment."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import Message

from app.api import disconnect
from app.api.v1_stream import StreamEvent
from app.engine import DeadlineError, QueueFullError
from app.translation import SegmentTranslation, Span, Translation, TranslationRequest, TranslationResponse
from app.translator import Translator

LINES, EVENTS = "application/x-ndjson", "text/event-stream"
BODY = {"text": "One. Two.", "source": "en", "target": "de"}
FIRST = SegmentTranslation(0, 0, 2, Span(0, 4), "", "Eins.", " ", None, "complete")
SECOND = SegmentTranslation(0, 1, 2, Span(5, 9), "", "Zwei.", "", None, "complete")
WHOLE = TranslationResponse([Translation("Eins. Zwei.", None, [], None, [])], "en-de", "0", "en", "de", 0.0, 0.0)

Step = SegmentTranslation | TranslationResponse | Exception | asyncio.Event


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let the translator give these events, raise these errors, and wait for these asyncio.Events, in turn.

    The list that is returned gets a line when the translator is done or closed.
    """

    def play(*steps: Step) -> list[str]:
        ends: list[str] = []

        async def stream(_: Translator, __: TranslationRequest) -> AsyncGenerator[object]:
            try:
                for step in steps:
                    if isinstance(step, Exception):
                        raise step
                    if isinstance(step, asyncio.Event):
                        await step.wait()
                    else:
                        yield step
            finally:
                ends.append("ended")

        monkeypatch.setattr(Translator, "stream", stream)
        return ends

    return play


def ask(client: TestClient, accept: str = LINES, **fields: Any) -> httpx.Response:
    return client.post("/v1/translate", json={**BODY, **fields}, headers={"Accept": accept})


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200 and response.headers["Content-Type"] == LINES
    return [json.loads(line) for line in response.iter_lines()]


def test_every_segment_and_then_the_answer_is_a_line(client: TestClient, script: Callable[..., list[str]]) -> None:
    script(SECOND, FIRST, WHOLE)
    second, first, answer = lines(ask(client))
    assert second == {
        "event": "segment", "text": 0, "segment": 1, "segments": 2, "start": 5, "end": 9,
        "before": "", "translation": "Zwei.", "after": "", "score": None, "status": "complete",
    }  # fmt: skip
    assert (first["segment"], first["translation"], first["after"]) == (0, "Eins.", " ")
    assert answer["event"] == "answer" and answer["answer"]["translations"][0]["text"] == "Eins. Zwei."


def test_server_sent_events_hold_the_same(client: TestClient, script: Callable[..., list[str]]) -> None:
    script(FIRST, SECOND, DeadlineError("too late"))
    response = ask(client, EVENTS)
    assert response.headers["Content-Type"].startswith(EVENTS)
    blocks = response.text.removesuffix("\n\n").split("\n\n")
    names, data = zip(*(block.split("\ndata: ") for block in blocks), strict=True)
    assert names == ("event: segment", "event: segment", "event: problem")
    script(FIRST, SECOND, DeadlineError("too late"))
    again = lines(ask(client))
    for line in (one := [json.loads(item) for item in data]) + again:
        line.get("problem", {}).pop("request_id", None)
    assert one == again


def test_proxies_are_told_not_to_hold_it_back(client: TestClient, script: Callable[..., list[str]]) -> None:
    script(WHOLE)
    headers = ask(client).headers
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")


def test_the_text_can_be_rebuilt_from_its_segments(client: TestClient) -> None:
    texts = ["\n The river is wide.\u2028\x85She reads.\r\n\r\n\tHold on! ", " ", "We cross the water."]
    *segments, last = lines(ask(client, text=texts))
    rebuilt = {
        number: "".join(
            f"{item['before']}{item['translation']}{item['after']}"
            for item in sorted(segments, key=lambda item: item["segment"])
            if item["text"] == number
        )
        for number in (0, 2)
    }
    whole = [translation["text"] for translation in last["answer"]["translations"]]
    assert whole == [rebuilt[0], " ", rebuilt[2]]
    for item in segments:
        assert texts[item["text"]][item["start"] : item["end"]].strip()
        assert item["segments"] == sum(other["text"] == item["text"] for other in segments)


def test_the_last_event_is_the_answer_without_streaming(client: TestClient) -> None:
    options = {"text": "She reads. We leave.", "n_best": 2, "scores": True, "alignment": True}
    *segments, last = lines(ask(client, **options))
    plain = ask(client, "application/json", **options).json()
    assert {**last["answer"], "timings": None} == {**plain, "timings": None}
    assert all(segment["score"] < 0 for segment in segments)


def test_a_blank_text_has_no_segments(client: TestClient) -> None:
    (answer,) = lines(ask(client, text=" \n"))
    assert answer["answer"]["translations"][0]["text"] == " \n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DeadlineError("too late"), 504),
        (QueueFullError("the queue is full", 1.5, 9), 429),
        (RuntimeError("secret"), 500),
    ],
)
def test_what_goes_wrong_before_the_first_segment_has_its_own_status(
    client: TestClient, script: Callable[..., list[str]], error: Exception, status: int
) -> None:
    script(error)
    response = ask(client)
    assert response.status_code == status and response.headers["Content-Type"] == "application/problem+json"
    assert "secret" not in response.text


@pytest.mark.parametrize(("error", "status"), [(DeadlineError("too late"), 504), (RuntimeError("secret"), 500)])
def test_what_goes_wrong_after_it_is_the_last_event(
    client: TestClient, script: Callable[..., list[str]], error: Exception, status: int
) -> None:
    ends = script(FIRST, error)
    before = counted(client, status)
    response = ask(client)
    segment, problem = lines(response)
    assert segment["event"] == "segment" and problem["event"] == "problem"
    assert problem["problem"]["status"] == status and "secret" not in response.text
    assert problem["problem"]["request_id"] == response.headers["X-Request-ID"]
    assert ends == ["ended"]
    assert counted(client, status) == before + 1, "the metrics count it as what it was, not as 200"


def test_a_segment_is_sent_while_the_next_is_being_translated(
    application: FastAPI, script: Callable[..., list[str]]
) -> None:
    async def conversation() -> None:
        rest = asyncio.Event()
        script(FIRST, rest, SECOND, WHOLE)
        connection = Connection()
        call = asyncio.ensure_future(connection.ask(application))
        await connection.received(lambda body: b"Eins." in body)
        assert b"Zwei." not in connection.body and not call.done()
        rest.set()
        await call
        assert connection.body.count(b"\n") == 3

    asyncio.run(conversation())


def test_a_client_that_hangs_up_ends_the_work(
    application: FastAPI, client: TestClient, script: Callable[..., list[str]]
) -> None:
    before = counted(client, 499)

    async def conversation() -> list[str]:
        ends = script(FIRST, asyncio.Event(), WHOLE)
        connection = Connection()
        call = asyncio.ensure_future(connection.ask(application))
        await connection.received(lambda body: b"Eins." in body)
        connection.gone.set()
        await call
        return ends

    assert asyncio.run(conversation()) == ["ended"]
    assert application.state.service.in_flight == 0
    assert counted(client, 499) == before + 1


def test_a_client_that_stops_reading_ends_the_work(
    application: FastAPI, script: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnect, "STALLED_SECONDS", 0.05)
    ends = script(FIRST, SECOND, WHOLE)
    connection = Connection(reads=False)
    asyncio.run(connection.ask(application))
    assert ends == ["ended"] and application.state.service.in_flight == 0


def test_what_fits_no_media_type_is_refused(client: TestClient) -> None:
    response = ask(client, "image/png, text/html;q=0.5")
    assert (response.status_code, response.headers["Content-Type"]) == (406, "application/problem+json")
    assert response.json()["detail"].startswith("The header Accept is image/png, text/html;q=0.5; let it take app")


def test_the_documented_streams_are_streams(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    content = document["paths"]["/v1/translate"]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", LINES, EVENTS}
    events = [StreamEvent.model_validate_json(line) for line in content[LINES]["example"].splitlines()]
    data = re.findall("^data: (.*)$", content[EVENTS]["example"], re.MULTILINE)
    assert [StreamEvent.model_validate_json(line) for line in data] == events
    assert [event.root.event for event in events] == ["segment", "segment", "answer"]
    assert (
        content[LINES]["itemSchema"]["$ref"].removeprefix("#/components/schemas/") in document["components"]["schemas"]
    )


def counted(client: TestClient, status: int) -> float:
    """How many requests to translate were answered with ``status``."""
    line = rf'^ferry_requests_total{{route="/v1/translate",status="{status}"}} (.+)$'
    found = re.search(line, client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


class Connection:
    """A client of the application, without a socket between them."""

    def __init__(self, reads: bool = True) -> None:
        self.body = b""
        self.gone = asyncio.Event()
        self._reads = reads
        self._news = asyncio.Event()
        self._sent = False

    async def ask(self, application: FastAPI) -> None:
        headers = [(b"content-type", b"application/json"), (b"accept", LINES.encode())]
        path = "/v1/translate"
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        await application({**scope, "headers": headers}, self._receive, self._send)

    async def received(self, condition: Callable[[bytes], bool]) -> None:
        """Wait until the body so far is as the condition wants it."""
        async with asyncio.timeout(20):
            while not condition(self.body):
                await self._news.wait()
                self._news.clear()

    async def _receive(self) -> Message:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": json.dumps(BODY).encode()}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if not self._reads:
            await asyncio.Event().wait()
        self.body += message.get("body", b"")
        self._news.set()
