"""Readers of ours follow the log: each event once, in order, by one process at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.events.readers import read_on
from app.simulator.server import RunningSimulator
from tests.harness import Service, given_up

QUEUED = ("job.queued",)


async def test_a_reader_sees_each_event_once_and_goes_on_where_its_last_commit_left_it(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service: Service = await serve(simulator, loops=False)
    jobs = [await service.caller.accepted(Prefer="respond-async") for _ in range(5)]
    ctx, seen = service.ctx, []
    for _ in range(2):
        async with ctx.db.transaction() as tx:
            events, more = await read_on(tx, "test", QUEUED, ctx.now(), limit=2)
            seen += [str(event.job_id) for event in events]
            assert more
    async with given_up(ctx.db) as reading:  # what it has read is read again
        await read_on(reading, "test", QUEUED, ctx.now(), limit=2)
        async with ctx.db.transaction() as tx:
            assert await read_on(tx, "test", QUEUED, ctx.now(), limit=2) == ([], False)  # another one reads just now
            others, _ = await read_on(tx, "other", QUEUED, ctx.now(), limit=10)
            assert [str(event.job_id) for event in others] == jobs
    async with ctx.db.transaction() as tx:
        events, more = await read_on(tx, "test", QUEUED, ctx.now(), limit=2)
        assert (seen + [str(event.job_id) for event in events], more) == (jobs, False)
