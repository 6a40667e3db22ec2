"""How a job moves: QUEUED, PROCESSING with progress, then its end. One timer a job and no task: thousands are cheap."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from app.simulator import outputs
from app.simulator.config import SimulatorConfig
from app.simulator.faults import roll
from app.simulator.job import Job
from app.simulator.state import State

Ending = Literal["COMPLETED", "FAILED", "CANCELLED"]


def steps(config: SimulatorConfig, serial: int) -> list[tuple[float, int]]:
    """Plan a job's way: seconds to wait, then the progress to reach; 0 starts it, 100 ends it."""
    pace = 1 + config.jitter * (2 * roll(config.seed, "jitter", serial) - 1)
    share = config.generate_seconds / (len(config.progress_steps) + 1)
    marks = [(share, progress) for progress in sorted(config.progress_steps)]
    return [(wait * pace, progress) for wait, progress in [(config.queue_seconds, 0), *marks, (share, 100)]]


def start(state: State, job: Job) -> None:
    """Set a job going, unless jobs are held."""
    if not state.config.hold and _is_alive(state, job):
        reached = -1 if job.progress is None else job.progress
        job.steps = [step for step in steps(state.config, job.serial) if step[1] > reached]
        _schedule(state, job)


async def start_early(state: State, job: Job) -> None:
    """Have a job's news sent and answered before its submission is; return when it is time to answer that."""
    events = state.config.faults.early_events
    if "progress" in events:
        advance(state, job, next(iter(sorted(state.config.progress_steps)), 50))
        await state.sender.settled(job)
    if "completed" in events:
        conclude(state, job)
        await state.sender.settled(job)
    else:
        start(state, job)


def advance(state: State, job: Job, progress: int, *, announce: bool = True) -> None:
    """Move a job to PROCESSING with so much progress."""
    job.status, job.progress = "PROCESSING", progress
    if announce and progress > 0:
        state.sender.announce(job, "progress", state.config)


def conclude(state: State, job: Job) -> None:
    """End a job as its faults say, or well. One that was told to end otherwise meanwhile stays as it is."""
    if not _is_alive(state, job):
        return
    ending: Ending = "CANCELLED" if "cancel" in job.faults else "FAILED" if "fail" in job.faults else "COMPLETED"
    end(state, job, ending)


def end(
    state: State,
    job: Job,
    status: Ending,
    *,
    result: Any = None,
    error: str | None = None,
    credit_cost: int | None = None,
    announce: bool = True,
) -> None:
    """End a job: a completed one costs its credits, any other is refunded. A cancelled one says nothing of it."""
    if job.timer is not None:
        job.timer.cancel()
    job.steps, job.timer = [], None
    job.status, job.completed_at = status, state.now()
    if status == "COMPLETED":
        job.progress = 100
        job.result = outputs.result(job) if result is None else result
        job.credit_cost = job.cost if credit_cost is None else credit_cost
    elif status == "FAILED":
        job.error = error or "The model could not generate this: simulated failure"
    state.accounts.refund(job.account, job.cost - (job.credit_cost or 0), state.config)
    state.running[job.account].discard(job.id)
    if announce and status != "CANCELLED":
        state.sender.announce(job, status.lower(), state.config)


def stop(job: Job) -> None:
    """Leave a job where it is for good."""
    if job.timer is not None:
        job.timer.cancel()
    job.steps, job.timer = [], None


def _is_alive(state: State, job: Job) -> bool:
    """Whether a job may still move: it has not ended, and no reset has forgotten it while its webhook was answered."""
    return not job.final and state.jobs.get(job.id) is job


def _schedule(state: State, job: Job) -> None:
    wait, progress = job.steps.pop(0)
    job.timer = asyncio.get_running_loop().call_later(wait, _move, state, job, progress)


def _move(state: State, job: Job, progress: int) -> None:
    if progress == 100:
        conclude(state, job)
        return
    advance(state, job, progress)
    _schedule(state, job)
