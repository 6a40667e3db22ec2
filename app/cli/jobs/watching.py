"""`watch`: one job until it is over, or all that happens, as it happens."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from app.cli.jobs.following import check_completed, follow, print_results
from app.cli.jobs.looking import prompt, state
from app.cli.options import Where
from app.cli.reach import Service, reach
from app.cli.terminal import AsJson, out, print_line, run, tell
from app.listen import Event

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
    words = (event["timestamp"], f"{event['type']:<14}", job["id"], job["model"] or "", job["error"] or prompt(job))
    return "  ".join(words).rstrip()


async def _show_all(service: Service) -> None:
    board = Board(rows=max(out.height - 4, 5))
    said = [""]
    with Live(get_renderable=lambda: board.table(said[0]), console=out, refresh_per_second=4, transient=False) as live:

        async def take(_event: Event, body: bytes) -> None:
            board.take(json.loads(body))
            live.update(board.table(said[0]))

        def note(line: str) -> None:
            said[0] = line

        await service.source("/v1/events", types="job.*", note=note).follow(take)


class Board:
    """The jobs of which something was heard last, the newest on top, as many as there is room for."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._jobs: dict[str, tuple[str, dict[str, Any]]] = {}

    def take(self, event: dict[str, Any]) -> None:
        """Put the job of an event on top."""
        job = event["data"]
        self._jobs.pop(job["id"], None)
        self._jobs[job["id"]] = (event["timestamp"], job)
        while len(self._jobs) > self._rows:
            del self._jobs[next(iter(self._jobs))]

    def table(self, caption: str) -> Table:
        """What is known of them."""
        heads = (Column(name, no_wrap=True) for name in ("at", "id", "status", "model", "prompt or error"))
        table = Table(*heads, box=None, pad_edge=False, caption=escape(caption), caption_justify="left")
        for at, job in reversed(self._jobs.values()):
            style = STYLES.get(job["status"])
            time = f"{datetime.fromisoformat(at).astimezone():%H:%M:%S}"
            said = job["error"] or prompt(job)
            table.add_row(
                *(escape(text) for text in (time, job["id"], state(job), job["model"] or "", said)), style=style
            )
        return table
