"""The web page at / and its files under /static."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

WEB = Path(__file__).parent.parent / "web"
# Names carry no version, so a browser asks each time; mostly the answer is 304 without a body.
CACHE = "no-cache"


class RevalidatedFiles(StaticFiles):
    """Static files that a browser keeps but asks about each time."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = CACHE
        return response


def install(app: FastAPI) -> None:
    """Serve the page."""

    async def index(_: Request) -> Response:
        return FileResponse(WEB / "index.html", headers={"Cache-Control": CACHE, "Content-Language": "en"})

    app.add_route("/", index, include_in_schema=False)
    app.mount("/static", RevalidatedFiles(directory=WEB))
