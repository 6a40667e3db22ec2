"""SQL of the circuit breaker: one row per upstream key that ever gave trouble."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.statements import Statement


async def list_troubled(tx: AsyncConnection, account: str) -> dict[str, AnyRow]:
    """The keys that are held, that must be probed, or that failed lately, by fingerprint."""
    rows = await _LIST_TROUBLED.fetch(tx, {"account": account})
    return {row.fingerprint: row for row in rows}


_LIST_TROUBLED: Final = Statement(
    """
    SELECT fingerprint, failure_count, held_until, hold_reason, must_probe FROM upstream_keys
    WHERE account = :account AND (failure_count > 0 OR must_probe OR held_until IS NOT NULL)
    """
)


async def hold(
    tx: AsyncConnection, account: str, key: str, *, until: datetime, reason: str, must_probe: bool, now: datetime
) -> None:
    """Send nothing under this key before `until`; with `must_probe` one job goes first then. A longer hold stays."""
    await _HOLD.fetch(
        tx,
        {"account": account, "key": key, "until": until, "reason": reason, "must_probe": must_probe, "now": now},
    )


_HOLD: Final = Statement(
    """
    INSERT INTO upstream_keys AS k (account, fingerprint, held_until, hold_reason, must_probe, updated_at)
    VALUES (:account, :key, :until, :reason, :must_probe, :now)
    ON CONFLICT (account, fingerprint) DO UPDATE SET
        held_until = greatest(k.held_until, excluded.held_until), hold_reason = excluded.hold_reason,
        must_probe = k.must_probe OR excluded.must_probe, updated_at = excluded.updated_at
    """
)


async def begin_probe(tx: AsyncConnection, account: str, key: str, *, until: datetime, now: datetime) -> None:
    """Hold the key for as long as the one job that goes first may take."""
    await tx.execute(
        text(
            """
            UPDATE upstream_keys SET held_until = :until, updated_at = :now
            WHERE account = :account AND fingerprint = :key AND must_probe
            """
        ),
        {"account": account, "key": key, "until": until, "now": now},
    )


async def record_failure(
    tx: AsyncConnection, account: str, key: str, *, probe: bool, until: datetime, reason: str, now: datetime
) -> None:
    """Hold a key that fails, and have one job go first then.

    One that is held so already is held on by a failed `probe` only: jobs that were under way when it began say nothing new.
    """
    await _RECORD_FAILURE.fetch(
        tx,
        {"account": account, "key": key, "probe": probe, "until": until, "reason": reason, "now": now},
    )


_RECORD_FAILURE: Final = Statement(
    """
    INSERT INTO upstream_keys AS k
        (account, fingerprint, failure_count, held_until, hold_reason, must_probe, updated_at)
    VALUES (:account, :key, 1, :until, :reason, true, :now)
    ON CONFLICT (account, fingerprint) DO UPDATE SET
        failure_count = k.failure_count + 1, held_until = excluded.held_until, hold_reason = excluded.hold_reason,
        must_probe = true, updated_at = excluded.updated_at
    WHERE CAST(:probe AS boolean) OR NOT k.must_probe
    """
)


async def record_success(tx: AsyncConnection, account: str, key: str, now: datetime) -> None:
    """Forget the trouble of a key that works."""
    await tx.execute(
        text(
            """
            UPDATE upstream_keys SET failure_count = 0, held_until = NULL, hold_reason = NULL, must_probe = false,
                updated_at = :now
            WHERE account = :account AND fingerprint = :key
            """
        ),
        {"account": account, "key": key, "now": now},
    )
