"""An upstream of a test's own, which answers as it is told and keeps what it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from tests.harness import Service

Fits = Callable[[Any, str], Any]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

PNG = b"\x89PNG\r\n\x1a\n"
FILM = b"\0\0\0\x18ftypmp42"
BOUNDARY = "a-boundary-of-ours"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@dataclass
class Asked:
    """A request as the upstream saw it; `whole` says whether its body came to its end."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: bytearray = field(default_factory=bytearray)
    whole: bool = False


class Upstream:
    """A small server; `answer` is what it does with requests, once it has read them where `reads` says so."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.reads = True
        self.url = ""
        self.answer: Answer = plain()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Upstream]:
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{rest:.*}", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = "http://127.0.0.1:%d" % runner.addresses[0][1]  # noqa: UP031 - an address is a tuple of two
            yield self
        finally:
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.method, request.path_qs, request.headers)
        self.asked.append(asked)
        if self.reads:
            try:
                async for piece in request.content.iter_any():
                    asked.body += piece
            except ConnectionError:
                return web.Response()  # to nobody
            asked.whole = True
        return await self.answer(request)


def plain(status: int = 200, body: bytes = b"{}", **headers: str) -> Answer:
    """Answer with this, header names written with underscores."""

    async def answer(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        kept = CIMultiDict({"Content-Type": "application/json"})
        kept.update(named)
        return web.Response(status=status, body=body, headers=kept)

    return answer


def pieces(size: int, *, cut_after: int | None = None, seconds: float = 0.0) -> Answer:
    """Answer with so many bytes in pieces, the connection cut after so many of them."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"})
        await response.prepare(request)
        sent = 0
        while sent < size:
            if cut_after is not None and sent >= cut_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            piece = bytes([sent // 65_536 % 256]) * min(65_536, size - sent)
            await response.write(piece)
            sent += len(piece)
            await asyncio.sleep(seconds)
        return response

    return answer


def form(name: str, content: bytes, *more: tuple[str, bytes]) -> bytes:
    """A form with one file, or several, at the boundary of `FORM`."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in ((name, content), *more)
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def slowly(body: bytes, *, seconds: float = 0.0, size: int = 65_536) -> AsyncIterator[bytes]:
    """A body that is sent in chunks."""
    for start in range(0, len(body), size):
        yield body[start : start + size]
        await asyncio.sleep(seconds)


def zeros(size: int) -> AsyncIterator[bytes]:
    """So many bytes, in chunks, that need no memory."""

    async def make() -> AsyncIterator[bytes]:
        for start in range(0, size, 1_000_000):
            yield bytes(min(1_000_000, size - start))

    return make()


def head(service: Service, path: str, length: int) -> bytes:
    """The beginning of a request by hand."""
    lines = (f"POST /v2/{path} HTTP/1.1", "Host: x", f"X-API-Key: {service.caller.key}", f"Content-Length: {length}")
    return "\r\n".join((*lines, "", "")).encode()
