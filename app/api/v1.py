"""The first dialect of the API, under /v1: its routes. Their shapes are in v1_*.py; no logic of translating here."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from app.api import problems, v1_stream
from app.api.disconnect import unless_disconnected
from app.api.negotiation import negotiate
from app.api.v1_answer import TranslateAnswer, answer_of
from app.api.v1_models import LanguagesAnswer, ModelsAnswer, languages_of, model_of
from app.api.v1_request import TranslateBody, request_of
from app.service import ServiceDependency

JSON = "application/json"
MEDIA_TYPES = (JSON, v1_stream.NDJSON, v1_stream.EVENT_STREAM)

router = APIRouter(prefix="/v1", tags=["translation"])


async def _media_type(request: Request) -> str:  # async, or a thread would be asked to run it
    """In which form the client wants its answer. Raises ProblemError if it takes none of those there are."""
    accept = ", ".join(request.headers.getlist("accept"))
    media_type = negotiate(accept, MEDIA_TYPES)
    if media_type is None:
        detail = f"The header Accept is {problems.show(accept)}; let it take {', '.join(MEDIA_TYPES)}."
        raise problems.ProblemError(problems.NOT_ACCEPTABLE, detail)
    return media_type


@router.post(
    "/translate",
    summary="Translate texts",
    response_model=TranslateAnswer,
    responses={
        200: {"content": v1_stream.documented()},
        **problems.documented(400, 404, 406, 413, 415, 422, 429, 500, 503, 504),
    },
)
async def translate(
    body: TranslateBody,
    media_type: Annotated[str, Depends(_media_type)],
    request: Request,
    response: Response,
    service: ServiceDependency,
) -> TranslateAnswer | Response:
    """Translate a text or a list of texts; the translations come in the same order.

    With `Accept: application/x-ndjson` or `text/event-stream` each segment is sent as soon as it is translated, in
    whatever order; the last event holds the whole answer, or the problem that ended the work. What goes wrong before
    the first segment is answered with a status of its own, as without streaming.
    """
    started = time.monotonic()
    wanted = request_of(body, service.settings)
    if media_type != JSON:
        return await v1_stream.stream(request, service.stream(wanted), media_type)
    answer = await unless_disconnected(request, service.translate(wanted))
    response.headers["Content-Language"] = answer.target
    return answer_of(answer, time.monotonic() - started)


@router.get("/languages", summary="List language pairs")
async def languages(service: ServiceDependency) -> LanguagesAnswer:
    """The pairs that can be translated, and the model of each."""
    return languages_of(service.catalogue.languages)


@router.get("/models", summary="List models")
async def models(service: ServiceDependency) -> ModelsAnswer:
    """The loaded checkpoints: sizes, defaults of the search, licence and measured scores."""
    return ModelsAnswer(models=[model_of(model) for model in service.catalogue.models])
