"""Accept a submission. From the commit of `accept` on the promise holds, whatever becomes of this process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from app.apiframe import catalog
from app.auth import Caller
from app.context import Context
from app.db import sqlstate
from app.deliveries.publish import TOPICS
from app.errors import ApiError, Conflict, Invalid, OverBudget, Refused
from app.jobs import admission, dispatch
from app.jobs.announce import announce_accepted
from app.jobs.queries import acceptance
from app.jobs.queries.acceptance import NewJob
from app.models.jobs import Status
from app.targets import Targets
from app.teams.ledger import Wanted, reserve

log = structlog.get_logger()

LARGEST_BODY: Final = 1024 * 1024
LONGEST_KEY: Final = 255
MOST_METADATA: Final = 50
LONGEST_METADATA_VALUE: Final = 500
UNKEEPABLE: Final = ("22", "54")
"""SQLSTATE classes of values that PostgreSQL cannot take: data exception, program limit exceeded."""

PRIORITIES: Final = range(-1000, 1001)

_CALLBACK_FIELDS: Final = ("webhook_url", "webhookUrl")
_OWN_FIELDS: Final = (*_CALLBACK_FIELDS, "webhookEvents", "metadata", "priority")
_EVENTS: Final = ("progress", "completed", "failed")
_METADATA_FORM: Final = (
    f"Expected an object of at most {MOST_METADATA} strings, numbers and booleans,"
    f" each at most {LONGEST_METADATA_VALUE} characters long"
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job that a submission stands for, and whether it was made by it. `same`: it asked for what the job is.

    With a `refusal` nothing was kept.
    """

    job_id: UUID
    new: bool
    same: bool = True
    refusal: ApiError | None = None


@dataclass(frozen=True, slots=True)
class Promised:
    """A job's status, and what it was refused with, if it was refused before anybody was promised anything."""

    status: Status
    refusal: Mapping[str, Any] | None


async def submit(
    ctx: Context,
    caller: Caller,
    operation: str,
    raw: bytes,
    *,
    idempotency_key: str | None = None,
    respond_async: bool = False,
) -> tuple[UUID, Status]:
    """Check one submission and place it, unless `respond_async` while its caller waits. Raises Invalid, or as `place`."""
    return await place(ctx, read_submission(ctx, caller, operation, raw, idempotency_key, refusable=not respond_async))


async def place(ctx: Context, job: NewJob) -> tuple[UUID, Status]:
    """Accept a job and, while it can be refused, try to send it.

    Returns the id and status of the job that its Idempotency-Key stands for. Raises Invalid for what cannot be kept,
    Conflict where the key stands for another request, Forbidden, TooMany or OverBudget where the team's limits forbid it, or
    Refused: what the upstream refused before anybody was promised anything, in its own words.
    """
    while True:
        accepted = await _accept(ctx, job)
        if accepted.refusal is not None:
            raise accepted.refusal
        if not accepted.same:
            raise Conflict("This Idempotency-Key was used with a different request")
        if accepted.new:
            return job.id, await _send(ctx, job)
        promised = await ctx.batched(promise, accepted.job_id)
        if promised.refusal is None:
            return accepted.job_id, promised.status


async def _accept(ctx: Context, job: NewJob) -> Accepted:
    try:
        return await ctx.batched(accept, job)
    except DBAPIError as error:
        if sqlstate(error).startswith(UNKEEPABLE):
            raise Invalid("The body holds a value that cannot be kept, such as a number out of all range") from error
        raise


async def _send(ctx: Context, job: NewJob) -> Status:
    log.info("job.submitted", job=str(job.id), team=str(job.team_id), operation=job.operation, model=job.model)
    ctx.notify.nudge(TOPICS)
    if not job.refusable:
        ctx.notify.nudge(["dispatch"])
        return "QUEUED"
    status = await dispatch.send_inline(ctx, job.id)
    if status is not None:
        return status
    promised = await ctx.batched(promise, job.id)
    if promised.refusal is not None:
        raise Refused(promised.refusal["status"], promised.refusal["body"])
    ctx.notify.nudge(["dispatch"])
    return promised.status


