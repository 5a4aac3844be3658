"""Whether the server lives, and whether it can work."""

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from taskloom.errors import StoreError
from taskloom.web.deps import WEB, Web
from taskloom.web.models import HealthShown

router = APIRouter(tags=["health"])


@router.get("/healthz", responses={200: {"model": HealthShown}})
async def healthz() -> Response:
    """The process lives; nothing else is asked."""
    return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


@router.get("/readyz", responses={200: {"model": HealthShown}, 503: {"model": HealthShown}})
async def readyz(web: Web = WEB) -> Response:
    """The storage answers, so requests can be served."""
    try:
        await web.backend.admin.pauses()
    except StoreError:
        return JSONResponse({"status": "unavailable"}, 503, {"Cache-Control": "no-store", "Retry-After": "1"})
    return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})
