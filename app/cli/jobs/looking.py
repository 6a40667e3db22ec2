"""`list` and `show`: what jobs there are, and all that happened to one of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.table import Column, Table

from app.archive.urls import find_urls
from app.cli.jobs.selection import Wanted, find_jobs
from app.cli.options import Where
from app.cli.reach import reach
from app.cli.terminal import AsJson, out, print_json, run
from app.dashboard.words import ago, duration
from app.ops.trace import describe

WIDE: Final = 110
"""Columns of a terminal in which all that is told of a job has room beside its id."""

LONGEST_PROMPT: Final = 60

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
        out.print(table_of(found, datetime.now(UTC), wide=out.width >= WIDE))


def table_of(jobs: list[dict[str, Any]], now: datetime, *, wide: bool) -> Table:
    """Jobs in a table, their ids whole; what there is no room for is cut short, or left out."""
    columns = [Column("id", no_wrap=True), Column("status", no_wrap=True), Column("age", no_wrap=True)]
    if wide:
        columns += [Column("took", no_wrap=True), Column("credits", no_wrap=True, justify="right")]
    columns += [Column("model", no_wrap=True), Column("prompt", no_wrap=True)]
    table = Table(*columns, box=None, pad_edge=False)
    for job in jobs:
        age = ago(datetime.fromisoformat(job["createdAt"]), now).removesuffix(" ago")
        spent = (took(job), "" if job["creditCost"] is None else f"{job['creditCost']:,}") if wide else ()
        table.add_row(*(escape(text) for text in (job["id"], state(job), age, *spent, job["model"] or "", prompt(job))))
    return table


def state(job: dict[str, Any]) -> str:
    """A job's status, with how far it is or why it failed in a word."""
    if job["status"] == "PROCESSING" and job["progress"]:
        return f"PROCESSING {job['progress']} %"
    return str(job["status"])


def took(job: dict[str, Any]) -> str:
    """How long a job took; nothing for one that is under way."""
    if job["completedAt"] is None:
        return ""
    began, ended = (datetime.fromisoformat(job[name]) for name in ("createdAt", "completedAt"))
    return duration((ended - began).total_seconds())


def prompt(job: dict[str, Any]) -> str:
    """The beginning of a job's prompt, in one line."""
    words = (job["input"] or {}).get("prompt")
    line = " ".join(words.split()) if isinstance(words, str) else ""
    return line if len(line) <= LONGEST_PROMPT else line[: LONGEST_PROMPT - 1] + "…"


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
