"""A real service in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings


@contextmanager
def running(**settings: Any) -> Iterator[TestClient]:
    """A client of a service that has started and warmed up."""
    defaults = {"threads": 1, "lanes": 1, "precision": "float32", "stuck_seconds": 600}
    app = create_app(Settings(**{**defaults, **settings}))
    with TestClient(app, raise_server_exceptions=False) as client:
        app.state.service.engine.wait_until_ready(120)
        yield client
