"""The receivers of deliveries, a process of its own: it answers 204 on several ports and notes what came when.

Run as `python -m app.bench.sink`: it writes its ports on standard output, obeys lines on standard input, and ends with it.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import Final

import msgspec
import uvloop

_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_ID: Final = re.compile(rb"\r\nwebhook-id:[ \t]*([^\r]+)", re.IGNORECASE)
_ANSWER: Final = b"HTTP/1.1 204 No Content\r\n\r\n"


class Arrivals(msgspec.Struct, kw_only=True):
    """What came since the last time of asking: the receiver, the event's id, and when, of the monotonic clock."""

    receivers: list[int]
    events: list[str]
    times: list[float]
    cpu_seconds: float


class Sink:
    """Everything that came to any of the receivers."""

    def __init__(self) -> None:
        self.arrived: list[tuple[int, bytes, float]] = []

    def take(self) -> Arrivals:
        """What came, once."""
        arrived, self.arrived = self.arrived, []
        return Arrivals(
            receivers=[receiver for receiver, _event, _at in arrived],
            events=[event.decode() for _receiver, event, _at in arrived],
            times=[at for _receiver, _event, at in arrived],
            cpu_seconds=time.process_time(),
        )


class Connection(asyncio.Protocol):
    """One connection of a sender, who may send one request after the other."""

    def __init__(self, sink: Sink, receiver: int) -> None:
        self._sink = sink
        self._receiver = receiver
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        while (head := buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(buffer, 0, head + 2)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(buffer) < end:
                break
            event = _ID.search(buffer, 0, head + 2)
            self._sink.arrived.append((self._receiver, event[1] if event else b"", time.monotonic()))
            self._transport.write(_ANSWER)  # type: ignore[attr-defined]  # uvloop's is a transport of both ways
            buffer = buffer[end:]
        self._buffer = buffer


async def _serve(receivers: int) -> None:
    loop, sink = asyncio.get_running_loop(), Sink()
    servers = [
        await loop.create_server(lambda number=number: Connection(sink, number), "127.0.0.1", 0)  # type: ignore[misc]
        for number in range(receivers)
    ]
    _say(msgspec.json.encode([server.sockets[0].getsockname()[1] for server in servers]))
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        _say(msgspec.json.encode(len(sink.arrived) if line.strip() == b"count" else sink.take()))


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Receive on as many ports as the command line says."""
    uvloop.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
