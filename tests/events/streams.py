"""What tests of streams look with: clients that do not read, who follows, and the tail that all of them follow."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from app.events import tail
from tests.harness import Caller, Service, eventually

STREAM = "/v1/events/stream"

LITTLE = 65_536
"""Bytes of room. In less than a segment of the loopback, TCP probes at ever longer intervals how much there is."""


@asynccontextmanager
async def mute(service: Service, caller: Caller, path: str = STREAM) -> AsyncIterator[socket.socket]:
    """A client that asks for a stream and reads nothing of it, with little room for it."""
    address = urlsplit(service.url)
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
        silent.setblocking(False)
        await asyncio.get_running_loop().sock_connect(silent, (address.hostname, address.port))
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {caller.key}\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(silent, request.encode())
        yield silent


async def read_to_the_end(connection: socket.socket) -> bytes:
    """What comes until the other side ends the answer or closes the connection, which it keeps after an answer."""
    received = bytearray()
    async with asyncio.timeout(60):
        while not received.endswith(b"\r\n0\r\n\r\n"):
            if not (part := await asyncio.get_running_loop().sock_recv(connection, 65_536)):
                break
            received += part
    return bytes(received)


async def followers(service: Service, count: int) -> None:
    """Return when so many clients follow."""

    async def look() -> int:
        return len(tail_of(service)._followers)

    await eventually(look, lambda seen: seen == count)


def tail_of(service: Service) -> tail.Tail:
    app: Any = service.server.config.app
    found: tail.Tail = app.state.tail
    return found
