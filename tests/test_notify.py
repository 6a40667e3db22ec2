"""Nudges over a real PostgreSQL: at once in one process, soon in the others; a new connection makes up for a lost one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from app.db import Database
from app.notify import LARGEST_PAYLOAD, Notifier, wait

SECONDS = 30


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, pool_size=2)
    yield database
    await database.close()


@asynccontextmanager
async def running(db: Database) -> AsyncIterator[Notifier]:
    """A notifier as a process has it, from when it listens: a new connection wakes everyone."""
    notifier = Notifier(db.connect_directly)
    with notifier.listening("anything") as listens:
        task = asyncio.create_task(notifier.run())
        try:
            await until(listens)
            yield notifier
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(event: asyncio.Event) -> None:
    async with asyncio.timeout(SECONDS):
        await event.wait()


async def kill_listeners(db: Database) -> int:
    """Terminate every backend of this database but our own; return how many those were."""
    connection = await db.connect_directly()
    try:
        rows = await connection.fetch(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return len(rows)
    finally:
        await connection.close()


async def test_a_nudge_wakes_a_listener_of_the_same_notifier_at_once_even_without_a_connection(db: Database) -> None:
    notifier = Notifier(db.connect_directly)

    with notifier.listening("job:1") as mine, notifier.listening("job:2") as other:
        notifier.nudge(["job:1"])

        assert mine.is_set()
        assert not other.is_set()


async def test_a_nudge_wakes_all_listeners_of_a_topic_and_whoever_listens_to_several(db: Database) -> None:
    notifier = Notifier(db.connect_directly)

    with notifier.listening("a") as one, notifier.listening("a") as another, notifier.listening("b", "a") as several:
        notifier.nudge({"a"})

        assert one.is_set()
        assert another.is_set()
        assert several.is_set()


async def test_whoever_stopped_listening_is_left_alone(db: Database) -> None:
    notifier = Notifier(db.connect_directly)
    with notifier.listening("a") as gone:
        pass

    with notifier.listening("a") as stays:
        notifier.nudge(["a"])

    assert stays.is_set()
    assert not gone.is_set()


async def test_a_nudge_reaches_the_listeners_of_another_process_and_no_other_topic(db: Database) -> None:
    async with running(db) as speaker, running(db) as hearer:
        with hearer.listening("job:1") as nudged, hearer.listening("job:2") as other:
            speaker.nudge(["job:1"])
            await until(nudged)

            assert not other.is_set()


async def test_a_process_does_not_wake_itself_again_by_its_own_notify(db: Database) -> None:
    """Or else a loop that nudges the topic it listens to would never rest."""
    async with running(db) as speaker, running(db) as other:
        with speaker.listening("own") as own, speaker.listening("answer") as answered:
            speaker.nudge(["own"])
            own.clear()
            with other.listening("own") as heard:
                speaker.nudge(["own"])
                own.clear()
                await until(heard)
            other.nudge(["answer"])
            await until(answered)

            assert not own.is_set()


async def test_topics_beyond_one_payload_all_arrive(db: Database) -> None:
    topics = [f"job:{uuid4()}" for _ in range(1_000)]
    assert sum(map(len, topics)) > 4 * LARGEST_PAYLOAD

    async with running(db) as speaker, running(db) as hearer:
        with ExitStack() as stack:
            nudged = [stack.enter_context(hearer.listening(topic)) for topic in topics]
            speaker.nudge(topics)
            async with asyncio.timeout(SECONDS):
                await asyncio.gather(*(event.wait() for event in nudged))


async def test_a_payload_at_the_limit_is_one_that_postgres_takes(db: Database) -> None:
    """One byte more per topic, so that payloads of every length around the limit are tried."""
    async with running(db) as speaker, running(db) as hearer:
        for length in range(90, 110):
            topics = [f"{number:0{length}}" for number in range(100)]
            with hearer.listening(topics[0]) as first, hearer.listening(topics[-1]) as last:
                speaker.nudge(topics)
                await until(first)
                await until(last)


async def test_what_is_nudged_before_the_connection_stands_is_sent_when_it_does(db: Database) -> None:
    async with running(db) as hearer:
        with hearer.listening("job:1") as nudged:
            late = Notifier(db.connect_directly)
            late.nudge(["job:1"])
            task = asyncio.create_task(late.run())
            await until(nudged)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_after_its_backend_is_killed_it_reconnects_wakes_everyone_and_speaks_and_hears_again(
    db: Database,
) -> None:
    async with running(db) as one, running(db) as other:
        with one.listening("a") as first, one.listening("b") as second, other.listening("a") as third:
            assert await kill_listeners(db) == 2
            for event in (first, second, third):
                await until(event)
                event.clear()

            one.nudge(["a"])
            await until(third)
            other.nudge(["b"])
            await until(second)


async def test_a_database_that_is_away_is_tried_again_until_it_is_back(db: Database) -> None:
    tries = 0

    async def connect() -> asyncpg.Connection:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ConnectionRefusedError("not yet")
        return await db.connect_directly()

    notifier = Notifier(connect)
    with notifier.listening("a") as woken:
        task = asyncio.create_task(notifier.run())
        await until(woken)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert tries == 2


async def test_waiting_ends_with_the_event_or_the_time() -> None:
    event = asyncio.Event()
    await wait(event, 0.01)
    assert not event.is_set()

    event.set()
    async with asyncio.timeout(SECONDS):
        await wait(event, 3600)
