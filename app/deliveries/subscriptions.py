"""Subscriptions: who is to be told what, and where. Secrets are shown when they are made and never again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth import Caller
from app.clock import new_id, timestamp
from app.context import Context
from app.db import AnyRow
from app.deliveries.asking import read_changes, read_new
from app.deliveries.queries import subscriptions as queries
from app.deliveries.signing import make_secret
from app.errors import Conflict, Invalid, NotFound
from app.teams.audit import note, note_foreign

log = structlog.get_logger()

MOST_SUBSCRIPTIONS: Final = 200
"""Of one team: all of them are looked at for every event."""

GRACE: Final = timedelta(hours=24)
"""After a rotation the secret before signs too, for so long unless another time is asked for."""

BY_OWNER: Final = "disabled by its owner"
BY_OPERATOR: Final = "disabled by an operator"

_WITHOUT_A_PAST: Final[Mapping[str, Any]] = {"failure_count": 0, "failing_since": None}
_COLUMN_OF: Final[Mapping[str, str]] = {"allTeams": "all_teams", "rateLimit": "rate_per_minute"}


async def create(ctx: Context, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
    """Subscribe, and return the subscription with its secret. Raises Invalid, Forbidden, Conflict."""
    asked = read_new(body, ctx.targets)
    await _check(ctx, caller, asked)
    now, secret, subscription_id = ctx.now(), make_secret(), new_id()
    own = {"id": subscription_id, "team_id": caller.team_id, "created_at": now, "updated_at": now, "secret": secret}
    async with ctx.db.transaction() as tx:
        if await queries.count_subscriptions(tx, caller.team_id) >= MOST_SUBSCRIPTIONS:
            raise Conflict(f"A team may have at most {MOST_SUBSCRIPTIONS} subscriptions")
        await queries.insert_subscription(tx, own | _columns(ctx, asked))
        if asked.get("allTeams") or caller.is_foreign_to(caller.team_id):
            told = {"allTeams": asked["allTeams"]}  # and not the URL, which may hold a secret
            await note(tx, caller.actor, "subscription.created", subscription_id, caller.team_id, **told)
    log.info("subscription.created", subscription=str(subscription_id), team=caller.team)
    return await show(ctx, caller, subscription_id) | {"secret": secret}


async def change(ctx: Context, caller: Caller, subscription_id: UUID, body: Mapping[str, Any]) -> dict[str, Any]:
    """Change some fields, and return the subscription. Raises NotFound, Invalid, Forbidden."""
    asked = read_changes(body, ctx.targets)
    await _check(ctx, caller, asked)
    async with ctx.db.transaction() as tx:
        before = await _lock(tx, caller, subscription_id)
        changes = _columns(ctx, asked)
        if before.disabled_at is not None and changes.get("disabled_at") is not None:
            del changes["disabled_at"], changes["disabled_reason"]
        elif changes.get("disabled_at") is not None and caller.is_foreign_to(before.team_id):
            changes["disabled_reason"] = BY_OPERATOR
        await queries.update_subscription(tx, subscription_id, changes | {"updated_at": ctx.now()})
        told = {"fields": sorted(asked)}  # and not what they are: headers hold secrets
        await note_foreign(tx, caller, "subscription.changed", subscription_id, before.team_id, **told)
    return await show(ctx, caller, subscription_id)


async def enable(ctx: Context, caller: Caller, subscription_id: UUID) -> dict[str, Any]:
    """Enable a subscription again, which an operator may do too, and return it. Raises NotFound."""
    async with ctx.db.transaction() as tx:
        before = await queries.lock_subscription(tx, caller.only_team, subscription_id)
        if before is None:
            raise NotFound("Subscription not found")
        changes = _columns(ctx, {"enabled": True}) | {"updated_at": ctx.now()}
        await queries.update_subscription(tx, subscription_id, changes)
        await note_foreign(tx, caller, "subscription.enabled", subscription_id, before.team_id)
    return await show(ctx, caller, subscription_id)


async def delete(ctx: Context, caller: Caller, subscription_id: UUID) -> None:
    """End a subscription. What was not delivered yet ends as undelivered when it is due. Raises NotFound."""
    async with ctx.db.transaction() as tx:
        before = await _lock(tx, caller, subscription_id)
        gone = {"deleted_at": ctx.now(), "secret": "", "previous_secret": None, "headers": {}}
        await queries.update_subscription(tx, subscription_id, gone)
        await note_foreign(tx, caller, "subscription.deleted", subscription_id, before.team_id)
    log.info("subscription.deleted", subscription=str(subscription_id), key=str(caller.key_id))


async def rotate_secret(
    ctx: Context, caller: Caller, subscription_id: UUID, *, grace_seconds: float | None
) -> dict[str, Any]:
    """Make a new secret and return it with the subscription; the one before signs too for a while. Raises NotFound."""
    secret = make_secret()
    grace = GRACE if grace_seconds is None else timedelta(seconds=grace_seconds)
    until = ctx.now() + grace
    async with ctx.db.transaction() as tx:
        before = await _lock(tx, caller, subscription_id)
        changes = {"secret": secret, "previous_secret": before.secret, "previous_secret_until": until}
        await queries.update_subscription(tx, subscription_id, changes | {"updated_at": ctx.now()})
        await note_foreign(tx, caller, "subscription.secret_rotated", subscription_id, before.team_id)
    shown = await show(ctx, caller, subscription_id)
    return shown | {"secret": secret, "previousSecretUntil": timestamp(until)}


async def show(ctx: Context, caller: Caller, subscription_id: UUID) -> dict[str, Any]:
    """A subscription that the caller may see. Raises NotFound."""
    async with ctx.db.reading() as connection:
        row = await queries.find_subscription(connection, caller.only_team, subscription_id)
    if row is None:
        raise NotFound("Subscription not found")
    return shape_subscription(row)


async def show_all(ctx: Context, caller: Caller) -> dict[str, Any]:
    """The subscriptions that the caller may see."""
    async with ctx.db.reading() as connection:
        return {
            "subscriptions": [
                shape_subscription(row) for row in await queries.list_subscriptions(connection, caller.only_team)
            ]
        }


async def _check(ctx: Context, caller: Caller, asked: Mapping[str, Any]) -> None:
    """What the fields alone do not show: whether the caller may ask for all teams, and where the URL leads today."""
    if asked.get("allTeams"):
        caller.must("admin")
    if "url" in asked and (refusal := await ctx.http.refusal(asked["url"])) is not None:
        raise Invalid(details={"url": [refusal]})


async def _lock(tx: AsyncConnection, caller: Caller, subscription_id: UUID) -> AnyRow:
    """Lock a subscription that the caller may change: one that is told of all teams' jobs is an admin's affair."""
    row = await queries.lock_subscription(tx, _own_team(caller), subscription_id)
    if row is None:
        raise NotFound("Subscription not found")
    if row.all_teams or row.team_id != caller.team_id:
        caller.must("admin")
    return row


def _own_team(caller: Caller) -> UUID | None:
    """The one team whose subscriptions this key knows of where it would change one; None: all, for admins.

    Who is at the dashboard sees what may not be changed, and is told so.
    """
    return None if "admin" in caller.scopes or caller.on_duty else caller.team_id


def _columns(ctx: Context, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that the fields of a body stand for. Another URL, or being enabled again, is a fresh start."""
    columns = {_COLUMN_OF.get(name, name): value for name, value in asked.items() if name != "enabled"}
    if "url" in asked:
        columns |= _WITHOUT_A_PAST
    if asked.get("enabled") is True:
        columns |= {"disabled_at": None, "disabled_reason": None, **_WITHOUT_A_PAST}
    if asked.get("enabled") is False:
        columns |= {"disabled_at": ctx.now(), "disabled_reason": BY_OWNER}
    if "rateLimit" in asked:
        columns |= {"rate_tokens": None, "rate_tokens_at": None}
    return columns


def shape_subscription(row: AnyRow) -> dict[str, Any]:
    """The subscription object, without its secret and the values of its headers."""
    times = {"createdAt": row.created_at, "updatedAt": row.updated_at, "disabledAt": row.disabled_at}
    times |= {"failingSince": row.failing_since, "lastSuccessAt": row.last_success_at}
    return {
        "id": row.id,
        "team": row.team,
        "url": row.url,
        "description": row.description,
        "types": row.types,
        "operation": row.operation,
        "model": row.model,
        "metadata": row.metadata,
        "allTeams": row.all_teams,
        "headers": dict.fromkeys(row.headers, "***"),
        "rateLimit": row.rate_per_minute,
        "enabled": row.disabled_at is None,
        "disabledReason": row.disabled_reason,
        "failureCount": row.failure_count,
        **{name: timestamp(time) if time else None for name, time in times.items()},
    }
