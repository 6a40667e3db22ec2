"""The load generator counts right: what a server saw and answered is what it says of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from app.bench.load import SETTLE_SECONDS
from app.bench.payloads import get, post
from app.bench.player import play

Handler = Callable[[bytes], bytes]


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[int]:
    """A server that reads requests with bodies and answers each as told, in two pieces."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")), 0
                )
                answer = handle(await reader.readexactly(length))
                writer.write(answer[:20])
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(answer[20:])
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def answer(status: int, body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 %d Whatever\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def numbered(count: int) -> list[bytes]:
    return [post("/", {}, str(number).encode()) for number in range(count)]


async def test_each_request_is_sent_once_and_its_own_answer_is_noted() -> None:
    seen: list[int] = []

    def handle(body: bytes) -> bytes:
        seen.append(int(body))
        return answer(503 if int(body) % 10 == 3 else 200, body * 50)

    async with serving(handle) as port:
        played = await play(port, numbered(300), connections=8, seconds=20)
    assert sorted(seen) == list(range(300))
    assert played.acknowledged == [number for number in range(300) if number % 10 != 3]
    assert [played.statuses[number] for number in (2, 3, 13)] == [200, 503, 503]
    assert (played.refused, played.summary.ran_out, played.summary.broken) == (30, True, 0)
    assert len(played.latencies) == 270
    assert 0 < played.latencies[0] < played.seconds < 20


async def test_what_was_not_sent_in_time_counts_as_nothing() -> None:
    async with serving(lambda _body: answer(202)) as port:
        played = await play(port, numbered(200_000), connections=4, seconds=0.3)
    sent = [status for status in played.statuses if status >= 0]
    assert 0 < len(sent) < 200_000
    assert sent == [202] * len(sent) == list(played.statuses[: len(sent)])
    assert played.rate <= len(sent) / 0.3


async def test_by_the_clock_a_request_that_waits_for_those_before_it_is_late() -> None:
    async with slow() as port:
        played = await play(port, [get("/", {})] * 21, connections=1, seconds=30, rate=100)
    due = [moment - played.began for moment in played.sent]
    assert due == pytest.approx([number / 100 for number in range(21)])
    # Each takes 30 ms and one is due every 10: the twenty-first is answered about 400 ms after it was due.
    assert played.took[0] >= 0.03
    assert played.took[20] > 0.35


@asynccontextmanager
async def slow() -> AsyncIterator[int]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(0.03)
                writer.write(answer(200))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_request_whose_connection_is_cut_is_not_acknowledged() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server:
        played = await play(server.sockets[0].getsockname()[1], [get("/", {})] * 10, connections=2, seconds=0.3)
    assert (played.acknowledged, played.refused, played.summary.broken) == ([], 2, 2)
    assert played.summary.seconds < SETTLE_SECONDS, "it waited for answers that cannot come"
