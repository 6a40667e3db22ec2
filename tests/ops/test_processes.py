"""Processes tell the database of themselves: what they measured is counted once, however they end or falter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import pytest
from sqlalchemy import text

from app.config import load_settings
from app.context import Context, open_context
from app.ops.process_queries import sum_measures
from app.ops.processes import Presence
from app.ops.watching import freshest, read_processes

HEARD: Final = "framehook_webhooks_total\tapplied"


@asynccontextmanager
async def process(url: str) -> AsyncIterator[tuple[Context, Presence]]:
    """A process with nothing running in it."""
    settings = load_settings(
        _env_file=None, database_url=url, apiframe_base_url="http://127.0.0.1:1", archive_url="off", pool_size=3
    )
    async with open_context(settings) as ctx:
        yield ctx, Presence(ctx, "worker")


@pytest.fixture
async def two(database_url: str) -> AsyncIterator[tuple[tuple[Context, Presence], tuple[Context, Presence]]]:
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(process(database_url)) for _ in range(2)]
        yield one, other


async def told(ctx: Context) -> float:
    """How many webhooks all processes have applied, as any of them would say."""
    async with ctx.db.reading() as connection:
        return (await sum_measures(connection)).get(HEARD, 0)


async def rows(ctx: Context, statement: str) -> list[Any]:
    async with ctx.db.reading() as connection:
        return list((await connection.execute(text(statement))).all())


async def grow_old(ctx: Context, presence: Presence) -> None:
    """Have a process not been seen for two minutes."""
    async with ctx.db.transaction() as tx:
        await tx.execute(
            text("UPDATE processes SET seen_at = seen_at - interval '2 minutes' WHERE id = :id"), {"id": presence.id}
        )


def hear(ctx: Context, times: int) -> None:
    for _ in range(times):
        ctx.measures.webhook_taken("applied", 0.01)


async def test_what_was_measured_adds_up_and_stays_when_processes_leave_or_die(two: Any) -> None:
    (ctx, presence), (elsewhere, other) = two
    hear(ctx, 3)
    hear(elsewhere, 4)
    await presence.tell()
    await other.tell()
    assert await told(ctx) == 7
    assert [one.row.role for one in await read_processes(ctx)] == ["worker", "worker"]

    hear(ctx, 1)
    await presence.leave()
    assert await told(elsewhere) == 8
    (left,) = await read_processes(elsewhere)
    assert left.row.pool_size == 3

    await grow_old(ctx, other)
    async with process(ctx.settings.database_url or "") as (_, third):
        await third.tell()
        assert await told(ctx) == 8, "a process that died took what it had counted with it"
        assert len(await read_processes(ctx)) == 1
    sums = await rows(ctx, "SELECT measures FROM processes WHERE id = '00000000-0000-0000-0000-000000000000'")
    assert sums[0].measures["framehook_webhook_seconds_count"] == 8
    assert sums[0].measures["framehook_webhook_seconds_bucket\t0.01"] == 8


async def test_a_process_that_was_only_slow_is_counted_once(two: Any) -> None:
    (ctx, presence), (_, other) = two
    hear(ctx, 5)
    await presence.tell()
    for round_ in range(3):
        before = presence.id
        await grow_old(ctx, presence)
        await other.tell()
        assert await told(ctx) == 5 + 2 * round_
        hear(ctx, 2)
        await presence.tell()
        assert presence.id != before
        assert await told(ctx) == 7 + 2 * round_
        await presence.tell()
        assert await told(ctx) == 7 + 2 * round_
    assert len(await read_processes(ctx)) == 2


async def test_a_write_of_unknown_fate_is_counted_once_though_its_process_was_folded(two: Any) -> None:
    (ctx, presence), (_, other) = two
    hear(ctx, 5)
    await presence.tell()
    heard_of = presence._written
    hear(ctx, 4)
    await presence.tell()
    presence._written = heard_of  # the connection broke in the COMMIT of the last one

    await grow_old(ctx, presence)
    await other.tell()
    hear(ctx, 1)
    await presence.tell()
    assert await told(ctx) == 10


async def test_a_process_that_was_long_forgotten_goes_on_from_what_it_wrote(two: Any) -> None:
    (ctx, presence), (_, other) = two
    hear(ctx, 5)
    await presence.tell()
    await grow_old(ctx, presence)
    await other.tell()
    async with ctx.db.transaction() as tx:
        await tx.exec_driver_sql(
            "UPDATE processes SET folded_at = folded_at - interval '2 hours' WHERE folded_at IS NOT NULL"
        )
    await other.tell()
    assert len(await rows(ctx, "SELECT 1 FROM processes")) == 2, "nobody needs the folded row any more"

    hear(ctx, 1)
    await presence.tell()
    assert await told(ctx) == 6


async def test_processes_that_fold_at_the_same_time_count_nothing_twice(two: Any) -> None:
    (ctx, presence), (elsewhere, other) = two
    async with AsyncExitStack() as stack:
        dead = [await stack.enter_async_context(process(ctx.settings.database_url or "")) for _ in range(4)]
        for each, one in dead:
            hear(each, 10)
            await one.tell()
            await grow_old(ctx, one)
        await asyncio.gather(presence.tell(), other.tell())
    assert await told(elsewhere) == 40
    assert len(await read_processes(ctx)) == 2


async def test_loops_are_told_with_their_last_turn_and_error(two: Any) -> None:
    (ctx, presence), (elsewhere, other) = two
    fine, broken = ctx.measures.loop("deliver", 5.0), ctx.measures.loop("prune", 600.0)
    fine.note(0.25, None)
    broken.note(0.5, RuntimeError("the first line\nand the second"))
    await presence.tell()
    elsewhere.measures.loop("deliver", 5.0)
    await other.tell()
    async with ctx.db.transaction() as tx:
        await tx.execute(
            text("UPDATE processes SET seen_at = seen_at - interval '30 seconds' WHERE id = :id"), {"id": presence.id}
        )

    seen = {loop.name: loop for loop in (await read_processes(ctx))[0].loops}
    assert seen["deliver"].turn_seconds == 0.25
    assert 30 <= seen["deliver"].seconds_ago < 60
    assert seen["prune"].error == "RuntimeError: the first line"
    assert not seen["deliver"].late
    assert freshest(await read_processes(ctx))["deliver"].seconds_ago < 30, "another process had a turn of it since"
    async with ctx.db.reading() as connection:
        assert (await sum_measures(connection))["framehook_loop_errors_total\tprune"] == 1
