"""SQL of receipts: their digests in a table of their own, their bodies in one that retention drops by the day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import first_id
from app.db import AnyRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One webhook as it is kept."""

    id: UUID
    job_id: UUID
    received_at: datetime
    digest: bytes
    signature: str
    event: str | None
    applied: bool
    outcome: str
    headers: Mapping[str, str]
    body: bytes


async def find_applied(tx: AsyncConnection, pairs: Sequence[tuple[UUID, bytes]]) -> set[tuple[UUID, bytes]]:
    """Which of these (job, digest) pairs were applied before. Exact while the jobs are locked."""
    rows = await tx.execute(_FIND_APPLIED, {"ids": [pair[0] for pair in pairs], "digests": [pair[1] for pair in pairs]})
    return {(row.job_id, bytes(row.digest)) for row in rows}


_FIND_APPLIED: Final = text(
    """
    SELECT r.job_id, r.digest
    FROM unnest(CAST(:ids AS uuid[]), CAST(:digests AS bytea[])) AS asked (job_id, digest)
    JOIN receipts r ON r.job_id = asked.job_id AND r.digest = asked.digest AND r.applied
    """
)


async def insert_receipts(tx: AsyncConnection, receipts: Sequence[Receipt]) -> None:
    """Keep receipts and their raw bodies."""
    if not receipts:
        return
    await tx.execute(
        _INSERT,
        {
            "ids": [one.id for one in receipts],
            "job_ids": [one.job_id for one in receipts],
            "received_ats": [one.received_at for one in receipts],
            "digests": [one.digest for one in receipts],
            "signatures": [one.signature for one in receipts],
            "events": [one.event for one in receipts],
            "applieds": [one.applied for one in receipts],
            "outcomes": [one.outcome for one in receipts],
            "headers": [msgspec.json.encode(one.headers).decode() for one in receipts],
            "bodies": [one.body for one in receipts],
        },
    )


_INSERT: Final = text(
    """
    WITH new AS (
        SELECT * FROM unnest(
            CAST(:ids AS uuid[]), CAST(:job_ids AS uuid[]), CAST(:received_ats AS timestamptz[]),
            CAST(:digests AS bytea[]), CAST(:signatures AS text[]), CAST(:events AS text[]),
            CAST(:applieds AS boolean[]), CAST(:outcomes AS text[]), CAST(:headers AS text[]), CAST(:bodies AS bytea[])
        ) AS new (id, job_id, received_at, digest, signature, event, applied, outcome, headers, body)
    ), kept AS (
        INSERT INTO receipts (id, job_id, received_at, digest, signature, event, applied, outcome)
        SELECT id, job_id, received_at, digest, signature, event, applied, outcome FROM new
    )
    INSERT INTO receipt_bodies (receipt_id, received_at, headers, body)
    SELECT id, received_at, CAST(headers AS jsonb), body FROM new
    """
)


async def delete_old(tx: AsyncConnection, before: datetime, *, limit: int) -> int:
    """Forget webhooks that were received before a time, of jobs that are over or gone; how many those were.

    A copy that comes later is not known as such any more, and still changes nothing. Where the upstream's final word ended
    the job, that one stays, whatever comes. Where we concluded it ourselves, no final word had come: what was kept, and its
    copy as well, is a report of progress, which opens nothing that is over.
    """
    return (await tx.execute(_DELETE_OLD, _of_before(before, limit))).rowcount


async def count_old(connection: AsyncConnection, before: datetime, *, limit: int) -> int:
    """How many webhooks `delete_old` would forget; up to a limit."""
    return int(await connection.scalar(_COUNT_OLD, _of_before(before, limit)) or 0)


def _of_before(before: datetime, limit: int) -> dict[str, object]:
    return {"before_id": first_id(before), "limit": limit}


# The job is looked up row by row: a join could be made of the whole of both tables.
_OLD: Final = """FROM receipts
    WHERE id < :before_id AND (SELECT completed_at IS NULL FROM jobs WHERE jobs.id = job_id) IS NOT TRUE
    ORDER BY id LIMIT :limit"""

_DELETE_OLD: Final = text(
    f"DELETE FROM receipts WHERE id = ANY(ARRAY(SELECT id {_OLD} FOR UPDATE SKIP LOCKED))"  # noqa: S608 - the part is ours
)

_COUNT_OLD: Final = text(f"SELECT count(*) FROM (SELECT 1 {_OLD}) AS few")  # noqa: S608 - the part is ours


async def list_bodies(
    connection: AsyncConnection, job_id: UUID, *, since: datetime, limit: int, longest: int
) -> Sequence[AnyRow]:
    """The newest raw bodies that a job's webhooks had (receipt_id, byte_count, body), each up to `longest` bytes.

    Retention takes bodies away before their receipts. `since` only spares the look into the partitions of earlier days.
    """
    parameters = {"job_id": job_id, "since": since, "limit": limit, "longest": longest}
    return (await connection.execute(_LIST_BODIES, parameters)).all()


_LIST_BODIES: Final = text(
    """
    SELECT b.receipt_id, octet_length(b.body) AS byte_count, substring(b.body FROM 1 FOR :longest) AS body
    FROM (
        SELECT id, received_at FROM receipts WHERE job_id = :job_id ORDER BY received_at DESC LIMIT :limit
    ) AS r JOIN receipt_bodies b ON b.receipt_id = r.id AND b.received_at = r.received_at
    WHERE b.received_at >= :since
    """
)
