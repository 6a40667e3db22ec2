"""How things stand: the upstream account and its keys, who is paused, what waits, who was not told.

Counts stop where they say no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from app.clock import timestamp_or_null
from app.context import Context
from app.db import AnyRow
from app.jobs.archiving import LATE_AFTER
from app.jobs.claim import DEFAULT_CAP
from app.jobs.outputs import PURGED_AFTER
from app.ops import queries, watching

MOST_COUNTED: Final = 10_000

KeyState = Literal["ready", "held", "probing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The jobs at one upstream account. Waiting and overdue ones are counted up to `MOST_COUNTED`."""

    waiting: int
    more_waiting: bool
    oldest_waiting_seconds: float | None
    in_flight: int
    ambiguous: int
    overdue: int
    more_overdue: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """How the deliveries of all teams go. All of these are counted up to `MOST_COUNTED`."""

    pending: int
    more_pending: bool
    oldest_due_seconds: float | None
    undelivered: int
    more_undelivered: bool
    disabled_subscriptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How the keeping of result files goes. `late` ones are near the upstream's purge. Counted up to `MOST_COUNTED`."""

    pending: int
    more_pending: bool
    oldest_pending_seconds: float | None
    late: int
    failed: int
    more_failed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHealth:
    """What the circuit breaker of an upstream key says: `probing` lets one job go ahead of the others."""

    fingerprint: str
    state: KeyState
    held_until: datetime | None
    reason: str | None
    failure_count: int


async def read_load(ctx: Context) -> Load:
    """Count the jobs at the upstream account that this process sends to; overdue ones wherever they are."""
    now = ctx.now()
    async with ctx.db.reading() as connection:
        row = await queries.count_jobs(connection, ctx.account, now=now, limit=MOST_COUNTED + 1)
    return Load(
        waiting=min(row.waiting, MOST_COUNTED),
        more_waiting=row.waiting > MOST_COUNTED,
        oldest_waiting_seconds=_seconds_since(row.oldest_waiting_at, now),
        in_flight=row.in_flight,
        ambiguous=row.ambiguous,
        overdue=min(row.overdue, MOST_COUNTED),
        more_overdue=row.overdue > MOST_COUNTED,
    )


async def read_telling(ctx: Context) -> Telling:
    """Count deliveries that are yet to be made, those that were given up and are kept, and disabled subscriptions."""
    now = ctx.now()
    async with ctx.db.reading() as connection:
        row = await queries.count_deliveries(connection, now=now, limit=MOST_COUNTED + 1)
    return Telling(
        pending=min(row.pending, MOST_COUNTED),
        more_pending=row.pending > MOST_COUNTED,
        oldest_due_seconds=_seconds_since(row.oldest_due_at, now),
        undelivered=min(row.undelivered, MOST_COUNTED),
        more_undelivered=row.undelivered > MOST_COUNTED,
        disabled_subscriptions=min(row.disabled_subscriptions, MOST_COUNTED),
    )


async def read_keeping(ctx: Context) -> Keeping:
    """Count the files that are yet to be kept, and those that could not be. Ages count from their jobs' ends."""
    now = ctx.now()
    async with ctx.db.reading() as connection:
        row = await queries.count_files(
            connection, late_before=now - LATE_AFTER, purged_before=now - PURGED_AFTER, limit=MOST_COUNTED + 1
        )
    return Keeping(
        pending=min(row.pending, MOST_COUNTED),
        more_pending=row.pending > MOST_COUNTED,
        oldest_pending_seconds=_seconds_since(row.oldest_pending_at, now),
        late=min(row.late, MOST_COUNTED),
        failed=min(row.failed, MOST_COUNTED),
        more_failed=row.failed > MOST_COUNTED,
    )


async def read_keys(ctx: Context) -> list[KeyHealth]:
    """The upstream keys that this process may use, the current one first; one that never failed is ready."""
    now = ctx.now()
    async with ctx.db.reading() as connection:
        rows = await queries.list_upstream_keys(connection, ctx.account)
    known = {row.fingerprint: row for row in rows}
    return [_judge_key(fingerprint, known.get(fingerprint), now) for fingerprint in ctx.upstream_keys]


