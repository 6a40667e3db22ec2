"""One thing done to many jobs: to whom, to whom not and why, and that sending it twice does nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.auth import Caller as Who
from app.jobs import bulk, dispatch, reconcile
from app.jobs.bulk import Plan, Selection
from app.jobs.filters import JobFilter
from app.simulator.server import RunningSimulator
from app.teams.queries.teams import find_team_id
from tests.harness import FLUX, Caller, Service, books, held_job, tell

Simulate = Callable[..., RunningSimulator]

LATER = {"Prefer": "respond-async"}


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulate: Simulate) -> tuple[Service, RunningSimulator]:
    simulator = simulate(hold=True, max_concurrent_jobs=100)
    return await serve(simulator, loops=False), simulator


async def whoever(service: Service, caller: Caller, team: str, *scopes: str) -> Who:
    """The same caller as the service sees it."""
    async with service.ctx.db.reading() as connection:
        team_id = await find_team_id(connection, team)
    assert team_id is not None
    return Who(caller.key_id, team_id, team, frozenset(scopes))


async def operator_of(service: Service) -> Who:
    return await whoever(service, await service.new_caller("operators", ("ops",)), "operators", "ops")


def all_of(service: Service, *, ids: tuple[str, ...] = (), **query: str) -> Selection:
    """Every job there is now, of all teams, that matches."""
    asked = JobFilter.parse({"team": "*", **query})
    return Selection(asked=asked, ids=tuple(UUID(job_id) for job_id in ids), before=service.ctx.now())


async def cancelled(service: Service, count: int, **more: Any) -> list[str]:
    jobs = [await service.caller.accepted(FLUX | more, **LATER) for _ in range(count)]
    for job_id in jobs:
        assert (await service.caller.http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 200
    return jobs


def names(plan: Plan) -> list[str]:
    return [str(job_id) for job_id in plan.todo]


async def test_who_is_left_out_is_told_with_the_reason(quiet: tuple[Service, RunningSimulator]) -> None:
    service, simulator = quiet
    who = await operator_of(service)
    first, again = await cancelled(service, 2)
    await service.caller.http.post(f"/v1/jobs/{again}/retry", headers=LATER)
    await dispatch.run_once(service.ctx)
    done = await held_job(service, simulator)
    await tell(simulator, f"jobs/{done.upstream_id}/finish", wait=True)
    unsent = await service.caller.accepted(FLUX, **LATER)

    retry = await bulk.plan(service.ctx, who, "retry", all_of(service))
    cancel = await bulk.plan(service.ctx, who, "cancel", all_of(service))
    refresh = await bulk.plan(service.ctx, who, "refresh", all_of(service, ids=(unsent, first, str(uuid4()))))

    assert names(retry) == [first]
    assert retry.skipped == {"tried again already": 1, "completed": 1, "not over yet": 2}
    assert (retry.total, retry.cursor) == (5, None)
    assert names(cancel) == [unsent]
    assert cancel.skipped == {"over": 3, "sent already": 1}
    assert refresh.skipped == {"not accepted upstream yet": 1, "over": 1, "not found": 1}


async def test_a_part_that_is_sent_twice_at_once_retries_nothing_twice(
    quiet: tuple[Service, RunningSimulator],
) -> None:
    service, _ = quiet
    who = await operator_of(service)
    jobs = await cancelled(service, 5)
    await service.caller.accepted(FLUX, **LATER)
    chosen, bulk_id = all_of(service, status="CANCELLED"), uuid4()
    (late,) = await cancelled(service, 1)

    both = await asyncio.gather(*(bulk.carry_out(service.ctx, who, "retry", chosen, bulk_id) for _ in range(2)))
    third = await bulk.carry_out(service.ctx, who, "retry", chosen, bulk_id)

    made = await service.rows("SELECT id, retry_of FROM jobs WHERE retry_of IS NOT NULL")
    assert sorted(str(row.retry_of) for row in made) == sorted(jobs)
    assert {job for report in both for job in report.done.values()} == {row.id for row in made}
    assert all(len(report.done) + report.skipped.get("tried again already", 0) == 5 for report in both)
    assert (third.done, third.skipped, third.left) == ({}, {"tried again already": 5}, 0)
    assert late not in {str(row.retry_of) for row in made}, "it came after the look at what would be done"
    noted = await service.rows("SELECT action, subject, actor FROM audit_log WHERE action LIKE '%retried' ORDER BY id")
    assert {row.actor for row in noted} == {str(who.key_id)}
    assert [row.action for row in noted].count("job.retried") == 5
    assert {row.subject for row in noted if row.action == "bulk.retried"} == {str(bulk_id)}


async def test_more_than_one_part_goes_on_where_the_first_ended(
    quiet: tuple[Service, RunningSimulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _ = quiet
    monkeypatch.setattr(bulk, "MOST_AT_ONCE", 2)
    who = await operator_of(service)
    jobs = await cancelled(service, 5)
    chosen = all_of(service, status="CANCELLED")

    done: list[UUID] = []
    lefts = []
    while True:
        report = await bulk.carry_out(service.ctx, who, "retry", chosen, uuid4())
        done += report.done
        lefts.append((report.left, report.more_left))
        if report.cursor is None:
            break
        asked = JobFilter.parse({**chosen.asked.as_query(), "cursor": str(report.cursor)})
        chosen = Selection(asked=asked, before=chosen.before)

    assert [str(job_id) for job_id in done] == list(reversed(jobs))
    assert lefts == [(2, True), (1, False), (0, False)]


async def test_one_that_refuses_keeps_no_other_from_it(quiet: tuple[Service, RunningSimulator]) -> None:
    service, _ = quiet
    who = await operator_of(service)
    await cancelled(service, 2)
    (odd,) = await cancelled(service, 1, model="flux-2-max")
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE teams SET allowed_models = ARRAY['flux-1*'] WHERE name = 'tests'")

    report = await bulk.carry_out(service.ctx, who, "retry", all_of(service), uuid4())

    assert len(report.done) == 2
    assert report.failed == {"Your team may not use the model flux-2-max": [UUID(odd)]}


async def test_cancelling_and_asking_after_many(quiet: tuple[Service, RunningSimulator]) -> None:
    service, simulator = quiet
    who = await operator_of(service)
    running = [await held_job(service, simulator) for _ in range(3)]
    unsent = [await service.caller.accepted(FLUX, **LATER) for _ in range(3)]

    cancel = await bulk.carry_out(service.ctx, who, "cancel", all_of(service), uuid4())
    assert sorted(map(str, cancel.done)) == sorted(unsent)
    assert cancel.skipped == {"sent already": 3}
    for job in running:
        await tell(simulator, f"jobs/{job.upstream_id}/finish", announce=False)
    refresh = await bulk.carry_out(service.ctx, who, "refresh", all_of(service), uuid4())
    assert len(refresh.done) == 3
    await reconcile.run_once(service.ctx)

    assert {(await service.job(job.id)).status for job in running} == {"COMPLETED"}
    counters = (await books(simulator))["counters"]
    assert counters["polls"] <= 1, "many jobs are asked after by one look at the list"
    steps = await service.rows("SELECT data ->> 'action' AS action FROM steps WHERE kind = 'action'")
    assert sorted(row.action for row in steps) == ["cancel"] * 3 + ["refresh"] * 3
    noted = await service.rows("SELECT action FROM audit_log WHERE action LIKE 'bulk.%' ORDER BY id")
    assert [row.action for row in noted] == ["bulk.cancelled", "bulk.refreshed"]


async def test_a_team_reaches_its_own_jobs_only(quiet: tuple[Service, RunningSimulator]) -> None:
    service, _ = quiet
    mine = await cancelled(service, 1)
    stranger = await service.new_caller("strangers")
    who = await whoever(service, stranger, "strangers", "submit", "read")
    ids = tuple(UUID(job_id) for job_id in mine)
    chosen = Selection(asked=JobFilter(), ids=ids, before=service.ctx.now() + timedelta(seconds=1))

    assert (await bulk.plan(service.ctx, who, "retry", chosen)).skipped == {"not found": 1}
