"""Tallies are what the jobs' table says, to the job: whoever counts, however often, and however late a job ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from app.clock import SettableClock
from app.events.readers import read_on
from app.jobs import dispatch, expire
from app.models.ops import SPANS, TALLIES
from app.ops import tally_queries, tallying
from app.ops.histogram import BOUNDS, ERROR, bucket_of, percentile
from app.simulator.server import RunningSimulator
from app.teams.queries.usage import sum_usage
from tests.harness import FLUX, HeldJob, Service, given_up, held_job, post_webhook, tell
from tests.simulator.walks import sign

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]

LATER: Final = {"Prefer": "respond-async"}
COUNTS: Final = ("submitted", "completed", "failed", "cancelled", "by_webhook", "by_poll", "credits")


@pytest.fixture
async def quiet(serve: Serve, simulate: Simulate) -> Service:
    """A service that counts nothing by itself, whose clock the test moves, in front of jobs that do not end."""
    started: Service = await serve(simulate(hold=True), loops=False, job_deadline_hours=2)
    started.ctx.clock = SettableClock()
    return started


async def count_all(*services: Service) -> None:
    """Count until there is nothing left, through all of these services at once."""
    while any(await asyncio.gather(*(tallying.run_once(service.ctx) for service in services))):
        pass


async def tallied(service: Service, span: str) -> dict[str, int]:
    """The sums of all tallies of a span."""
    sums = ", ".join(f"CAST(coalesce(sum({name}), 0) AS int) AS {name}" for name in COUNTS)
    (row,) = await service.rows(f"SELECT {sums} FROM tallies WHERE span = :span", span=span)
    return dict(row._mapping)


async def in_jobs(service: Service) -> dict[str, int]:
    """What they should be."""
    (row,) = await service.rows(
        """
        SELECT count(*) AS submitted, count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
            count(*) FILTER (WHERE status = 'FAILED') AS failed,
            count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled,
            count(*) FILTER (WHERE concluded_by = 'upstream' AND ended_by = 'webhook') AS by_webhook,
            count(*) FILTER (WHERE concluded_by = 'upstream' AND ended_by = 'poll') AS by_poll,
            CAST(coalesce(sum(credit_cost), 0) AS int) AS credits
        FROM jobs
        """
    )
    return dict(row._mapping)


async def timed(service: Service, kind: str, span: str = "day") -> int:
    """How many jobs of all teams were timed."""
    (row,) = await service.rows(
        "SELECT CAST(coalesce(sum(job_count), 0) AS int) AS jobs FROM timings"
        " WHERE kind = :kind AND span = :span AND team_id = '00000000-0000-0000-0000-000000000000'",
        kind=kind,
        span=span,
    )
    found: int = row.jobs
    return found


async def say(service: Service, job: HeldJob, event: str, **said: Any) -> None:
    body = job.says(event, **said)
    assert (await post_webhook(service, job.url, body, sign(body))).status_code == 200


async def test_after_a_run_in_which_much_goes_wrong_tallies_are_what_the_jobs_are(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True)
    service: Service = await serve(simulator, loops=False)
    done, failed, cancelled, asked, _ = [await held_job(service, simulator) for _ in range(5)]
    await say(service, done, "completed", status="COMPLETED", creditCost=12)
    await say(service, done, "completed", status="COMPLETED", creditCost=12)
    await say(service, failed, "failed", status="FAILED", error="NSFW")
    await say(service, cancelled, "cancelled", status="CANCELLED")
    await count_all(service)
    await tell(simulator, f"jobs/{asked.upstream_id}/finish", announce=False)
    await service.caller.http.post(f"/v1/jobs/{asked.id}/refresh")
    assert (await service.caller.submit(FLUX | {"model": "nobody-makes-this"})).status_code == 400
    waiting = await service.caller.accepted(FLUX | {"model": "flux-2-max"}, **LATER)
    await service.caller.http.post(f"/v1/jobs/{waiting}/cancel")

    await count_all(service)

    wanted = await in_jobs(service)
    assert [await tallied(service, span) for span in SPANS] == [wanted] * len(SPANS)
    assert wanted["by_poll"] == 1
    assert (wanted["completed"], wanted["failed"], wanted["cancelled"]) == (2, 1, 2)
    (accepted,) = await service.rows("SELECT count(*) AS jobs FROM jobs WHERE accepted_at IS NOT NULL")
    assert [await timed(service, "queue", span) for span in SPANS] == [accepted.jobs] * len(SPANS)
    assert await timed(service, "generation") == wanted["completed"]
    assert await timed(service, "webhook") == wanted["by_webhook"]


async def test_every_job_is_counted_once_by_two_processes_of_which_one_crashes(
    serve: Serve, quiet: Service, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tallying, "AT_ONCE", 3)
    second: Service = await serve(simulator, loops=False)
    await count_all(quiet)  # which gives the reader its place
    jobs = [await quiet.caller.accepted(FLUX, **LATER) for _ in range(8)]
    for job_id in jobs[:3]:
        await quiet.caller.http.post(f"/v1/jobs/{job_id}/cancel")
    async with given_up(quiet.ctx.db) as tx:
        await tx.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        events, _ = await read_on(tx, TALLIES, tally_queries.TYPES, quiet.ctx.now(), limit=5)
        await tally_queries.add_events(tx, events, quiet.ctx.now())
        assert await tallying.run_once(second.ctx) == 0  # it is not this one's turn

    await count_all(quiet, second)

    wanted = dict.fromkeys(COUNTS, 0) | {"submitted": 8, "cancelled": 3}
    assert [await tallied(quiet, span) for span in SPANS] == [wanted] * len(SPANS)
    await count_all(quiet, second)
    assert await tallied(quiet, "day") == wanted


@pytest.mark.parametrize("counted_in_between", [True, False])
async def test_a_job_that_we_gave_up_and_that_completes_later_is_counted_where_it_ended_last(
    serve: Serve, simulate: Simulate, counted_in_between: bool
) -> None:
    simulator = simulate(hold=True)
    service: Service = await serve(simulator, loops=False, job_deadline_hours=2)
    service.ctx.clock = clock = SettableClock()
    job = await held_job(service, simulator)
    clock.advance(3 * 3600)
    assert await expire.run_once(service.ctx) == 1
    if counted_in_between:
        await count_all(service)
        assert (await tallied(service, "hour"))["failed"] == 1
    clock.advance(2 * 3600)
    await say(service, job, "completed", status="COMPLETED", creditCost=7)

    await count_all(service)

    for span in SPANS:
        assert await tallied(service, span) == await in_jobs(service)
    rows = await service.rows("SELECT failed, completed FROM tallies WHERE span = 'hour' ORDER BY begins_at")
    assert [(row.failed, row.completed) for row in rows] == [(0, 0), (0, 0), (0, 1)]
    assert (await timed(service, "generation"), await timed(service, "webhook")) == (1, 1)


async def test_a_job_that_fails_again_by_the_upstreams_word_is_still_one_failure(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True)
    service: Service = await serve(simulator, loops=False, job_deadline_hours=2)
    service.ctx.clock = clock = SettableClock()
    job = await held_job(service, simulator)
    clock.advance(3 * 3600)
    await expire.run_once(service.ctx)
    await say(service, job, "failed", status="FAILED", error="no")
    await count_all(service)
    assert await tallied(service, "day") == await in_jobs(service)
    assert (await tallied(service, "minutes"))["failed"] == 1


async def test_jobs_that_are_gone_are_left_out(quiet: Service) -> None:
    gone, _ = [await quiet.caller.accepted(FLUX, **LATER) for _ in range(2)]
    async with quiet.ctx.db.transaction() as tx:
        await tx.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": gone})
    await count_all(quiet)
    assert (await tallied(quiet, "day"))["submitted"] == 1


async def test_what_nobody_looks_at_any_more_is_forgotten_and_not_begun_again(quiet: Service) -> None:
    await quiet.caller.accepted(FLUX, **LATER)
    await dispatch.run_once(quiet.ctx)
    await count_all(quiet)
    clock = quiet.ctx.clock
    assert isinstance(clock, SettableClock)
    assert await tallying.prune_once(quiet.ctx) == 0
    clock.advance(timedelta(days=3, minutes=10).total_seconds())
    assert await tallying.prune_once(quiet.ctx) == 1 + 2  # a tally, and the times of the team and of all
    clock.advance(timedelta(days=37).total_seconds())
    assert await tallying.prune_once(quiet.ctx) == 2 * (1 + 2)  # hours, and six of them
    async with quiet.ctx.db.transaction() as tx:
        await tx.execute(text("UPDATE log_readers SET sequence = 0"))
        await tx.execute(text("DELETE FROM tallies"))
    await count_all(quiet)
    assert [(await tallied(quiet, span))["submitted"] for span in SPANS] == [0, 0, 0, 1]


@given(st.lists(st.floats(BOUNDS[0], 86_400), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_percentile_is_as_near_as_promised(durations: list[float], share: float) -> None:
    assert ERROR < 0.12
    counts: dict[int, int] = {}
    for seconds in durations:
        counts[bucket_of(seconds)] = counts.get(bucket_of(seconds), 0) + 1
    found = percentile(counts, share)
    assert found is not None
    nearby = [seconds for seconds in durations if abs(found - seconds) <= seconds * ERROR * 1.0001]
    below = sum(1 for seconds in durations if seconds < min(nearby))
    at_most = sum(1 for seconds in durations if seconds <= max(nearby))
    assert below < share * len(durations) + 1e-6 <= at_most + 2e-6


async def test_the_database_puts_durations_into_the_same_buckets(quiet: Service) -> None:
    seconds = [0.0, 0.0999, *BOUNDS, *(bound * 1.1 for bound in BOUNDS), 1e6]
    rows = await quiet.rows(
        "SELECT width_bucket(took, CAST(:bounds AS float8[])) AS bucket"
        " FROM unnest(CAST(:seconds AS float8[])) WITH ORDINALITY AS sample (took, place) ORDER BY place",
        bounds=list(BOUNDS),
        seconds=seconds,
    )
    assert [row.bucket for row in rows] == [bucket_of(each) for each in seconds]
    assert percentile({}, 0.5) is None
    assert percentile({0: 1}, 0.5) < BOUNDS[0]  # type: ignore[operator]
    assert percentile({len(BOUNDS): 3}, 0.95) == BOUNDS[-1]


async def test_usage_of_whole_days_is_read_from_tallies_and_is_what_the_ledger_says(
    serve: Serve, simulate: Simulate
) -> None:
    simulator = simulate(hold=True)
    service: Service = await serve(simulator, loops=False)
    service.ctx.clock = clock = SettableClock()
    await count_all(service)  # from here on days are tallied
    began = service.ctx.now()
    for spent in (1, 20, 300, 4000):
        clock.advance(86_400)
        for model in ("flux-2-max", "flux-1.1-pro-ultra"):
            job = await held_job(service, simulator, body=FLUX | {"model": model})
            await say(service, job, "completed", status="COMPLETED", creditCost=spent)
        await count_all(service)
    (team,) = await service.rows("SELECT id FROM teams WHERE name = 'tests'")
    midnight = began.replace(hour=0, minute=0, second=0, microsecond=0)
    marks = [began, *(midnight + timedelta(days=days) for days in range(1, 5)), service.ctx.now()]
    asked = [(first, last) for first in marks for last in marks if first < last]

    async def read() -> list[dict[str, int]]:
        async with service.ctx.db.reading() as connection:
            return [
                {
                    f"{row.day} {row.model}": row.credits
                    for row in await sum_usage(
                        connection, team.id, groups=("model", "day"), begins_at=first, ends_at=last
                    )
                }
                for first, last in asked
            ]

    entries = await service.rows("SELECT at, model, spent_change FROM ledger WHERE kind = 'settle'")
    assert len(entries) == 8
    wanted = [
        {f"{entry.at:%Y-%m-%d} {entry.model}": entry.spent_change for entry in entries if first <= entry.at < last}
        for first, last in asked
    ]
    assert await read() == wanted
    second_day = midnight + timedelta(days=2)
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(f"UPDATE ledger SET spent_change = 77 WHERE at::date = '{second_day:%Y-%m-%d}'")
    assert await read() == wanted  # where a whole day is asked for, its ledger is not read
