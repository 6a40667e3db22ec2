"""Follow one job to its end by its events, with a bar that tells how far it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.archive.urls import find_urls
from app.cli.reach import BEGINNING, Service
from app.cli.terminal import out, progress_bar
from app.errors import StartupError
from app.events.stream import ENDS
from app.listen import Event
from app.models.jobs import FINAL

Heard = Callable[[dict[str, Any]], None]


async def follow(service: Service, job_id: str, *, heard: Heard | None = None, quiet: bool = False) -> dict[str, Any]:
    """The job object once the job is over; each of its events is handed to `heard`, from the first one on.

    The bar is for people: it fills where the upstream tells how far it is, and swings to and fro where it does not.
    """
    path = f"/v2/jobs/{quote(job_id, safe='')}"
    job: dict[str, Any] = await service.ask("GET", path)
    if job["status"] in FINAL and heard is None:
        return job
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
    with progress_bar(*columns, quiet=quiet) as progress:
        task = progress.add_task("", said="")
        _show(progress, task, job)

        async def take(event: Event, body: bytes) -> bool:
            whole = json.loads(body)
            if heard is not None:
                heard(whole)
            _show(progress, task, whole["data"])
            return event.type in ENDS

        note = progress.console.print
        source = service.source(f"/v1/jobs/{job['id']}/events", since=BEGINNING, note=note, greets=False)
        await source.follow(take)
    return dict(await service.ask("GET", path))


async def follow_for(service: Service, job_id: str, seconds: float | None, *, quiet: bool = False) -> dict[str, Any]:
    """The same within so many seconds; raises StartupError when the job is not over by then."""
    try:
        async with asyncio.timeout(seconds):
            return await follow(service, job_id, quiet=quiet)
    except TimeoutError:
        raise StartupError(f"not over after {seconds:g} s; go on with: framehook jobs watch {job_id}") from None


def _show(progress: Progress, task: TaskID, job: dict[str, Any]) -> None:
    is_over = job["status"] in FINAL
    percent = 100 if is_over else job["progress"] or 0
    is_known = is_over or percent > 0
    said = f"{percent} %" if is_known else ""
    progress.update(task, description=job["status"], total=100 if is_known else None, completed=percent, said=said)


def print_results(job: dict[str, Any]) -> None:
    """Print where what a job made is, one address a line."""
    for url in find_urls(job["result"]):
        out.print(url, markup=False, soft_wrap=True)


def check_completed(job: dict[str, Any]) -> None:
    """Raise StartupError, which says why, for a job that did not complete."""
    if job["status"] != "COMPLETED":
        raise StartupError(f"{job['id']} is {job['status']}: {job['error'] or job['errorCode'] or 'nobody said why'}")
