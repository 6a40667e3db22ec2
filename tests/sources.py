"""Where result files come from, misbehaving on demand: a real HTTP server of the test's own, which notes who asked.

A file is served well unless its `Served` says otherwise. Positions (`truncate_at`, `reset_at`, a gate's `after`) are
counted from the file's first byte, also when a range of it is asked for, so a download that is resumed past them is spared.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from aiohttp import web


class Body(Protocol):
    """What a file consists of, if not of bytes in memory; `tests.media.Film` is one."""

    size: int

    def part(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`, fewer at the end."""

    @property
    def sha256(self) -> str:
        """The SHA-256 of the whole, in hexadecimal."""


class Bytes:
    """A body in memory."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.sha256 = hashlib.sha256(data).hexdigest()
        self._data = data

    def part(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`, fewer at the end."""
        return self._data[start:stop]


@dataclass
class Gate:
    """Holds an answer when `after` bytes of the file are sent, until it is released; with 0, after the head."""

    after: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def hold(self) -> None:
        """Say that an answer has come so far, and wait."""
        self.reached.set()
        await self.released.wait()


@dataclass(kw_only=True)
class Served:
    """A file and how it is served. What fails, fails the first `fail_times` requests, or all of them if that is None."""

    body: Body
    content_type: str = "application/octet-stream"
    headers: Mapping[str, str] = field(default_factory=dict)

    fail_times: int | None = None
    status: int | None = None  # answered instead of the file; 503 when `fail_times` is all that was said
    truncate_at: int | None = None  # the connection is closed there, though the length was declared
    reset_at: int | None = None  # the connection is reset there, which takes with it whatever was not read yet

    redirect_to: str | None = None
    chunked: bool = False  # no length is declared
    endless: bool = False  # no length is declared, and the body is sent again and again
    declared_length: int | None = None  # what Content-Length says, whatever the body is
    ranges: bool = True
    piece_bytes: int = 65_536
    pause_seconds: float = 0.0  # after each piece
    gate: Gate | None = None

    asked_count: int = 0

    def __post_init__(self) -> None:
        failures = (self.status, self.truncate_at, self.reset_at)
        if self.fail_times is not None and all(failure is None for failure in failures):
            self.status = 503

    @property
    def etag(self) -> str:
        """A strong tag, another one for another body."""
        return f'"{self.body.sha256[:32]}"'

    def fails_now(self) -> bool:
        """Count a request, and say whether it is one of those that fail."""
        self.asked_count += 1
        return self.fail_times is None or self.asked_count <= self.fail_times


@dataclass
class Asked:
    """One request: what it asked for, and what became of it."""

    method: str
    path: str  # with its query
    headers: dict[str, str]  # names in lower case
    sent: int = 0  # bytes of the body that were written, though not necessarily read
    ended: bool = False

    @property
    def range(self) -> str | None:
        """The Range header."""
        return self.headers.get("range")


@dataclass
class Source:
    """What is served where, and who asked for it."""

    url: str = ""
    requests: list[Asked] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    _served: dict[str, Served] = field(default_factory=dict)

    def serve(self, path: str, body: bytes | Body = b"", **manner: Any) -> str:
        """Serve a file from now on, in the manner that `Served` describes; return its address.

        A path that was served before is served anew. Its query is the caller's own affair.
        """
        served = Served(body=Bytes(body) if isinstance(body, bytes) else body, **manner)
        self._served["/" + path.partition("?")[0]] = served
        return f"{self.url}/{path}"

    def remove(self, path: str) -> None:
        """Answer 404 from now on, as the vendor does when it has purged a file."""
        del self._served["/" + path]

    def asked(self, path: str) -> list[Asked]:
        """The requests for one path, in order."""
        return [request for request in self.requests if request.path.partition("?")[0] == "/" + path]

    async def wait(self, count: int, *, seconds: float = 60) -> list[Asked]:
        """Return the requests, as soon as there are so many."""
        async with asyncio.timeout(seconds), self.arrived:
            await self.arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Note a request and answer it."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Asked(request.method, request.path_qs, headers)
        self.requests.append(asked)
        async with self.arrived:
            self.arrived.notify_all()
        try:
            served = self._served.get(request.path)
            if served is None:
                return web.Response(status=404, text="no such file")
            return await _answer(served, request, asked)
        finally:
            asked.ended = True


@asynccontextmanager
async def sourcing() -> AsyncIterator[Source]:
    """A source on a free port of 127.0.0.1, for so long."""
    source = Source()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", source.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    source.url = f"http://{host}:{port}"
    try:
        yield source
    finally:
        await runner.cleanup()


async def _answer(served: Served, request: web.Request, asked: Asked) -> web.StreamResponse:
    fails = served.fails_now()
    if fails and served.status is not None:
        return web.Response(status=served.status, text=f"answer {served.status}", headers=served.headers)
    if served.redirect_to is not None:
        return web.Response(status=302, headers={"Location": served.redirect_to})
    wanted = _wanted(served, request)
    if wanted is not None and not wanted:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{served.body.size}"})
    answer = _head(served, wanted)
    await answer.prepare(request)
    if request.method == "HEAD":
        return answer
    # Whoever asked may go at any moment, which is how an endless file ends.
    with suppress(ConnectionError):
        end = await _send(served, range(served.body.size) if wanted is None else wanted, answer, asked, fails=fails)
        _cut(request, end)
    return answer


def _wanted(served: Served, request: web.Request) -> range | None:
    """The positions of the range that is asked for, none when it lies past the end; None when all of the file is wanted.

    What makes a range count is in RFC 9110, sections 13.1.5 and 14.
    """
    if not served.ranges or request.method != "GET" or "Range" not in request.headers:
        return None
    if request.headers.get("If-Range", served.etag) != served.etag:
        return None
    return range(served.body.size)[request.http_range]


def _head(served: Served, wanted: range | None) -> web.StreamResponse:
    headers = {"Content-Type": served.content_type, "ETag": served.etag, **served.headers}
    length = served.body.size
    if served.ranges:
        headers["Accept-Ranges"] = "bytes"
    if wanted is not None:
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{length}"
        length = len(wanted)
    answer = web.StreamResponse(status=200 if wanted is None else 206, headers=headers)
    if served.chunked or served.endless:
        answer.enable_chunked_encoding()
    else:
        answer.content_length = length if served.declared_length is None else served.declared_length
    return answer


async def _send(
    served: Served, wanted: range, answer: web.StreamResponse, asked: Asked, *, fails: bool
) -> Literal["whole", "closed", "reset"]:
    """Send what is wanted, and say how the connection is to end."""
    close_at, reset_at = (served.truncate_at, served.reset_at) if fails else (None, None)
    hold_at = served.gate.after if served.gate else None
    at = wanted.start
    while True:
        if served.gate and at == hold_at:
            await served.gate.hold()
        if at == reset_at:
            return "reset"
        if at == close_at:
            return "closed"
        if at == wanted.stop:
            if not served.endless:
                break
            at = 0
        ends = (at + served.piece_bytes, wanted.stop, hold_at, reset_at, close_at)
        piece = served.body.part(at, min(end for end in ends if end is not None and end > at))
        await answer.write(piece)
        asked.sent += len(piece)
        at += len(piece)
        await asyncio.sleep(served.pause_seconds)
    return "closed" if answer.content_length is not None and answer.content_length > asked.sent else "whole"


def _cut(request: web.Request, end: Literal["whole", "closed", "reset"]) -> None:
    transport = request.transport
    if transport is None or end == "whole":
        return
    if end == "closed":
        transport.close()
        return
    # Lingering for no time makes the kernel send a RST instead of a FIN.
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
