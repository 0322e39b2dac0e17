"""What an operator may ask of the running service; only there where a token is set."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

from app.api import problems
from app.service import ServiceDependency

router = APIRouter(prefix="/admin", tags=["service"])
bearer = HTTPBearer(auto_error=False, description="The token that FERRY_ADMIN_TOKEN sets.")


class ReloadAnswer(BaseModel):
    """What became of the checkpoints, by their names."""

    loaded: list[str] = Field(description="New, or changed, and served from now on.", examples=[["en-de"]])
    removed: list[str] = Field(description="Served no more: their folders are gone.", examples=[[]])
    unchanged: list[str] = Field(examples=[["en-fr"]])
    processes: int = Field(description="How many have read the folders anew: all workers of the service.", examples=[1])


def _authorised(
    service: ServiceDependency, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> None:
    token = service.settings.admin_token
    given = "" if credentials is None else credentials.credentials
    if token is None or not secrets.compare_digest(given.encode(), token.get_secret_value().encode()):
        raise problems.ProblemError(
            problems.UNAUTHORIZED,
            "Send the header Authorization: Bearer, with the token that FERRY_ADMIN_TOKEN sets.",
            headers={"WWW-Authenticate": "Bearer"},
        )


@router.post(
    "/reload",
    summary="Read the checkpoint folders anew",
    responses=problems.documented(401, 500),
    dependencies=[Depends(_authorised)],
)
async def reload(service: ServiceDependency) -> ReloadAnswer:
    """Serve what the folders hold now: changed and new checkpoints are loaded, those whose folders are gone leave.

    Requests under way finish with the model they began with. A folder that cannot be loaded is an error, and what was
    served from it before still is; the other folders are exchanged nevertheless.
    """
    report, processes = await service.reload_all()
    if report.failed:
        reasons = "; ".join(report.failed.values())
        raise problems.ProblemError(
            problems.RELOAD_FAILED,
            f"{reasons}. Loaded: {', '.join(report.loaded) or 'nothing'}; the rest is served as before.",
        )
    return ReloadAnswer(loaded=report.loaded, removed=report.removed, unchanged=report.unchanged, processes=processes)
