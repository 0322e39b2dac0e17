"""Whether the process lives, and whether it should be sent requests."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from app.api import problems
from app.service import ServiceDependency

router = APIRouter(prefix="/health", tags=["service"])


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    status: Literal["ready"] = "ready"


@router.get("/live", summary="Is the process alive?")
async def live() -> Alive:
    """Answers as long as the event loop turns; restart the process when it does not."""
    return Alive()


@router.get("/ready", summary="Is the service ready?", responses=problems.documented(503))
async def ready(service: ServiceDependency) -> Ready:
    """Checkpoints are loaded and warmed up, the engine's loop turns, and the service is not shutting down."""
    service.check_ready()
    return Ready()
