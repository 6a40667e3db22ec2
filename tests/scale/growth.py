"""Compare a database that is full with one that is not: `python -m tests.scale.growth --small URL --large URL`.

Lists by every filter, single jobs, the feed and claims may take twice as long in the large one, ingest may be a tenth
slower. Both are measured by turns, in one process. Exits with 1 where something grows more.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Final
from uuid import UUID

from uuid_utils.compat import uuid7

from app.apiframe.signature import SIGNATURE_HEADER, fingerprint
from app.auth import Caller as Known
from app.bench import payloads
from app.bench.queries import insert_waiting_jobs
from app.clock import first_id, time_of_id
from app.deliveries.queries import sending
from app.jobs.queries import dispatch, polls
from app.jobs.submit import submit
from app.simulator.config import SimulatorConfig
from app.simulator.server import RunningSimulator
from app.webhooks.receive import receive
from tests.harness import SIMULATOR_KEY, Caller, Service, given_up, running_service, settings_for
from tests.scale.pages import API, Visited, list_addresses

MOST_GROWTH: Final = 2.0
LEAST_INGEST: Final = 0.9
TURNS: Final = 4
INGESTED: Final = 2_000
AT_ONCE: Final = 64
SOME: Final = 500
SMALLEST_MS: Final = 2.0
"""What takes less is noise: it counts as so much."""

Look = Callable[[], Awaitable[object]]


async def list_looks(service: Service, reader: Caller) -> dict[str, Look]:
    """Everything that is timed, by its name."""
    looks = {
        name.removeprefix(f"{API} "): _get(reader, address)
        for name, address, _ in await list_addresses(service)
        if name.startswith(f"{API} ")
    }
    places = itertools.cycle(await _some_jobs(service))

    async def one_job() -> None:
        answer = await reader.http.get(f"/v2/jobs/{next(places)}")
        assert answer.status_code == 200, answer.text

    (log,) = await service.rows("SELECT min(sequence) AS first, max(sequence) AS last FROM events")
    middle = (log.first + log.last) // 2
    return looks | {
        "one job": one_job,
        "feed from the middle": _get(reader, f"/v1/events?after={middle}&limit=100"),
        "feed of a type": _get(reader, f"/v1/events?after={middle}&types=job.failed&limit=100"),
        "feed at its end": _get(reader, f"/v1/events?after={log.last}&limit=100"),
        **_claims(service),
    }


async def _some_jobs(service: Service) -> list[UUID]:
    """Jobs from all of the history, in no order."""
    ends = await service.rows(
        "(SELECT id FROM jobs ORDER BY id LIMIT 1) UNION ALL (SELECT id FROM jobs ORDER BY id DESC LIMIT 1)"
    )
    first, last = sorted(time_of_id(row.id) for row in ends)
    asked = [str(first_id(first + (last - first) * part / SOME)) for part in range(SOME)]
    rows = await service.rows(
        """
        SELECT j.id FROM unnest(CAST(:asked AS uuid[])) AS asked (id)
        CROSS JOIN LATERAL (SELECT id FROM jobs WHERE jobs.id >= asked.id ORDER BY id LIMIT 1) AS j
        ORDER BY md5(CAST(j.id AS text))
        """,
        asked=asked,
    )
    return [row.id for row in rows]


def _get(reader: Caller, address: str) -> Look:
    async def get() -> None:
        answer = await reader.http.get(address)
        assert answer.status_code == 200, f"{address}: {answer.status_code} {answer.text[:300]}"

    return get


def _claims(service: Service) -> dict[str, Look]:
    """Claims that come to nothing, so that each finds what the one before found."""
    ctx = service.ctx
    now, until = ctx.now(), ctx.now() + timedelta(minutes=1)

    async def deliveries() -> None:
        async with given_up(ctx.db, plans_once=True) as tx:
            nothing: Mapping[str, int] = {}
            await sending.lease_due(
                tx,
                retrying=False,
                places=400,
                places_per_target=100,
                rooms=nothing,
                allowed=nothing,
                now=now,
                until=until,
            )

    async def jobs() -> None:
        async with given_up(ctx.db) as tx:
            await dispatch.lock_dispatchable(
                tx,
                account="upstream.example",
                cap=10_000_000,
                keys=["k1"],
                fresh=True,
                wanted=None,
                now=now,
                ambiguous_after=now - timedelta(hours=20),
            )

    async def questions() -> None:
        async with given_up(ctx.db) as tx:
            await polls.claim_polls(tx, account="upstream.example", limit=100, now=now, until=until)

    return {"claim of deliveries": deliveries, "claim of jobs": jobs, "claim of polls": questions}


async def compare_looks(looks: Sequence[Mapping[str, Look]], *, times: int) -> list[tuple[str, float]]:
    """How many times as long each takes in the large one, by the time that 19 in 20 take at most."""
    grown = []
    for name in looks[0]:
        took: list[list[float]] = [[], []]
        for turn in range(TURNS + 1):
            for place in (0, 1):
                fresh = await _time(looks[place][name], times // TURNS)
                took[place] += fresh if turn else []  # the first ones warm up
        small, large = (Visited(name, 0, [max(each, SMALLEST_MS) for each in part]) for part in took)
        grown.append((name, large.share(0.95) / small.share(0.95)))
        figures = "".join(f"{each.share(share):9.1f}" for each in (small, large) for share in (0.5, 0.95))
        print(f"{name:60}{figures}{grown[-1][1]:9.2f}", flush=True)
    return grown


async def _time(look: Look, times: int) -> list[float]:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await look()
        took.append((time.perf_counter() - began) * 1000)
    return took


async def compare_ingest(services: Sequence[Service]) -> list[tuple[str, float]]:
    """How fast the large one takes submissions and webhooks, in terms of the small one."""
    found = []
    for name, ingest in (("submissions", _submit_all), ("webhooks", _receive_all)):
        rates: list[list[float]] = [[], []]
        for turn in range(TURNS + 1):
            for place, service in enumerate(services):
                rate = await ingest(service)
                rates[place] += [rate] if turn else []
        small, large = (statistics.median(part) for part in rates)
        print(f"{name:60}{small:9.0f}/s{large:15.0f}/s{large / small:11.2f}", flush=True)
        found.append((name, large / small))
    return found


async def _submit_all(service: Service) -> float:
    known = await _who(service)

    async def one() -> None:
        await submit(
            service.ctx,
            known,
            payloads.OPERATION,
            payloads.submission(),
            idempotency_key=str(uuid7()),
            respond_async=True,
        )

    return await _rate([one] * INGESTED)


async def _receive_all(service: Service) -> float:
    known, ids = await _who(service), [uuid7() for _ in range(INGESTED)]
    async with service.ctx.db.transaction() as tx:
        await insert_waiting_jobs(
            tx,
            ids=ids,
            upstream_ids=[str(each) for each in ids],
            team_id=known.team_id,
            key_id=known.key_id,
            account=service.ctx.account,
            upstream_key=fingerprint(SIMULATOR_KEY),
        )

    def one(job_id: UUID) -> Look:
        body = payloads.webhook(str(job_id))
        headers = {SIGNATURE_HEADER: payloads.signed(body, SIMULATOR_KEY)}
        return lambda: receive(service.ctx, job_id, body, headers)

    return await _rate([one(job_id) for job_id in ids])


async def _who(service: Service) -> Known:
    (row,) = await service.rows(
        "SELECT k.id, k.team_id FROM api_keys k JOIN teams t ON t.id = k.team_id WHERE t.name = 'scale-00' LIMIT 1"
    )
    return Known(row.id, row.team_id, "scale-00", frozenset({"submit", "read"}))


async def _rate(calls: Sequence[Look]) -> float:
    """So many at once, as many callers would."""
    waiting = iter(calls)

    async def caller() -> None:
        for call in waiting:
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return len(calls) / (time.perf_counter() - began)


async def measure(small: str, large: str, *, times: int, only: str) -> list[str]:
    """Measure both; return what grows too much."""
    with RunningSimulator(SimulatorConfig()) as simulator:
        async with AsyncExitStack() as stack:
            services = [
                await stack.enter_async_context(running_service(settings_for(url, simulator, loops=False)))
                for url in (small, large)
            ]
            readers = [await each.new_caller("operators", scopes=("ops", "admin", "read")) for each in services]
            pairs = zip(services, readers, strict=True)
            looks = [await list_looks(service, reader) for service, reader in pairs]
            chosen = [{name: look for name, look in part.items() if re.search(only, name)} for part in looks]
            print(f"{'ms':60}{'p50':>9}{'p95':>9}{'p50':>9}{'p95':>9}{'p95 x':>9}")
            slow = [name for name, growth in await compare_looks(chosen, times=times) if growth > MOST_GROWTH]
            if re.search(only, "ingest"):
                slow += [name for name, rate in await compare_ingest(services) if rate < LEAST_INGEST]
    return slow


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", required=True, help="a database that was filled with few jobs")
    parser.add_argument("--large", required=True, help="one that was filled with many")
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument(
        "--only", default="", help="only what this expression is found in the name of; `ingest` for that"
    )
    given = parser.parse_args()
    slow = asyncio.run(measure(given.small, given.large, times=given.times, only=given.only))
    print(f"{len(slow)} grow too much{': ' if slow else ''}{', '.join(slow)}")
    return int(bool(slow))


if __name__ == "__main__":
    sys.exit(main())
