"""Jobs that ended long ago go with what is only about them, and none that anything holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.clock import SettableClock, first_id
from app.deliveries.queries import history
from app.jobs.queries import removal
from app.ops.pruning import prune_once, remove_files_once
from app.simulator.server import RunningSimulator
from tests.harness import Service, eventually, refused
from tests.locks import holding
from tests.ops.aged import a_delivery, insert

DAYS: Final = 10


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service that does nothing by itself, and whose clock the test moves."""
    started: Service = await serve(simulator, loops=False, jobs_days=DAYS)
    started.ctx.clock = SettableClock()
    return started


async def ended(service: Service, **headers: str) -> str:
    """The id of a job that has completed."""
    job_id = await service.caller.accepted(**headers)
    await eventually(lambda: service.caller.read(job_id), lambda job: job["status"] == "COMPLETED")
    return job_id


async def jobs(service: Service) -> set[str]:
    return {str(row.id) for row in await service.rows("SELECT id FROM jobs")}


def later(service: Service, days: float = DAYS + 2) -> None:
    service.ctx.clock.advance(days * 24 * 3600)  # type: ignore[attr-defined]


async def prune(service: Service) -> None:
    while await prune_once(service.ctx):
        pass


async def execute(service: Service, statement: str, **values: Any) -> None:
    async with service.ctx.db.transaction() as tx:
        await tx.execute(text(statement), values)


async def a_file(service: Service, job_id: str, *, pending: bool) -> UUID:
    now = service.ctx.now()
    values = {"id": uuid4(), "job_id": job_id, "position": 0, "source": "http://127.0.0.1:9/a.png", "created_at": now}
    values |= {"team_id": (await service.job(job_id)).team_id, "completed_at": now, "give_up_at": now}
    values |= {"status": "pending" if pending else "failed", "due_at": now if pending else None}
    return await insert(service, "files", values)


async def test_a_job_goes_with_all_that_is_about_it_and_what_it_cost_stays(quiet: Service) -> None:
    job_id = await ended(quiet, Idempotency_Key="once")
    retry = await ended(quiet)
    younger = "UPDATE jobs SET retry_of = :old, completed_at = completed_at + interval '9 days' WHERE id = :id"
    await execute(quiet, younger, old=job_id, id=retry)
    delivery = await a_delivery(quiet, timedelta(), None, job_id=job_id)
    file_id = await a_file(quiet, job_id, pending=False)
    await execute(quiet, "INSERT INTO job_words (job_id, words) VALUES (:id, 'lighthouse')", id=job_id)
    span = {
        "from": f"{quiet.ctx.now() - timedelta(days=1):%Y-%m-%d}",
        "to": f"{quiet.ctx.now() + timedelta(days=1):%Y-%m-%d}",
    }
    usage = (await quiet.caller.http.get("/v1/usage", params=span)).json()
    later(quiet)

    await prune(quiet)

    assert await jobs(quiet) == {retry}
    for table in ("idempotency_keys", "job_words", "receipts", "deliveries"):
        rows = await quiet.rows(f"SELECT 1 FROM {table} WHERE job_id = :id", id=job_id)
        assert rows == [], table
    assert delivery not in {row.id for row in await quiet.rows("SELECT id FROM deliveries")}
    assert [row.job_id for row in await quiet.rows("SELECT job_id FROM files WHERE id = :id", id=file_id)] == [None]
    assert (await quiet.caller.http.get("/v1/usage", params=span)).json()["groups"] == usage["groups"] != []
    assert await quiet.rows("SELECT 1 FROM ledger WHERE job_id = :id", id=job_id) != []
    refused(await quiet.caller.http.get(f"/v2/jobs/{job_id}"), 404)
    assert (await quiet.caller.read(retry))["retryOf"] == job_id
    assert (await quiet.caller.http.get(f"/v1/jobs/{retry}/trace")).json()["job"]["retryOf"] == job_id
    assert await quiet.caller.accepted(Idempotency_Key="once") != job_id, "its key stands for it no more"


