"""SQL of fetching: which files are wanted, who fetches which, what became of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.clock import new_id
from app.db import AnyRow, recordset
from app.statements import Statement


class NewFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is to be kept."""

    job_id: UUID
    team_id: UUID
    modality: str
    position: int
    source: str
    completed_at: datetime
    give_up_at: datetime
    late_told: bool = False  # that it is late is no news
    refusal: str | None = None  # why it is not to be fetched at all
    id: UUID = msgspec.field(default_factory=new_id)


async def insert_files(tx: AsyncConnection, files: Sequence[NewFile], *, now: datetime) -> list[UUID]:
    """Have files kept, as soon as may be, but those of teams that want none of their kind; return the ids of the new ones.

    One that is known stays as it is.
    """
    if not files:
        return []
    inserted = await _INSERT.fetch(tx, {"now": now, "rows": recordset(files)})
    return [row.id for row in inserted]


_INSERT: Final = Statement(
    """
    INSERT INTO files
        (id, job_id, team_id, position, source, completed_at, give_up_at, late_told, created_at, reason, due_at,
            status)
    SELECT new.id, job_id, team_id, position, source, completed_at, give_up_at, late_told, :now, refusal,
        CASE WHEN refusal IS NULL THEN CAST(:now AS timestamptz) END,
        CASE WHEN refusal IS NULL THEN 'pending' ELSE 'failed' END
    FROM json_to_recordset(CAST(:rows AS json)) AS new (id uuid, job_id uuid, team_id uuid, modality text,
        position smallint, source text, completed_at timestamptz, give_up_at timestamptz, late_told boolean, refusal text)
    JOIN teams ON teams.id = team_id
    WHERE archived_modalities IS NULL OR modality = ANY(archived_modalities)
    ORDER BY job_id, position
    ON CONFLICT (job_id, position) DO NOTHING
    RETURNING id
    """
)


CANDIDATES: Final = 500
"""Files that are due among which a claim chooses: more than those of all the jobs that can fill a process's places."""


async def claim_files(
    tx: AsyncConnection, *, places: int, share: int, busy: Mapping[UUID, int], now: datetime, until: datetime
) -> Sequence[AnyRow]:
    """Lease files that are due, the longest due first; each claim is counted as an attempt, unrecorded until it is.

    Of one job there are no more than its share, with those that it is busy with already.
    """
    parameters = {
        "places": places,
        "share": share,
        "busy": list(busy),
        "busy_counts": list(busy.values()),
        "candidates": CANDIDATES,
        "now": now,
        "until": until,
    }
    return await _CLAIM.fetch(tx, parameters)


_CLAIM: Final = Statement(
    """
    UPDATE files SET due_at = :until, lease_token = gen_random_uuid(), attempt_count = attempt_count + 1,
        unrecorded_count = unrecorded_count + 1
    FROM (
        SELECT files.id FROM files
        JOIN (
            SELECT id, job_id, row_number() OVER (PARTITION BY coalesce(job_id, id) ORDER BY due_at, position) AS place
            FROM (
                SELECT id, job_id, position, due_at FROM files WHERE due_at <= :now ORDER BY due_at LIMIT :candidates
            ) AS candidates
        ) AS ranked ON ranked.id = files.id
        LEFT JOIN unnest(CAST(:busy AS uuid[]), CAST(:busy_counts AS integer[])) AS busy (job_id, n)
            ON busy.job_id = ranked.job_id
        WHERE due_at <= :now AND place + coalesce(n, 0) <= :share
        ORDER BY due_at LIMIT :places FOR UPDATE OF files SKIP LOCKED
    ) AS due
    WHERE files.id = due.id
    RETURNING files.id, files.job_id, team_id, source, completed_at, give_up_at, lease_token, attempt_count,
        unrecorded_count, refused_count, due_at AS leased_until
    """
)


async def renew_leases(tx: AsyncConnection, claims: Sequence[AnyRow], *, until: datetime) -> set[UUID]:
    """Lengthen the leases of claimed files; return the tokens of those that still stood."""
    return {row.lease_token for row in await _RENEW.fetch(tx, _leases(claims) | {"until": until})}


