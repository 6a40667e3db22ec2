"""Budgets hold under concurrency, each job is billed once at most, and the balance is the ledger's sum at every instant."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.jobs import expire
from app.simulator.config import amended
from app.simulator.faults import FaultPlan
from app.simulator.server import RunningSimulator
from app.teams import ledger
from tests.harness import (
    FLUX,
    Caller,
    FrozenClock,
    Service,
    eventually,
    held_job,
    post_webhook,
    refused,
    running_service,
    settings_for,
    tell,
)
from tests.simulator.walks import sign

Simulate = Callable[..., RunningSimulator]

LATER = {"Prefer": "respond-async"}
UNEQUAL = """
    SELECT b.team_id, b.reserved, b.spent, s.reserved AS entered_reserved, s.spent AS entered_spent
    FROM balances b FULL JOIN (
        SELECT team_id, month, sum(reserved_change) AS reserved, sum(spent_change) AS spent
        FROM ledger GROUP BY team_id, month
    ) s ON s.team_id = b.team_id AND s.month = b.month
    WHERE (coalesce(b.reserved, 0), coalesce(b.spent, 0)) <> (coalesce(s.reserved, 0), coalesce(s.spent, 0))
"""
"""Balances that are not the sums of the ledger, as of one snapshot."""


async def set_budget(service: Service, credits_: int | None, team: str = "tests") -> None:
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"UPDATE teams SET monthly_credits = {credits_ or 'NULL'} WHERE name = '{team}'")


async def balance(service: Service) -> tuple[int, int]:
    """Credits reserved and spent."""
    rows = await service.rows("SELECT reserved, spent FROM balances")
    return (rows[0].reserved, rows[0].spent) if rows else (0, 0)


@asynccontextmanager
async def audited(*services: Service) -> AsyncIterator[Counter[str]]:
    """Look all the time at the books; fail when they are wrong at any instant."""
    looks: Counter[str] = Counter()

    async def audit() -> None:
        while True:
            assert await services[0].rows(UNEQUAL) == []
            looks["looked"] += 1
            await asyncio.sleep(0)

    auditing = asyncio.create_task(audit())
    try:
        yield looks
        assert not auditing.done(), auditing.exception()
    finally:
        auditing.cancel()
        await asyncio.gather(auditing, return_exceptions=True)
    assert await services[0].rows(UNEQUAL) == []
    assert looks["looked"] > 3


async def over(caller: Caller, job_id: str) -> dict[str, Any]:
    """The job, once it has ended."""
    return await eventually(lambda: caller.read(job_id, wait=15), lambda job: job["completedAt"])


async def submit(service: Service, number: int) -> httpx.Response:
    return await service.caller.submit(FLUX | {"prompt": f"picture {number}"}, **LATER)


@pytest.mark.parametrize("processes", [1, 2])
async def test_kernel_rule_10_of_a_hundred_submissions_at_once_exactly_as_many_are_accepted_as_the_budget_has(
    database_url: str, simulate: Simulate, processes: int
) -> None:
    simulator = await asyncio.to_thread(simulate, hold=True)
    settings = settings_for(database_url, simulator)
    async with running_service(settings) as one, running_service(settings) as other:
        await set_budget(one, 50 * ledger.ESTIMATE)
        services = [one, other][:processes]
        other.caller.http.headers["X-API-Key"] = one.caller.key
        async with audited(one):
            answers = await asyncio.gather(*(submit(services[n % processes], n) for n in range(100)))
        assert Counter(answer.status_code for answer in answers) == {202: 50, 402: 50}
        for answer in answers:
            if answer.status_code == 402:
                assert refused(answer, 402) == {
                    "error": "Insufficient credits",
                    "creditsRequired": ledger.ESTIMATE,
                    "creditsAvailable": 0,
                }
        assert await balance(one) == (500, 0)
        assert (await one.rows("SELECT count(*) AS n FROM jobs"))[0].n == 50


async def test_kernel_rule_10_what_fails_is_released_and_what_completes_is_settled_once_at_what_it_cost(
    serve: Callable[..., Any], simulate: Simulate
) -> None:
    simulator = await asyncio.to_thread(simulate, hold=True)
    service = await serve(simulator)
    await set_budget(service, 25)
    async with audited(service):
        first, second = await held_job(service, simulator), await held_job(service, simulator)
        assert await balance(service) == (20, 0)
        assert (await submit(service, 3)).status_code == 402
        await tell(simulator, f"jobs/{first.upstream_id}/finish", status="FAILED", error="NSFW", wait=True)
        assert await balance(service) == (10, 0)
        await tell(simulator, f"jobs/{second.upstream_id}/finish", credit_cost=12, wait=True)
        assert await balance(service) == (0, 12)
        for _ in range(3):  # the same webhook again, polls, and reading
            await tell(simulator, f"jobs/{second.upstream_id}/webhook", event="completed")
            await service.caller.read(second.id)
            await service.caller.http.get("/v2/jobs")
        assert await balance(service) == (0, 12)
        # The dearest of the last ones is what the next is expected to cost: 12 of 13.
        assert (await submit(service, 4)).status_code == 202
        short = refused(await submit(service, 5), 402)
        assert (short["creditsRequired"], short["creditsAvailable"]) == (12, 1)
    kinds = Counter(row.kind for row in await service.rows("SELECT kind FROM ledger"))
    assert kinds == {"reserve": 3, "release": 1, "settle": 1}


async def test_a_submission_that_the_budget_does_not_reach_for_leaves_nothing_and_its_key_free(
    serve: Callable[..., Any], simulate: Simulate
) -> None:
    service = await serve(await asyncio.to_thread(simulate, hold=True))
    await set_budget(service, 5)
    assert (await service.caller.submit(Idempotency_Key="mine", **LATER)).status_code == 402
    for table in ("jobs", "idempotency_keys", "ledger", "events"):
        assert await service.rows(f"SELECT 1 FROM {table}") == []
    await set_budget(service, 10)
    answers = await asyncio.gather(*(service.caller.submit(Idempotency_Key="mine", **LATER) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["jobId"] for answer in answers}) == 1
    assert await balance(service) == (10, 0)


async def test_kernel_rule_10_a_job_that_completes_after_we_gave_it_up_is_settled_after_its_release(
    serve: Callable[..., Any], simulate: Simulate
) -> None:
    simulator = await asyncio.to_thread(simulate, hold=True)
    service = await serve(simulator)
    await set_budget(service, 100)
    job = await held_job(service, simulator)
    service.ctx.clock = later = FrozenClock()
    later.time += timedelta(hours=service.ctx.settings.job_deadline_hours, minutes=1)
    async with audited(service):
        await expire.run_once(service.ctx)
        assert (await service.caller.read(job.id))["status"] == "FAILED"
        assert await balance(service) == (0, 0)
        body = job.says("completed", status="COMPLETED", result={"images": []}, creditCost=7)
        assert (await post_webhook(service, job.url, body, sign(body))).status_code == 200
        assert (await service.caller.read(job.id))["status"] == "COMPLETED"
        assert await balance(service) == (0, 7)
    kinds = [row.kind for row in await service.rows("SELECT kind FROM ledger ORDER BY id")]
    assert kinds == ["reserve", "release", "settle"]


async def test_a_cancelled_and_a_refused_job_cost_nothing(serve: Callable[..., Any], simulate: Simulate) -> None:
    simulator = await asyncio.to_thread(simulate, hold=True, credits=5)
    service = await serve(simulator, loops=False)
    await set_budget(service, 100)
    job_id = await service.caller.accepted(FLUX, **LATER)
    assert await balance(service) == (10, 0)
    assert (await service.caller.http.post(f"/v1/jobs/{job_id}/cancel")).status_code == 200
    assert await balance(service) == (0, 0)
    assert (await service.caller.submit()).status_code == 402  # by the upstream, whose account is empty
    assert await balance(service) == (0, 0)


async def test_a_team_is_told_once_at_eighty_and_once_at_a_hundred_per_cent(
    serve: Callable[..., Any], simulate: Simulate
) -> None:
    simulator = await asyncio.to_thread(simulate, hold=True)
    service = await serve(simulator)
    await set_budget(service, 50)
    jobs = [await held_job(service, simulator) for _ in range(3)]
    assert await thresholds(service) == []
    jobs.append(await held_job(service, simulator))
    assert await thresholds(service) == [(80, 40, 0)]
    await tell(simulator, f"jobs/{jobs[0].upstream_id}/finish", status="FAILED", wait=True)
    jobs.append(await held_job(service, simulator))
    assert await thresholds(service) == [(80, 40, 0)]
    await tell(simulator, f"jobs/{jobs[1].upstream_id}/finish", credit_cost=25, wait=True)
    assert await thresholds(service) == [(80, 40, 0), (100, 30, 25)]
    for job in jobs[2:]:
        await tell(simulator, f"jobs/{job.upstream_id}/finish", wait=True)
    assert len(await thresholds(service)) == 2


async def thresholds(service: Service) -> list[tuple[int, int, int]]:
    """What the team was told of its budget: per cent, reserved, spent."""
    subscriber = await service.new_caller("tests", ("subscribe",))
    answer = await subscriber.http.get("/v1/events", params={"types": "budget.threshold"})
    found = [event["data"] for event in answer.json()["events"]]
    return [(data["threshold"], data["reserved"], data["spent"]) for data in found]


async def test_a_team_without_a_budget_reserves_nothing_and_its_spending_is_known_all_the_same(
    serve: Callable[..., Any], simulate: Simulate
) -> None:
    service = await serve(await asyncio.to_thread(simulate))
    assert (await over(service.caller, await service.caller.accepted()))["status"] == "COMPLETED"
    assert await balance(service) == (0, 10)
    assert [row.kind for row in await service.rows("SELECT kind FROM ledger")] == ["settle"]


async def test_a_model_without_history_is_estimated_by_the_upstreams_list(
    serve: Callable[..., Any], simulate: Simulate
) -> None:
    service = await serve(await asyncio.to_thread(simulate, hold=True), loops=False)
    await set_budget(service, 100)
    models = (
        '{"models": [{"id": "flux-1.1-pro-ultra", "costMin": 2, "costMax": 6.5}, {"id": "odd", "costMax": "much"}]}'
    )
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"INSERT INTO catalogs (account, models) VALUES ('{service.ctx.account}', '{models}')")
    await service.caller.accepted(FLUX, **LATER)
    assert await balance(service) == (7, 0)
    await service.caller.accepted(FLUX | {"model": "odd"}, **LATER)
    assert await balance(service) == (17, 0)


async def test_under_failures_of_every_kind_the_books_are_right_at_every_instant(
    database_url: str, simulate: Simulate
) -> None:
    """Two services, an upstream that fails, cancels, loses answers, doubles and reorders what it says."""
    faults = {
        "fail": 0.2,
        "cancel": 0.1,
        "accept_then_cut": 0.1,
        "double": 0.3,
        "reorder": 0.2,
        "drop": 0.2,
        "early": 0.2,
    }
    simulator = await asyncio.to_thread(simulate, faults=amended(FaultPlan(), faults), max_concurrent_jobs=100)
    settings = settings_for(database_url, simulator, reconcile_after_seconds=0.3, max_in_flight=100)
    async with running_service(settings) as one, running_service(settings) as other:
        await set_budget(one, 400)
        other.caller.http.headers["X-API-Key"] = one.caller.key
        async with audited(one):
            answers = await asyncio.gather(*(submit((one, other)[n % 2], n) for n in range(60)))
            accepted = [answer.json()["jobId"] for answer in answers if answer.status_code == 202]
            assert len(accepted) >= 40  # more where some have failed before the last are submitted
            jobs = [await over(one.caller, job_id) for job_id in accepted]
        assert {job["status"] for job in jobs} == {"COMPLETED", "FAILED", "CANCELLED"}
        paid = sum(job["creditCost"] or 0 for job in jobs)
        assert paid <= 400
        assert await balance(one) == (0, paid)
        assert (await one.rows("SELECT max(n) AS n FROM (SELECT count(*) AS n FROM ledger GROUP BY job_id) AS each"))[
            0
        ].n <= 2


async def test_settling_and_reserving_never_wait_for_each_other_in_a_circle(
    serve: Callable[..., Any], simulate: Simulate
) -> None:
    """Submissions and endings of two teams, together, for a while: a deadlock would show in the server's count."""
    simulator = await asyncio.to_thread(simulate, generate_seconds=0.02, queue_seconds=0.0, max_concurrent_jobs=100)
    service = await serve(simulator, max_in_flight=100)
    callers = [await service.new_caller(team) for team in ("one", "two")]
    for team in ("one", "two"):
        await set_budget(service, 100_000, team)
    job_ids = await asyncio.gather(
        *(callers[n % 2].accepted(FLUX | {"prompt": f"picture {n}"}, **LATER) for n in range(80))
    )
    for n, job_id in enumerate(job_ids):
        await over(callers[n % 2], job_id)
    (row,) = await service.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert row.deadlocks == 0
    await eventually(lambda: service.rows(UNEQUAL), lambda rows: rows == [])
    spent = await service.rows("SELECT spent FROM balances ORDER BY team_id")
    assert [each.spent for each in spent] == [400, 400]
