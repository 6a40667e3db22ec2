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
    async with ctx.db.reading() as connection:
        account = (await connection.execute(_ACCOUNT, {"account": ctx.account})).one_or_none()
    now = ctx.now()
    notes = ["poll-only: PUBLIC_BASE_URL is not reachable for the upstream"] if ctx.settings.poll_only else []
    if account is not None and account.paused_until is not None and account.paused_until > now:
        notes.append(f"dispatch is paused: {account.pause_reason}")
    if account is not None and account.trouble_at is not None and account.trouble_at > now - TROUBLE_SHOWN:
        notes.append(account.trouble)
    return notes


_ACCOUNT: Final = text(
    "SELECT paused_until, pause_reason, trouble, trouble_at FROM upstream_accounts WHERE id = :account"
)