_RENEW: Final = Statement(
    """
    UPDATE files SET due_at = :until
    FROM (
        SELECT files.id FROM files
        JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS held (id, token)
            ON held.id = files.id AND held.token = files.lease_token
        ORDER BY files.id FOR UPDATE OF files
    ) AS ours
    WHERE files.id = ours.id AND due_at IS NOT NULL
    RETURNING lease_token
    """
)


async def lock_leased(tx: AsyncConnection, claims: Sequence[AnyRow]) -> set[UUID]:
    """Lock those of these claimed files that are still under their leases, in order of id; return the tokens.

    Of one file there may be an attempt whose lease is lost beside the one that has it now: it is the tokens that tell.
    """
    return {row.lease_token for row in await _LOCK_LEASED.fetch(tx, _leases(claims))}


def _leases(claims: Sequence[AnyRow]) -> dict[str, object]:
    return {"ids": [claimed.id for claimed in claims], "tokens": [claimed.lease_token for claimed in claims]}


_LOCK_LEASED: Final = Statement(
    """
    SELECT lease_token FROM files
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS held (id, token)
        ON held.id = files.id AND held.token = files.lease_token
    WHERE due_at IS NOT NULL ORDER BY files.id FOR UPDATE OF files
    """
)


async def list_stored_as(tx: AsyncConnection, objects: Mapping[str, UUID]) -> set[str]:
    """Those of these objects that are what their files are stored in."""
    if not objects:
        return set()
    parameters = {"ids": list(objects.values()), "objects": list(objects)}
    return {row.object for row in await _LIST_STORED_AS.fetch(tx, parameters)}


_LIST_STORED_AS: Final = Statement(
    """
    SELECT files.object FROM files
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:objects AS text[])) AS wanted (id, object)
        ON wanted.id = files.id AND wanted.object = files.object
    WHERE status = 'stored'
    """
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOutcome:
    """What becomes of a file after an attempt. `due_at` is set where there will be another one."""

    id: UUID
    status: str
    reason: str | None = None
    refused_count: int = 0
    due_at: datetime | None = None
    object: str | None = None
    thumbnail: str | None = None
    content_type: str | None = None
    byte_count: int | None = None
    sha256: bytes | None = None
    width: int | None = None
    height: int | None = None


_OUTCOME_COLUMNS: Final = {
    "id": "uuid",
    "status": "text",
    "reason": "text",
    "refused_count": "integer",
    "due_at": "timestamptz",
    "object": "text",
    "thumbnail": "text",
    "content_type": "text",
    "byte_count": "bigint",
    "sha256": "bytea",
    "width": "integer",
    "height": "integer",
}


async def record_outcomes(tx: AsyncConnection, outcomes: Sequence[FileOutcome], *, now: datetime) -> None:
    """Write down what became of files that this transaction holds. That one is stored is news, whatever was told of it."""
    if not outcomes:
        return
    values = {column: [getattr(outcome, column) for outcome in outcomes] for column in _OUTCOME_COLUMNS}
    await _RECORD.fetch(tx, values | {"now": now})


_RECORD: Final = Statement(
    f"""
    UPDATE files SET
        {", ".join(f"{column} = new.{column}" for column in _OUTCOME_COLUMNS if column != "id")},
        lease_token = NULL, unrecorded_count = 0, told = told AND new.status <> 'stored',
        stored_at = CASE WHEN new.status = 'stored' THEN CAST(:now AS timestamptz) END
    FROM unnest({", ".join(f"CAST(:{column} AS {kind}[])" for column, kind in _OUTCOME_COLUMNS.items())})
        AS new ({", ".join(_OUTCOME_COLUMNS)})
    WHERE files.id = new.id
    """  # noqa: S608 - the only parts put in are constants of ours
)


async def list_settled_jobs(tx: AsyncConnection, job_ids: Collection[UUID]) -> set[UUID]:
    """Which of these jobs have no file that is still to be fetched."""
    if not job_ids:
        return set()
    rows = await _LIST_SETTLED.fetch(tx, {"ids": list(job_ids)})
    return {row.id for row in rows}


_LIST_SETTLED: Final = Statement(
    """
    SELECT id FROM unnest(CAST(:ids AS uuid[])) AS job (id)
    WHERE NOT EXISTS (SELECT 1 FROM files WHERE job_id = job.id AND status = 'pending')
    """
)
