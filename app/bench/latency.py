"""Latency: of one webhook at a time beside one transaction at a time, and of half of the most by the clock.

By the clock a request's time runs from when it was due, whether or not those before it were answered.
"""

from __future__ import annotations

import statistics
from typing import Final

from app.bench import limit
from app.bench.figures import milliseconds, percentile, rounded, spread
from app.bench.found import Found, Say
from app.bench.limit import Kind
from app.bench.plan import CONNECTIONS, Plan
from app.bench.player import play
from app.bench.servers import service
from app.bench.stage import Stage
from app.bench.throughput import FIRST_GUESS, WARM_REQUESTS
from app.bench.verify import Checked, OurBooks
from app.bench.workload import Submissions, Webhooks

SINGLE_GUESS: Final = 2_000


async def measure_single(stage: Stage, plan: Plan, say: Say) -> Found:
    """One webhook at a time on one connection, and one transaction of the reference at a time, by turns."""
    workload, checked = Webhooks(OurBooks()), Checked()
    service_ms: list[float] = []
    postgres_ms: list[float] = []
    async with service(stage) as serving:
        warm = await workload.prepare(stage, WARM_REQUESTS)
        warmed = await play(serving.port, warm.requests, connections=1, seconds=plan.seconds)
        checked.add(await warm.check(warmed.acknowledged))
        for number in range(plan.rounds):
            for whose in plan.shuffled(("service", "postgres"), f"single {number}"):
                if whose == "postgres":
                    found = await limit.measure(stage, "webhook", "postgres", plan.limit_seconds, clients=1)
                    postgres_ms.append(found.median_ms or found.mean_ms)
                    continue
                prepared = await workload.prepare(stage, int(SINGLE_GUESS * plan.seconds))
                await stage.settle()
                played = await play(serving.port, prepared.requests, connections=1, seconds=plan.seconds)
                service_ms.append(percentile(played.latencies, 0.5) * 1000)
                checked.add(await prepared.check(played.acknowledged))
    ours, theirs = statistics.median(service_ms), statistics.median(postgres_ms)
    say(f"one webhook at a time: {ours:.2f} ms, one transaction at a time: {theirs:.2f} ms")
    return Found(
        {"single_webhook_median_ms": rounded(ours), "single_postgres_median_ms": rounded(theirs)},
        {
            "service_ms": [rounded(each) for each in service_ms],
            "postgres_ms": [rounded(each) for each in postgres_ms],
            "target_ms": rounded(1.3 * theirs + 2),
        },
        checked,
        {"single_webhook_median_ms": spread(service_ms), "single_postgres_median_ms": spread(postgres_ms)},
    )


async def measure_open(stage: Stage, plan: Plan, kind: Kind, peak: float | None, say: Say) -> Found:
    """Requests at half the peak, by the clock. The peak is measured first where it is not known."""
    workload = (Webhooks if kind == "webhook" else Submissions)(OurBooks())
    checked = Checked()
    async with service(stage) as serving:
        warm = await workload.prepare(stage, WARM_REQUESTS if peak else int(FIRST_GUESS * plan.seconds))
        warmed = await play(serving.port, warm.requests, connections=CONNECTIONS, seconds=plan.seconds)
        checked.add(await warm.check(warmed.acknowledged))
        rate = max(1.0, (peak or warmed.rate) / 2)
        seconds = plan.seconds * (1 if plan.quick else 3)
        prepared = await workload.prepare(stage, int(rate * seconds) + 1)
        await stage.settle()
        played = await play(serving.port, prepared.requests, connections=CONNECTIONS, seconds=seconds, rate=rate)
    checked.add(await prepared.check(played.acknowledged))
    latencies = played.latencies
    p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
    say(f"{kind} by the clock at {rate:,.0f}/s: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
    return Found(
        {f"{kind}_open_p50_ms": milliseconds(p50), f"{kind}_open_p99_ms": milliseconds(p99)},
        {
            "asked_per_second": rounded(rate),
            "acknowledged_per_second": rounded(played.rate),
            "seconds": seconds,
            "latest_ms": milliseconds(spread(latencies).greatest) if latencies else None,
            "acknowledged": len(played.acknowledged),
            "not_acknowledged": played.refused,
            "load_cpu_share": rounded(played.summary.cpu_seconds / played.summary.seconds),
        },
        checked,
    )
