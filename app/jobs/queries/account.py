"""SQL of the upstream account: the row whose lock makes slots exact, and what was learned of the upstream."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow

TROUBLE_EVERY: Final = timedelta(minutes=1)


async def lock_account(tx: AsyncConnection, account: str, now: datetime) -> AnyRow:
    """Lock the upstream account's row until the commit; all counting of slots happens under this lock."""
    locked = (await tx.execute(_LOCK_ACCOUNT, {"account": account})).one_or_none()
    if locked is not None:
        return locked
    await tx.execute(
        text("INSERT INTO upstream_accounts (id, updated_at) VALUES (:account, :now) ON CONFLICT (id) DO NOTHING"),
        {"account": account, "now": now},
    )
    return (await tx.execute(_LOCK_ACCOUNT, {"account": account})).one()


_LOCK_ACCOUNT: Final = text(
    "SELECT cap, webhook_field, webhook_events, paused_until FROM upstream_accounts WHERE id = :account FOR UPDATE"
)


async def update_account(
    tx: AsyncConnection, account: str, *, cap: int | None, webhook_field: str | None, now: datetime
) -> None:
    """What was asked of the upstream. None leaves things as they are, and so does a spelling that is known already."""
    await tx.execute(
        text(
            """
            UPDATE upstream_accounts SET cap = coalesce(:cap, cap),
                webhook_field = coalesce(webhook_field, :webhook_field), updated_at = :now
            WHERE id = :account
            """
        ),
        {"account": account, "cap": cap, "webhook_field": webhook_field, "now": now},
    )


async def pause_account(tx: AsyncConnection, account: str, *, until: datetime, reason: str, now: datetime) -> None:
    """Send nothing before `until`."""
    await tx.execute(
        text(
            """
            UPDATE upstream_accounts SET paused_until = :until, pause_reason = :reason, updated_at = :now
            WHERE id = :account
            """
        ),
        {"account": account, "until": until, "reason": reason, "now": now},
    )


async def remember_spelling(
    tx: AsyncConnection, account: str, *, field: str | None, events: bool, now: datetime
) -> None:
    """The spelling of the webhook field that the upstream took; all processes begin with it from now on."""
    await tx.execute(
        text(
            """
            UPDATE upstream_accounts SET webhook_field = :field, webhook_events = :events, updated_at = :now
            WHERE id = :account AND (webhook_field IS DISTINCT FROM :field OR webhook_events <> :events)
            """
        ),
        {"account": account, "field": field, "events": events, "now": now},
    )


async def note_trouble(tx: AsyncConnection, account: str, trouble: str, now: datetime) -> None:
    """Keep what an operator should know of the upstream; the same again is written at most once a minute."""
    await tx.execute(
        text(
            """
            UPDATE upstream_accounts SET trouble = :trouble, trouble_at = :now
            WHERE id = :account AND (trouble IS DISTINCT FROM :trouble OR trouble_at <= :not_after)
            """
        ),
        {"account": account, "trouble": trouble, "now": now, "not_after": now - TROUBLE_EVERY},
    )
