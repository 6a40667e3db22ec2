"""Whether a subscription is worth telling: one whose receiver has failed for days is disabled, and that is an event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from app.clock import timestamp
from app.db import AnyRow
from app.deliveries.filters import Facts
from app.deliveries.publish import News
from app.deliveries.queries.sending import Health
from app.deliveries.verdict import Verdict

DISABLE_AFTER: Final = timedelta(days=5)
DISABLE_FAILURES: Final = 20
"""A subscription is disabled when nothing succeeded for so long and so many attempts failed."""

SUCCESS_EVERY: Final = timedelta(minutes=1)
"""While all is well, the time of the last success is written at most so often."""


def health_of(row: AnyRow, verdicts: Sequence[Verdict], now: datetime) -> Health | None:
    """How a locked subscription fares after these attempts, in their order; None where that is as before."""
    health = before = Health(
        id=row.id,
        failure_count=row.failure_count,
        failing_since=row.failing_since,
        last_success_at=row.last_success_at,
    )
    for verdict in verdicts:
        health = _after(health, verdict, now)
    if health.disabled_reason is None and _has_failed_for_long(health, now):
        days = DISABLE_AFTER.days
        health = replace(
            health, disabled_reason=f"no delivery succeeded for {days} days, {health.failure_count} failed"
        )
    if row.disabled_at is not None:
        health = replace(health, disabled_reason=None)
    return None if health == before or _is_old_news(before, health) else health


def disabled_news(row: AnyRow, reason: str, now: datetime) -> News:
    """The event about a subscription that was just disabled."""
    data = {
        "id": row.id,
        "url": row.url,
        "description": row.description,
        "reason": reason,
        "disabledAt": timestamp(now),
    }
    return News(facts=Facts(type="subscription.disabled", team_id=row.team_id), data=data)


def disabled(healths: Mapping[UUID, Health]) -> dict[UUID, str]:
    """Those that are to be disabled, and why."""
    return {one.id: one.disabled_reason for one in healths.values() if one.disabled_reason is not None}


def _after(health: Health, verdict: Verdict, now: datetime) -> Health:
    if verdict.ended == "delivered":
        return replace(health, failure_count=0, failing_since=None, last_success_at=now)
    reason = verdict.reason if verdict.disables else health.disabled_reason
    since = health.failing_since or now
    return replace(health, failure_count=health.failure_count + 1, failing_since=since, disabled_reason=reason)


def _has_failed_for_long(health: Health, now: datetime) -> bool:
    since = health.failing_since
    return since is not None and now - since >= DISABLE_AFTER and health.failure_count >= DISABLE_FAILURES


def _is_old_news(before: Health, after: Health) -> bool:
    """Whether all that is new is one more success shortly after another."""
    if before.last_success_at is None or after.last_success_at is None:
        return False
    return (
        replace(after, last_success_at=before.last_success_at) == before
        and after.last_success_at - before.last_success_at < SUCCESS_EVERY
    )
