"""A whole run in order: the stage, then one measure after the other, each alone on the machine."""

from __future__ import annotations

import asyncio
import time

from rich.console import Console

from app import logs
from app.bench import limit, throughput
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
        report = Report(plan, stage.machine, driver=str(limit.find_pgbench()))
        await _measure(stage, plan, report, say)
    report.seconds = round(time.monotonic() - began, 1)
    return report


async def _measure(stage: Stage, plan: Plan, report: Report, say: throughput.Say) -> None:
    kinds: tuple[Kind, ...] = ("webhook", "submit")
    for kind in kinds:
        if plan.wants(kind):
            report.add_rounds(kind, await throughput.measure(stage, plan, kind, say))
