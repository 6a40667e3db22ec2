"""Clients of the event stream: how many follow at once and are sent everything, once and in order."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from app.bench import queries
from app.bench.conversation import Conversation, conversation
from app.bench.figures import milliseconds, rounded
from app.bench.found import Found, Say
from app.bench.machine import cpu_seconds, resident_mb
from app.bench.plan import Plan
from app.bench.player import play
from app.bench.servers import service
from app.bench.stage import Stage
from app.bench.streams import Followed, Wish
from app.bench.verify import Checked
from app.bench.workload import webhook_to

CLIENTS: Final = 1_000
QUICK_CLIENTS: Final = 200
EVENTS: Final = 50
RATE: Final = 10.0
PATIENCE_SECONDS: Final = 60.0


async def measure(stage: Stage, plan: Plan, say: Say) -> Found:
    """Have many clients follow a team, complete jobs of it, and see what each was sent."""
    clients, count = (QUICK_CLIENTS, 20) if plan.quick else (CLIENTS, EVENTS)
    team = await stage.make_team("streams", [])
    jobs = stage.draw_jobs(count)
    await stage.prepare_jobs(team, jobs)
    async with service(stage) as serving:
        wish = Wish(port=serving.port, clients=clients, key=team.key.key)
        async with conversation("app.bench.streams", msgspec.json.encode(wish).decode()) as watching:
            connected = await watching.hear(int)
            before = cpu_seconds([serving.pid])
            requests = [webhook_to(stage, job) for job in jobs]
            played = await play(serving.port, requests, connections=4, seconds=count / RATE, rate=RATE)
            await _await_events(watching, len(played.acknowledged))
            after, memory = cpu_seconds([serving.pid]), resident_mb([serving.pid])
            followed = await watching.end(Followed)
    async with stage.db.reading() as connection:
        expected = [str(row.sequence) for row in await queries.list_completions(connection, team.id)]
    complete = sum(1 for events in followed.events if events == expected)
    last_sent = max(played.sent[place] for place in played.acknowledged)
    until_last = max(followed.last) - last_sent
    say(
        f"streams: {complete:,} of {clients:,} clients were sent all {len(expected)} events, the last of them within"
        f" {until_last * 1000:.0f} ms"
    )
    wrong = [
        f"stream client {number} was sent {len(events)} of {len(expected)} events"
        for number, events in enumerate(followed.events)
        if events != expected
    ]
    return Found(
        {"sse_clients": complete, "sse_last_ms": milliseconds(until_last)},
        {
            "asked": clients,
            "connected": connected,
            "events": len(expected),
            "events_per_second": RATE,
            "cut": followed.cut,
            "cpu_seconds": {
                "service": None if before is None or after is None else rounded(after - before),
                "clients": rounded(followed.cpu_seconds),
            },
            "service_rss_mb": None if memory is None else rounded(memory),
        },
        Checked(len(played.acknowledged), wrong),
    )


async def _await_events(watching: Conversation, wanted: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while await watching.ask("count", int) < wanted and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
