"""The upstream account as operators look at it: what holds jobs back, where each figure comes from, how old each is."""

from __future__ import annotations

from typing import Any

from app.bucket import refilled
from app.clock import timestamp_or_null
from app.context import Context
from app.db import AnyRow
from app.jobs.claim import DEFAULT_CAP
from app.jobs.queries.catalog import find_ages
from app.ops import queries
from app.ops.status import KeyHealth, Load, read_keys, read_load


async def read_upstream(ctx: Context) -> dict[str, Any]:
    """Everything that is known of the account that this process sends to, and whose dispatch is paused."""
    async with ctx.db.reading() as connection:
        row = await queries.find_account(connection, ctx.account)
        paused = await queries.list_pauses(connection)
        ages = await find_ages(connection, ctx.account)
    return {
        "account": ctx.account,
        "pausedAt": timestamp_or_null(row.paused_at) if row else None,
        "pausedTeams": [
            {"id": team.id, "name": team.name, "pausedAt": timestamp_or_null(team.paused_at)} for team in paused
        ],
        "load": await read_load(ctx),
        "keys": await read_keys(ctx),
        "cap": _shape_cap(ctx, row),
        "webhooks": _shape_webhooks(ctx, row),
        "requests": _shape_requests(ctx, row),
        "trouble": row.trouble if row else None,
        "troubleAt": timestamp_or_null(row.trouble_at) if row else None,
        "documentAt": timestamp_or_null(ages.document_at) if ages else None,
        "modelsAt": timestamp_or_null(ages.models_at) if ages else None,
        "learnedAt": timestamp_or_null(row.updated_at) if row else None,
    }


def held_back_by(upstream: dict[str, Any]) -> list[str]:
    """Why waiting jobs are not sent now, in words; empty where nothing is in their way."""
    load: Load = upstream["load"]
    keys: list[KeyHealth] = upstream["keys"]
    reasons = ["dispatch is paused for everybody"] if upstream["pausedAt"] else []
    if all(key.state == "held" for key in keys):
        reasons.append("every key is held")
    cap = upstream["cap"]["now"]
    if load.in_flight >= cap:
        reasons.append(f"all {cap} slots are taken")
    left = upstream["requests"]["left"]
    if left is not None and left < 1:
        reasons.append("this minute's requests are used up")
    return reasons


def _shape_cap(ctx: Context, row: AnyRow | None) -> dict[str, Any]:
    """How many jobs may run: `now`, and `usual` by `source`: setting, upstream or default."""
    said = row.cap if row else None
    source = "setting" if ctx.settings.max_in_flight else "upstream" if said else "default"
    usual = ctx.settings.max_in_flight or said or DEFAULT_CAP
    lowered = row is not None and row.cap_lowered_until is not None and row.cap_lowered_until > ctx.now()
    return {
        "usual": usual,
        "now": min(usual, row.cap_lowered_to) if row and lowered else usual,
        "source": source,
        "loweredUntil": timestamp_or_null(row.cap_lowered_until) if row and lowered else None,
    }


def _shape_webhooks(ctx: Context, row: AnyRow | None) -> dict[str, Any]:
    """How the upstream is asked to tell us: `source` is setting, upstream, or unknown while nothing was learned."""
    pinned = None if ctx.settings.webhook_field == "auto" else ctx.settings.webhook_field
    learned = row.webhook_field if row else None
    return {
        "pollOnly": ctx.settings.poll_only,
        "baseUrl": ctx.settings.public_base_url,
        "unsigned": ctx.settings.unsigned_webhooks,
        "field": pinned or learned,
        "source": "setting" if pinned else "upstream" if learned else "unknown",
        "events": row.webhook_events if row else True,
    }


def _shape_requests(ctx: Context, row: AnyRow | None) -> dict[str, Any]:
    per_minute = ctx.settings.requests_per_minute
    if per_minute is None:
        return {"perMinute": None, "left": None}
    tokens, at = (row.request_tokens, row.request_tokens_at) if row else (None, None)
    return {"perMinute": per_minute, "left": int(refilled(tokens, at, ctx.now(), per_minute))}
