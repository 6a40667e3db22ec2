"""SQL of receipts: their digests in a table of their own, their bodies in one that retention drops by the day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import first_id
from app.db import AnyRow, recordset
from app.statements import Statement


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
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
    asked = [{"job_id": job_id, "digest": digest} for job_id, digest in pairs]
    rows = await _FIND_APPLIED.fetch(tx, {"pairs": recordset(asked)})
    return {(row.job_id, bytes(row.digest)) for row in rows}


_FIND_APPLIED: Final = Statement(
    """
    SELECT asked.job_id, asked.digest
    FROM (
        SELECT job_id, decode(digest, 'base64') AS digest
        FROM json_to_recordset(CAST(:pairs AS json)) AS pair (job_id uuid, digest text)
    ) AS asked CROSS JOIN LATERAL (
        SELECT FROM receipts r WHERE r.job_id = asked.job_id AND r.digest = asked.digest AND r.applied LIMIT 1
    ) AS applied
    """
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What receipts are looked for; None stands for any."""

    job_id: UUID | None = None
    signature: str | None = None
    applied: bool | None = None
    outcome: str | None = None


async def list_receipts(
    connection: AsyncConnection, sought: Sought, *, before: UUID | None, limit: int, budget: int
) -> tuple[Sequence[AnyRow], UUID | None]:
    """Receipts, newest first, older than the one that `before` names, and how far was looked where that is not all.

    So many are looked at as `budget` says: those of a job, those that were not applied, or else all there are.
    """
    wanted = {column: value for column, value in asdict(sought).items() if value is not None}
    parameters = wanted | {"before": before or _LAST, "limit": limit, "budget": budget, "skipped": budget - 1}
    look = f"FROM receipts WHERE {_narrowest(sought)} AND id < :before ORDER BY id DESC"
    where = " AND ".join(f"{column} = :{column}" for column in wanted) or "true"
    page = f"SELECT * FROM (SELECT {_SHOWN} {look} LIMIT :budget) AS r WHERE {where} ORDER BY id DESC LIMIT :limit"  # noqa: S608
    rows = (await connection.execute(text(page), parameters)).all()
    if len(rows) == limit:
        return rows, None
    reach: UUID | None = await connection.scalar(text(f"SELECT id {look} OFFSET :skipped LIMIT 1"), parameters)
    return rows, reach


def _narrowest(sought: Sought) -> str:
    """The condition that an index serves. What was not applied is little, and so is what has no good signature."""
    if sought.job_id is not None:
        return "job_id = :job_id"
    return "NOT applied" if sought.applied is False or sought.signature in ("wrong", "absent") else "true"


_SHOWN: Final = "id, job_id, received_at, signature, event, applied, outcome"

_LAST: Final = UUID(int=2**128 - 1)
"""An id that all others are before."""


async def find_receipt(connection: AsyncConnection, receipt_id: UUID) -> AnyRow | None:
    """A receipt with its headers (as text) and its raw body, which are NULL once they are past retention."""
    return (await connection.execute(_FIND, {"id": receipt_id})).one_or_none()


_FIND: Final = text(
    """
    SELECT r.id, r.job_id, r.received_at, r.signature, r.event, r.applied, r.outcome, r.digest,
        CAST(b.headers AS text) AS headers, b.body
    FROM receipts r LEFT JOIN receipt_bodies b ON b.receipt_id = r.id AND b.received_at = r.received_at
    WHERE r.id = :id
    """
)


async def insert_receipts(tx: AsyncConnection, receipts: Sequence[Receipt]) -> None:
    """Keep receipts and their raw bodies."""
    if not receipts:
        return
    await _INSERT.fetch(tx, {"rows": recordset(receipts)})


_INSERT: Final = Statement(
    """
    WITH new AS (
        SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS new (id uuid, job_id uuid, received_at timestamptz,
            digest text, signature text, event text, applied boolean, outcome text, headers jsonb, body text)
    ), kept AS (
        INSERT INTO receipts (id, job_id, received_at, digest, signature, event, applied, outcome)
        SELECT id, job_id, received_at, decode(digest, 'base64'), signature, event, applied, outcome FROM new
    )
    INSERT INTO receipt_bodies (receipt_id, received_at, headers, body)
    SELECT id, received_at, headers, decode(body, 'base64') FROM new
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
    return await _LIST_BODIES.fetch(connection, parameters)


_LIST_BODIES: Final = Statement(
    """
    SELECT b.receipt_id, octet_length(b.body) AS byte_count, substring(b.body FROM 1 FOR :longest) AS body
    FROM (
        SELECT id, received_at FROM receipts WHERE job_id = :job_id ORDER BY received_at DESC LIMIT :limit
    ) AS r JOIN receipt_bodies b ON b.receipt_id = r.id AND b.received_at = r.received_at
    WHERE b.received_at >= :since
    """
)
