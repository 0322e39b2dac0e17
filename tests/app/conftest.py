"""A running service on tiny checkpoints, shared by the tests of the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from fastapi import FastAPI
from service_harness import running
from starlette.testclient import TestClient

# Unconfigured, structlog prints every local variable of a traceback, tensors too: a minute for each.
structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])


@pytest.fixture(scope="session")
def client(tiny_checkpoint: Path, tiny_checkpoint_fr: Path) -> Iterator[TestClient]:
    """A service with the pairs en-de and en-fr and low limits."""
    with running(
        checkpoints=(tiny_checkpoint, tiny_checkpoint_fr),
        max_text_characters=6000,
        max_texts=50,
        max_body_bytes=200_000,
    ) as started:
        yield started


@pytest.fixture(scope="session")
def application(client: TestClient) -> FastAPI:
    """The application behind ``client``."""
    assert isinstance(client.app, FastAPI)
    return client.app
