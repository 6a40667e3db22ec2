"""SQL of the upstream account: the row whose lock makes slots exact, and what was learned of the upstream."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

AnyRow = Row[Any]


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
    """Keep what an operator should know of the upstream; readiness shows it for a while."""
    await tx.execute(
        text("UPDATE upstream_accounts SET trouble = :trouble, trouble_at = :now WHERE id = :account"),
        {"account": account, "trouble": trouble, "now": now},
    )
