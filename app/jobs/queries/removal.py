"""SQL of jobs past their time: which may go, what is locked before they do, and what goes with them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import first_id
from app.db import AnyRow


async def lock_ended(tx: AsyncConnection, before: datetime, *, limit: int) -> Sequence[AnyRow]:
    """Lock jobs that ended before a time and that nothing holds, in order of id: (id, team_id, idempotency_key).

    Held are those of which the upstream may still have something to say (sent, and never known to have arrived), of which
    somebody is yet to be told, whose files are yet to be fetched, or from which a job goes on that is not over. Those that
    somebody else has locked are left to the next time.
    """
    return (await tx.execute(_LOCK_ENDED, _of_before(before, limit))).all()


async def count_ended(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    """How many jobs could go; up to a limit."""
    return int(await connection.scalar(_COUNT_ENDED, _of_before(before, limit)) or 0)


def _of_before(before: datetime, limit: int) -> dict[str, object]:
    return {"before": before, "before_id": first_id(before), "limit": limit}


# Deliveries and files are looked up job by job: a join could be made of the whole of these tables. Jobs that are not over
# are few, and those from which they go on are gathered once.
_ENDED: Final = """FROM jobs
    WHERE id < :before_id AND completed_at < :before AND (ambiguous_since IS NULL OR upstream_id IS NOT NULL)
        AND (SELECT 1 FROM deliveries WHERE job_id = jobs.id AND due_at IS NOT NULL LIMIT 1) IS NULL
        AND (SELECT 1 FROM files WHERE job_id = jobs.id AND due_at IS NOT NULL LIMIT 1) IS NULL
        AND id NOT IN (SELECT parent_id FROM jobs WHERE completed_at IS NULL AND parent_id IS NOT NULL)
    ORDER BY id LIMIT :limit"""

_LOCK_ENDED: Final = text(f"SELECT id, team_id, idempotency_key {_ENDED} FOR UPDATE SKIP LOCKED")

_COUNT_ENDED: Final = text(f"SELECT count(*) FROM (SELECT 1 {_ENDED}) AS few")  # noqa: S608 - the part is ours


async def lock_belongings(tx: AsyncConnection, jobs: Sequence[AnyRow]) -> set[UUID]:
    """Lock the idempotency keys, files and deliveries of locked jobs; return the jobs that something holds after all."""
    keyed = [job for job in jobs if job.idempotency_key is not None]
    keys = {"teams": [job.team_id for job in keyed], "keys": [job.idempotency_key for job in keyed]}
    await tx.execute(_LOCK_KEYS, keys)
    held: set[UUID] = set()
    for statement in (_LOCK_FILES, _LOCK_DELIVERIES):
        held |= {row.job_id for row in await tx.execute(statement, {"ids": [job.id for job in jobs]}) if row.is_due}
    return held


_LOCK_KEYS: Final = text(
    """
    SELECT 1 FROM idempotency_keys
    WHERE (team_id, key) IN (SELECT * FROM unnest(CAST(:teams AS uuid[]), CAST(:keys AS text[])))
    ORDER BY team_id, key FOR UPDATE
    """
)

_LOCK_FILES: Final = text(
    """
    SELECT job_id, due_at IS NOT NULL AS is_due FROM files
    WHERE job_id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
    """
)

_LOCK_DELIVERIES: Final = text(
    """
    SELECT job_id, due_at IS NOT NULL AS is_due FROM deliveries
    WHERE job_id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
    """
)


async def delete_jobs(tx: AsyncConnection, jobs: Collection[AnyRow]) -> None:
    """Delete jobs that are locked with what belongs to them, and all of that but files, which are nobody's then."""
    ids = {"ids": [job.id for job in jobs]}
    keyed = [job for job in jobs if job.idempotency_key is not None]
    keys = {"teams": [job.team_id for job in keyed], "keys": [job.idempotency_key for job in keyed]}
    await tx.execute(_DELETE_KEYS, ids | keys)
    for statement in _DELETE:
        await tx.execute(statement, ids)


# A key may stand for another job by now: it is given back where a job was refused.
_DELETE_KEYS: Final = text(
    """
    DELETE FROM idempotency_keys
    WHERE (team_id, key) IN (SELECT * FROM unnest(CAST(:teams AS uuid[]), CAST(:keys AS text[])))
        AND job_id = ANY(CAST(:ids AS uuid[]))
    """
)

_DELETE: Final = (
    text("DELETE FROM job_words WHERE job_id = ANY(CAST(:ids AS uuid[]))"),
    text("DELETE FROM receipts WHERE job_id = ANY(CAST(:ids AS uuid[]))"),
    text("DELETE FROM deliveries WHERE job_id = ANY(CAST(:ids AS uuid[]))"),
    text("DELETE FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))"),
)
