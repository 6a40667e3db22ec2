"""SQL of the upstream account: the row whose lock makes slots exact, and what was learned of the upstream."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.models.jobs import IN_FLIGHT
from app.statements import Statement

TROUBLE_EVERY: Final = timedelta(minutes=1)


async def lock_account(tx: AsyncConnection, account: str, now: datetime) -> AnyRow:
    """Lock the upstream account's row until the commit; all counting of slots happens under this lock."""
    locked = await _LOCK_ACCOUNT.fetch_one(tx, {"account": account})
    if locked is not None:
        return locked
    await tx.execute(
        text("INSERT INTO upstream_accounts (id, updated_at) VALUES (:account, :now) ON CONFLICT (id) DO NOTHING"),
        {"account": account, "now": now},
    )
    locked = await _LOCK_ACCOUNT.fetch_one(tx, {"account": account})
    assert locked is not None
    return locked


_LOCK_ACCOUNT: Final = Statement(
    """
    SELECT cap, cap_lowered_to, cap_lowered_until, webhook_field, webhook_events, paused_at, request_tokens,
        request_tokens_at
    FROM upstream_accounts WHERE id = :account FOR UPDATE
    """
)


async def find_spelling(connection: AsyncConnection, account: str) -> str | None:
    """How the upstream spells the webhook field, if any process knows."""
    rows = await connection.execute(
        text("SELECT webhook_field FROM upstream_accounts WHERE id = :account"), {"account": account}
    )
    return rows.scalar_one_or_none()


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


async def set_paused(tx: AsyncConnection, account: str, *, since: datetime | None, now: datetime) -> None:
    """Stop dispatch for everybody, or let it go on. The account's row is locked, and so there."""
    await tx.execute(
        text("UPDATE upstream_accounts SET paused_at = :since, updated_at = :now WHERE id = :account"),
        {"account": account, "since": since, "now": now},
    )


async def lower_cap(tx: AsyncConnection, account: str, *, until: datetime, now: datetime) -> None:
    """Believe for a while that no more jobs may run than run now: the upstream just refused one more."""
    await _LOWER_CAP.fetch(tx, {"account": account, "until": until, "now": now})


_LOWER_CAP: Final = Statement(
    f"""
    UPDATE upstream_accounts SET cap_lowered_until = :until, updated_at = :now, cap_lowered_to = greatest(
        (SELECT count(*) FROM jobs WHERE upstream_account = :account AND {IN_FLIGHT}), 1)
    WHERE id = :account
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def write_tokens(tx: AsyncConnection, account: str, tokens: float, now: datetime) -> None:
    """Write down what is left of the request limit. The account's row is locked."""
    await _WRITE_TOKENS.fetch(tx, {"account": account, "tokens": tokens, "now": now})


_WRITE_TOKENS: Final = Statement(
    "UPDATE upstream_accounts SET request_tokens = :tokens, request_tokens_at = :now WHERE id = :account"
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
