"""What the simulated vendor knows at a moment: its config, time, accounts, jobs and books."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from app.simulator.accounts import Accounts
from app.simulator.books import Books
from app.simulator.config import SimulatorConfig
from app.simulator.faults import strikes
from app.simulator.job import Job
from app.simulator.webhooks import Sender


class Release(asyncio.Event):
    """Set when hanging answers are to be let go: cut, or told after all where `answer` is true."""

    answer = False


class State:
    """Owned by one event loop. `released` is what hanging answers wait for."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.begin()

    def begin(self) -> None:
        """Forget everything but the config."""
        self.offset = timedelta()
        self.accounts = Accounts()
        self.books = Books(self.config.books_kept)
        self.sender = Sender(self.books)
        self.released = Release()
        self.jobs: dict[str, Job] = {}
        self.running: defaultdict[str, set[str]] = defaultdict(set)
        self._order: list[tuple[str, str]] = []

    def now(self) -> datetime:
        """Tell the virtual time: the machine's, moved by as much as `/sim/advance` was told."""
        return datetime.now(UTC) + self.offset

    def strikes(self, fault: str, *names: object) -> bool:
        """Whether a fault of the plan strikes the thing of these names; count it if so."""
        struck = strikes(self.config.faults, self.config.seed, fault, *names)
        if struck:
            self.books.faults[fault] += 1
        return struck

    def insert(self, job: Job) -> None:
        """Keep a new job, which counts as running from now on."""
        self.jobs[job.id] = job
        insort(self._order, job.order)
        self.running[job.account].add(job.id)
        self.books.counts["accepted"] += 1
        self.books.count_running(self.running_count())

    def running_count(self) -> int:
        """How many jobs have not ended, over all accounts."""
        return sum(len(jobs) for jobs in self.running.values())

    def newest_first(self, before: tuple[str, str] | None = None) -> Iterator[Job]:
        """Walk the jobs by (createdAt, id) downward, from below a place or from the top."""
        place = len(self._order) if before is None else bisect_left(self._order, before)
        return (self.jobs[self._order[index][1]] for index in range(place - 1, -1, -1))

    def expired(self, job: Job) -> bool:
        """Whether a job's files have been purged."""
        return job.expired(self.now(), self.config.file_ttl_seconds)
