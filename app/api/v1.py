"""The first dialect of the API, under /v1: its routes. Their shapes are in v1_*.py; no logic of translating here."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from app.api import problems, v1_stream
from app.api.direct import DirectRoute
from app.api.disconnect import unless_disconnected
from app.api.negotiation import negotiate
from app.api.v1_answer import TranslateAnswer, answer_of
from app.api.v1_models import LanguagesAnswer, ModelsAnswer, languages_of, model_of
from app.api.v1_request import TranslateBody, request_of
from app.service import ServiceDependency, service_of

JSON = "application/json"
MEDIA_TYPES = (JSON, v1_stream.NDJSON, v1_stream.EVENT_STREAM)

PREFIX, TRANSLATING = "/v1", "/translate"
TRANSLATE = PREFIX + TRANSLATING

router = APIRouter(prefix=PREFIX, tags=["translation"])


async def translate(body: TranslateBody, request: Request) -> Response:
    """Translate a text or a list of texts; the translations come in the same order.

    With `Accept: application/x-ndjson` or `text/event-stream` each segment is sent as soon as it is translated, in
    whatever order; the last event holds the whole answer, or the problem that ended the work. What goes wrong before
    the first segment is answered with a status of its own, as without streaming.
    """
    started = time.monotonic()
    service = service_of(request)
    media_type = _media_type(request)
    wanted = request_of(body, service.settings)
    if media_type != JSON:
        return await v1_stream.stream(request, service.stream(wanted), media_type)
    answer = await unless_disconnected(request, service.translate(wanted))
    content = answer_of(answer, time.monotonic() - started).model_dump_json()
    return Response(content, media_type=JSON, headers={"Content-Language": answer.target})


@router.get("/languages", summary="List language pairs")
async def languages(service: ServiceDependency) -> LanguagesAnswer:
    """The pairs that can be translated, and the model of each."""
    return languages_of(service.catalogue.languages)


@router.get("/models", summary="List models")
async def models(service: ServiceDependency) -> ModelsAnswer:
    """The loaded checkpoints: sizes, defaults of the search, licence and measured scores."""
    return ModelsAnswer(models=[model_of(model) for model in service.catalogue.models])


def _media_type(request: Request) -> str:
    """In which form the client wants its answer. Raises ProblemError if it takes none of those there are."""
    accept = ", ".join(request.headers.getlist("accept"))
    media_type = negotiate(accept, MEDIA_TYPES)
    if media_type is None:
        detail = f"The header Accept is {problems.show(accept)}; let it take {', '.join(MEDIA_TYPES)}."
        raise problems.ProblemError(problems.NOT_ACCEPTABLE, detail)
    return media_type


router.add_api_route(
    TRANSLATING,
    translate,
    methods=["POST"],
    route_class_override=DirectRoute,
    summary="Translate texts",
    response_model=TranslateAnswer,
    responses={
        200: {"content": v1_stream.documented()},
        **problems.documented(400, 404, 406, 413, 415, 422, 429, 500, 503, 504),
    },
)
