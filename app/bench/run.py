"""A whole run in order: the stage, then one measure after the other, each alone on the machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from rich.console import Console

from app import logs
from app.bench import fanout, following, idle, latency, limit, reads, soak, throughput
from app.bench.found import Found, Say
from app.bench.limit import Kind
from app.bench.plan import Plan
from app.bench.report import Report
from app.bench.stage import Stage, open_stage
from app.config import Settings


def run(plan: Plan, *, out: Console) -> Report:
    """Measure what the plan asks for, telling `out` how it goes. Raises StartupError."""
    logs.configure(Settings(_env_file=None, log_level="warning"))  # type: ignore[call-arg]
    return asyncio.run(_run(plan, out))


async def _run(plan: Plan, out: Console) -> Report:
    began = time.monotonic()

    def say(line: str) -> None:
        out.print(f"[dim]{time.monotonic() - began:4.0f} s[/]  {line}", soft_wrap=True)

    say("PostgreSQL and a simulated Apiframe are starting")
    async with open_stage(plan.seed) as stage:
        await limit.make_reference(stage)
        report = Report(plan, stage.machine, driver=await limit.describe_driver())
        await _measure(stage, plan, report, say)
    report.seconds = round(time.monotonic() - began, 1)
    return report


async def _measure(stage: Stage, plan: Plan, report: Report, say: Say) -> None:
    """What needs an empty house first, then what fills it."""
    alone: dict[str, Callable[[Stage, Plan, Say], Awaitable[Found]]] = {
        "idle": idle.measure,
        "deliveries": fanout.measure_rate,
        "latency": fanout.measure_latency,
        "sse": following.measure,
        "read": reads.measure,
        "single": latency.measure_single,
    }
    for name, measure in alone.items():
        if plan.wants(name):
            report.add(name, await measure(stage, plan, say))
    kinds: tuple[Kind, ...] = ("webhook", "submit")
    for kind in kinds:
        if plan.wants_rounds(kind):
            report.add_rounds(kind, await throughput.measure(stage, plan, kind, say))
        if plan.wants("open"):
            peak = report.figures.get(f"{kind}_per_second")
            report.add(f"{kind}_open", await latency.measure_open(stage, plan, kind, peak, say))
    if plan.wants("soak"):
        report.add("soak", await soak.measure(stage, plan, say))
