"""SQL of acceptance: idempotency keys, new jobs, promises."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.apiframe.operations import PARENT
from app.db import AnyRow, recordset
from app.jobs.queries.reading import ANNOUNCED_COLUMNS
from app.statements import Statement


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A submission that passed every check, ready to be inserted. `body` is what goes upstream, its parent's id as well."""

    id: UUID
    team_id: UUID
    key_id: UUID
    operation: str
    model: str
    body: str
    metadata: Mapping[str, Any] | None
    priority: int
    callback: Mapping[str, Any] | None
    idempotency_key: str | None
    request_hash: bytes
    upstream_account: str
    created_at: datetime
    refusable: bool
    retry_of: UUID | None = None
    retried_by: str | None = None  # for the audit log: somebody of another team has the job tried again
    parent_id: UUID | None = None


async def insert_idempotency_keys(tx: AsyncConnection, jobs: Sequence[NewJob]) -> dict[tuple[UUID, str], AnyRow]:
    """Claim the keys of these jobs; return what the keys that were free stand for now (see `find_idempotency_keys`)."""
    claims = [
        {
            "team_id": job.team_id,
            "key": job.idempotency_key,
            "job_id": job.id,
            "request_hash": job.request_hash,
            "created_at": job.created_at,
        }
        for job in jobs
    ]
    rows = await _INSERT_KEYS.fetch(tx, {"rows": recordset(claims)})
    return {(row.team_id, row.key): row for row in rows}


_INSERT_KEYS: Final = Statement(
    """
    INSERT INTO idempotency_keys (team_id, key, job_id, request_hash, created_at)
    SELECT team_id, key, job_id, decode(request_hash, 'base64'), created_at
    FROM json_to_recordset(CAST(:rows AS json))
        AS new (team_id uuid, key text, job_id uuid, request_hash text, created_at timestamptz)
    ORDER BY team_id, key, job_id
    ON CONFLICT (team_id, key) DO NOTHING
    RETURNING team_id, key, job_id, request_hash
    """
)


async def find_idempotency_keys(
    tx: AsyncConnection, pairs: Collection[tuple[UUID, str]]
) -> dict[tuple[UUID, str], AnyRow]:
    """Which jobs these keys stand for: job_id and request_hash by (team, key)."""
    rows = await tx.execute(
        text(
            """
            SELECT asked.team_id, asked.key, k.job_id, k.request_hash
            FROM unnest(CAST(:team_ids AS uuid[]), CAST(:keys AS text[])) AS asked (team_id, key)
            CROSS JOIN LATERAL (
                SELECT job_id, request_hash FROM idempotency_keys k
                WHERE k.team_id = asked.team_id AND k.key = asked.key LIMIT 1
            ) AS k
            """
        ),
        {"team_ids": [team_id for team_id, _ in pairs], "keys": [key for _, key in pairs]},
    )
    return {(row.team_id, row.key): row for row in rows}


async def insert_jobs(tx: AsyncConnection, jobs: Sequence[NewJob], *, inline: timedelta) -> list[AnyRow]:
    """Insert jobs. While a caller waits, for `inline` at most, its own request sends the job and the Dispatcher does not.

    Those that an earlier run of the same batch inserted stay as they are. The others are returned with the columns of the
    job object, in their order.
    """
    rows = await _INSERT_JOBS.fetch(tx, {"rows": recordset(jobs), "inline": inline})
    inserted = {row.id: row for row in rows}
    return [inserted[job.id] for job in jobs if job.id in inserted]


_INSERT_JOBS: Final = Statement(
    f"""
    INSERT INTO jobs (id, team_id, key_id, operation, model, input, wire_body, metadata, priority, callback,
        idempotency_key, upstream_account, created_at, updated_at, refusable, status, dispatch_at, retry_of, parent_id)
    SELECT id, team_id, key_id, operation, model,
        CAST(body AS jsonb) || CASE WHEN parent_id IS NULL THEN '{{}}'
            ELSE jsonb_build_object('{PARENT}', parent_id) END,
        convert_to(body, 'UTF8'), metadata, priority, callback, idempotency_key, upstream_account, created_at,
        created_at, refusable, 'QUEUED', CASE WHEN refusable THEN created_at + :inline ELSE created_at END, retry_of,
        parent_id
    FROM json_to_recordset(CAST(:rows AS json)) AS new (id uuid, team_id uuid, key_id uuid, operation text, model text,
        body text, metadata jsonb, priority integer, callback jsonb, idempotency_key text, upstream_account text,
        created_at timestamptz, refusable boolean, retry_of uuid, parent_id uuid)
    ON CONFLICT (id) DO NOTHING
    RETURNING {ANNOUNCED_COLUMNS}
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def find_original(connection: AsyncConnection, team_id: UUID | None, job_id: UUID) -> AnyRow | None:
    """What a retry of a job has to repeat, if there is such a job of this team, or with None of any."""
    return (await connection.execute(_FIND_ORIGINAL, {"id": job_id, "team_id": team_id})).one_or_none()


_FIND_ORIGINAL: Final = text(
    """
    SELECT team_id, key_id, operation, model, wire_body, metadata, priority, callback, status, parent_id,
        upstream_account
    FROM jobs WHERE id = :id AND (CAST(:team_id AS uuid) IS NULL OR team_id = :team_id)
    """
)


async def list_foreign_loras(
    connection: AsyncConnection, account: str, team_id: UUID, lora_ids: Collection[str]
) -> set[str]:
    """Which of these LoRAs are known to be another team's."""
    parameters = {"account": account, "team_id": team_id, "ids": list(lora_ids)}
    return {row.upstream_id for row in await _LIST_FOREIGN_LORAS.fetch(connection, parameters)}


_LIST_FOREIGN_LORAS: Final = Statement(
    """
    SELECT upstream_id FROM belongings
    WHERE account = :account AND kind = 'lora' AND upstream_id = ANY(CAST(:ids AS text[])) AND team_id <> :team_id
    """
)


async def find_parent(connection: AsyncConnection, team_id: UUID, job_id: UUID) -> AnyRow | None:
    """What an action has to know of the team's job that it goes on from."""
    return (await connection.execute(_FIND_PARENT, {"id": job_id, "team_id": team_id})).one_or_none()


_FIND_PARENT: Final = text(
    """
    SELECT id, operation, model, status, upstream_id, upstream_account FROM jobs
    WHERE id = :id AND team_id = :team_id
    """
)


async def promise(tx: AsyncConnection, job_ids: Sequence[UUID], now: datetime) -> dict[UUID, AnyRow]:
    """From here on these jobs cannot be refused any more, unless they were already: their status and refusal say so.

    One that nobody is sending is due at once: its caller's own turn at it is over.
    """
    rows = await _PROMISE.fetch(tx, {"ids": job_ids, "now": now})
    return {row.id: row for row in rows}


_PROMISE: Final = Statement(
    """
    WITH locked AS (
        SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
    )
    UPDATE jobs SET refusable = refusable AND refusal IS NOT NULL,
        dispatch_at = CASE WHEN ambiguous_since IS NULL AND refusable AND dispatch_at > :now THEN :now
                      ELSE dispatch_at END
    FROM locked WHERE jobs.id = locked.id
    RETURNING jobs.id, status, refusal
    """
)
