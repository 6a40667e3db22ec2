"""Liveness and readiness. The upstream's troubles degrade an answer but never cut off webhooks or reads."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from sqlalchemy import text

from app import migrate, partitions
from app.context import Context
from app.db import OUTAGES, is_outage

TROUBLE_SHOWN: Final = timedelta(hours=1)


async def check_readiness(ctx: Context) -> tuple[bool, dict[str, Any]]:
    """Whether requests can be served, and a body that says what is missing or degraded.

    Not ready: the database is away, migrations or the partitions of the next days are missing.
    """
    try:
        missing = await _missing(ctx)
        degraded = [] if missing else await _degraded(ctx)
    except OUTAGES as error:
        if not is_outage(error):
            raise
        return False, {"status": "unavailable", "missing": ["database: it cannot be reached"]}
    if missing:
        return False, {"status": "unavailable", "missing": missing}
    return True, {"status": "degraded" if degraded else "ok", "degraded": degraded}


async def _missing(ctx: Context) -> list[str]:
    revision, newest = await migrate.current_revision(ctx.db), migrate.newest_revision()
    if revision != newest:
        return [
            f"migrations: the database is at {revision or 'nothing'}, this version needs {newest}: framehook migrate"
        ]
    async with ctx.db.reading() as connection:
        absent = await partitions.list_missing(connection, ctx.now(), days=partitions.ALARM_DAYS)
    return [f"partitions: {partitions.partition_name(table, day)}" for table, day in absent]


async def _degraded(ctx: Context) -> list[str]:
    now = ctx.now()
    async with ctx.db.reading() as connection:
        account = (await connection.execute(_ACCOUNT, {"account": ctx.account})).one_or_none()
        held = (await connection.execute(_HELD, {"account": ctx.account, "now": now})).all()
        teams = (await connection.execute(_PAUSED_TEAMS)).all()
    notes = ["poll-only: PUBLIC_BASE_URL is not reachable for the upstream"] if ctx.settings.poll_only else []
    notes += [f"dispatch is paused: {key.hold_reason}" for key in held]
    if account is not None and account.paused_at is not None:
        notes.append("dispatch is paused by an operator: framehook resume")
    notes += [f"dispatch is paused by an operator for the team {team.name}" for team in teams]
    if account is not None and account.trouble_at is not None and account.trouble_at > now - TROUBLE_SHOWN:
        notes.append(account.trouble)
    return notes


_ACCOUNT: Final = text("SELECT paused_at, trouble, trouble_at FROM upstream_accounts WHERE id = :account")
_HELD: Final = text("SELECT hold_reason FROM upstream_keys WHERE account = :account AND held_until > :now")
_PAUSED_TEAMS: Final = text("SELECT name FROM teams WHERE paused_at IS NOT NULL ORDER BY name LIMIT 100")
