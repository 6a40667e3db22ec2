"""`retry`, `cancel` and `refresh`: one job, several, or all that a filter finds."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final
from urllib.parse import quote
from uuid import uuid4

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from app.cli.jobs.selection import Wanted, find_ids
from app.cli.options import Where
from app.cli.reach import Answered, Service, Unreachable, reach
from app.cli.terminal import AsJson, out, print_json, printable, progress_bar, run, tell
from app.errors import StartupError

AT_ONCE: Final = 8
MOST_TRIES: Final = 8
LONGEST_PAUSE_SECONDS: Final = 60

PASSING: Final = frozenset({429, 503})
"""Refusals after which the same may be asked again, when the answer says so."""

Act = Callable[[Service, str], Coroutine[Any, Any, dict[str, str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which jobs are acted on: these, or all that the filter finds."""

    job_ids: Annotated[list[str] | None, typer.Argument(metavar="[JOB]...", help="Ids of jobs.")] = None
    every: Annotated[bool, typer.Option("--all", help="All jobs that the filter finds, not single ones.")] = False
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before.")] = False


@dataclass(frozen=True, slots=True)
class Action:
    """What is done to each job. `statuses`: those that `--all` finds where no others are asked for."""

    verb: str
    done: str
    statuses: str
    sends: bool
    act: Act


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it, job by job."""

    done: list[dict[str, str]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)


def retry_jobs(wanted: Wanted, which: Which, where: Where, as_json: AsJson = False) -> None:
    """Submit jobs that failed or were cancelled once more, each as a new job of the same team and key.

    With --all those that failed; repeating it starts no job twice.
    """
    run_id = "all" if which.every else uuid4().hex

    async def act(service: Service, job_id: str) -> dict[str, str]:
        # Whatever is asked again, since an answer got lost or the whole command was broken off, makes the same job.
        headers = {"Prefer": "respond-async", "Idempotency-Key": f"framehook-retry-{run_id}-{job_id}"}
        answer = await service.ask("POST", _path(job_id, "retry"), headers=headers)
        return {"id": job_id, "jobId": answer["jobId"]}

    _act_on(Action("retry", "retried", "FAILED", True, act), wanted, which, where, as_json)


def cancel_jobs(wanted: Wanted, which: Which, where: Where, as_json: AsJson = False) -> None:
    """Cancel jobs that were not sent yet. With --all those that are queued; some of them may have been sent by then."""

    async def act(service: Service, job_id: str) -> dict[str, str]:
        job = await service.ask("POST", _path(job_id, "cancel"))
        return {"id": job_id, "status": job["status"]}

    _act_on(Action("cancel", "cancelled", "QUEUED", False, act), wanted, which, where, as_json)


def refresh_jobs(wanted: Wanted, which: Which, where: Where, as_json: AsJson = False) -> None:
    """Ask Apiframe after jobs now. With --all those that are under way."""

    async def act(service: Service, job_id: str) -> dict[str, str]:
        job = await service.ask("POST", _path(job_id, "refresh"))
        return {"id": job_id, "status": job["status"]}

    _act_on(Action("refresh", "refreshed", "QUEUED,PROCESSING", True, act), wanted, which, where, as_json)


def _path(job_id: str, action: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}/{action}"


def _act_on(action: Action, wanted: Wanted, which: Which, where: Where, as_json: bool) -> None:
    """Do it to all that is meant, and tell what came of it; exit code 1 where some failed."""
    ids = _ids_of(action, wanted, which, where, quiet=as_json)

    async def work() -> Outcome:
        async with reach(where, sends=action.sends) as service:
            return await act_on_all(service, ids, action, quiet=as_json)

    outcome = run(work())
    if as_json:
        print_json({"done": outcome.done, "failed": outcome.failed})
    else:
        for each in outcome.done:
            out.print("  ".join(each.values()), markup=False, soft_wrap=True)
        for refused in outcome.failed:
            tell(printable(f"framehook: {refused['id']}: {refused['error']}"))
        if len(ids) != 1:
            tell(f"{len(outcome.done):,} {action.done}, {len(outcome.failed):,} failed.")
    if outcome.failed:
        raise typer.Exit(1)


def _ids_of(action: Action, wanted: Wanted, which: Which, where: Where, *, quiet: bool) -> list[str]:
    """The ids of the jobs that are meant; of a filter somebody is asked before, with the number of them."""
    if bool(which.job_ids) == which.every:
        raise StartupError("give the ids of jobs, or --all and a filter")
    if which.job_ids:
        if not wanted.is_empty:
            raise StartupError("a filter needs --all instead of ids")
        return list(dict.fromkeys(which.job_ids))
    if wanted.status is None:
        wanted = replace(wanted, status=action.statuses)
    ids = run(_find_ids(wanted, where, quiet=quiet))
    if ids and not which.yes:
        if not sys.stdin.isatty():
            raise StartupError(f"it would {action.verb} {len(ids):,} jobs; where nobody can be asked, --yes is needed")
        typer.confirm(
            f"{action.verb.capitalize()} {len(ids):,} {'job' if len(ids) == 1 else 'jobs'}?", abort=True, err=True
        )
    return ids


async def _find_ids(wanted: Wanted, where: Where, *, quiet: bool) -> list[str]:
    with progress_bar(TextColumn("{task.completed:,} jobs found"), quiet=quiet) as progress:
        task, ids = progress.add_task("", total=None), []
        async with reach(where) as service:
            async for job_id in find_ids(service, wanted):
                ids.append(job_id)
                progress.advance(task)
    return ids


async def act_on_all(service: Service, ids: Sequence[str], action: Action, *, quiet: bool = False) -> Outcome:
    """Act on some jobs at a time, in order; what is refused holds up none of the others."""
    outcome, waiting = Outcome(), iter(ids)
    columns = (TextColumn(action.done), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress_bar(*columns, quiet=quiet or len(ids) == 1) as progress:
        task = progress.add_task("", total=len(ids))

        async def take_turns() -> None:
            for job_id in waiting:
                try:
                    outcome.done.append(await persist(service, job_id, action.act))
                except (Answered, Unreachable) as error:
                    outcome.failed.append({"id": job_id, "error": str(error)})
                progress.advance(task)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(ids))):
                group.create_task(take_turns())
    return outcome


async def persist(service: Service, job_id: str, act: Act) -> dict[str, str]:
    """Do it, again after a while where that may help; raises Answered or Unreachable in the end."""
    for tried in range(1, MOST_TRIES + 1):
        try:
            return await act(service, job_id)
        except Answered as answered:
            if answered.status not in PASSING or tried == MOST_TRIES:
                raise
            seconds = min(answered.retry_after_seconds, LONGEST_PAUSE_SECONDS)
        except Unreachable:
            if tried == MOST_TRIES:
                raise
            seconds = tried
        await asyncio.sleep(seconds)
    raise AssertionError("unreachable")
