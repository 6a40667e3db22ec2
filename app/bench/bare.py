"""A bare JSON route: the same bytes of a job from the same server without anything behind it.

Run as `python -m app.bench.bare`, with the port and a file with the document on the command line.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.serving import listen, server_config


def create_app(document: bytes) -> Starlette:
    """An application with one route, which writes its JSON anew for every request."""
    content = msgspec.json.decode(document)

    async def get_job(_request: Request) -> Response:
        return Response(msgspec.json.encode(content), media_type="application/json")

    return Starlette(routes=[Route("/v2/jobs/{job_id}", get_job)])


def main() -> None:
    """Serve until SIGTERM."""
    port, document = int(sys.argv[1]), Path(sys.argv[2]).read_bytes()
    with listen("127.0.0.1", port) as listening:
        uvicorn.Server(server_config(create_app(document))).run(sockets=[listening])


if __name__ == "__main__":
    main()
