"""The OpenAPI document, and the page that shows it without any outside host."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from app.api.problems import Problem
from app.api.v1_stream import StreamEvent

# Only the files of Swagger UI are taken from the package: its own page has a script inside, which our content
# security policy rightly forbids.
SWAGGER_UI = Path(str(files("fastapi_standalone_docs"))) / "static" / "swagger"
PAGE = Path(__file__).parent / "docs"
# Swagger UI draws its icons from data: URLs and styles its own elements.
CONTENT_SECURITY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
)


def install(app: FastAPI) -> None:
    """Serve /openapi.json with problem documents described, and /docs."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
            )
            _, definitions = models_json_schema(
                [(Problem, "serialization"), (StreamEvent, "serialization")],
                ref_template="#/components/schemas/{model}",
            )
            document["components"]["schemas"].update(definitions["$defs"])
            app.openapi_schema = document
        return app.openapi_schema

    async def docs(_: Request) -> Response:
        return FileResponse(PAGE / "docs.html", headers={"Content-Security-Policy": CONTENT_SECURITY})

    app.openapi = openapi  # type: ignore[method-assign]
    app.add_route("/docs", docs, include_in_schema=False)
    app.mount("/docs/swagger-ui", StaticFiles(directory=SWAGGER_UI))
    app.mount("/docs", StaticFiles(directory=PAGE))
