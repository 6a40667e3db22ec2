"""Reading jobs, beside a route of the same server that answers the same JSON and does nothing for it."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from typing import Any, Final

from app.bench import payloads
from app.bench.figures import milliseconds, percentile, ratio, rounded, spread
from app.bench.found import Found, Say
from app.bench.plan import CONNECTIONS, Plan
from app.bench.player import Played, play
from app.bench.servers import Serving, free_port, service, serving
from app.bench.stage import Stage, Waiting
from app.bench.verify import OurBooks
from app.bench.workload import webhook_to

JOBS: Final = 2_000
"""So many jobs are read by turns."""

READ_GUESS: Final = 20_000


async def measure(stage: Stage, plan: Plan, say: Say) -> Found:
    """The bare route before and after every round of the service's own."""
    jobs = stage.draw_jobs(JOBS)
    await stage.prepare_jobs(stage.team, jobs)
    async with service(stage) as ours:
        completed = await play(ours.port, [webhook_to(stage, job) for job in jobs], connections=CONNECTIONS, seconds=60)
        checked = await OurBooks().check_webhooks(stage, [jobs[place].id for place in completed.acknowledged])
        document = _read(stage, ours.port, jobs[0])
        written = stage.folder / "job.json"
        written.write_bytes(document)
        port = free_port()
        async with serving(
            stage, "bare", ["-m", "app.bench.bare", str(port), str(written)], {}, port, ready=f"/v2/jobs/{jobs[0].id}"
        ) as bare:
            rounds = await _rounds(stage, plan, jobs, ours, bare)
    ratios = spread(each["ratio"] for each in rounds)
    say(f"reading a job: {ratios.median:.2f} of a bare route")
    raw = {"ratios": ratios.as_json(), "bytes": len(document), "rounds": rounds}
    return Found({"read_vs_bare": rounded(ratios.median)}, raw, checked, {"read_vs_bare": ratios})


async def _rounds(
    stage: Stage, plan: Plan, jobs: Sequence[Waiting], ours: Serving, bare: Serving
) -> list[dict[str, Any]]:
    requests = [
        payloads.get(f"/v2/jobs/{jobs[number % len(jobs)].id}", {"X-API-Key": stage.team.key.key})
        for number in range(int(READ_GUESS * plan.seconds))
    ]

    async def turn(server: Serving) -> Played:
        return await play(server.port, requests, connections=CONNECTIONS, seconds=plan.seconds)

    await turn(ours)  # to warm up
    rounds = []
    before = await turn(bare)
    for number in range(plan.rounds):
        read = await turn(ours)
        after = await turn(bare)
        rounds.append(
            {
                "round": number,
                "per_second": rounded(read.rate),
                "bare_per_second": [rounded(before.rate), rounded(after.rate)],
                "ratio": ratio(read.rate, [before.rate, after.rate]),
                "p50_ms": milliseconds(percentile(read.latencies, 0.5)),
                "p99_ms": milliseconds(percentile(read.latencies, 0.99)),
                "not_answered": read.refused,
                "load_cpu_share": rounded(read.summary.cpu_seconds / read.summary.seconds),
            }
        )
        before = after
    return rounds


def _read(stage: Stage, port: int, job: Waiting) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", f"/v2/jobs/{job.id}", headers={"X-API-Key": stage.team.key.key})
        return connection.getresponse().read()
    finally:
        connection.close()
