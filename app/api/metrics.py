"""The metrics in the text format of Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from app.service import ServiceDependency

router = APIRouter(tags=["service"])


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def metrics(service: ServiceDependency) -> Response:
    """Requests, latency, queue, batches and tokens since the service started."""
    service.sample()
    text, content_type = service.metrics.exposition()
    return Response(text, headers={"Content-Type": content_type})
