"""What is sent in rounds: webhooks and submissions, written before, each with a job or a key of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from app.bench import payloads
from app.bench.stage import UPSTREAM_KEY, Stage, Team, Waiting
from app.bench.verify import Checked


class Books(Protocol):
    """Where a server keeps its jobs: how they get there beforehand, and how what became of them is looked up."""

    async def prepare(self, stage: Stage, team: Team, jobs: Sequence[Waiting]) -> None:
        """Write jobs that wait for their webhooks."""
        ...

    async def check_webhooks(self, stage: Stage, job_ids: Sequence[UUID]) -> Checked:
        """Look up what was acknowledged."""
        ...

    async def check_submissions(self, stage: Stage, keys: Sequence[str]) -> Checked:
        """Look up what was acknowledged."""
        ...

    async def list_waiting(self, stage: Stage, job_ids: Sequence[UUID]) -> set[UUID]:
        """Those of these jobs that still wait."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """Requests that are ready to be played, and the way to look up those that were acknowledged, by their places."""

    requests: Sequence[bytes]
    check: Callable[[Sequence[int]], Awaitable[Checked]]


class Workload(Protocol):
    """What is sent to a server, written before it is measured."""

    async def prepare(self, stage: Stage, count: int) -> Prepared:
        """Write so many requests."""
        ...


class Webhooks:
    """Webhooks that complete jobs, each a job of its own. What a round leaves of the jobs, the next one takes."""

    def __init__(self, books: Books, team: Team | None = None) -> None:
        self._books = books
        self._team = team
        self._left: list[Waiting] = []

    async def prepare(self, stage: Stage, count: int) -> Prepared:
        """Webhooks for jobs that wait for them."""
        jobs, self._left = self._left[:count], self._left[count:]
        fresh = stage.draw_jobs(count - len(jobs))
        await self._books.prepare(stage, self._team or stage.team, fresh)
        jobs += fresh

        async def check(places: Sequence[int]) -> Checked:
            acknowledged = set(places)
            checked = await self._books.check_webhooks(stage, [jobs[place].id for place in places])
            others = [job for place, job in enumerate(jobs) if place not in acknowledged]
            waiting = await self._books.list_waiting(stage, [job.id for job in others])
            self._left += [job for job in others if job.id in waiting]
            return checked

        return Prepared([webhook_to(stage, job) for job in jobs], check)


class Submissions:
    """Submissions, each under an idempotency key of its own."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._made = 0

    async def prepare(self, stage: Stage, count: int) -> Prepared:
        """Submissions that were never made before."""
        keys = [f"bench-{self._made + number:012d}" for number in range(count)]
        self._made += count

        async def check(places: Sequence[int]) -> Checked:
            return await self._books.check_submissions(stage, [keys[place] for place in places])

        return Prepared([payloads.submit_request(stage.team.key.key, key) for key in keys], check)


def webhook_to(stage: Stage, job: Waiting) -> bytes:
    """The webhook that completes a job."""
    return payloads.webhook_request(stage.secret, UPSTREAM_KEY, job.id, job.upstream_id)
