"""Deliveries: how many a second of a backlog to ten subscribers, and how soon one comes after its webhook.

Every delivery must be recorded as made at its first attempt, and have come once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from app.bench import queries
from app.bench.conversation import Conversation, conversation
from app.bench.figures import milliseconds, percentile, rounded
from app.bench.found import Found, Say
from app.bench.machine import cpu_seconds
from app.bench.plan import CONNECTIONS, Plan
from app.bench.player import Played, play
from app.bench.servers import service
from app.bench.sink import Arrivals
from app.bench.stage import Stage, Team
from app.bench.verify import Checked
from app.bench.workload import webhook_to

SUBSCRIBERS: Final = 10
BACKLOG: Final = 8_000
"""Webhooks, each of which makes a delivery for every subscriber."""

QUICK_BACKLOG: Final = 1_200
PATIENCE_SECONDS: Final = 120.0
RECORD_SECONDS: Final = 30.0
RATE: Final = 50.0
COMPLETED: Final = "job.completed"


async def measure_rate(stage: Stage, plan: Plan, say: Say) -> Found:
    """Make a backlog with the loops off, then turn them on. The rate is that between the first and the last arrival."""
    webhooks = QUICK_BACKLOG if plan.quick else BACKLOG
    async with conversation("app.bench.sink", str(SUBSCRIBERS)) as sink:
        team = await _subscribe(stage, "fanout", await sink.hear(list[int]))
        jobs = stage.draw_jobs(webhooks)
        await stage.prepare_jobs(team, jobs)
        async with service(stage, loops=False) as serving:
            made = await play(
                serving.port,
                [webhook_to(stage, job) for job in jobs],
                connections=CONNECTIONS,
                seconds=PATIENCE_SECONDS,
            )
        due = len(made.acknowledged) * SUBSCRIBERS
        await stage.analyze()
        await stage.settle()
        async with service(stage) as serving:
            await _await_arrivals(sink, due)
            await _await_records(stage, team, due)
            used = cpu_seconds([serving.pid])
        arrivals = await sink.ask("take", Arrivals)
    times = sorted(arrivals.times)
    lasted = times[-1] - times[0] if len(times) > 1 else 0.0
    rate = (len(times) - 1) / lasted if lasted else 0.0
    say(f"deliveries: {rate:,.0f}/s to {SUBSCRIBERS} subscribers, for {lasted:.1f} s")
    raw = {
        "subscribers": SUBSCRIBERS,
        "backlog": due,
        "arrived": len(times),
        "seconds": rounded(lasted),
        "per_second_by_second": _by_second(times),
        "cpu_seconds": {"service": used, "sink": rounded(arrivals.cpu_seconds)},
    }
    checked = await check(stage, team, [jobs[place].id for place in made.acknowledged], SUBSCRIBERS, arrivals)
    return Found({"deliveries_per_second": rounded(rate)}, raw, checked)


async def measure_latency(stage: Stage, plan: Plan, say: Say) -> Found:
    """Fifty webhooks a second by the clock; the time runs from when each was due to be sent to its delivery's arrival."""
    seconds = 3.0 if plan.quick else 15.0
    async with conversation("app.bench.sink", "1") as sink:
        team = await _subscribe(stage, "latency", await sink.hear(list[int]))
        jobs = stage.draw_jobs(int(RATE * seconds) + 1)
        warm = stage.draw_jobs(int(RATE))
        await stage.prepare_jobs(team, [*warm, *jobs])
        async with service(stage) as serving:
            # The first ones open connections and prepare statements.
            warmed = await _at_rate(stage, serving.port, warm, 1.0)
            await _await_arrivals(sink, len(warmed.acknowledged))
            early = await sink.ask("take", Arrivals)
            played = await _at_rate(stage, serving.port, jobs, seconds)
            await _await_arrivals(sink, len(played.acknowledged))
            arrivals = await sink.ask("take", Arrivals)
            told = len(warmed.acknowledged) + len(played.acknowledged)
            await _await_records(stage, team, told)
    async with stage.db.reading() as connection:
        events = await queries.list_completions(connection, team.id)
    sent = {str(jobs[place].id): played.sent[place] for place in played.acknowledged}
    jobs_of = {str(row.id): str(row.job_id) for row in events}
    pairs = zip(arrivals.events, arrivals.times, strict=True)
    waits = sorted(at - sent[job] for event, at in pairs if (job := jobs_of.get(event, "")) in sent)
    p50, p99 = percentile(waits, 0.5), percentile(waits, 0.99)
    say(f"from webhook to delivery at {RATE:.0f}/s: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
    acknowledged = [warm[place].id for place in warmed.acknowledged] + [jobs[place].id for place in played.acknowledged]
    both = Arrivals(
        receivers=early.receivers + arrivals.receivers,
        events=early.events + arrivals.events,
        times=early.times + arrivals.times,
        cpu_seconds=arrivals.cpu_seconds,
    )
    return Found(
        {"delivery_p50_ms": milliseconds(p50), "delivery_p99_ms": milliseconds(p99)},
        {
            "webhooks_per_second": RATE,
            "seconds": seconds,
            "deliveries": len(waits),
            "latest_ms": milliseconds(waits[-1]) if waits else None,
        },
        await check(stage, team, acknowledged, 1, both),
    )


async def check(stage: Stage, team: Team, job_ids: Sequence[UUID], subscribers: int, arrivals: Arrivals) -> Checked:
    """Each event of these jobs must have come once to each receiver, and be recorded as made at its first attempt."""
    async with stage.db.reading() as connection:
        events = {str(row.id) for row in await queries.list_completions(connection, team.id)}
        unmade = await queries.list_deliveries_not_made_once(connection, team.id)
        count = await queries.count_deliveries(connection, team.id)
    wrong = [f"delivery {row.id}: it is {row.status} after {row.attempts} attempts" for row in unmade]
    if len(events) < len(job_ids) or count != len(events) * subscribers:
        wrong.append(f"{len(job_ids)} webhooks made {len(events)} events and {count} deliveries")
    came = Counter(zip(arrivals.receivers, arrivals.events, strict=True))
    wrong += [
        f"event {event} came {times} times to receiver {number}" for (number, event), times in came.items() if times > 1
    ]
    expected = {(number, event) for number in range(subscribers) for event in events}
    wrong += [f"event {event} never came to receiver {number}" for number, event in sorted(expected - came.keys())]
    wrong += [
        f"receiver {number} was told of {event}, which is no event" for number, event in sorted(came.keys() - expected)
    ]
    return Checked(count, wrong)


async def _subscribe(stage: Stage, name: str, ports: Sequence[int]) -> Team:
    return await stage.make_team(name, [{"url": f"http://127.0.0.1:{port}/", "types": [COMPLETED]} for port in ports])


async def _at_rate(stage: Stage, port: int, jobs: Sequence[object], seconds: float) -> Played:
    requests = [webhook_to(stage, job) for job in jobs]  # type: ignore[arg-type]
    return await play(port, requests, connections=CONNECTIONS, seconds=seconds, rate=RATE)


async def _await_arrivals(sink: Conversation, wanted: int) -> None:
    """Wait until so much has come, or until nothing more is likely to."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while await sink.ask("count", int) < wanted and time.monotonic() < deadline:
        await asyncio.sleep(0.2)


async def _await_records(stage: Stage, team: Team, wanted: int) -> None:
    """Wait until so much is recorded as made: a record follows its answer."""
    deadline = time.monotonic() + RECORD_SECONDS
    while time.monotonic() < deadline:
        async with stage.db.reading() as connection:
            if await queries.count_deliveries(connection, team.id, status="delivered") >= wanted:
                return
        await asyncio.sleep(0.2)


def _by_second(times: Sequence[float]) -> list[int]:
    counts = Counter(int(at - times[0]) for at in times)
    return [counts[second] for second in range(max(counts, default=-1) + 1)]
