"""Listening while writers stall, processes are killed, and a thousand clients follow one service."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import psutil
import pytest

from app.db import Database, plain_url
from app.events.queries import append
from app.notify import CHANNEL
from app.simulator.server import RunningSimulator
from tests.harness import NO_TLS
from tests.harness import eventually as soon
from tests.listening import Listener, connect, fact, listening
from tests.processes.harness import Program, eventually, free_port, in_front_of, make_key, python, query, ready

TEAM = UUID(int=7)
DATA = json.dumps({"id": str(uuid4()), "status": "PROCESSING", "input": {"prompt": "a lighthouse in a storm " * 30}})
"""About as long as a job object is."""

SEQUENCES = "SELECT sequence FROM events ORDER BY sequence"

STALLING_WRITER = """
import asyncio, os, sys
from app import db
from app.db import OUTAGES, Database
from app.events.queries import append
from tests.listening import fact
from tests.processes.test_listening import TEAM

async def main():
    database = Database(sys.argv[1], pool_size=1)
    for turn in ("first", "second", "third"):
        db.STALLED_TRANSACTION_SECONDS = int(sys.argv[2]) if turn == "second" else 60
        try:
            async with database.transaction() as tx:
                await append(tx, [fact(team=TEAM), fact(team=TEAM)])
                print("appended", turn, flush=True)
                while not os.path.exists(turn):
                    await asyncio.sleep(0.01)
            print("committed", turn, flush=True)
        except OUTAGES:
            print("cut off", turn, flush=True)
    await database.close()

asyncio.run(main())
"""
"""Appends, and commits when a file of the turn's name is there."""


class Writers:
    """Writers of events that take their time in the transactions that append."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.commits = 0
        self.written: list[UUID] = []

    async def _write(self, turn: int) -> None:
        """Append one to three events in a transaction that takes its time before the append, and a little after it."""
        events = [fact(team=TEAM, data=DATA) for _ in range(1 + turn % 3)]
        async with self._database.transaction() as tx:
            await tx.exec_driver_sql("SELECT pg_sleep(random() * 0.02)")
            await append(tx, events)
            await asyncio.sleep(turn % 5 * 0.0005)
        self.commits += 1
        self.written += [event.id for event in events]
        async with self._database.reading() as connection:
            await connection.exec_driver_sql(f"SELECT pg_notify('{CHANNEL}', 'writer events')")

    @asynccontextmanager
    async def writing(self, count: int) -> AsyncIterator[None]:
        """So many of them at once, for so long; each comes to the end of what it has begun."""
        self._stopping = False
        tasks = [asyncio.create_task(self._until_told()) for _ in range(count)]
        yield
        self._stopping = True
        await asyncio.gather(*tasks)

    async def _until_told(self) -> None:
        turn = 0
        while not self._stopping:
            await self._write(turn)
            turn += 1


class Reader:
    """A reader that comes back whenever it was cut off, and goes on where it was."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key
        self.seen: list[UUID] = []
        self.interruptions = 0

    async def read_feed(self) -> None:
        """Page by page, until cancelled."""
        cursor = "0"
        async with httpx.AsyncClient(
            base_url=self._url, headers={"X-API-Key": self._key}, trust_env=False, verify=NO_TLS, timeout=30
        ) as http:
            while True:
                try:
                    answer = await http.get("/v1/events", params={"after": cursor, "wait": 5, "limit": 17})
                except httpx.TransportError:
                    self.interruptions += 1
                    await asyncio.sleep(0.05)
                    continue
                assert answer.status_code == 200, answer.text
                page = answer.json()
                self.seen += [UUID(event["id"]) for event in page["events"]]
                cursor = page["nextCursor"]

    async def follow_stream(self) -> None:
        """By server-sent events, until cancelled."""
        resume = "0"
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                async with listening(self._url, key=self._key, resume=resume) as one:
                    assert one.status == 200
                    while one.ended is None or one.messages:
                        self.seen += [UUID(message.event["id"]) for message in one.messages]
                        one.messages.clear()
                        resume = one.last_event_id or resume
                        await asyncio.sleep(0.01)
            self.interruptions += 1
            await asyncio.sleep(0.05)