async def accept(ctx: Context, tx: AsyncConnection, jobs: Sequence[NewJob]) -> list[Accepted]:
    """Insert jobs whose Idempotency-Key is new or absent, unless their teams may not; find what the other keys stand for.

    Answers the same when run again after an unknown commit: a job is new if it is the one under its key.
    """
    holders = await _hold_keys(tx, [job for job in jobs if job.idempotency_key is not None])
    answers = []
    for job in jobs:
        holder = holders.get((job.team_id, job.idempotency_key or ""))
        if holder is None:
            answers.append(Accepted(job.id, new=True))
        else:
            same = bytes(holder.request_hash) == job.request_hash
            answers.append(Accepted(holder.job_id, new=holder.job_id == job.id, same=same))
    new = [job for job, answer in zip(jobs, answers, strict=True) if answer.new]
    refusals = await admission.refuse(tx, new)
    short, crossings = await reserve(tx, [_wanted(job) for job in new if job.id not in refusals], ctx.now())
    await acceptance.release_idempotency_keys(tx, [job for job in new if job.id in short])
    refusals |= {job_id: OverBudget(shortage.required, shortage.available) for job_id, shortage in short.items()}
    new = [job for job in new if job.id not in refusals]
    inserted = await acceptance.insert_jobs(tx, new, inline=timedelta(seconds=ctx.settings.inline_seconds))
    await admission.note_retries(tx, new, inserted)
    await announce_accepted(ctx, tx, inserted, crossings)
    return [replace(answer, refusal=refusals.get(answer.job_id)) for answer in answers]


def _wanted(job: NewJob) -> Wanted:
    return Wanted(job_id=job.id, team_id=job.team_id, operation=job.operation, model=job.model)


async def _hold_keys(tx: AsyncConnection, jobs: Sequence[NewJob]) -> dict[tuple[UUID, str], Any]:
    """Claim keys until each has a holder: one that was released while we waited for it is claimed anew."""
    holders: dict[tuple[UUID, str], Any] = {}
    open_jobs = list(jobs)
    while open_jobs:
        await acceptance.insert_idempotency_keys(tx, open_jobs)
        pairs = {(job.team_id, job.idempotency_key or "") for job in open_jobs}
        holders |= await acceptance.find_idempotency_keys(tx, pairs)
        open_jobs = [job for job in open_jobs if (job.team_id, job.idempotency_key or "") not in holders]
    return holders


async def promise(ctx: Context, tx: AsyncConnection, job_ids: Sequence[UUID]) -> list[Promised]:
    """Make sure that whoever is told of these jobs is told the truth: refused, or not to be refused any more.

    Answers the same when run again after an unknown commit.
    """
    rows = await acceptance.promise(tx, job_ids, ctx.now())
    return [Promised(rows[job_id].status, rows[job_id].refusal) for job_id in job_ids]


def read_submission(
    ctx: Context, caller: Caller, operation: str, raw: bytes, idempotency_key: str | None, *, refusable: bool
) -> NewJob:
    """Check a body and take out what is ours; raise Invalid with every fault that was found."""
    try:
        return _read(ctx, caller, operation, raw, idempotency_key, refusable=refusable)
    except RecursionError:
        raise Invalid("The body is nested too deeply") from None


