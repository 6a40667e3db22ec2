"""Nobody says anything: every job ends all the same, by few questions, and what the upstream forgot ends as lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.jobs import dispatch, durations, expire, reconcile
from app.simulator.faults import FaultPlan
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, SIMULATOR_KEY, FrozenClock, Service, books, eventually, held_job, post_webhook, tell
from tests.simulator.walks import sign

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]


async def counters(simulator: RunningSimulator) -> Any:
    return (await books(simulator))["counters"]


async def deaf(serve: Serve, simulate: Simulate, **settings: Any) -> tuple[Service, RunningSimulator, FrozenClock]:
    """A service without loops that hears no webhook, and a clock that only the test moves."""
    simulator = simulate(hold=True, max_concurrent_jobs=20_000, faults=FaultPlan(drop=1))
    service = await serve(simulator, loops=False, **{"max_in_flight": 20_000} | settings)
    service.ctx.clock = clock = FrozenClock()
    return service, simulator, clock


async def many_jobs(service: Service, count: int) -> None:
    """Have so many jobs under way upstream."""
    job_id = await service.caller.accepted(FLUX, Prefer="respond-async")
    columns = "team_id, key_id, created_at, updated_at, operation, model, input, status, upstream_account, wire_body"
    await service.rows(
        f"INSERT INTO jobs (id, {columns}, dispatch_at) SELECT gen_random_uuid(), {columns}, dispatch_at"
        " FROM jobs, generate_series(2, :count) WHERE id = :id RETURNING 1",
        id=job_id,
        count=count,
    )
    while await dispatch.run_once(service.ctx):
        pass
    rows = await service.rows("SELECT count(*) AS n FROM jobs WHERE upstream_id IS NOT NULL")
    assert rows[0].n == count


async def finish_all(simulator: RunningSimulator) -> None:
    for job in (await books(simulator))["jobs"]:
        await tell(simulator, f"jobs/{job['job_id']}/finish", announce=False)


async def list_calls_for(service: Service, simulator: RunningSimulator, clock: FrozenClock, count: int) -> int:
    """Reconcile so many jobs that all are overdue, and count the list calls; there must be no single polls."""
    await many_jobs(service, count)
    before = await counters(simulator)
    clock.advance(3600)
    assert await reconcile.run_once(service.ctx) == count
    after = await counters(simulator)
    assert after["polls"] == before["polls"]
    rows = await service.rows("SELECT count(*) AS n FROM jobs WHERE poll_count = 1 AND poll_at > :now", now=clock.now())
    assert rows[0].n == count
    return int(after["lists"] - before["lists"])


async def test_many_overdue_jobs_are_asked_after_a_hundred_at_a_time(serve: Serve, simulate: Simulate) -> None:
    service, simulator, clock = await deaf(serve, simulate)

    assert await list_calls_for(service, simulator, clock, 450) == 5


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_ten_thousand_overdue_jobs_take_a_hundred_list_calls(serve: Serve, simulate: Simulate) -> None:
    service, simulator, clock = await deaf(serve, simulate)

    assert 100 <= await list_calls_for(service, simulator, clock, 10_000) <= 110


async def test_one_overdue_job_behind_many_others_is_asked_after_singly(serve: Serve, simulate: Simulate) -> None:
    service, simulator, clock = await deaf(serve, simulate, reconcile_after_seconds=60)
    job_id = await service.caller.accepted(FLUX)
    clock.advance(40)
    for _ in range(5):
        await service.caller.accepted(FLUX)
    clock.advance(30)

    assert await reconcile.run_once(service.ctx) == 1

    seen = await counters(simulator)
    assert (seen["lists"], seen["polls"]) == (0, 1)
    assert (await service.job(job_id)).poll_count == 1


async def test_old_jobs_behind_many_pages_of_others_cost_no_more_than_twice_single_polls(
    serve: Serve, simulate: Simulate
) -> None:
    """The upstream account may be used by others too: pages without a hit are given up in time."""
    service, simulator, clock = await deaf(serve, simulate, reconcile_after_seconds=60)
    for _ in range(3):
        await service.caller.accepted(FLUX)
    await many_jobs_of_others(simulator, 700)
    clock.advance(61)

    assert await reconcile.run_once(service.ctx) == 3

    seen = await counters(simulator)
    assert seen["lists"] <= 3
    assert seen["polls"] == 3


async def many_jobs_of_others(simulator: RunningSimulator, count: int) -> None:
    async with httpx.AsyncClient(base_url=simulator.url, trust_env=False, timeout=60) as client:
        for _ in range(count):
            answer = await client.post("/v2/images/generate", json=FLUX, headers={"X-API-Key": SIMULATOR_KEY})
            assert answer.status_code == 202


@pytest.mark.parametrize("ending", ["COMPLETED", "FAILED", "CANCELLED"])
async def test_a_job_of_which_nothing_is_heard_ends_as_the_upstream_says(
    serve: Serve, simulate: Simulate, ending: str
) -> None:
    service, simulator, clock = await deaf(serve, simulate)
    jobs = [await held_job(service, simulator) for _ in range(3)]
    for job in jobs:
        await tell(simulator, f"jobs/{job.upstream_id}/finish", status=ending, announce=False)
    clock.advance(61)

    assert await reconcile.run_once(service.ctx) == 3

    for job in jobs:
        row = await service.job(job.id)
        assert (row.status, row.concluded_by, row.poll_at) == (ending, "upstream", None)
    seen = await counters(simulator)
    assert (seen["lists"], seen["polls"]) == (1, 0)


async def three_seconds_are_usual(service: Service) -> None:
    """So long the model took before, 95 times in 100."""
    await service.rows(
        "INSERT INTO model_durations VALUES ('images/generate', :model, 1, 3, 5, 100, now()) RETURNING 1",
        model=FLUX["model"],
    )


async def test_with_every_webhook_dropped_all_jobs_end(serve: Serve, simulate: Simulate) -> None:
    """With all loops, in real time."""
    simulator = simulate(generate_seconds=0.5, max_concurrent_jobs=100, faults=FaultPlan(drop=1))
    service = await serve(simulator, max_in_flight=100)
    await three_seconds_are_usual(service)
    jobs = await asyncio.gather(*(service.caller.accepted(FLUX) for _ in range(20)))

    ended = await asyncio.gather(*(service.caller.read(job_id, wait=50) for job_id in jobs))

    assert {job["status"] for job in ended} == {"COMPLETED"}
    assert (await counters(simulator))["webhooks_acknowledged"] == 0


async def test_jobs_of_which_nothing_is_heard_are_asked_after_when_they_should_be_over(
    serve: Serve, simulate: Simulate
) -> None:
    service, simulator, clock = await deaf(serve, simulate)
    await three_seconds_are_usual(service)
    await asyncio.gather(*(service.caller.accepted(FLUX) for _ in range(20)))
    await finish_all(simulator)

    clock.advance(2.9)
    assert await reconcile.run_once(service.ctx) == 0
    clock.advance(0.2)
    assert await reconcile.run_once(service.ctx) == 20

    assert await service.rows("SELECT DISTINCT status FROM jobs") == [("COMPLETED",)]


async def test_a_model_is_expected_to_take_what_its_last_jobs_took(serve: Serve, simulate: Simulate) -> None:
    service, simulator, clock = await deaf(serve, simulate)
    job = await held_job(service, simulator)
    row = await service.job(job.id)
    assert (row.poll_at - clock.now()).total_seconds() == 60, "an image without history"
    columns = (
        "team_id, key_id, updated_at, operation, model, input, upstream_account, wire_body, created_at, accepted_at"
    )
    await service.rows(
        f"INSERT INTO jobs (id, {columns}, status, completed_at) SELECT gen_random_uuid(), {columns}, 'COMPLETED',"
        " accepted_at + n * interval '1 second' FROM jobs, generate_series(1, 100) AS n WHERE id = :id RETURNING 1",
        id=job.id,
    )

    await durations.refresh_once(service.ctx)

    (known,) = await service.rows("SELECT * FROM model_durations")
    assert known.sample_count == 100
    assert (known.p50_seconds, known.p95_seconds, known.p99_seconds) == pytest.approx((50.5, 95.05, 99.01))
    later = await service.job((await held_job(service, simulator)).id)
    assert (later.poll_at - clock.now()).total_seconds() == pytest.approx(95.05)
    assert (later.overdue_at - clock.now()).total_seconds() == pytest.approx(99.01)


async def test_a_job_that_takes_longer_than_its_model_does_is_told_of_once(serve: Serve, simulate: Simulate) -> None:
    service, simulator, clock = await deaf(serve, simulate)
    slow, done = [await held_job(service, simulator) for _ in range(2)]
    await tell(simulator, f"jobs/{done.upstream_id}/finish", announce=False)
    clock.advance(200)
    assert await durations.tell_overdue_once(service.ctx) == 0
    await reconcile.run_once(service.ctx)

    clock.advance(101)

    assert await durations.tell_overdue_once(service.ctx) == 1
    assert await durations.tell_overdue_once(service.ctx) == 0
    assert (await service.job(slow.id)).overdue_told
    await tell(simulator, f"jobs/{slow.upstream_id}/finish", announce=False)
    await reconcile.run_once(service.ctx)
    assert (await service.job(slow.id)).overdue_at is None


async def test_a_status_that_nobody_knows_is_asked_after_until_the_deadline(serve: Serve, simulate: Simulate) -> None:
    service, simulator, clock = await deaf(serve, simulate, job_deadline_hours=2)
    job = await held_job(service, simulator)
    odd = job.says("paused", status="ON_HOLD")
    assert (await post_webhook(service, job.url, odd, sign(odd))).status_code == 200
    clock.advance(2 * 3600 - 60)
    await reconcile.run_once(service.ctx)
    assert await expire.run_once(service.ctx) == 0

    clock.advance(120)
    assert await expire.run_once(service.ctx) == 1

    row = await service.job(job.id)
    assert (row.status, row.error_code, row.concluded_by) == ("FAILED", "deadline_passed", "framehook")
    final = job.says("completed", status="COMPLETED", creditCost=10)
    assert (await post_webhook(service, job.url, final, sign(final))).status_code == 200
    assert (await service.job(job.id)).status == "COMPLETED", "our own conclusion yields"


async def test_a_job_that_is_past_its_deadline_is_not_asked_after_for_ever(serve: Serve, simulate: Simulate) -> None:
    service, simulator, clock = await deaf(serve, simulate, job_deadline_hours=2)
    job = await held_job(service, simulator)
    clock.advance(3 * 3600)

    assert await expire.run_once(service.ctx) == 1

    assert (await service.job(job.id)).poll_at is None


async def forget(simulator: RunningSimulator) -> None:
    """The upstream loses its memory: it knows none of the jobs any more."""
    await tell(simulator, "reset")
    await tell(simulator, "config", hold=True)


async def test_a_job_that_the_upstream_no_longer_knows_ends_as_lost_after_three_404s_in_ten_minutes(
    serve: Serve, simulate: Simulate
) -> None:
    service, simulator, clock = await deaf(serve, simulate)
    job = await held_job(service, simulator)
    await forget(simulator)
    clock.advance(61)

    for seconds in (0, 301, 301):
        assert (await service.job(job.id)).status == "QUEUED"
        clock.advance(seconds)
        assert await reconcile.run_once(service.ctx) == 1

    row = await service.job(job.id)
    assert (row.status, row.error_code, row.poll_at) == ("FAILED", "upstream_lost", None)
    steps = await service.rows("SELECT data FROM steps WHERE kind = 'poll' ORDER BY at")
    assert [step.data["missingCount"] for step in steps] == [1, 2, 3]


async def test_three_404s_in_a_short_time_end_nothing(serve: Serve, simulate: Simulate) -> None:
    service, simulator, clock = await deaf(serve, simulate)
    job = await held_job(service, simulator)
    await forget(simulator)
    clock.advance(61)

    for _ in range(5):
        await service.rows("UPDATE jobs SET poll_at = :now RETURNING 1", now=clock.now())
        assert await reconcile.run_once(service.ctx) == 1

    assert (await service.job(job.id)).status == "QUEUED"


async def test_a_404_to_another_key_than_the_one_that_sent_the_job_does_not_count(
    serve: Serve, simulate: Simulate
) -> None:
    keys = ("afk_simulator_key_for_tests", "afk_other_account_for_tests")
    simulator = simulate(hold=True, api_keys=keys, accounts={"afk_other_account_for_tests": "other"})
    before = await serve(simulator, loops=False)
    job = await held_job(before, simulator)
    after = await serve(simulator, loops=False, apiframe_api_key="afk_other_account_for_tests")
    after.ctx.clock = clock = FrozenClock()

    for _ in range(6):
        clock.advance(400)
        assert await reconcile.run_once(after.ctx) == 1

    row = await after.job(job.id)
    assert (row.status, row.missing_count) == ("QUEUED", 0)


async def test_an_upstream_that_does_not_answer_costs_one_question_a_time(serve: Serve, simulate: Simulate) -> None:
    service, simulator, clock = await deaf(serve, simulate)
    jobs = [await held_job(service, simulator) for _ in range(12)]
    await finish_all(simulator)
    await tell(simulator, "faults", down=1)
    clock.advance(61)
    before = await counters(simulator)

    assert await reconcile.run_once(service.ctx) == 12

    after = await counters(simulator)
    assert after["lists"] + after["polls"] - before["lists"] - before["polls"] <= 1
    await tell(simulator, "faults", down=0)
    clock.advance(11)
    assert await reconcile.run_once(service.ctx) == 12
    for job in jobs:
        assert (await service.job(job.id)).status == "COMPLETED"


async def test_reconcile_keeps_within_the_request_limit(serve: Serve, simulate: Simulate) -> None:
    service, simulator, clock = await deaf(serve, simulate)
    for _ in range(3):
        await held_job(service, simulator)
    limited = await serve(simulator, loops=False, requests_per_minute=1)
    limited.ctx.clock = clock
    clock.advance(61)

    asked = [await reconcile.run_once(limited.ctx) for _ in range(2)]

    seen = await counters(simulator)
    assert asked[0] == 3
    assert seen["lists"] + seen["polls"] == 1
    await eventually(lambda: service.rows("SELECT 1 FROM jobs WHERE poll_at IS NOT NULL"), lambda rows: len(rows) == 3)
