"""`list` and `show`: what jobs there are, and all that happened to one of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from app.archive.urls import find_urls
from app.cli.jobs.selection import Wanted, find_jobs
from app.cli.options import Where
from app.cli.reach import reach
from app.cli.terminal import AsJson, out, print_json, run
from app.dashboard.words import ago, duration
from app.ops.trace import describe

WIDE: Final = 110
"""Columns of a terminal in which all that is told of a job has room beside its id."""

GAP: Final = 2
LEAST_ROOM: Final = 10
LONGEST_PROMPT: Final = 200

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


def table_of(jobs: Sequence[dict[str, Any]], now: datetime, width: int) -> Table:
    """Jobs in a table of so many columns of text, prompts cut to the room that is left beside the rest."""
    cells = {
        "id": [job["id"] for job in jobs],
        "status": [state(job) for job in jobs],
        "age": [ago(datetime.fromisoformat(job["createdAt"]), now).removesuffix(" ago") for job in jobs],
    }
    if width >= WIDE:
        cells["took"] = [took(job) for job in jobs]
        cells["credits"] = ["" if job["creditCost"] is None else f"{job['creditCost']:,}" for job in jobs]
        cells["model"] = [job["model"] or "" for job in jobs]
    taken = sum(max(map(cell_len, (name, *texts))) + GAP for name, texts in cells.items())
    table = Table(*cells, box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column("prompt", no_wrap=True)
    for *row, job in zip(*cells.values(), jobs, strict=True):
        words = Text(prompt(job))
        words.truncate(max(width - taken, LEAST_ROOM), overflow="ellipsis")
        table.add_row(*map(escape, row), words)
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
    return " ".join(words[:LONGEST_PROMPT].split()) if isinstance(words, str) else ""


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
