"""What the API answers when it is asked well."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from service_harness import running
from starlette.testclient import TestClient
from starlette.types import Message

SENTENCES = ["The river is wide.", "We cross the water every morning.", "Please hold on!", "She reads."]


def translate(client: TestClient, text: str | list[str], **options: Any) -> dict[str, Any]:
    response = client.post("/v1/translate", json={"text": text, "source": "en", "target": "de", **options})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_a_text_gets_one_translation_and_its_circumstances(client: TestClient) -> None:
    answer = translate(client, "The river is wide.")
    (translation,) = answer["translations"]
    assert translation["text"]
    assert translation["score"] is None and translation["alternatives"] == [] and translation["alignment"] is None
    assert answer["model"] == {"name": "en-de", "version": "0"}
    assert (answer["source"], answer["target"]) == ("en", "de")
    timings = answer["timings"]
    assert timings["queue_ms"] >= 0 and 0 < timings["compute_ms"] <= timings["total_ms"]


def test_a_list_is_answered_in_order(client: TestClient) -> None:
    together = [item["text"] for item in translate(client, SENTENCES)["translations"]]
    assert together == [translate(client, text)["translations"][0]["text"] for text in SENTENCES]
    assert len(set(together)) == len(together)


def test_a_request_reaches_the_model_of_its_pair(client: TestClient) -> None:
    answers = [translate(client, SENTENCES[0], target=target) for target in ("de", "fr")]
    assert [answer["model"]["name"] for answer in answers] == ["en-de", "en-fr"]
    assert answers[0]["translations"] != answers[1]["translations"]


def test_a_regional_tag_is_served_by_the_language(client: TestClient) -> None:
    assert translate(client, "Hold on!", source="en-US")["source"] == "en"


def test_the_answer_names_its_language_and_request(client: TestClient) -> None:
    body = {"text": "She reads.", "source": "en", "target": "fr"}
    response = client.post("/v1/translate", json=body, headers={"X-Request-ID": "abc-1"})
    assert response.headers["Content-Language"] == "fr"
    assert response.headers["X-Request-ID"] == "abc-1"
    odd = client.get("/health/live", headers={"X-Request-ID": 'a"b{}'})
    assert re.fullmatch("[0-9a-f]{32}", odd.headers["X-Request-ID"])


def test_n_best_come_best_first_and_differ(client: TestClient) -> None:
    (translation,) = translate(client, SENTENCES[1], n_best=4, beam_size=6, scores=True)["translations"]
    scores = [translation["score"], *(other["score"] for other in translation["alternatives"])]
    texts = [translation["text"], *(other["text"] for other in translation["alternatives"])]
    assert len(scores) == 4 and scores == sorted(scores, reverse=True)
    assert len(set(texts)) > 1


def test_n_best_alone_widens_the_beam(client: TestClient) -> None:
    (translation,) = translate(client, SENTENCES[0], n_best=8)["translations"]
    assert len(translation["alternatives"]) == 7


def test_the_length_penalty_changes_scores(client: TestClient) -> None:
    low, high = (
        translate(client, SENTENCES[1], length_penalty=alpha, scores=True)["translations"][0]["score"]
        for alpha in (0, 2)
    )
    assert low < high < 0


def test_alignment_spans_stand_in_the_whole_texts(client: TestClient) -> None:
    text = "  The river is wide.\n\nWe cross the water.  "
    (translation,) = translate(client, text, alignment=True)["translations"]
    assert len(translation["alignment"]) == 2
    for segment in translation["alignment"]:
        assert [len(row) for row in segment["attention"]] == [len(segment["source"])] * len(segment["target"])
        for side, whole in (("source", text), ("target", translation["text"])):
            for piece in segment[side]:
                spelt = piece["piece"].removeprefix("▁")
                if not spelt.startswith("<0x"):
                    assert whole[piece["start"] : piece["end"]] == spelt or not spelt


@pytest.mark.parametrize("text", ["", " ", "\n\t \u00a0", "\x00"])
def test_blank_text_is_given_back(client: TestClient, text: str) -> None:
    (translation,) = translate(client, text, scores=True, alignment=True, n_best=3)["translations"]
    nothing = {"score": None, "alternatives": [], "alignment": []}
    assert translation == {"text": text, "status": "complete", "unfinished": [], **nothing}


def test_white_space_around_and_between_sentences_survives(client: TestClient) -> None:
    (translation,) = translate(client, "\n The river.\n\n\tShe reads. ")["translations"]
    assert translation["text"].startswith("\n ") and translation["text"].endswith(" ")
    assert "\n\n\t" in translation["text"]


def test_the_loaded_pairs_and_models_are_listed(client: TestClient) -> None:
    assert client.get("/v1/languages").json() == {
        "pairs": [
            {"source": "en", "target": "de", "model": "en-de", "pivot": None, "models": ["en-de"]},
            {"source": "en", "target": "fr", "model": "en-fr", "pivot": None, "models": ["en-fr"]},
        ]
    }
    model = client.get("/v1/models").json()["models"][1]
    assert (model["name"], model["beam_size"], model["licence"]) == ("en-fr", 5, "CC0-1.0")
    assert (model["serving_precision"], model["loaded"]) == ("float32", True)
    assert model["length_penalty"] == {"kind": "power", "alpha": 1.0} and model["parameters"] > 1000


def test_health(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "alive"}
    assert client.get("/health/ready").json() == {"status": "ready"}


def test_metrics_count_requests_batches_and_tokens(client: TestClient) -> None:
    translate(client, SENTENCES)
    client.get("/no/such/path")
    text = client.get("/metrics").text
    for line in (
        r'ferry_requests_total\{route="/v1/translate",status="200"\} \d',
        r'ferry_requests_total\{route="other",status="404"\} \d',
        r'ferry_request_seconds_bucket\{le="0.1",route="/v1/translate"\} \d',
        r"ferry_queue_tokens \d",
        r'ferry_batch_sentences_bucket\{le="4.0",model="en-de"\} [1-9]',
        r'ferry_padding_share_count\{model="en-de"\} [1-9]',
        r'ferry_tokens_total\{model="en-de",side="target"\} [1-9]',
        r"ferry_tokens_per_second [1-9]",
        r"process_resident_memory_bytes \d",
    ):
        assert re.search("^" + line, text, re.MULTILINE), line


def test_every_example_of_the_openapi_document_is_answered(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    examples = document["components"]["schemas"]["TranslateBody"]["examples"]
    assert len(examples) == 2
    for example in examples:
        assert client.post("/v1/translate", json=example).status_code == 200
    responses = document["paths"]["/v1/translate"]["post"]["responses"]
    assert set(responses) == {"200", "400", "404", "406", "413", "415", "422", "429", "500", "503", "504"}
    assert "Problem" in document["components"]["schemas"] and "HTTPValidationError" not in json.dumps(document)


def test_the_documentation_needs_no_outside_host(client: TestClient) -> None:
    page = client.get("/docs")
    assert "script-src" not in page.headers["Content-Security-Policy"]  # so default-src 'self' holds for scripts
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert "docs/swagger-ui/swagger-ui-bundle.js" in links
    for link in links:
        assert client.get("/" + link).status_code == 200, link


def test_the_page_is_served_under_a_strict_policy(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    script = client.get("/static/app.js")
    assert script.headers["Cache-Control"] == "no-cache"
    again = client.get("/static/app.js", headers={"If-None-Match": script.headers["ETag"]})
    assert again.status_code == 304 and again.headers["X-Content-Type-Options"] == "nosniff"


def test_other_origins_are_allowed_only_when_listed(client: TestClient, tiny_checkpoint: Path) -> None:
    origin = {"Origin": "https://example.org"}
    assert "Access-Control-Allow-Origin" not in client.get("/v1/languages", headers=origin).headers
    with running(checkpoints=(tiny_checkpoint,), cors_origins=("https://example.org",)) as open_client:
        allowed = open_client.get("/v1/languages", headers=origin)
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://example.org"
        other = open_client.get("/v1/languages", headers={"Origin": "https://example.com"})
        assert "Access-Control-Allow-Origin" not in other.headers


def test_a_request_whose_client_is_gone_leaves_the_engine(application: FastAPI) -> None:
    texts = ["We cross the water every morning, and she reads a book on the deck."] * 40
    body = json.dumps({"text": texts, "source": "en", "target": "de", "beam_size": 12}).encode()
    incoming: list[Message] = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]
    statuses: list[int] = []

    async def receive() -> Message:
        await asyncio.sleep(0.05)
        return incoming.pop(0)

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/translate",
        "raw_path": b"/v1/translate",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    engine = application.state.service.engine
    asyncio.run(application(scope, receive, send))
    assert statuses[0] == 499
    assert engine.queued_tokens == 0
    until = time.monotonic() + 10
    while engine.active_sentences and time.monotonic() < until:
        time.sleep(0.01)
    assert engine.active_sentences == 0