async def read_cap(ctx: Context) -> int:
    """How many jobs may be in flight at the upstream account, as far as that is believed now."""
    async with ctx.db.reading() as connection:
        row = await queries.find_account(connection, ctx.account)
    shaped = _shape_account(ctx, row)
    cap: int = min(shaped["cap"], shaped["capLoweredTo"] or shaped["cap"])
    return cap


async def read_status(ctx: Context) -> dict[str, Any]:
    """The answer of `GET /v1/status`."""
    async with ctx.db.reading() as connection:
        account = await queries.find_account(connection, ctx.account)
        paused = await queries.list_paused_teams(connection)
    load = await read_load(ctx)
    telling = await read_telling(ctx)
    keeping = await read_keeping(ctx)
    keys = await read_keys(ctx)
    return {
        "upstream": _shape_account(ctx, account)
        | {"inFlight": load.in_flight, "ambiguous": load.ambiguous, "keys": [_shape_key(key) for key in keys]},
        "teams": {"paused": paused},
        "jobs": _shape_load(load),
        "deliveries": _shape_telling(telling),
        "files": {"on": ctx.objects is not None} | _shape_keeping(keeping),
        "webhooks": {"pollOnly": ctx.settings.poll_only, "unsigned": ctx.settings.unsigned_webhooks}
        | await watching.read_webhooks(ctx),
        "processes": [watching.shape_process(one) for one in await watching.read_processes(ctx)],
        "log": watching.shape_log(await watching.read_log(ctx)),
    }


def _judge_key(fingerprint: str, row: AnyRow | None, now: datetime) -> KeyHealth:
    if row is None:
        return KeyHealth(fingerprint=fingerprint, state="ready", held_until=None, reason=None, failure_count=0)
    held = row.held_until is not None and row.held_until > now
    state: KeyState = "held" if held else "probing" if row.must_probe else "ready"
    return KeyHealth(
        fingerprint=fingerprint,
        state=state,
        held_until=row.held_until if held else None,
        reason=None if state == "ready" else row.hold_reason,
        failure_count=row.failure_count,
    )


def _shape_account(ctx: Context, row: AnyRow | None) -> dict[str, Any]:
    """What is known of the account; its row comes with the first job that is sent."""
    pinned = None if ctx.settings.webhook_field == "auto" else ctx.settings.webhook_field
    lowered = row is not None and row.cap_lowered_until is not None and row.cap_lowered_until > ctx.now()
    return {
        "account": ctx.account,
        "cap": ctx.settings.max_in_flight or (row.cap if row else None) or DEFAULT_CAP,
        "capLoweredTo": row.cap_lowered_to if row and lowered else None,
        "pausedAt": timestamp_or_null(row.paused_at) if row else None,
        "webhookField": pinned or (row.webhook_field if row else None),
        "trouble": row.trouble if row else None,
        "troubleAt": timestamp_or_null(row.trouble_at) if row else None,
    }


def _shape_load(load: Load) -> dict[str, Any]:
    return {
        "waiting": load.waiting,
        "moreWaiting": load.more_waiting,
        "oldestWaitingSeconds": load.oldest_waiting_seconds,
        "overdue": load.overdue,
        "moreOverdue": load.more_overdue,
    }


def _shape_telling(telling: Telling) -> dict[str, Any]:
    return {
        "pending": telling.pending,
        "morePending": telling.more_pending,
        "oldestDueSeconds": telling.oldest_due_seconds,
        "undelivered": telling.undelivered,
        "moreUndelivered": telling.more_undelivered,
        "disabledSubscriptions": telling.disabled_subscriptions,
    }


def _shape_keeping(keeping: Keeping) -> dict[str, Any]:
    return {
        "pending": keeping.pending,
        "morePending": keeping.more_pending,
        "oldestPendingSeconds": keeping.oldest_pending_seconds,
        "late": keeping.late,
        "failed": keeping.failed,
        "moreFailed": keeping.more_failed,
    }


def _shape_key(key: KeyHealth) -> dict[str, Any]:
    return {
        "fingerprint": key.fingerprint,
        "state": key.state,
        "heldUntil": timestamp_or_null(key.held_until),
        "reason": key.reason,
        "failureCount": key.failure_count,
    }


def _seconds_since(time: datetime | None, now: datetime) -> float | None:
    return max(round((now - time).total_seconds(), 3), 0.0) if time else None
