"""Whether everything that was acknowledged is in the database, exactly once. What is not makes the run fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar
from uuid import UUID

from app.bench import queries
from app.bench.stage import Stage, Team, Waiting

Item = TypeVar("Item")

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


class OurBooks:
    """The product's own tables."""

    async def prepare(self, stage: Stage, team: Team, jobs: Sequence[Waiting]) -> None:
        """Write jobs that wait for their webhooks."""
        await stage.prepare_jobs(team, jobs)

    async def check_webhooks(self, stage: Stage, job_ids: Sequence[UUID]) -> Checked:
        """Each job must be completed, by one receipt that was applied, with one event and one delivery of that."""
        checked = Checked(len(job_ids), _doubled(job_ids))
        for part in parts(job_ids):
            async with stage.db.reading() as connection:
                rows = await queries.list_webhooks_not_applied_once(connection, part)
            checked.wrong += [
                f"webhook of job {row.id}: it is {row.status or 'not there'}, with {row.receipts} receipts applied,"
                f" {row.events} events and {row.deliveries} deliveries"
                for row in rows
            ]
        return checked

    async def check_submissions(self, stage: Stage, keys: Sequence[str]) -> Checked:
        """Each key must stand for one job, the only one made under it, with one event."""
        checked = Checked(len(keys), _doubled(keys))
        for part in parts(keys):
            async with stage.db.reading() as connection:
                rows = await queries.list_submissions_not_kept_once(connection, stage.team.id, part)
            checked.wrong += [
                f"submission {row.key}: it made {row.jobs} jobs and {row.events} events,"
                f" and its key {'stands' if row.is_held else 'does not stand'} for that job"
                for row in rows
            ]
        return checked

    async def list_waiting(self, stage: Stage, job_ids: Sequence[UUID]) -> set[UUID]:
        """Those of these jobs that still wait for their webhooks."""
        async with stage.db.reading() as connection:
            return {job_id for part in parts(job_ids) for job_id in await queries.list_waiting(connection, part)}


def parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """These in parts that one statement looks up."""
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))


def _doubled(items: Sequence[UUID] | Sequence[str]) -> list[str]:
    """The run's own fault: what was asked for twice could not be told from what was done twice."""
    return [] if len(set(items)) == len(items) else ["the run acknowledged a job or key twice to itself"]
