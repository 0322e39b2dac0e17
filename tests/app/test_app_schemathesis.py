"""The service keeps the contract of its own OpenAPI document, whatever is sent to it."""

from __future__ import annotations

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.types import Receive, Scope, Send

READ_ONLY = ["/v1/languages", "/v1/models", "/health/live", "/health/ready", "/metrics"]
SOUND, UNSOUND = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.fixture(scope="session")
def api(application: FastAPI) -> schemathesis.BaseSchema:
    async def already_started(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await application(scope, receive, send)
            return
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})

    return schemathesis.openapi.from_asgi("/openapi.json", already_started)


def test_every_operation_is_tried(api: schemathesis.BaseSchema) -> None:
    found = {(operation.ok().method.upper(), operation.ok().path) for operation in api.get_all_operations()}
    assert found == {("POST", "/v1/translate"), *(("GET", path) for path in READ_ONLY)}


@pytest.mark.parametrize("path", READ_ONLY)
def test_what_only_reads_keeps_the_contract(api: schemathesis.BaseSchema, path: str) -> None:
    api[path]["GET"].Case().call_and_validate()


@pytest.mark.parametrize("mode", [SOUND, UNSOUND], ids=["sound", "unsound"])
def test_translating_keeps_the_contract(api: schemathesis.BaseSchema, mode: GenerationMode) -> None:
    statuses = set()

    @settings(max_examples=60, deadline=None, derandomize=True, phases=[Phase.generate], database=None)
    @given(case=api["/v1/translate"]["POST"].as_strategy(generation_mode=mode))
    def holds(case: schemathesis.Case) -> None:
        if mode is SOUND and isinstance(case.body, dict):
            # A deadline of a millisecond is sound, and 504 the right answer to it.
            case.body.update(source="en", target="de", deadline_ms=None)
        # Limits, and that fields must fit each other, are beyond what a schema can say.
        statuses.add(case.call_and_validate(excluded_checks=[positive_data_acceptance]).status_code)

    holds()
    assert (200 in statuses) == (mode is SOUND)
