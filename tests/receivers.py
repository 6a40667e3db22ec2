"""A subscriber's receiver: a real HTTP server of the test's own, which notes what it gets and answers as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[["Received"], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    at: float  # by the event loop's clock
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The body, which is JSON."""
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded

    @property
    def id(self) -> str:
        """The event's id, as Standard Webhooks has it."""
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """What a server has received, and what it answers: `answers` first, each once, then `status`."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    answers: list[int | Answer] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Note a request and answer it."""
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(asyncio.get_running_loop().time(), request.path_qs, headers, body)
        self.received.append(received)
        async with self.arrived:
            self.arrived.notify_all()
        answer = self.answers.pop(0) if self.answers else self.status
        if isinstance(answer, int):
            return web.Response(status=answer, text=f"answer {answer}", headers=self.headers)
        return await answer(received)

    async def wait(self, count: int, *, seconds: float = 60) -> list[Received]:
        """Return what was received, as soon as that is so much."""
        async with asyncio.timeout(seconds), self.arrived:
            await self.arrived.wait_for(lambda: len(self.received) >= count)
        return self.received

    @property
    def types(self) -> list[str]:
        """The types of the events that were received, in order."""
        return [received.event["type"] for received in self.received]


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on a free port of 127.0.0.1, for so long."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()