@asynccontextmanager
async def reading(url: str, key: str) -> AsyncIterator[tuple[Reader, Reader]]:
    """One reader of the feed and one of the stream, from the beginning of the log."""
    readers = Reader(url, key), Reader(url, key)
    tasks = [asyncio.create_task(readers[0].read_feed()), asyncio.create_task(readers[1].follow_stream())]
    try:
        yield readers
        assert [task.exception() for task in tasks if task.done()] == []
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def opened(url: str, pool_size: int = 10) -> AsyncIterator[Database]:
    database = Database(url, pool_size=pool_size)
    yield database
    await database.close()


async def log_of(url: str) -> list[UUID]:
    """The ids of the whole log, in order."""
    return [UUID(str(each)) for each in await asyncio.to_thread(query, url, "SELECT id FROM events ORDER BY sequence")]


async def both_saw(readers: tuple[Reader, Reader], database_url: str) -> None:
    """Compare what both saw with the log, once they have seen its end."""
    log = await log_of(database_url)
    for reader in readers:

        async def look(reader: Reader = reader) -> int:
            return len(reader.seen)

        await soon(look, lambda seen: seen >= len(log), seconds=30)
        assert reader.seen == log


@pytest.mark.parametrize("seconds", [2, pytest.param(15, marks=pytest.mark.long)])
def test_writers_that_stall_before_and_after_the_append_are_read_without_gap_or_repetition(
    launch: Callable[..., Program],
    start: Callable[..., Program],
    folder: Path,
    simulator: RunningSimulator,
    database_url: str,
    seconds: int,
) -> None:
    service = launch("serve", "--no-loops", **in_front_of(simulator, database_url))
    key = make_key(database_url, "operators", "ops")
    url = ready(service)

    def said(program: Program, words: str) -> None:
        eventually(lambda: words in program.printed)

    async def story() -> None:
        async with opened(database_url) as database, reading(url, key) as readers:
            writers = Writers(database)
            async with writers.writing(7):
                eighth = start(python("-c", STALLING_WRITER, database_url, str(seconds)), {})
                await asyncio.to_thread(said, eighth, "appended first")
                eighth.signal(signal.SIGSTOP)
                before = writers.commits
                (folder / "first").touch()
                await asyncio.sleep(0.5)
                assert writers.commits <= before + 7, "the log is held from the append to the commit"
                eighth.signal(signal.SIGCONT)
                await asyncio.to_thread(said, eighth, "committed first")

                await asyncio.to_thread(said, eighth, "appended second")
                eighth.signal(signal.SIGSTOP)
                # Seven may be told only now of commits from before; an eighth was let on while this one stood still.
                await soon(partial(have_committed, writers, writers.commits + 8), seconds=seconds + 60)
                (folder / "second").touch()
                eighth.signal(signal.SIGCONT)
                await asyncio.to_thread(said, eighth, "cut off second")
                (folder / "third").touch()
                await asyncio.to_thread(said, eighth, "committed third")
                assert eighth.exit_code == 0
            await both_saw(readers, database_url)
            log = await log_of(database_url)
            assert len(log) == len(writers.written) + 4
            assert set(log) >= set(writers.written)

    asyncio.run(story())


async def have_committed(writers: Writers, times: int) -> bool:
    return writers.commits >= times


def test_a_service_that_is_killed_and_started_again_costs_its_readers_no_event(
    launch: Callable[..., Program], simulator: RunningSimulator, database_url: str
) -> None:
    port = free_port()
    settings = in_front_of(simulator, database_url, port=port)
    service = launch("serve", **settings)
    key = make_key(database_url, "operators", "ops")
    ready(service)

    async def story(service: Program) -> None:
        async with opened(database_url) as database, reading(f"http://127.0.0.1:{port}", key) as readers:
            writers = Writers(database)
            async with writers.writing(8):
                for _ in range(3):
                    already = [len(reader.seen) for reader in readers]
                    await soon(partial(further, readers, already), seconds=30)
                    service.kill_all()
                    await asyncio.sleep(0.5)
                    service = launch("serve", **settings)
                    await asyncio.to_thread(ready, service)
            await both_saw(readers, database_url)
            assert await log_of(database_url) != []
            assert all(reader.interruptions >= 3 for reader in readers)

    asyncio.run(story(service))


