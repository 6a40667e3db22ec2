"""HTTP to an application in this process: no socket, and an answer is read as it is made, a part at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.types import ASGIApp, Message


class InProcess(httpx.AsyncBaseTransport):
    """The way to an application that runs here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer as soon as the application has begun to."""
        exchange = _Exchange(request.method, await request.aread())
        exchange.begin(self._app, _scope(request))
        try:
            status, headers = await exchange.head()
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(status, headers=headers, stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """One request and its answer. The application makes the next part when the one before has been taken."""

    def __init__(self, method: str, body: bytes) -> None:
        self._body: bytes | None = body
        self._method = method
        self._left = asyncio.Event()
        self._head: asyncio.Future[tuple[int, Any]] = asyncio.get_running_loop().create_future()
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._is_whole = False

    def begin(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        """Have the application start with its answer."""
        self._answering = asyncio.create_task(self._answer(app, scope))

    async def head(self) -> tuple[int, Any]:
        """The status and the headers."""
        return await self._head

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The parts of the body; raises RemoteProtocolError where the application breaks off."""
        while (part := await self._parts.get()) is not None:
            yield part
        if not self._is_whole:
            raise httpx.RemoteProtocolError("the answer broke off")

    async def aclose(self) -> None:
        """Leave, whatever of the answer is still to come."""
        self._left.set()
        self._answering.cancel()
        await asyncio.wait({self._answering})

    async def _answer(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        finally:
            if not self._head.done():
                self._head.set_exception(httpx.RemoteProtocolError("there was no answer"))
                self._head.exception()  # whoever asked may be gone
            if not self._left.is_set():
                await self._parts.put(None)

    async def _receive(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head.set_result((message["status"], message["headers"]))
            return
        if message.get("body") and self._method != "HEAD":
            await self._parts.put(message["body"])
        self._is_whole = not message.get("more_body", False)


def _scope(request: httpx.Request) -> dict[str, Any]:
    url = request.url
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.partition(b"?")[0],
        "query_string": url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": (url.host, url.port),
        "client": None,
    }
