"""SQL of replays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import first_id
from app.db import AnyRow
from app.statements import Statement

_COLUMNS: Final = """r.id, r.subscription_id, r.created_at, r.undelivered_only, r.begins_at, r.ends_at, r.per_second,
    r.total_count, r.done_count, r.after_sequence, r.after_delivery, r.status, r.due_at, r.ended_at"""


async def insert_replay(tx: AsyncConnection, values: Mapping[str, Any]) -> None:
    """Keep a new replay; `values` are its columns."""
    places = ", ".join(f":{column}" for column in values)
    await tx.execute(text(f"INSERT INTO replays ({', '.join(values)}) VALUES ({places})"), dict(values))  # noqa: S608


async def find_replay(connection: AsyncConnection, team_id: UUID | None, replay_id: UUID) -> AnyRow | None:
    """A replay of a subscription of this team, or with None of any."""
    return (await connection.execute(_FIND, {"id": replay_id, "team_id": team_id})).one_or_none()


_FIND: Final = text(
    f"""
    SELECT {_COLUMNS}, s.team_id FROM replays r JOIN subscriptions s ON s.id = r.subscription_id
    WHERE r.id = :id AND (CAST(:team_id AS uuid) IS NULL OR s.team_id = :team_id)
    """  # noqa: S608 - the part is ours
)


async def list_replays(connection: AsyncConnection, subscription_id: UUID, *, limit: int) -> Sequence[AnyRow]:
    """The newest replays of a subscription, newest first."""
    return await _LIST.fetch(connection, {"id": subscription_id, "limit": limit})


_LIST: Final = Statement(
    f"SELECT {_COLUMNS} FROM replays r WHERE r.subscription_id = :id ORDER BY r.id DESC LIMIT :limit"  # noqa: S608
)


async def claim_due(tx: AsyncConnection, now: datetime, *, until: datetime) -> UUID | None:
    """Take the running replay that waits longest, and have it due again later, whatever comes of its part."""
    claimed: UUID | None = await tx.scalar(_CLAIM_DUE, {"now": now, "until": until})
    return claimed


_CLAIM_DUE: Final = text(
    """
    UPDATE replays SET due_at = :until WHERE id = (
        SELECT id FROM replays WHERE status = 'running' AND due_at <= :now ORDER BY due_at LIMIT 1
        FOR UPDATE SKIP LOCKED
    )
    RETURNING id
    """
)


async def lock_running(tx: AsyncConnection, replay_id: UUID) -> AnyRow | None:
    """Lock a replay, with what its subscription wants; None if it does not run any more, or somebody else has it."""
    return (await tx.execute(_LOCK_RUNNING, {"id": replay_id})).one_or_none()


_LOCK_RUNNING: Final = text(
    f"""
    SELECT {_COLUMNS}, s.team_id, s.all_teams, s.types, s.operation, s.model, s.metadata,
        s.disabled_at IS NOT NULL OR s.deleted_at IS NOT NULL AS disabled
    FROM replays r JOIN subscriptions s ON s.id = r.subscription_id
    WHERE r.id = :id AND r.status = 'running' FOR UPDATE OF r SKIP LOCKED
    """  # noqa: S608 - the part is ours
)


async def record_part(
    tx: AsyncConnection,
    replay_id: UUID,
    *,
    done: int,
    after_sequence: int | None,
    after_delivery: UUID | None,
    status: str,
    ended_at: datetime | None,
) -> None:
    """Write down how far a locked replay has come."""
    await tx.execute(
        text(
            """
            UPDATE replays SET done_count = done_count + :done, status = :status, ended_at = :ended_at,
                after_sequence = coalesce(:after_sequence, after_sequence),
                after_delivery = coalesce(CAST(:after_delivery AS uuid), after_delivery)
            WHERE id = :id
            """
        ),
        {
            "id": replay_id,
            "done": done,
            "after_sequence": after_sequence,
            "after_delivery": after_delivery,
            "status": status,
            "ended_at": ended_at,
        },
    )


async def abort(tx: AsyncConnection, replay_id: UUID, now: datetime) -> bool:
    """End a replay that runs; False if it does not."""
    done = await tx.execute(
        text("UPDATE replays SET status = 'aborted', ended_at = :now WHERE id = :id AND status = 'running'"),
        {"id": replay_id, "now": now},
    )
    return done.rowcount == 1


async def delete_ended(tx: AsyncConnection, before: datetime, *, limit: int) -> int:
    """Forget replays that ended before a time; how many those were."""
    done = await tx.execute(_DELETE_ENDED, {"before": before, "before_id": first_id(before), "limit": limit})
    return done.rowcount


_ENDED: Final = "FROM replays WHERE id < :before_id AND ended_at < :before ORDER BY id LIMIT :limit"

_DELETE_ENDED: Final = text(
    f"""
    WITH ended AS (SELECT id {_ENDED} FOR UPDATE SKIP LOCKED)
    DELETE FROM replays USING ended WHERE replays.id = ended.id
    """  # noqa: S608 - the part is ours
)


async def count_ended(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    """How many replays `delete_ended` would forget; up to a limit."""
    statement = text(f"SELECT count(*) FROM (SELECT 1 {_ENDED}) AS few")  # noqa: S608 - the part is ours
    values = {"before": before, "before_id": first_id(before), "limit": limit}
    return int(await connection.scalar(statement, values) or 0)