def _read(
    ctx: Context, caller: Caller, operation: str, raw: bytes, idempotency_key: str | None, *, refusable: bool
) -> NewJob:
    body, fields = _read_object(raw)
    check_idempotency_key(idempotency_key)
    theirs = {name: value for name, value in body.items() if name not in _OWN_FIELDS}
    faults = catalog.faults(operation, theirs) | _own_faults(body, ctx.targets)
    if b"\\u0000" in raw:
        faults |= {path: ["Must not contain a NUL character"] for path in _paths_with_nul(body)}
    if faults:
        raise Invalid(details=faults)
    return NewJob(
        id=uuid7(),
        team_id=caller.team_id,
        key_id=caller.key_id,
        operation=operation,
        model=body["model"],
        body=msgspec.json.encode({name: value for name, value in fields.items() if name not in _OWN_FIELDS}),
        metadata=body.get("metadata"),
        priority=body.get("priority", 0),
        callback=_callback(body),
        idempotency_key=idempotency_key,
        request_hash=_request_hash(operation, body),
        upstream_account=ctx.account,
        created_at=ctx.now(),
        refusable=refusable,
    )


def check_idempotency_key(key: str | None) -> None:
    """Raise Invalid for a key that is empty or too long."""
    if key is not None and not 0 < len(key) <= LONGEST_KEY:
        raise Invalid(details={"Idempotency-Key": [f"Must have 1 to {LONGEST_KEY} characters"]})


def _read_object(raw: bytes) -> tuple[dict[str, Any], dict[str, msgspec.Raw]]:
    """The body decoded, and its fields with their bytes as they came: those are what goes upstream."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any]), msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError as error:
        raise Invalid(f"The body must be a JSON object: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Invalid("The body is not valid JSON") from None


def _own_faults(body: Mapping[str, Any], targets: Targets) -> dict[str, list[str]]:
    faults = _callback_faults(body, targets)
    metadata = body.get("metadata")
    if metadata is not None and not _is_flat(metadata):
        faults["metadata"] = [_METADATA_FORM]
    priority = body.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int) or priority not in PRIORITIES:
        faults["priority"] = [f"Expected an integer from {PRIORITIES[0]} to {PRIORITIES[-1]}"]
    return faults


def _callback_faults(body: Mapping[str, Any], targets: Targets) -> dict[str, list[str]]:
    urls = {name: body[name] for name in _CALLBACK_FIELDS if name in body}
    faults = {name: [fault] for name, url in urls.items() if (fault := targets.fault(url))}
    if all(name in body for name in _CALLBACK_FIELDS):
        faults["webhookUrl"] = ["Give either webhook_url or webhookUrl, not both"]
    events = body.get("webhookEvents")
    if "webhookEvents" in body and not (
        isinstance(events, list) and events and all(event in _EVENTS for event in events)
    ):
        faults["webhookEvents"] = [f"Expected a non-empty list of {', '.join(_EVENTS)}"]
    return faults


def _callback(body: Mapping[str, Any]) -> dict[str, Any] | None:
    url = body.get("webhook_url") or body.get("webhookUrl")
    return {"url": url, "events": body.get("webhookEvents", list(_EVENTS))} if url else None


def _is_flat(metadata: Any) -> bool:
    return (
        isinstance(metadata, dict)
        and len(metadata) <= MOST_METADATA
        and all(
            isinstance(value, str | int | float | bool) and len(str(value)) <= LONGEST_METADATA_VALUE
            for value in metadata.values()
        )
    )


def _paths_with_nul(value: Any, path: str = "") -> list[str]:
    """Where NUL characters are, which PostgreSQL cannot keep."""
    if isinstance(value, str):
        return [path] if "\0" in value else []
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in _paths_with_nul(item, f"{path}.{index}")]
    if not isinstance(value, dict):
        return []
    inner = [found for key, item in value.items() for found in _paths_with_nul(item, f"{path}.{key}" if path else key)]
    return inner + [path for key in value if "\0" in key]


def _request_hash(operation: str, body: Mapping[str, Any]) -> bytes:
    """What makes two requests the same: the operation and all fields, whatever their order and spacing."""
    return hashlib.sha256(operation.encode() + b"\0" + msgspec.json.encode(body, order="deterministic")).digest()
