"""The simulated vendor: accepts submissions once per idempotency key, lists jobs, and is steered by `/sim`.

`accept` never awaits, so that of two submissions with one key the second finds the first's job.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from app.simulator import bodies, lifecycle
from app.simulator.accounts import Caller
from app.simulator.assets import Asset
from app.simulator.catalog import ACTION_MODELS
from app.simulator.config import SimulatorConfig, amended
from app.simulator.faults import ON_SUBMISSION, Attempt, FaultPlan, scripted
from app.simulator.job import Job
from app.simulator.loras import Lora
from app.simulator.parents import check_parent
from app.simulator.replies import Refusal, insufficient, invalid, refusal, too_many, upstream_error
from app.simulator.state import Release, State
from app.simulator.uploads import Upload
from app.simulator.webhooks import Sender

LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class Submission:
    """A job-creating request as it came. `base_url` is the address it was sent to."""

    caller: Caller
    operation: str
    raw: bytes
    idempotency_key: str | None
    base_url: str


@dataclass(frozen=True, slots=True)
class _Record:
    """What an idempotency key stands for."""

    job: Job
    operation: str
    raw: bytes
    recorded_at: datetime


class World(State):
    """The simulated vendor's whole state and what can be done to it."""

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self._initial = config or SimulatorConfig()
        super().__init__(self._initial)

    def begin(self) -> None:
        """Forget everything but the config."""
        super().begin()
        self.uploads: dict[str, Upload] = {}
        self.assets: dict[str, Asset] = {}
        self.loras: dict[str, Lora] = {}
        self.script: deque[frozenset[str]] = deque(scripted(entry) for entry in self.config.faults.next)
        self._records: dict[tuple[str, str], _Record] = {}

    def next_attempt(self) -> Attempt:
        """Number a submission and say which faults strike it: the script's next entry, else the dice."""
        self.books.counts["submissions"] += 1
        serial = self.books.counts["submissions"]
        if self.script:
            faults = self.script.popleft()
            self.books.faults.update(faults)
        else:
            faults = frozenset(fault for fault in ON_SUBMISSION if self.strikes(fault, serial))
        return Attempt(serial, faults)

    def accept(self, attempt: Attempt, submission: Submission) -> tuple[Job, bool]:
        """Make a job, or find the one that the idempotency key stands for; tell whether it is new. Raises Refusal."""
        key = submission.idempotency_key
        if key is not None and len(key) > LONGEST_KEY:
            raise invalid({"Idempotency-Key": [f"String must contain at most {LONGEST_KEY} character(s)"]})
        earlier = self._earlier(submission)
        if earlier is not None:
            earlier.replay_count += 1
            self.books.counts["replays"] += 1
            return earlier, False
        job = self._new_job(attempt, submission)
        self.accounts.charge(job.account, job.cost, self.config)
        self.insert(job)
        if key is not None:
            record = _Record(job, submission.operation, submission.raw, self.now())
            self._records[submission.caller.account, key] = record
        return job, True

    def refuse(self, fault: str, serial: int) -> Refusal:
        """Make the answer of a fault that refuses a request."""
        faults = self.config.faults
        answers: dict[str, Callable[[], Refusal]] = {
            "unauthorized": lambda: refusal(401, "Missing or invalid API key"),
            "forbidden": lambda: refusal(403, "API key lacks permission"),
            "rate_limited": lambda: too_many("Rate limit exceeded", faults.retry_after_seconds),
            "no_credits": lambda: insufficient(self.config.cost, 0),
            "cap_reached": self._cap_reached,
            "down": lambda: upstream_error(503),
            "server_error": lambda: upstream_error(self.error_status(serial)),
        }
        return answers[fault]()

    def refuse_struck(self, *faults: str) -> None:
        """Refuse the present call where one of these faults strikes it; those of reading are called `read_…`."""
        call = self.books.counts["calls"]
        for fault in faults:
            if self.strikes(fault, call):
                raise self.refuse(fault.removeprefix("read_"), call)

    def error_status(self, serial: int) -> int:
        """Pick one of the plan's error statuses for a request, by turns."""
        statuses = self.config.faults.server_error_statuses or (503,)
        return statuses[serial % len(statuses)]

    async def hang(self, seconds: float | None) -> bool:
        """Hold an answer back; tell whether it is to be told, or cut because all were let go before its time."""
        books, released = self.books, self.released
        books.counts["hanging_now"] += 1
        try:
            async with asyncio.timeout(seconds):
                await released.wait()
        except TimeoutError:
            return True
        finally:
            books.counts["hanging_now"] -= 1
        return released.answer

    def find(self, name: str) -> Job | None:
        """Find a job by its id, or the newest one by its idempotency key."""
        return self.jobs.get(name) or next((job for job in self.newest_first() if job.idempotency_key == name), None)

    def reconfigure(self, changes: Mapping[str, Any]) -> None:
        """Change some of the config; raise ValueError for what does not fit. New `credits` are every account's balance."""
        self.config = amended(self.config, changes)
        if "credits" in changes:
            self.accounts.fill()
        if "faults" in changes:
            self.script = deque(scripted(entry) for entry in self.config.faults.next)

    def set_faults(self, changes: Mapping[str, Any], *, afresh: bool = False) -> None:
        """Change some of the fault plan, or all of it where `afresh`; `next` replaces what is left of the script."""
        before = FaultPlan() if afresh else self.config.faults
        self.config = replace(self.config, faults=amended(before, changes))
        if afresh or "next" in changes:
            self.script = deque(scripted(entry) for entry in self.config.faults.next)

    def advance_clock(self, seconds: float) -> None:
        """Move the virtual time on. Files, uploads, idempotency keys and rate windows age; jobs run on real time."""
        self.offset += timedelta(seconds=seconds)

    async def reset(self) -> None:
        """Start anew, with the config of the start: jobs and books are forgotten, hanging answers are cut."""
        self.config = self._initial
        sender = self._halt()
        self.begin()
        await sender.close()

    async def close(self) -> None:
        """Stop all jobs and webhooks."""
        sender = self._halt()
        await sender.close()

    def release(self, *, answer: bool = False) -> None:
        """Let go of every hanging answer: it is cut, or told."""
        self.released.answer = answer
        self.released.set()
        self.released = Release()

    def _halt(self) -> Sender:
        for running in self.running.values():
            for job_id in running:
                lifecycle.stop(self.jobs[job_id])
        self.release()
        return self.sender

    def _earlier(self, submission: Submission) -> Job | None:
        """Find the job of the idempotency key; raise 409 where the key was used for something else."""
        if submission.idempotency_key is None:
            return None
        record = self._records.get((submission.caller.account, submission.idempotency_key))
        lifetime = timedelta(seconds=self.config.idempotency_ttl_seconds)
        if record is None or self.now() >= record.recorded_at + lifetime:
            return None
        if record.operation != submission.operation or not self._same(record.raw, submission.raw):
            raise refusal(409, "Idempotency-Key was already used with a different request body")
        return record.job

    def _same(self, first: bytes, second: bytes) -> bool:
        if first == second or self.config.idempotency_compares == "bytes":
            return first == second
        try:
            return bool(msgspec.json.decode(first) == msgspec.json.decode(second))
        except msgspec.DecodeError:
            return False

    def _new_job(self, attempt: Attempt, submission: Submission) -> Job:
        body = bodies.read(submission.raw, submission.operation, self.config)
        account, model = submission.caller.account, ACTION_MODELS.get(submission.operation) or str(body["model"])
        if submission.operation in ACTION_MODELS:
            parent = self.jobs.get(body["parentJobId"].lower())
            mine = parent if parent is not None and parent.account == account else None
            check_parent(submission.operation, body, mine)
        if self.config.enforce_cap and len(self.running[account]) >= self.config.max_concurrent_jobs:
            raise self._cap_reached()
        webhook_url = bodies.webhook_url(body)
        return Job(
            id=str(uuid.uuid4()),
            serial=attempt.serial,
            account=account,
            api_key=submission.caller.key,
            operation=submission.operation,
            model=model,
            body=body,
            raw=submission.raw,
            idempotency_key=submission.idempotency_key,
            webhook_url=webhook_url,
            webhook_status="pending" if webhook_url else None,
            base_url=self.config.public_base_url or submission.base_url,
            cost=self.config.costs.get(model, self.config.cost),
            faults=attempt.faults,
            created_at=self.now(),
        )

    def _cap_reached(self) -> Refusal:
        return too_many("Maximum number of concurrent jobs reached", self.config.faults.retry_after_seconds)
