"""Whether everything that was acknowledged is in the database, exactly once. What is not makes the run fail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from app.bench import queries
from app.db import Database

CHUNK: Final = 20_000


@dataclass(slots=True)
class Checked:
    """How many acknowledgements were looked up, and what was found wrong with which."""

    acknowledged: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Checked) -> None:
        """Count another round's in."""
        self.acknowledged += other.acknowledged
        self.wrong += other.wrong


async def check_webhooks(db: Database, job_ids: Sequence[UUID]) -> Checked:
    """Look up acknowledged webhooks by their jobs, which are all different."""
    checked = Checked(len(job_ids))
    for part in _parts(job_ids):
        async with db.reading() as connection:
            rows = await queries.list_webhooks_not_applied_once(connection, part)
        checked.wrong += [
            f"webhook of job {row.id}: it is {row.status or 'not there'}, with {row.receipts} receipts applied,"
            f" {row.events} events and {row.deliveries} deliveries"
            for row in rows
        ]
    return checked


async def check_submissions(db: Database, team_id: UUID, keys: Sequence[str]) -> Checked:
    """Look up acknowledged submissions by their idempotency keys, which are all different."""
    checked = Checked(len(keys))
    for part in _parts(keys):
        async with db.reading() as connection:
            rows = await queries.list_submissions_not_kept_once(connection, team_id, part)
        checked.wrong += [
            f"submission {row.key}: it made {row.jobs} jobs and {row.events} events,"
            f" and its key {'stands' if row.is_held else 'does not stand'} for that job"
            for row in rows
        ]
    return checked


async def list_waiting(db: Database, job_ids: Sequence[UUID]) -> set[UUID]:
    """Those of these jobs that still wait for their webhook."""
    async with db.reading() as connection:
        return {job_id for part in _parts(job_ids) for job_id in await queries.list_waiting(connection, part)}


def _parts(items: Sequence[UUID] | Sequence[str]) -> Iterable[Sequence[UUID] | Sequence[str]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
