"""Export jobs: the whole list that a filter stands for, read page by page, as long as the caller may see it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from app.auth import Caller
from app.context import Context
from app.errors import Unavailable
from app.exports import PAGE
from app.jobs.filters import JobFilter
from app.jobs.finding import find_jobs
from app.jobs.reading import identify_team, shape_job, view

COLUMNS: Final = (
    *("id", "team", "status", "operation", "model", "progress", "createdAt", "completedAt", "creditCost"),
    *("errorCode", "error", "retryOf", "test", "webhookStatus", "archiveStatus", "metadata", "input", "result"),
)
"""Of the job object, and the name of its team."""


async def list_pages(
    ctx: Context, identify: Callable[[], Awaitable[Caller]], asked: JobFilter, *, most: int | None
) -> AsyncGenerator[list[dict[str, Any]], None]:
    """The job objects that match, newest first, with their teams' names, up to `most` of them in all.

    The caller is identified anew for each page, so that revoking its key ends it. Raises as `identify_team` does, and
    Unavailable where this process is to stop.
    """
    left = most
    while left is None or left > 0:
        caller = await identify()
        if ctx.closing.is_set():
            raise Unavailable("This process is about to stop")
        part = replace(asked, limit=PAGE if left is None else min(PAGE, left))
        key_id = None if asked.whole_team else caller.key_id
        async with ctx.db.reading() as connection:
            team_id = await identify_team(connection, caller, asked.team)
            found = await find_jobs(connection, part, team_id=team_id, key_id=key_id, now=ctx.now())
        seen = await view(ctx)
        yield [shape_job(row, seen) | {"team": row.team} for row in found.rows]
        if found.cursor is None:
            return
        left = None if left is None else left - len(found.rows)
        asked = replace(asked, cursor=found.cursor)
