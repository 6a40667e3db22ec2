"""Where two of the books are read: the database's, and the upstream's from the simulator. Nothing is judged here."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from sqlalchemy import text

from app.db import Database
from app.errors import StartupError
from app.faults.compare import Bill, KeptEvent, KeptJob, UpstreamJob, Webhook
from app.simulator.config import SimulatorConfig
from app.simulator.webhooks import signature

_JOBS: Final = text(
    """
    SELECT id, coalesce(input->>'prompt', '') AS prompt, status, upstream_id, coalesce(result::text, '') AS result
    FROM jobs ORDER BY id
    """
)
_APPLIED: Final = text("SELECT job_id, digest FROM receipts WHERE applied")
_EVENTS: Final = text("SELECT CAST(id AS text) AS id, type, job_id FROM events ORDER BY sequence")
_BILLS: Final = text(
    "SELECT job_id, sum(reserved_change) AS reserved, sum(spent_change) AS spent FROM ledger GROUP BY job_id ORDER BY job_id"
)
_UNBALANCED: Final = text(
    """
    SELECT teams.name FROM balances
    FULL JOIN (
        SELECT team_id, month, sum(reserved_change) AS reserved, sum(spent_change) AS spent
        FROM ledger GROUP BY team_id, month
    ) AS entered USING (team_id, month)
    JOIN teams ON teams.id = team_id
    WHERE (coalesce(balances.reserved, 0), coalesce(balances.spent, 0))
        <> (coalesce(entered.reserved, 0), coalesce(entered.spent, 0))
    """
)
_PENDING: Final = text("SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL")
_UNENDED: Final = text("SELECT count(*) FROM jobs WHERE completed_at IS NULL")


async def read_jobs(database: Database) -> list[KeptJob]:
    """Every job that we keep."""
    async with database.reading() as connection:
        return [KeptJob(**row) for row in (await connection.execute(_JOBS)).mappings()]


async def read_applied(database: Database) -> Collection[tuple[UUID, bytes]]:
    """The webhooks that were applied, by job and digest."""
    async with database.reading() as connection:
        return {(row.job_id, bytes(row.digest)) for row in await connection.execute(_APPLIED)}


async def read_events(database: Database) -> list[KeptEvent]:
    """Every event of the log, in its order."""
    async with database.reading() as connection:
        return [KeptEvent(**row) for row in (await connection.execute(_EVENTS)).mappings()]


async def read_bills(database: Database) -> list[Bill]:
    """What every job reserves and has cost."""
    async with database.reading() as connection:
        return [Bill(**row) for row in (await connection.execute(_BILLS)).mappings()]


async def read_unbalanced(database: Database) -> list[str]:
    """The teams whose balance is not the sum of their entries."""
    async with database.reading() as connection:
        return [row.name for row in await connection.execute(_UNBALANCED)]


async def count_unended(database: Database) -> int:
    """How many jobs have not ended."""
    async with database.reading() as connection:
        return int((await connection.execute(_UNENDED)).scalar_one())


async def count_pending(database: Database) -> int:
    """How many deliveries are to be made yet."""
    async with database.reading() as connection:
        return int((await connection.execute(_PENDING)).scalar_one())


def upstream_jobs(books: Mapping[str, Any]) -> list[UpstreamJob]:
    """Every job that the upstream accepted, with the prompt that arrived there."""
    return [
        UpstreamJob(
            id=job["job_id"],
            prompt=msgspec.json.decode(job["body"])["prompt"],
            status=job["status"],
            credit_cost=job["credit_cost"],
        )
        for job in books["jobs"]
    ]


def acknowledged_webhooks(books: Mapping[str, Any], config: SimulatorConfig) -> list[Webhook]:
    """The webhooks that were answered 2xx and bore a good signature; an unsigned one is a hint and promises nothing.

    Raises StartupError where the books have forgotten some: then nothing could be said of those.
    """
    sends: Sequence[Mapping[str, Any]] = books["webhooks"]
    sent = books["counters"]["webhooks_sent"]
    if sent != len(sends):
        raise StartupError(f"the upstream's books kept {len(sends)} of {sent} webhooks: the comparison would be blind")
    keys = {job["job_id"]: job["api_key"] for job in books["jobs"]}
    found = []
    for send in sends:
        body = send["body"].encode()
        signed = send["headers"].get("X-Webhook-Signature") == signature(keys[send["job_id"]], body, config)
        if signed and send["answer_status"] is not None and 200 <= send["answer_status"] < 300:
            found.append(Webhook(job_id=_our_job(send["url"]), digest=hashlib.sha256(body).digest()))
    return found


def _our_job(url: str) -> UUID:
    """The job that a webhook URL was made for: /webhooks/apiframe/{job_id}/{token}."""
    return UUID(urlsplit(url).path.split("/")[3])
