"""A soak: webhooks and submissions by the clock, at half of the most, round after round. What must not grow is watched.

`--rounds 30 --seconds 60` is half an hour. Each completed job makes a delivery, which is made as well.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.bench import queries
from app.bench.conversation import Conversation, conversation
from app.bench.fanout import COMPLETED
from app.bench.figures import milliseconds, percentile, rounded
from app.bench.found import Found, Say
from app.bench.machine import cpu_seconds, resident_mb
from app.bench.plan import CONNECTIONS, Plan
from app.bench.player import Played, play
from app.bench.servers import Serving, service
from app.bench.sink import Arrivals
from app.bench.stage import Stage
from app.bench.verify import Checked, OurBooks
from app.bench.workload import Prepared, Submissions, Webhooks

MOST: Final = 3_000
"""Webhooks, and submissions, that are written for each second of the round that finds the maximum."""

HISTORY: Final = frozenset(
    {"jobs", "job_words", "idempotency_keys", "receipts", "receipt_bodies", "events", "deliveries", "attempts", "steps"}
) | {"ledger"}
"""Tables of which retention takes the old rows away: these grow by what is asked, and a row must not become larger."""


@dataclass(frozen=True, slots=True)
class Round:
    """How one round went, and what there was after it: bytes and rows of each table."""

    latencies: Sequence[float]
    memory_mb: float
    cpu_seconds: float
    deliveries: int
    tables: Mapping[str, tuple[int, int]]

    def as_json(self) -> dict[str, Any]:
        """For the document."""
        return {
            "p50_ms": milliseconds(percentile(self.latencies, 0.5)),
            "p99_ms": milliseconds(percentile(self.latencies, 0.99)),
            "rss_mb": rounded(self.memory_mb),
            "service_cpu_seconds": rounded(self.cpu_seconds),
            "deliveries": self.deliveries,
        }


class Mixed:
    """Webhooks and submissions by turns."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks
        self._submissions = Submissions(OurBooks())

    async def prepare(self, stage: Stage, count: int) -> Prepared:
        """So many of each."""
        some, others = await self._webhooks.prepare(stage, count), await self._submissions.prepare(stage, count)

        async def check(places: Sequence[int]) -> Checked:
            checked = await some.check([place // 2 for place in places if place % 2 == 0])
            checked.add(await others.check([place // 2 for place in places if place % 2]))
            return checked

        pairs = zip(some.requests, others.requests, strict=True)
        return Prepared([request for pair in pairs for request in pair], check)


async def measure(stage: Stage, plan: Plan, say: Say) -> Found:
    """All rounds, and how the last third of them compares with the second: in the first, everything becomes warm."""
    checked, rounds = Checked(), list[Round]()
    async with conversation("app.bench.sink", "1") as sink:
        (port,) = await sink.hear(list[int])
        team = await stage.make_team("soak", [{"url": f"http://127.0.0.1:{port}/", "types": [COMPLETED]}])
        workload = Mixed(Webhooks(OurBooks(), team))
        async with service(stage) as serving:
            peak = await _find_peak(stage, plan, workload, serving, checked)
            say(f"soak: {peak:,.0f}/s at most, {peak / 2:,.0f}/s from here on")
            for number in range(plan.rounds):
                prepared = await workload.prepare(stage, int(peak / 4 * plan.seconds) + 1)
                before = cpu_seconds([serving.pid]) or math.nan
                played = await play(
                    serving.port, prepared.requests, connections=CONNECTIONS, seconds=plan.seconds, rate=peak / 2
                )
                rounds.append(await _look(stage, serving, sink, played, before))
                checked.add(await prepared.check(played.acknowledged))
                say(f"soak, round {number + 1} of {plan.rounds}: {rounds[-1].as_json()}")
    raw = {
        "peak_per_second": rounded(peak),
        "asked_per_second": rounded(peak / 2),
        "seconds": plan.seconds,
        "rounds": [each.as_json() for each in rounds],
        "tables": [_shown(rounds[number].tables) for number in (0, -1)],
    }
    return Found(compare(rounds), raw, checked)


async def _find_peak(stage: Stage, plan: Plan, workload: Mixed, serving: Serving, checked: Checked) -> float:
    seconds = min(plan.seconds, 5.0)
    prepared = await workload.prepare(stage, int(MOST * seconds))
    await stage.analyze()
    played = await play(serving.port, prepared.requests, connections=CONNECTIONS, seconds=seconds)
    checked.add(await prepared.check(played.acknowledged))
    return max(played.rate, 2.0)


async def _look(stage: Stage, serving: Serving, sink: Conversation, played: Played, before: float) -> Round:
    arrivals = await sink.ask("take", Arrivals)
    async with stage.db.reading() as connection:
        tables = {row.name: (row.bytes, row.row_count) for row in await queries.list_tables(connection)}
    return Round(
        played.latencies,
        resident_mb([serving.pid]) or math.nan,
        (cpu_seconds([serving.pid]) or math.nan) - before,
        len(arrivals.times),
        tables,
    )


def _shown(tables: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    return {name: {"bytes": size, "rows": count} for name, (size, count) in sorted(tables.items())}


def thirds(rounds: Sequence[Round]) -> tuple[Sequence[Round], Sequence[Round]]:
    """The second third and the last: in the first everything becomes warm. Of few rounds, the last two."""
    many = max(1, len(rounds) // 3)
    return rounds[-2 * many : -many] or rounds[:1], rounds[-many:]


def compare(rounds: Sequence[Round]) -> dict[str, Any]:
    """The last third by the second: memory, latencies, the bytes of a row of history, and of the other tables."""
    earlier, later = thirds(rounds)

    def grown(figure: Callable[[Round], float]) -> float | None:
        now, then = (statistics.median(figure(each) for each in part) for part in (later, earlier))
        return rounded(now / then)

    then, now = earlier[-1].tables, later[-1].tables
    rows = [
        (now[name][0] / now[name][1]) / (size / count)
        for name, (size, count) in then.items()
        if name in HISTORY and count and now[name][1]
    ]
    others = [sum(size for name, (size, _) in tables.items() if name not in HISTORY) for tables in (now, then)]
    return {
        "soak_memory_growth": grown(lambda each: each.memory_mb),
        "soak_p50_growth": grown(lambda each: percentile(each.latencies, 0.5)),
        "soak_p99_growth": grown(lambda each: percentile(each.latencies, 0.99)),
        "soak_row_growth": rounded(max(rows, default=math.nan)),
        "soak_other_tables_growth": rounded(others[0] / others[1]),
    }
