"""One write where uvicorn makes two, and nothing lost, doubled or late by it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.joining import MOST_HELD, JoiningProtocol
from app.serving import server_config

LARGE = bytes(range(256)) * (4 * MOST_HELD // 256)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Small answers, one that is larger than what is held back, and one in pieces that ends the connection."""
    request = Request(scope, receive)
    if request.url.path == "/large":
        await Response(LARGE)(scope, receive, send)
    elif request.url.path == "/pieces":

        async def pieces() -> Any:
            for number in range(3):
                yield b"%d" % number

        await StreamingResponse(pieces(), headers={"Connection": "close"})(scope, receive, send)
    else:
        await Response(request.url.path.encode())(scope, receive, send)


@pytest.fixture
async def address() -> Any:
    config = server_config(application)
    config.port, config.lifespan = 0, "off"
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.005)
    yield server.servers[0].sockets[0].getsockname()[:2]
    server.should_exit = True
    await serving


async def test_requests_that_came_at_once_are_answered_in_their_order(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    for path in ("/a", "/large", "/b", "/pieces"):
        writer.write(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
    answers = await reader.read(-1)
    writer.close()

    first, large, second, pieces = answers.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert first.partition(b"\r\n\r\n")[2] == b"/a"
    assert large.partition(b"\r\n\r\n")[2] == LARGE
    assert second.partition(b"\r\n\r\n")[2] == b"/b"
    assert pieces.partition(b"\r\n\r\n")[2] == b"1\r\n0\r\n1\r\n1\r\n1\r\n2\r\n0\r\n\r\n"


async def test_an_answer_is_one_write_and_a_large_one_is_not_held(address: tuple[str, int]) -> None:
    written = list[int]()

    class Counting(JoiningProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            write = transport.write

            class Counted:
                def write(self, data: bytes) -> None:
                    written.append(len(data))
                    write(data)

                def __getattr__(self, name: str) -> Any:
                    return getattr(transport, name)

            super().connection_made(Counted())  # type: ignore[arg-type]  # it is one in all but name

    config = server_config(application)
    config.port, config.lifespan, config.http = 0, "off", Counting
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.005)
    reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname()[:2])
    for path in (b"/a", b"/large"):
        writer.write(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(LARGE) if path == b"/large" else 2)
        assert head.startswith(b"HTTP/1.1 200")
    writer.close()
    server.should_exit = True
    await serving

    assert len(written) == 2
    assert written[1] > len(LARGE)
