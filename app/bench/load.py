"""The load generator, a process of its own: it plays requests that were written before, and notes what came of each.

It does as little as it can between two requests, so that it is not what limits: no HTTP library, no objects per request.
Run as `python -m app.bench.load`, with an `Orders` document on standard input and a `Summary` on standard output.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from array import array
from collections import deque
from pathlib import Path
from typing import Final, cast

import msgspec
import uvloop

SETTLE_SECONDS: Final = 15.0
"""Answers are waited for so long after the last request was sent."""

TICK_SECONDS: Final = 0.001

UNSENT: Final = -1
UNANSWERED: Final = 0

_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


class Orders(msgspec.Struct, kw_only=True):
    """What to play: `requests` is a file of requests as bytes, `notes` the file that is to say what came of them.

    With a `rate` requests are sent at their times by the clock, whatever became of those before; without one each
    connection sends its next request when it has the answer to the last.
    """

    port: int
    connections: int
    seconds: float
    requests: str
    notes: str
    rate: float | None = None


class Notes(msgspec.Struct, kw_only=True):
    """What came of each request, in their order, as arrays of doubles and of shorts: when it was due or sent (of the
    monotonic clock), after how many seconds it was answered, and the status."""

    began: float
    sent: bytes
    seconds: bytes
    statuses: bytes


class Summary(msgspec.Struct, kw_only=True):
    """How it went. `cpu_seconds` of `seconds` is what this process itself took; `broken` connections were cut."""

    seconds: float
    cpu_seconds: float
    broken: int
    ran_out: bool


class Play:
    """One run: which request is next, and what came of those before."""

    def __init__(self, orders: Orders, requests: list[bytes]) -> None:
        self.orders = orders
        self.requests = requests
        self.sent = array("d", bytes(8 * len(requests)))
        self.took = array("d", bytes(8 * len(requests)))
        self.statuses = array("h", [UNSENT]) * len(requests)
        self.next = 0
        self.in_flight = 0
        self.broken = 0
        self.ended = False
        self.idle: deque[Connection] = deque()  # connections that wait for a request that is due
        self.done = asyncio.Event()

    async def run(self) -> Summary:
        """Open the connections, play, and wait for the last answers."""
        loop = asyncio.get_running_loop()
        opened = [
            loop.create_connection(lambda: Connection(self), "127.0.0.1", self.orders.port)
            for _ in range(self.orders.connections)
        ]
        connections = [protocol for _transport, protocol in await asyncio.gather(*opened)]
        cpu = time.process_time()
        self.began = time.monotonic()
        loop.call_later(self.orders.seconds, self.end)
        if self.orders.rate is None:
            for connection in connections:
                connection.send_next()
        else:
            self.idle.extend(connections)
            self._send_due()
        await self.done.wait()
        ended = time.monotonic()
        used = time.process_time() - cpu
        for connection in connections:
            connection.close()
        out = self.next >= len(self.requests)
        return Summary(seconds=ended - self.began, cpu_seconds=used, broken=self.broken, ran_out=out)

    def note(self, index: int, status: int) -> None:
        """A request was answered."""
        self.took[index] = time.monotonic() - self.sent[index]
        self.statuses[index] = status
        self.in_flight -= 1
        if self.ended and not self.in_flight:
            self.done.set()

    def lose(self) -> None:
        """A connection was cut while it waited."""
        self.broken += 1
        self.in_flight -= 1
        if self.ended and not self.in_flight:
            self.done.set()

    def end(self) -> None:
        """Send nothing more."""
        self.ended = True
        if not self.in_flight:
            self.done.set()
        asyncio.get_running_loop().call_later(SETTLE_SECONDS, self.done.set)

    def _send_due(self) -> None:
        """Send what is due by now, on connections that are free; what finds none is late, and its time runs."""
        if self.ended:
            return
        assert self.orders.rate is not None
        due = min(int((time.monotonic() - self.began) * self.orders.rate) + 1, len(self.requests))
        while self.next < due and self.idle:
            self.idle.popleft().send(self.began + self.next / self.orders.rate)
        if self.next >= len(self.requests):
            self.end()
            return
        asyncio.get_running_loop().call_later(TICK_SECONDS, self._send_due)


class Connection(asyncio.Protocol):
    """One kept connection, with one request on its way at a time."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._buffer = b""
        self._index = -1
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send_next(self) -> None:
        """Send the next request, unless the time is over or there is none left."""
        play = self._play
        if play.ended:
            return
        if play.next >= len(play.requests):
            play.end()
            return
        self.send(time.monotonic())

    def send(self, at: float) -> None:
        """Send the next request, which counts as sent at this time."""
        play = self._play
        index = self._index = play.next
        play.next += 1
        play.in_flight += 1
        play.sent[index] = at
        play.statuses[index] = UNANSWERED
        assert self._transport is not None
        self._transport.write(play.requests[index])

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        head = buffer.find(b"\r\n\r\n")
        if head < 0:
            self._buffer = buffer
            return
        length = _LENGTH.search(buffer, 0, head + 2)
        end = head + 4 + (int(length[1]) if length else 0)
        if len(buffer) < end:
            self._buffer = buffer
            return
        self._buffer = buffer[end:]
        index, self._index = self._index, -1
        self._play.note(index, int(buffer[9:12]))
        if self._play.orders.rate is None:
            self.send_next()
        else:
            self._play.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._index >= 0:
            self._index = -1
            self._play.lose()

    def close(self) -> None:
        """Close the connection; what it waits for stays unanswered."""
        self._index = -1
        if self._transport is not None:
            self._transport.close()


async def _play(orders: Orders) -> Summary:
    requests = msgspec.msgpack.decode(Path(orders.requests).read_bytes(), type=list[bytes])  # noqa: ASYNC240 - nothing else runs
    play = Play(orders, requests)
    summary = await play.run()
    notes = Notes(
        began=play.began, sent=play.sent.tobytes(), seconds=play.took.tobytes(), statuses=play.statuses.tobytes()
    )
    Path(orders.notes).write_bytes(msgspec.msgpack.encode(notes))  # noqa: ASYNC240 - nothing else runs
    return summary


def main() -> None:
    """Obey the orders on standard input."""
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(_play(orders))))


if __name__ == "__main__":
    main()
