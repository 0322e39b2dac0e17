"""The first dialect of the API, under /v1: its routes. Their shapes are in v1_*.py; no logic of translating here."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from app.api import problems
from app.api.disconnect import unless_disconnected
from app.api.v1_answer import TranslateAnswer, answer_of
from app.api.v1_models import LanguagesAnswer, ModelsAnswer, languages_of, model_of
from app.api.v1_request import TranslateBody, request_of
from app.service import ServiceDependency

router = APIRouter(prefix="/v1", tags=["translation"])


@router.post(
    "/translate",
    summary="Translate texts",
    responses=problems.documented(400, 404, 413, 415, 422, 429, 500, 503, 504),
)
async def translate(
    body: TranslateBody, request: Request, response: Response, service: ServiceDependency
) -> TranslateAnswer:
    """Translate a text or a list of texts; the translations come in the same order."""
    started = time.monotonic()
    answer = await unless_disconnected(request, service.translate(request_of(body, service.settings)))
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
