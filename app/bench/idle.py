"""What a process of the service costs while nothing happens."""

from __future__ import annotations

import asyncio
import math
from typing import Final

from app.bench.figures import rounded
from app.bench.found import Found, Say
from app.bench.machine import cpu_seconds, resident_mb
from app.bench.plan import Plan
from app.bench.servers import service
from app.bench.stage import Stage

SETTLE_SECONDS: Final = 5.0
"""A start reads documents and makes partitions: it is over by then."""


async def measure(stage: Stage, plan: Plan, say: Say) -> Found:
    """The share of a core that one process with its loops takes, and the memory that it holds. PostgreSQL is not in it."""
    seconds = 5.0 if plan.quick else 20.0
    async with service(stage) as serving:
        await asyncio.sleep(SETTLE_SECONDS)
        before = cpu_seconds([serving.pid])
        await asyncio.sleep(seconds)
        after, memory = cpu_seconds([serving.pid]), resident_mb([serving.pid])
    percent = math.nan if before is None or after is None else (after - before) / seconds * 100
    say(f"idle: {percent:.2f} % of a core, {memory or math.nan:.0f} MB")
    figures = {"idle_cpu_percent": rounded(percent), "idle_rss_mb": rounded(memory or math.nan)}
    return Found(
        figures, {"seconds": seconds, "cpu_seconds": None if before is None else rounded((after or 0) - before)}
    )
