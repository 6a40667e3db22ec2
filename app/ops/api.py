"""`/healthz` and `/readyz`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from app.http import context, json_response
from app.ops.health import check_readiness


async def healthz(_request: Request) -> Response:
    """Whether this process answers at all. It asks nobody."""
    return json_response({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Whether this process can serve: 503 while the database, its migrations or its partitions are missing.

    Trouble with the upstream is `degraded` in a 200, with the reasons.
    """
    ready, body = await check_readiness(context(request))
    return json_response(body, status=200 if ready else 503)