async def further(readers: tuple[Reader, Reader], than: list[int]) -> bool:
    return all(len(reader.seen) > before + 20 for reader, before in zip(readers, than, strict=True))


@pytest.mark.parametrize("count", [100, pytest.param(1_000, marks=pytest.mark.long)])
def test_many_clients_of_one_process_each_hear_of_every_event_within_its_memory(
    launch: Callable[..., Program], simulator: RunningSimulator, database_url: str, count: int
) -> None:
    wanted = count + 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(wanted, 4_096), hard), hard))
    service = launch("serve", **in_front_of(simulator, database_url))
    key = make_key(database_url, "operators", "ops")
    url = ready(service)
    process = psutil.Process(service.pid)
    before = process.memory_info().rss

    async def story() -> None:
        async with AsyncExitStack() as stack:
            began = time.monotonic()
            listeners = [await stack.enter_async_context(light(url, key)) for _ in range(count)]
            await all_of(listeners, lambda one: one.last_event_id)
            connected, admitted = time.monotonic() - began, process.memory_info().rss
            database = await stack.enter_async_context(opened(database_url, 1))
            began = time.monotonic()
            for _ in range(100):
                async with database.transaction() as tx:
                    await append(tx, [fact(team=TEAM, data=DATA)])
                async with database.reading() as connection:
                    await connection.exec_driver_sql(f"SELECT pg_notify('{CHANNEL}', 'writer events')")
            await all_of(listeners, lambda one: len(one.messages) >= 100)
            heard, told = time.monotonic() - began, process.memory_info().rss
            log = await asyncio.to_thread(query, database_url, SEQUENCES)
            assert len(log) == 100
            assert all(one.sequences == log for one in listeners)
            # The one that listens speaks as well, for all of the process's nudges.
            listens = await connections(database_url, "query LIKE 'LISTEN%' OR query = 'SELECT pg_notify($1, $2)'")
            assert listens == 1
            # Pool, LISTEN, our writer, and who asks; those who asked before may still be about to leave.
            await soon(partial(connections, database_url, "TRUE"), lambda open_now: open_now <= 10 + 1 + 1 + 1)
            print(
                f"{count} clients: {before / 1e6:.0f} MB before, {admitted / 1e6:.0f} MB with all connected after"
                f" {connected:.1f} s, {told / 1e6:.0f} MB when 100 events were with all of them after {heard:.1f} s"
            )
            assert max(admitted, told) < 200_000_000
            began = time.monotonic()
            assert await asyncio.to_thread(service.stop) == 0
            print(f"it stopped within {time.monotonic() - began:.1f} s")
            await all_of(listeners, lambda one: one.ended == "whole")

    asyncio.run(story())


@asynccontextmanager
async def light(url: str, key: str) -> AsyncIterator[Listener]:
    """A client that is not waited for."""
    reader, writer = await connect(url, key=key)
    listener = Listener()

    async def follow() -> None:
        await listener.read_head(reader)
        await listener.read_on(reader)

    following = asyncio.create_task(follow())
    try:
        yield listener
    finally:
        following.cancel()
        writer.close()


async def all_of(listeners: list[Listener], holds: Callable[[Listener], Any]) -> None:
    async def look() -> int:
        return sum(bool(holds(one)) for one in listeners)

    await soon(look, lambda seen: seen == len(listeners), seconds=60)


async def connections(url: str, condition: str) -> int:
    connection = await asyncpg.connect(plain_url(url))
    try:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                f" AND backend_type = 'client backend' AND ({condition})"
            )
        )
    finally:
        await connection.close()
