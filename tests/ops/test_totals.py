"""What the log tells of jobs is counted once, by few labels, and never less than before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from app.context import Context
from app.jobs import dispatch
from app.ops import total_queries, totals
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Service, eventually, tell

LATER: Final = {"Prefer": "respond-async"}


async def of_teams(ctx: Context, name: str, *, limit: int = 200) -> dict[tuple[str, str, str], int]:
    async with ctx.db.reading() as connection:
        rows = await total_queries.list_totals_of_teams(connection, name, limit=limit)
    return {(row.status, row.model, row.team): row.amount for row in rows}


async def test_each_event_is_counted_once_however_many_count_and_whatever_breaks(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(hold=True)
    service: Service = await serve(simulator, loops=False)
    other: Service = await serve(simulator, loops=False)
    done, failed, cancelled = [await service.caller.accepted(FLUX, **LATER) for _ in range(3)]
    assert (await service.caller.http.post(f"/v1/jobs/{cancelled}/cancel")).status_code == 200
    assert await dispatch.run_once(service.ctx) == 2
    await tell(simulator, f"jobs/{done}/finish")
    await tell(simulator, f"jobs/{failed}/finish", status="FAILED")

    async def open_jobs() -> list[Any]:
        return await service.rows("SELECT 1 FROM jobs WHERE completed_at IS NULL")

    await eventually(open_jobs, lambda rows: not rows)
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("ALTER TABLE totals ADD CONSTRAINT never CHECK (amount < 0)")
    with pytest.raises(IntegrityError):
        await totals.run_once(service.ctx)
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("ALTER TABLE totals DROP CONSTRAINT never")
    await asyncio.gather(*(totals.run_once(one.ctx) for one in (service, other) for _ in range(2)))
    await totals.run_once(service.ctx)

    flux = "flux-1.1-pro-ultra"
    assert await of_teams(service.ctx, "submitted") == {("", flux, "tests"): 3}
    assert await of_teams(service.ctx, "ended") == {
        (status, flux, "tests"): 1 for status in ("COMPLETED", "FAILED", "CANCELLED")
    }
    async with service.ctx.db.reading() as connection:
        found = await total_queries.list_totals(connection, ["ended_by", "queue", "generation", "webhook"])
    assert found["ended_by"] == {"webhook": 2, "framehook": 1}
    for kind, jobs in (("queue", 2), ("generation", 1), ("webhook", 2)):
        assert sum(amount for bucket, amount in found[kind].items() if bucket.isdecimal()) == jobs


async def test_labels_beyond_the_limit_share_one_and_stay_there(service: Service) -> None:
    insert = text(
        """
        INSERT INTO totals (name, team_id, model, detail, amount, since)
        SELECT 'ended', (SELECT id FROM teams WHERE name = 'tests'), 'model ' || n, 'COMPLETED', n,
            now() + n * interval '1 s'
        FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
        """
    )

    async def count(first: int, last: int) -> dict[tuple[str, str, str], int]:
        async with service.ctx.db.transaction() as tx:
            await tx.execute(insert, {"first": first, "last": last})
        return await of_teams(service.ctx, "ended", limit=8)

    before = await count(1, 6)
    assert before.pop(("COMPLETED", "other", "other")) == 6
    after = await count(7, 30)
    assert after.pop(("COMPLETED", "other", "other")) == sum(range(6, 31))
    assert after == before == {("COMPLETED", f"model {n}", "tests"): n for n in range(1, 6)}
