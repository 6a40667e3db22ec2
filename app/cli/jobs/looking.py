"""`list` and `show`: what jobs there are, and all that happened to one of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.table import Column, Table

from app.archive.urls import find_urls
from app.cli.jobs.selection import Wanted, find_jobs
from app.cli.jobs.tables import table_of
from app.cli.options import Where
from app.cli.reach import reach
from app.cli.terminal import AsJson, out, print_json, run
from app.ops.trace import describe

JobId = Annotated[str, typer.Argument(help="The job's id, ours or the upstream's.")]


def list_jobs(
    wanted: Wanted,
    where: Where,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""

    async def work() -> list[dict[str, Any]]:
        async with reach(where) as service:
            return [job async for job in find_jobs(service, wanted, most=limit)]

    found = run(work())
    if as_json:
        print_json(found)
    elif found:
        out.print(table_of(found, datetime.now(UTC), out.width))


def show_job(job_id: JobId, where: Where, as_json: AsJson = False) -> None:
    """Show everything that happened to a job of any team, in order, and what it made."""

    async def work() -> dict[str, Any]:
        async with reach(where) as service:
            return dict(await service.ask("GET", f"/v1/jobs/{quote(job_id, safe='')}/trace"))

    told = run(work())
    if as_json:
        print_json(told)
        return
    for name in ("id", "team", "model", "status", "error", "upstreamId", "nextDispatchAt", "nextPollAt", "overdue"):
        if told["job"][name]:
            out.print(f"{name:<14} {told['job'][name]}", markup=False, soft_wrap=True)
    for url in find_urls(told["job"]["result"]):
        out.print(f"{'result':<14} {url}", markup=False, soft_wrap=True)
    if told["hasMore"]:
        out.print("Older steps are left out.")
    out.print(_table_of_steps(told["steps"]))


def _table_of_steps(steps: list[dict[str, Any]]) -> Table:
    fixed = (Column(name, no_wrap=True) for name in ("time", "+seconds", "what", "by"))
    table = Table(*fixed, Column("details", overflow="fold"), box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for step in steps:
        by = step["byName"] or step["by"]
        shown = (step["at"], f"{step['afterSeconds']:+.3f}", step["what"], by, describe(step))
        table.add_row(*(escape(text) for text in shown))
    return table
