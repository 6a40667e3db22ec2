"""`watch`: one job until it is over, or all that happens, as it happens."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from app.cli.jobs.following import check_completed, follow, print_results
from app.cli.jobs.tables import WIDE, fitted, said, state
from app.cli.options import Where
from app.cli.reach import Service, reach
from app.cli.terminal import AsJson, out, print_line, run, tell
from app.listen import Event

MARGIN: Final = 3
"""Lines of the terminal that hold no job: the head, the note below, and the cursor's."""

STYLES: Final = {"COMPLETED": "green", "FAILED": "red", "CANCELLED": "yellow"}


def watch(
    where: Where,
    job_id: Annotated[str | None, typer.Argument(metavar="[JOB]", help="A job; without it, all of them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Follow a job until it is over, or all jobs until Ctrl-C. Exit code 0 if the job completed, else 1.

    With --json every event is a line. All jobs need a key with the scope subscribe or ops.
    """

    async def work() -> dict[str, Any] | None:
        async with reach(where) as service:
            if job_id is None:
                await (_print_all(service, as_json) if as_json or not out.is_terminal else _show_all(service))
                return None
            return await follow(service, job_id, heard=_print_event if as_json else None, quiet=as_json)

    job = run(work())
    if job is not None:
        check_completed(job)
        if not as_json:
            print_results(job)


async def _print_all(service: Service, as_json: bool) -> None:
    async def take(_event: Event, body: bytes) -> None:
        event = json.loads(body)
        print_line(json.dumps(event, ensure_ascii=False) if as_json else in_one_line(event))

    await service.source("/v1/events", types="job.*", note=tell).follow(take)


def _print_event(event: dict[str, Any]) -> None:
    print_line(json.dumps(event, ensure_ascii=False))


def in_one_line(event: dict[str, Any]) -> str:
    """An event for whoever reads on."""
    job = event["data"]
    words = (event["timestamp"], f"{event['type']:<14}", job["id"], job["model"] or "", said(job))
    return "  ".join(words).rstrip()


async def _show_all(service: Service) -> None:
    board = Board(rows=max(out.height - MARGIN, 1))
    with Live(board.table(out.width), console=out, auto_refresh=False) as live:

        async def take(_event: Event, body: bytes) -> None:
            board.take(json.loads(body))
            live.update(board.table(out.width), refresh=True)

        def note(line: str) -> None:
            board.caption = line
            live.update(board.table(out.width), refresh=True)

        await service.source("/v1/events", types="job.*", note=note).follow(take)


class Board:
    """The jobs of which something was heard last, the newest on top, as many as there is room for."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._jobs: dict[str, tuple[str, dict[str, Any]]] = {}
        self.caption = ""

    def take(self, event: dict[str, Any]) -> None:
        """Put the job of an event on top."""
        job = event["data"]
        self._jobs.pop(job["id"], None)
        self._jobs[job["id"]] = (event["timestamp"], job)
        while len(self._jobs) > self._rows:
            del self._jobs[next(iter(self._jobs))]

    def table(self, width: int) -> Table:
        """What is known of them, for so wide a terminal."""
        times, jobs = [time for time, _ in reversed(self._jobs.values())], self.jobs
        columns = {
            "at": [f"{datetime.fromisoformat(time).astimezone():%H:%M:%S}" for time in times],
            "id": [job["id"] for job in jobs],
            "status": [state(job) for job in jobs],
        }
        if width >= WIDE:
            columns["model"] = [job["model"] or "" for job in jobs]
        table = fitted(columns, "prompt or error", [said(job) for job in jobs], width)
        for row, job in zip(table.rows, jobs, strict=True):
            row.style = STYLES.get(job["status"])
        table.caption, table.caption_justify = Text(self.caption), "left"
        return table

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """Them, the newest first."""
        return [job for _, job in reversed(self._jobs.values())]
