"""An upstream that takes whatever comes, notes its bytes, and shows the vendor's own document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

from aiohttp import web


@dataclass
class RecordingUpstream:
    """What it was sent: operation and body, by the Idempotency-Key."""

    document: bytes
    url: str = ""
    received: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    documents: int = 0
    silent: bool = False

    async def submit(self, request: web.Request) -> web.Response:
        operation = request.path.removeprefix("/v2/")
        self.received[request.headers["Idempotency-Key"]] = operation, await request.read()
        return web.json_response({"jobId": str(uuid4()), "status": "QUEUED"}, status=202)

    async def job(self, request: web.Request) -> web.Response:
        """Every job that is asked after is over."""
        return web.json_response(
            {
                "id": request.match_info["id"],
                "status": "COMPLETED",
                "model": "any",
                "progress": 100,
                "result": {"images": []},
                "error": None,
                "creditCost": 1,
                "webhookStatus": None,
                "createdAt": "2026-11-25T09:00:00.000Z",
                "completedAt": "2026-11-25T09:00:15.000Z",
            }
        )

    async def openapi(self, _: web.Request) -> web.Response:
        self.documents += 1
        if self.silent:
            await asyncio.sleep(10)
        return web.Response(body=self.document, content_type="application/json")


@asynccontextmanager
async def recording_upstream(document: bytes) -> AsyncIterator[RecordingUpstream]:
    """Such an upstream on a free port, for so long."""
    upstream = RecordingUpstream(document)

    async def me(_: web.Request) -> web.Response:
        return web.json_response({"user": {"email": "a@b.example"}, "team": {"name": "t"}})

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"models": []})

    async def jobs(_: web.Request) -> web.Response:
        return web.json_response({"jobs": [], "nextCursor": None, "hasMore": False})

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_get("/v2/openapi.json", upstream.openapi)
    app.router.add_get("/v2/models", models)
    app.router.add_get("/v2/me", me)
    app.router.add_get("/v2/jobs", jobs)
    app.router.add_get("/v2/jobs/{id}", upstream.job)
    app.router.add_post("/v2/{operation:.+}", upstream.submit)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield upstream
    finally:
        await runner.cleanup()
