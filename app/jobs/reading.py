"""Show jobs to their callers, in Apiframe's shape and a few fields of our own. Reading never changes anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.archive.links import Links, links
from app.auth import Caller
from app.clock import timestamp
from app.context import SANDBOX, Context
from app.db import AnyRow
from app.errors import Forbidden, Invalid, NotFound
from app.jobs.filters import ALL_TEAMS, JobFilter
from app.jobs.finding import find_jobs
from app.jobs.outputs import shape_outputs
from app.jobs.queries import reading
from app.models.jobs import FINAL
from app.notify import wait
from app.paging import parse_id
from app.teams.queries.teams import find_team_id

LONGEST_WAIT_SECONDS: Final = 300
LOOK_AGAIN_SECONDS: Final = 5.0
"""How long a waiting reader relies on nudges before it looks by itself."""


def is_over(row: AnyRow) -> bool:
    """Whether a job has ended, as far as we know."""
    return row.status in FINAL


async def get_job(
    ctx: Context,
    caller: Caller,
    job_id: str,
    *,
    identify: Callable[[], Awaitable[Caller]],
    wait_seconds: float = 0,
    enough: Callable[[AnyRow], bool] = is_over,
) -> dict[str, Any]:
    """One job that the caller may see; with `wait_seconds`, as soon as it is far enough or the time is over.

    The caller is identified anew after every wait, so that revoking its key ends it. No connection is held meanwhile.
    Raises NotFound, for other teams' jobs too, and whatever `identify` raises.
    """
    uuid = parse_id(job_id, "Job")
    if wait_seconds <= 0:
        return await show(ctx, caller, uuid)
    end = asyncio.get_running_loop().time() + wait_seconds
    with ctx.notify.listening(f"job:{uuid}") as nudged:
        while True:
            nudged.clear()
            row = await find_visible(ctx, caller, uuid)
            left = end - asyncio.get_running_loop().time()
            if enough(row) or left <= 0 or ctx.closing.is_set():
                return await _shape(ctx, row)
            await wait(nudged, min(left, LOOK_AGAIN_SECONDS))
            caller = await identify()


async def show(ctx: Context, caller: Caller, job_id: UUID) -> dict[str, Any]:
    """One job that the caller may see, as it is now. Raises NotFound."""
    return await _shape(ctx, await find_visible(ctx, caller, job_id))


async def _shape(ctx: Context, row: AnyRow) -> dict[str, Any]:
    return shape_job(row, await view(ctx) if row.files else View(ctx.now()))


async def find_visible(ctx: Context, caller: Caller, job_id: UUID) -> AnyRow:
    """The row of a job that the caller may see. Raises NotFound, for other teams' jobs too."""
    row: AnyRow | None = await ctx.looked_up(find, job_id)
    if row is None or caller.only_team not in (None, row.team_id):
        raise NotFound("Job not found")
    return row


async def find(_ctx: Context, connection: AsyncConnection, job_ids: Sequence[UUID]) -> list[AnyRow | None]:
    """These jobs, of whichever team; None for those that there are not."""
    rows = await reading.find_jobs(connection, set(job_ids))
    return [rows.get(job_id) for job_id in job_ids]


async def list_jobs(ctx: Context, caller: Caller, asked: JobFilter) -> dict[str, Any]:
    """A page of jobs, newest first: this key's, or with `scope=team` the whole team's, or another team's.

    Raises Forbidden where the caller may not see that team, Invalid where there is none of that name.
    """
    key_id = None if asked.whole_team else caller.key_id
    async with ctx.db.reading() as connection:
        team_id = await identify_team(connection, caller, asked.team)
        found = await find_jobs(connection, asked, team_id=team_id, key_id=key_id, now=ctx.now())
        models = await reading.list_models(connection, team_id) if asked.include_models else None
    seen = await view(ctx)
    answer: dict[str, Any] = {
        "jobs": [shape_job(row, seen) for row in found.rows],
        "nextCursor": str(found.cursor) if found.cursor else None,
        "hasMore": found.cursor is not None,
    }
    return answer if models is None else answer | {"models": models}


async def identify_team(connection: AsyncConnection, caller: Caller, name: str | None) -> UUID | None:
    """The team whose jobs are asked for: the caller's own unless another is named; None means all of them.

    Raises Forbidden where the caller may not see that team, Invalid where there is none of that name.
    """
    if name is None or name == caller.team:
        return caller.team_id
    if not caller.sees_all:
        raise Forbidden("This key sees the jobs of its own team only")
    if name == ALL_TEAMS:
        return None
    team_id = await find_team_id(connection, name)
    if team_id is None:
        raise Invalid(details={"team": ["There is no team of this name"]})
    return team_id


@dataclass(frozen=True, slots=True)
class View:
    """How jobs are shown. `links` may be missing where no job has files yet; `ours`: results lead to kept files."""

    now: datetime
    links: Links | None = None
    ours: bool = False


async def view(ctx: Context) -> View:
    """How jobs are shown now."""
    return View(ctx.now(), await links(ctx), ctx.settings.result_urls == "archive")


def shape_job(row: AnyRow, seen: View) -> dict[str, Any]:
    """Apiframe's job object; `operation`, `metadata`, `errorCode`, `retryOf`, `archiveStatus` and `files` are ours."""
    outputs = shape_outputs(row, seen.links, seen.now, ours=seen.ours)
    return {
        "id": row.id,
        "status": row.status,
        "operation": row.operation,
        "model": row.model,
        "progress": row.progress,
        "result": outputs["result"],
        "error": row.error,
        "errorCode": row.error_code,
        "creditCost": row.credit_cost,
        "webhookStatus": row.webhook_status,
        "createdAt": timestamp(row.created_at),
        "completedAt": timestamp(row.completed_at) if row.completed_at else None,
        "expired": outputs["expired"],
        "input": _raw(row.input),
        "metadata": _raw(row.metadata) or {},
        "retryOf": row.retry_of,
        "test": row.upstream_account == SANDBOX,
        "archiveStatus": outputs["archiveStatus"],
        "files": outputs["files"],
    }


def _raw(value: str | None) -> msgspec.Raw | None:
    """JSON as PostgreSQL gave it, put into the answer as it stands, without a round trip through Python."""
    return None if value is None else msgspec.Raw(value.encode())
