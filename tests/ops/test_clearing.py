"""Clearing at once: foreseen to the row, done to the end, and what cannot go yet is waited for or named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from app import partitions
from app.cli.pruning import EVERY_KIND
from app.ops import clearing, pruning
from app.ops.clearing import clear, foresee
from app.simulator.server import RunningSimulator
from tests.harness import Service
from tests.locks import holding
from tests.ops.aged import DAY, a_delivery, days_of, id_of, ids, insert, noon


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service that prunes nothing by itself, with something past its time, and nobody who reads events."""
    started: Service = await serve(simulator, loops=False, events_days=40)
    started.ctx.clock = noon()
    monkeypatch.setattr(pruning, "GRACE", timedelta(seconds=0.2))
    monkeypatch.setattr(clearing, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(partitions, "DROP_WAIT_SECONDS", 0.1)
    async with started.ctx.db.transaction() as tx:
        await partitions.ensure(tx, started.ctx.now() - 45 * DAY, days=0)
    for _ in range(5):
        await a_delivery(started, 45 * DAY, None, event_type="job.progress", status="dropped")
    at = started.ctx.now() - 20 * DAY
    session = {"id": id_of(at), "token_hash": b"x", "key_id": started.caller.key_id, "created_at": at, "used_at": at}
    await insert(started, "sessions", session | {"address": "127.0.0.1", "browser": "a browser"})
    return started


async def test_what_is_foreseen_is_what_goes(quiet: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "BATCH", 2)
    seen = await foresee(quiet.ctx, EVERY_KIND)
    assert (seen.rows["deliveries"], seen.rows["sessions"], seen.rows["receipts"], seen.more) == (5, 1, 0, set())
    assert {day.partition.table for day in seen.days} == set(partitions.TABLES)
    assert len(seen.days) == 2 * len(partitions.TABLES)
    assert all(day.byte_count > 0 and day.row_count is None for day in seen.days)
    assert len(await ids(quiet, "deliveries")) == 5, "nothing goes by being looked at"
    told: list[int] = []

    gone = await clear(quiet.ctx, EVERY_KIND, lambda so_far: told.append(so_far.rows.total()))

    assert (gone.rows, gone.in_use) == (seen.rows, [])
    assert sorted(gone.days, key=str) == sorted(seen.days, key=str)
    assert told == sorted(told)
    assert told[0] < told[-1] == 6
    assert not (await foresee(quiet.ctx, EVERY_KIND)).days


async def test_counting_ends_where_there_is_more(quiet: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clearing, "MOST_COUNTED", 3)
    seen = await foresee(quiet.ctx, EVERY_KIND)
    assert (seen.rows["deliveries"], seen.more) == (3, {"deliveries"})


async def test_a_partition_in_use_is_named_and_nothing_waits_behind_it(
    quiet: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"attempts_{quiet.ctx.now() - 45 * DAY:%Y%m%d}"
    monkeypatch.setattr(clearing, "PATIENCE_SECONDS", 0.5)
    async with holding(quiet, f"SELECT 1 FROM {name}"):
        clearing_ = asyncio.create_task(clear(quiet.ctx, EVERY_KIND, lambda _: None))
        while not clearing_.done():
            async with quiet.ctx.db.reading() as connection:
                await asyncio.wait_for(connection.exec_driver_sql("SELECT count(*) FROM attempts"), 30)
            await asyncio.sleep(0.02)
        gone = await clearing_
    assert name in gone.in_use
    assert await days_of(quiet, "attempts") >= {name[-8:]}
    monkeypatch.setattr(clearing, "PATIENCE_SECONDS", 30)
    assert name in {day.partition.name for day in (await clear(quiet.ctx, EVERY_KIND, lambda _: None)).days}
