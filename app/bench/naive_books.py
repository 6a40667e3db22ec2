"""The tables of what is written the usual way: made, filled beforehand, and looked up as the product's are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import TextClause, text

from app.bench.naive import Base
from app.bench.payloads import INPUT
from app.bench.stage import Stage, Team, Waiting
from app.bench.verify import Checked, parts


class NaiveBooks:
    """See `workload.Books`."""

    async def prepare(self, stage: Stage, team: Team, jobs: Sequence[Waiting]) -> None:
        """Write jobs that wait for their webhooks, and the tables and the key where they are missing."""
        async with stage.db.transaction() as tx:
            await tx.exec_driver_sql("SET LOCAL client_min_messages = warning")
            await tx.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS naive")
            await tx.run_sync(Base.metadata.create_all)
            await tx.execute(_INSERT_KEY, {"hash": hashlib.sha256(team.key.key.encode()).digest()})
            for part in parts(jobs):
                values = {"ids": [job.id for job in part], "upstream_ids": [job.upstream_id for job in part]}
                await tx.execute(_INSERT_JOBS, {**values, "input": msgspec.json.encode(INPUT).decode()})

    async def check_webhooks(self, stage: Stage, job_ids: Sequence[UUID]) -> Checked:
        """Each job must be completed, with one receipt, one event and one delivery."""
        return Checked(len(job_ids), await self._look_up(stage, _WEBHOOKS, job_ids))

    async def check_submissions(self, stage: Stage, keys: Sequence[str]) -> Checked:
        """Each key must stand for one job."""
        return Checked(len(keys), await self._look_up(stage, _SUBMISSIONS, keys))

    async def list_waiting(self, stage: Stage, job_ids: Sequence[UUID]) -> set[UUID]:
        """Those of these jobs that still wait for their webhooks."""
        async with stage.db.reading() as connection:
            return {
                row.id for part in parts(job_ids) for row in await connection.execute(_WAITING, {"asked": list(part)})
            }

    async def _look_up(self, stage: Stage, statement: TextClause, asked: Sequence[Any]) -> list[str]:
        async with stage.db.reading() as connection:
            return [
                f"written the usual way: {row.asked} is there {row.count} times"
                for part in parts(asked)
                for row in await connection.execute(statement, {"asked": list(part)})
            ]


_INSERT_KEY: Final = text("INSERT INTO naive.api_keys (key_hash) VALUES (:hash) ON CONFLICT DO NOTHING")
_INSERT_JOBS: Final = text(
    """
    INSERT INTO naive.jobs (id, api_key_id, idempotency_key, status, upstream_id, input)
    SELECT new.id, api_keys.id, CAST(new.id AS text), 'PROCESSING', upstream_id, CAST(:input AS jsonb)
    FROM unnest(CAST(:ids AS uuid[]), CAST(:upstream_ids AS text[])) AS new (id, upstream_id) CROSS JOIN naive.api_keys
    """
)
_WEBHOOKS: Final = text(
    """
    SELECT asked, count(DISTINCT deliveries.id) AS count
    FROM unnest(CAST(:asked AS uuid[])) AS asked
    LEFT JOIN naive.jobs ON jobs.id = asked AND status = 'COMPLETED'
    LEFT JOIN naive.receipts ON receipts.job_id = jobs.id
    LEFT JOIN naive.events ON events.job_id = receipts.job_id
    LEFT JOIN naive.deliveries ON deliveries.event_id = events.id
    GROUP BY asked HAVING count(*) <> 1 OR count(deliveries.id) <> 1
    """
)
_SUBMISSIONS: Final = text(
    """
    SELECT asked, count(jobs.id) AS count
    FROM unnest(CAST(:asked AS text[])) AS asked LEFT JOIN naive.jobs ON idempotency_key = asked
    GROUP BY asked HAVING count(jobs.id) <> 1
    """
)
_WAITING: Final = text("SELECT id FROM naive.jobs WHERE id = ANY(CAST(:asked AS uuid[])) AND status = 'PROCESSING'")