async def test_what_anything_holds_stays_until_it_does_not(quiet: Service) -> None:
    parent, unknown, told, fetched, locked, _ = [await ended(quiet) for _ in range(6)]
    await execute(quiet, "UPDATE upstream_accounts SET paused_at = now()")
    child = await quiet.caller.accepted(Prefer="respond-async")
    await execute(quiet, "UPDATE jobs SET parent_id = :parent WHERE id = :id", parent=parent, id=child)
    await execute(quiet, "UPDATE jobs SET upstream_id = NULL WHERE id = :id", id=unknown)
    due = {"status": "pending", "ended_at": None, "due_at": quiet.ctx.now()}
    await a_delivery(quiet, timedelta(), None, job_id=told, **due)
    await a_file(quiet, fetched, pending=True)
    later(quiet)

    async with holding(quiet, f"SELECT 1 FROM jobs WHERE id = '{locked}' FOR NO KEY UPDATE"):
        await asyncio.wait_for(prune(quiet), 30)
    assert await jobs(quiet) == {parent, unknown, told, fetched, locked, child}
    await prune(quiet)
    assert await jobs(quiet) == {parent, unknown, told, fetched, child}

    await execute(quiet, "UPDATE jobs SET parent_id = NULL, upstream_id = coalesce(upstream_id, 'known')")
    await execute(
        quiet, "UPDATE deliveries SET status = 'dropped', due_at = NULL, ended_at = now() WHERE due_at IS NOT NULL"
    )
    await execute(quiet, "UPDATE files SET status = 'failed', due_at = NULL")
    await prune(quiet)
    assert await jobs(quiet) == {child}


async def test_a_job_of_which_somebody_is_to_be_told_again_meanwhile_stays(quiet: Service) -> None:
    kept, gone = [await ended(quiet) for _ in range(2)]
    delivery = await a_delivery(quiet, timedelta(), None, job_id=kept, status="undelivered")
    later(quiet)

    async with quiet.ctx.db.transaction() as tx:
        await history.make_due(tx, [delivery], quiet.ctx.now())
        pruning = asyncio.create_task(prune_once(quiet.ctx))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        await eventually(lambda: quiet.rows(waiting))
    await pruning
    await prune(quiet)

    assert await jobs(quiet) == {kept}
    assert delivery in {row.id for row in await quiet.rows("SELECT id FROM deliveries WHERE due_at IS NOT NULL")}
    assert gone not in await jobs(quiet)


async def test_jobs_that_ended_a_short_time_ago_stay_however_long_they_took(quiet: Service) -> None:
    job_id = await ended(quiet)
    later(quiet)
    await execute(quiet, "UPDATE jobs SET completed_at = :now WHERE id = :id", now=quiet.ctx.now(), id=job_id)
    await prune(quiet)
    assert await jobs(quiet) == {job_id}


async def test_jobs_past_their_time_are_found_by_the_primary_key(quiet: Service) -> None:
    job_id = await ended(quiet)
    await execute(
        quiet,
        """
        INSERT INTO jobs (id, team_id, key_id, created_at, updated_at, operation, model, input, status, completed_at,
            upstream_account, wire_body)
        SELECT CAST('7fff' || right(CAST(gen_random_uuid() AS text), 32) AS uuid), team_id, key_id, created_at, updated_at,
            operation, model, '{}', status, completed_at, upstream_account, ''
        FROM jobs CROSS JOIN generate_series(1, 5000) WHERE id = :id
        """,
        id=job_id,
    )
    async with quiet.ctx.db.reading() as connection:
        for table in ("jobs", "deliveries", "files"):
            await connection.execute(text(f"VACUUM ANALYZE {table}"))
    before = quiet.ctx.now() - timedelta(days=DAYS)
    values = {"before": before, "before_id": first_id(before), "limit": 1000}
    plan = "\n".join(row[0] for row in await quiet.rows(f"EXPLAIN {removal._LOCK_ENDED.text}", **values))

    assert "Index Scan using pk_jobs" in plan
    assert "ix_jobs_open" in plan
    assert "Seq Scan on jobs" not in plan, plan


async def test_the_files_of_jobs_that_are_gone_are_the_archives_to_remove(quiet: Service) -> None:
    job_id = await ended(quiet)
    await a_file(quiet, job_id, pending=False)
    later(quiet)
    await prune(quiet)
    quiet.ctx.objects = quiet.ctx.objects or _Nowhere()  # type: ignore[assignment]
    while await remove_files_once(quiet.ctx):
        pass
    assert await quiet.rows("SELECT 1 FROM files") == []


class _Nowhere:
    async def remove(self, names: list[str]) -> None:
        raise AssertionError(f"nothing was stored: {names}")
