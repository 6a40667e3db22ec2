"""Clients of the event stream, many in a process of its own: each notes which events it was sent, and when the last came.

Run as `python -m app.bench.streams`: it says when all are connected, and at the end of standard input what they got.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import Final

import msgspec
import uvloop

AT_ONCE: Final = 50
CONNECT_SECONDS: Final = 60.0

_ID: Final = re.compile(rb"^id: ?(\S+)", re.MULTILINE)
_DATA: Final = re.compile(rb"^data: ?", re.MULTILINE)


class Wish(msgspec.Struct, kw_only=True):
    """How many clients are to follow which port, with which key."""

    port: int
    clients: int
    key: str


class Followed(msgspec.Struct, kw_only=True):
    """What each client was sent: the ids of the events in their order, and when the last one came; how many were cut."""

    events: list[list[str]]
    last: list[float]
    cut: int
    cpu_seconds: float


class Client(asyncio.Protocol):
    """One follower. A block with an id and no data is no event: it moves the number to resume at."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._buffer = b""
        self.began = asyncio.get_running_loop().create_future()
        self.events: list[str] = []
        self.last = 0.0
        self.was_cut = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        head = f"GET /v1/events/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {self._wish.key}\r\n\r\n"
        transport.write(head.encode())  # type: ignore[attr-defined]  # uvloop's is a transport of both ways

    def data_received(self, data: bytes) -> None:
        if not self.began.done():
            self.began.set_result(data[9:12] == b"200")
        *blocks, self._buffer = (self._buffer + data).split(b"\n\n")
        for block in blocks:
            found = _ID.search(block)
            if found is not None and _DATA.search(block) is not None:
                self.events.append(found[1].decode())
                self.last = time.monotonic()

    def connection_lost(self, error: Exception | None) -> None:
        self.was_cut = True
        if not self.began.done():
            self.began.set_result(False)


async def _follow(wish: Wish) -> None:
    loop, turns = asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)

    async def connect() -> Client:
        async with turns:
            _transport, client = await loop.create_connection(lambda: Client(wish), "127.0.0.1", wish.port)
            await asyncio.wait_for(client.began, CONNECT_SECONDS)
            return client

    clients = await asyncio.gather(*(connect() for _ in range(wish.clients)))
    _say(msgspec.json.encode(sum(1 for client in clients if client.began.result() and not client.was_cut)))
    while await loop.run_in_executor(None, sys.stdin.buffer.readline):
        _say(msgspec.json.encode(min(len(client.events) for client in clients)))
    followed = Followed(
        events=[client.events for client in clients],
        last=[client.last for client in clients],
        cut=sum(1 for client in clients if client.was_cut),
        cpu_seconds=time.process_time(),
    )
    _say(msgspec.json.encode(followed))


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Follow as the command line says."""
    uvloop.run(_follow(msgspec.json.decode(sys.argv[1], type=Wish)))


if __name__ == "__main__":
    main()
