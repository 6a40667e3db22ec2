"""How soon a subscriber knows: the time from a webhook at our door to the event at the subscriber's.

Marked as long since others' work on the same cores would be measured too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import httpx
import pytest

from app.simulator.server import RunningSimulator
from tests.harness import FLUX, HeldJob, Service, eventually
from tests.receivers import Receiver
from tests.simulator.walks import sign

PER_SECOND: Final = 50
SECONDS: Final = 6
JOBS: Final = PER_SECOND * SECONDS
WARM_UP: Final = 20
"""Jobs before those that are counted: connections are made and statements are planned by then."""

LATER: Final = {"Prefer": "respond-async"}


async def held_jobs(service: Service, simulator: RunningSimulator, count: int) -> list[HeldJob]:
    """So many jobs that the upstream has accepted."""
    ours = {await service.caller.accepted(FLUX, **LATER) for _ in range(count)}

    async def accepted() -> int:
        (row,) = await service.rows("SELECT count(*) AS count FROM jobs WHERE accepted_at IS NOT NULL")
        accepted: int = row.count
        return accepted

    await eventually(accepted, lambda found: found == count, seconds=40)
    seen = (await asyncio.to_thread(simulator.ask, "books?part=jobs"))["jobs"]
    assert {job["idempotency_key"] for job in seen} == ours
    return [HeldJob(job["idempotency_key"], job["job_id"], job["webhook_url"]) for job in seen]


async def complete(upstream: httpx.AsyncClient, job: HeldJob) -> float:
    """Post the webhook that ends a job; when that was begun, by the event loop's clock."""
    body = job.says("completed", result={"images": ["https://files.example/1.png"]}, creditCost=10)
    headers = {"Content-Type": "application/json", "X-Webhook-Signature": sign(body)}
    begun = asyncio.get_running_loop().time()
    answer = await upstream.post(job.url, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return begun


async def complete_steadily(upstream: httpx.AsyncClient, jobs: list[HeldJob]) -> dict[str, float]:
    """End jobs at a steady pace, whether or not the answers keep up with it; when each was begun, by the job's id."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    posts: dict[str, asyncio.Task[float]] = {}
    for number, job in enumerate(jobs):
        await asyncio.sleep(start + number / PER_SECOND - loop.time())
        posts[job.id] = asyncio.create_task(complete(upstream, job))
    return {job_id: await post for job_id, post in posts.items()}


def percentile(values: list[float], share: float) -> float:
    """The value that so many in a hundred are not above."""
    return sorted(values)[min(int(len(values) * share / 100), len(values) - 1)]


@pytest.mark.long
async def test_a_subscriber_knows_in_50_ms_and_99_in_100_times_in_250_ms(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator], receiver: Receiver
) -> None:
    """At 50 webhooks a second, with the service, the subscriber, and whoever posts in one process."""
    count = WARM_UP + JOBS
    simulator = simulate(hold=True, max_concurrent_jobs=count)
    service = await serve(simulator, max_in_flight=count, pool_size=10, reconcile_after_seconds=3600)
    jobs = await held_jobs(service, simulator, count)
    subscriber = await service.new_caller("tests", ("subscribe",))
    wanted = {"url": receiver.url, "types": ["job.completed"]}
    assert (await subscriber.http.post("/v1/subscriptions", json=wanted)).status_code == 201

    async with httpx.AsyncClient(trust_env=False, timeout=60) as upstream:
        await complete_steadily(upstream, jobs[:WARM_UP])
        await receiver.wait(WARM_UP)
        begun = await complete_steadily(upstream, jobs[WARM_UP:])
        await receiver.wait(count)

    known = {received.event["data"]["id"]: received.at for received in receiver.received}
    latencies = [known[job_id] - since for job_id, since in begun.items()]
    half, most, all_of_them = (1000 * percentile(latencies, share) for share in (50, 99, 100))
    print(f"{JOBS} events at {PER_SECOND}/s: {half:.1f} ms p50, {most:.1f} ms p99, {all_of_them:.1f} ms at most")
    assert len(receiver.received) == count, "none was told twice"
    assert half < 50
    assert most < 250
