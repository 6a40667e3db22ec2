"""Commands of jobs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Column, Table

from app.cli.terminal import AsJson, out, read_settings, run
from app.config import Settings
from app.context import open_context
from app.jobs.reading import view
from app.ops import trace

jobs = typer.Typer(name="jobs", help="Look into jobs.", no_args_is_help=True)


@jobs.command("show")
def show_job(
    job_id: Annotated[str, typer.Argument(help="The job's id, ours or the upstream's.")], as_json: AsJson = False
) -> None:
    """Show everything that happened to a job of any team, in order."""

    async def work(settings: Settings) -> dict[str, Any]:
        async with open_context(settings) as ctx, ctx.db.reading() as connection:
            return await trace.trace_job(connection, job_id, only_team=None, seen=await view(ctx))

    found = msgspec.json.encode(run(work(read_settings())))
    if as_json:
        print(msgspec.json.format(found, indent=2).decode())
        return
    told = json.loads(found)
    for name in ("id", "team", "model", "status", "error", "upstreamId", "nextDispatchAt", "nextPollAt", "overdue"):
        if told["job"][name]:
            out.print(f"{name:<14} {told['job'][name]}", markup=False, soft_wrap=True)
    if told["hasMore"]:
        out.print("Older steps are left out.")
    out.print(_table_of_steps(told["steps"]))


def _table_of_steps(steps: list[dict[str, Any]]) -> Table:
    fixed = (Column(name, no_wrap=True) for name in ("time", "+seconds", "what", "by"))
    table = Table(*fixed, Column("details", overflow="fold"), box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for step in steps:
        by = step["byName"] or step["by"]
        shown = (step["at"], f"{step['afterSeconds']:+.3f}", step["what"], by, trace.describe(step))
        table.add_row(*(escape(text) for text in shown))
    return table
