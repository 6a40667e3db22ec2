"""Look closely at one job: its trace, and whatever else tells what became of it. Reads, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.archive.queries.reading import list_files_of
from app.auth import Caller
from app.clock import timestamp
from app.context import Context
from app.db import AnyRow
from app.deliveries.queries.telling import list_answers, list_deliveries_of
from app.jobs.claim import DEFAULT_CAP
from app.jobs.queries import closely as queries
from app.jobs.reading import view
from app.ops.queries import find_account
from app.ops.situation import Situation, Surroundings, tell
from app.ops.status import read_keys
from app.ops.trace import CLOCKS_DIFFER, trace_job
from app.webhooks.queries import list_bodies

MOST_BODIES: Final = 100
LONGEST_BODY: Final = 8_000
"""Of a job with more webhooks, or larger ones, the newest bodies and their beginnings are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closeup:
    """Everything there is to see of a job. `job` and `steps` are as in its trace."""

    job: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]
    has_more_steps: bool
    situation: Situation
    details: AnyRow
    retries: Sequence[AnyRow]
    files: Sequence[AnyRow]
    deliveries: Sequence[AnyRow]
    bodies: Mapping[str, AnyRow]  # by receipt
    answers: Mapping[tuple[str, str], AnyRow]  # by delivery, and time of the attempt


async def look_closely(ctx: Context, caller: Caller, given: str) -> Closeup:
    """A job by its id, ours or the upstream's, that the caller may see. Raises NotFound."""
    seen = await view(ctx)
    async with ctx.db.reading() as connection:
        traced = await trace_job(connection, given, only_team=caller.only_team, seen=seen)
        job_id = traced["job"]["id"]
        details = await queries.get_details(connection, job_id)
        since = details.created_at - CLOCKS_DIFFER
        deliveries = await list_deliveries_of(connection, job_id)
        answers = await list_answers(connection, [row.id for row in deliveries], since=since) if deliveries else []
        bodies = await list_bodies(connection, job_id, since=since, limit=MOST_BODIES, longest=LONGEST_BODY)
        retries = await queries.list_retries(connection, job_id)
        files = await list_files_of(connection, job_id)
    around = await _look_around(ctx, details, traced["steps"])
    return Closeup(
        job=traced["job"],
        steps=traced["steps"],
        has_more_steps=traced["hasMore"],
        situation=tell(details, around),
        details=details,
        retries=retries,
        files=files,
        deliveries=deliveries,
        bodies={str(row.receipt_id): row for row in bodies},
        answers={(str(row.delivery_id), timestamp(row.at)): row for row in answers},
    )


async def _look_around(ctx: Context, details: AnyRow, steps: Sequence[Mapping[str, Any]]) -> Surroundings:
    """What else decides when the job is sent: of one that is over, or that the upstream has, nothing does."""
    ctx = ctx.at(details.upstream_account)
    keys = await read_keys(ctx)
    async with ctx.db.reading() as connection:
        account = await find_account(connection, details.upstream_account)
    said = [step.get("said") for step in steps if step["what"] == "dispatch"]
    lowered = account is not None and account.cap_lowered_until is not None and account.cap_lowered_until > ctx.now()
    cap = ctx.settings.max_in_flight or (account.cap if account else None) or DEFAULT_CAP
    return Surroundings(
        now=ctx.now(),
        paused_at=account.paused_at if account else None,
        cap=min(cap, account.cap_lowered_to) if account is not None and lowered else cap,
        key=keys[0],
        last_said=said[-1] if said else None,
    )
