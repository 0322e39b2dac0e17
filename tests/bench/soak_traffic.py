"""The requests of a soak: good ones of several kinds, and clients and inputs that misbehave; each knows what is right.

Every request ends with a verdict. ``lost`` is one that was never answered, ``wrong`` one with another status or another
translation than the right one; the other verdicts are what its kind may end with.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

import httpx

from tests.system.faulty_service import POISON

CLIENT_SECONDS = 120.0  # longer than any deadline of the service: whoever hears nothing until then is lost
Verdict = Literal["answered", "refused", "late", "failed", "hung up", "wrong", "lost"]


class Request(NamedTuple):
    """What became of one request."""

    kind: str
    due: float  # seconds after the soak began
    seconds: float  # from then until its end
    status: int  # 0 without an answer
    verdict: Verdict


class Traffic:
    """Makes requests of all kinds in the shares of :data:`KINDS`, and judges the answers."""

    def __init__(self, client: httpx.AsyncClient, texts: Sequence[str], languages: tuple[str, str]) -> None:
        self._client, self._texts = client, texts
        self._source, self._target = languages
        self._right: dict[str, str] = {}  # what each text is translated to by a service that has nothing else to do

    async def learn(self) -> None:
        """Translate every text alone."""
        for text in self._texts:
            response = await self._post({"text": text})
            response.raise_for_status()
            self._right[text] = response.json()["translations"][0]["text"]

    async def ask(self, number: int) -> tuple[str, int, Verdict]:
        """One request; kind and content depend on its number alone. Returns its kind, status and verdict."""
        draw = random.Random(number)
        (kind,) = draw.choices(list(KINDS), [share for share, _ in KINDS.values()])
        try:
            status, verdict = await KINDS[kind][1](self, draw)
        except (httpx.HTTPError, ValueError):
            return kind, 0, "lost"
        return kind, status, verdict

    async def one(self, draw: random.Random) -> tuple[int, Verdict]:
        """A sentence, as from a person at the page."""
        text = draw.choice(self._texts)
        return self._judge(await self._post({"text": text}), [text])

    async def several(self, draw: random.Random) -> tuple[int, Verdict]:
        """A list of texts, as from a program."""
        texts = draw.choices(self._texts, k=draw.randint(5, 40))
        return self._judge(await self._post({"text": texts}), texts)

    async def streamed(self, draw: random.Random) -> tuple[int, Verdict]:
        """A list of texts whose segments come as they are done."""
        texts = draw.choices(self._texts, k=draw.randint(5, 40))
        body = self._body({"text": texts})
        async with self._client.stream("POST", "/v1/translate", json=body, headers=NDJSON) as response:
            if response.status_code != 200:
                return await self._refusal(response)
            events = [json.loads(line) async for line in response.aiter_lines()]
        if events[-1]["event"] != "answer":
            return response.status_code, "wrong"
        return response.status_code, self._compare(events[-1]["answer"], texts)

    async def hurried(self, draw: random.Random) -> tuple[int, Verdict]:
        """Texts with a deadline that may pass, and whoever asks may take what there is by then."""
        texts = draw.choices(self._texts, k=draw.randint(1, 20))
        fields = {"deadline_ms": draw.randint(1, 400), "partial": draw.random() < 0.5}
        response = await self._post({"text": texts, **fields})
        return (504, "late") if response.status_code == 504 else self._judge(response, texts)

    async def hanging_up(self, draw: random.Random) -> tuple[int, Verdict]:
        """A client that goes away while its texts wait, are encoded or decoded, or are written."""
        texts = draw.choices(self._texts, k=draw.randint(1, 40))
        task = asyncio.create_task(self._post({"text": texts}))
        await asyncio.wait([task], timeout=draw.random() * 0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return 0, "hung up"

    async def poisonous(self, draw: random.Random) -> tuple[int, Verdict]:
        """Texts of which one makes the model fail: this request fails, and no other."""
        texts = draw.choices(self._texts, k=draw.randint(0, 8))
        response = await self._post({"text": [*texts, f"The {POISON} river"]})
        return (500, "failed") if response.status_code == 500 else self._refused_or_wrong(response)

    async def malformed(self, draw: random.Random) -> tuple[int, Verdict]:
        """What no service can answer."""
        content, status = draw.choice(MALFORMED)
        response = await self._client.post("/v1/translate", content=content, headers=JSON)
        return response.status_code, "refused" if response.status_code == status else "wrong"

    async def _post(self, fields: dict[str, object]) -> httpx.Response:
        return await self._client.post("/v1/translate", json=self._body(fields))

    def _body(self, fields: dict[str, object]) -> dict[str, object]:
        return {"source": self._source, "target": self._target, **fields}

    def _judge(self, response: httpx.Response, texts: Sequence[str]) -> tuple[int, Verdict]:
        if response.status_code != 200:
            return self._refused_or_wrong(response)
        return 200, self._compare(response.json(), texts)

    def _compare(self, answer: dict[str, list[dict[str, str]]], texts: Sequence[str]) -> Verdict:
        """Whether each translation is that of its text alone; one that was cut short by its deadline is another."""
        translations = answer["translations"]
        partial = any(translation.get("status", "complete") != "complete" for translation in translations)
        right = [self._right[text] for text in texts]
        if partial:
            return "late"
        return "answered" if [translation["text"] for translation in translations] == right else "wrong"

    async def _refusal(self, response: httpx.Response) -> tuple[int, Verdict]:
        await response.aread()
        return self._refused_or_wrong(response)

    def _refused_or_wrong(self, response: httpx.Response) -> tuple[int, Verdict]:
        """429 must say when to come again."""
        rightly = response.status_code == 429 and int(response.headers["Retry-After"]) >= 1
        return response.status_code, "refused" if rightly else "wrong"


JSON = {"Content-Type": "application/json"}
NDJSON = {"Accept": "application/x-ndjson"}
MALFORMED = (
    (b'{"text": ', 400),
    (b"\xff", 400),
    (b'{"text": "a", "source": "en", "target": "de", "beam": 3}', 422),
    (b'{"text": "a", "source": "xx", "target": "yy"}', 404),
    (b" " * 3_000_000, 413),
)
KINDS: dict[str, tuple[float, Callable[[Traffic, random.Random], Awaitable[tuple[int, Verdict]]]]] = {
    "one": (0.6, Traffic.one),
    "several": (0.1, Traffic.several),
    "streamed": (0.1, Traffic.streamed),
    "hurried": (0.08, Traffic.hurried),
    "hanging up": (0.08, Traffic.hanging_up),
    "poisonous": (0.02, Traffic.poisonous),
    "malformed": (0.02, Traffic.malformed),
}
