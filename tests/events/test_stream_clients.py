"""Clients that leave, do not read or come back all at once, and a process or a database that stops under them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest
from starlette.requests import ClientDisconnect, Request

from app.db import plain_url
from app.events import stream, tail
from app.events.feed import EventFilter
from app.simulator.server import RunningSimulator
from tests.events.streams import STREAM, followers, mute, read_to_the_end
from tests.harness import Caller, Service
from tests.listening import Listener, all_sequences, append_events, fact, listening, team_of


async def test_a_client_that_left_is_noticed_at_once(
    quiet: Service, subscriber: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BEAT_SECONDS", "IDENTIFY_SECONDS"):  # it is noticed by nothing that the stream does after a while
        monkeypatch.setattr(stream, name, 3600)
    for _ in range(3):
        async with listening(quiet.url, key=subscriber.key):
            await followers(quiet, 1)
        await followers(quiet, 0)


async def test_a_client_that_left_before_its_stream_began_is_taken_for_gone(quiet: Service) -> None:
    class Abandoned:
        """A request whose client has closed the connection by now."""

        def __init__(self, transport: asyncio.WriteTransport) -> None:
            self.transport = transport

        async def receive(self) -> dict[str, Any]:
            return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(f"nobody is there to be sent {message}")

    address = urlsplit(quiet.url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.close()
    await writer.wait_closed()
    scope: dict[str, Any] = {"type": "http", "app": quiet.server.config.app}

    async def identify() -> Any:
        raise AssertionError("it is not asked who somebody was")

    following = stream.EventStream(Request(scope), identify, 0, EventFilter())
    with pytest.raises(ClientDisconnect):
        await following(scope, Abandoned(writer.transport).receive, send)
    await followers(quiet, 0)


async def test_a_client_that_does_not_read_is_cut_off_and_holds_up_nobody(
    quiet: Service, subscriber: Caller, team: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, usual = stream.EventStream._write, stream.STALLED_SECONDS

    async def write_impatiently(self: Any, *said: Any, **how: Any) -> None:
        """Have the one that does not read, whose types are named, soon cut off, and the other one not."""
        monkeypatch.setattr(stream, "STALLED_SECONDS", 1.0 if self._asked.types else usual)
        await write(self, *said, **how)

    monkeypatch.setattr(stream.EventStream, "_write", write_impatiently)
    big = json.dumps({"text": "x" * 100_000})
    async with (
        mute(quiet, subscriber, f"{STREAM}?types=job.progress") as silent,
        listening(quiet.url, key=subscriber.key) as one,
    ):
        await followers(quiet, 2)
        written = list[int]()
        for _ in range(10):
            written += await append_events(quiet, *(fact(team=team, data=big) for _ in range(10)))
        assert await one.has(100) == written, "the other client is told meanwhile"
        await followers(quiet, 1)
        received = await read_to_the_end(silent)
        assert len(received) < 9_000_000
        assert not received.endswith(b"\r\n0\r\n\r\n")

    async with listening(quiet.url, key=subscriber.key, resume=written[0] - 1) as again:
        assert await again.has(100) == written


async def test_a_process_that_stops_ends_its_streams_and_is_not_held_up_by_clients_that_do_not_read(
    quiet: Service, subscriber: Caller, team: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "STALLED_SECONDS", 3600)
    big = json.dumps({"text": "x" * 100_000})
    async with (
        mute(quiet, subscriber),
        mute(quiet, subscriber, f"{STREAM}?types=job.failed"),
        listening(quiet.url, key=subscriber.key) as one,
    ):
        await followers(quiet, 3)
        for _ in range(5):
            await append_events(quiet, *(fact(team=team, data=big) for _ in range(10)))
        await one.has(50)
        quiet.ctx.begin_closing()
        await one.until(lambda one: one.ended == "whole")
        await followers(quiet, 0)
        async with listening(quiet.url, key=subscriber.key) as late:
            await late.until(lambda late: late.ended == "whole")


async def test_a_database_that_goes_away_ends_no_stream(
    quiet: Service, subscriber: Caller, team: UUID, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    monkeypatch.setattr(stream, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(stream, "IDENTIFY_SECONDS", 0.2)
    (name,) = [row.name for row in await quiet.rows("SELECT current_database() AS name")]
    async with (
        listening(quiet.url, key=subscriber.key) as one,
        listening(quiet.url, f"{STREAM}?after=0", key=subscriber.key),
    ):
        (first,) = await append_events(quiet, fact(team=team))
        await one.has(1)
        server = await asyncpg.connect(plain_url(postgres_url))
        try:
            await server.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
            terminate = "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = $1"
            assert await server.fetch(terminate, name)
            beats = len(one.comments)
            await one.until(lambda one: len(one.comments) > beats + 15)
            assert one.ended is None
        finally:
            await server.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
            await server.close()
        (second,) = await append_events(quiet, fact(team=team))
        assert await one.has(2) == [first, second] == await all_sequences(quiet)


async def test_a_hundred_clients_that_come_back_at_once_do_not_exhaust_the_pool(
    serve: Callable[..., Any], simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "KEPT", 10)
    service: Service = await serve(simulator, loops=False, pool_size=4)
    caller = await service.new_caller("listeners", scopes=("subscribe", "read"))
    team = await team_of(service, caller.key_id)
    written = await append_events(service, *(fact(team=team) for _ in range(300)))
    async with AsyncExitStack() as stack:

        async def come_back() -> Listener:
            return await stack.enter_async_context(listening(service.url, f"{STREAM}?after=0", key=caller.key))

        coming = [asyncio.create_task(come_back()) for _ in range(100)]
        assert (await caller.http.get("/v2/jobs")).status_code == 200
        for one in await asyncio.gather(*coming):
            assert await one.has(300, seconds=120) == written
