"""Say in words what is going on with a job: what it waits for and until when, or how it ended. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from app.db import AnyRow
from app.jobs.schedule import expected_of
from app.ops.status import KeyHealth

Tone = Literal["good", "bad", "warn", "busy", "idle"]
Part = str | datetime | timedelta


@dataclass(frozen=True, slots=True)
class Situation:
    """A few sentences, in parts: words, times and durations, each to be written as its reader likes. And how it looks."""

    tone: Tone
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What holds jobs of an account back, besides themselves. `key` is the one that new jobs are sent with."""

    now: datetime
    paused_at: datetime | None
    cap: int
    key: KeyHealth
    last_said: str | None = None  # why the last attempt to send the job came to nothing


_CONCLUSIONS: Final = frozenset({"dispatch_window_passed", "submission_unknown", "upstream_lost", "deadline_passed"})
"""The codes of ends that are ours; any other that we wrote down is a refusal by the upstream."""

_MOUTHS: Final = {
    "webhook": "A webhook told us.",
    "poll": "We asked: no webhook had told us.",
    "submit": "The answer to the submission told us.",
}


def tell(job: AnyRow, around: Surroundings) -> Situation:
    """The situation of a job with these details (`jobs.queries.closely`)."""
    if job.completed_at is not None:
        return _ended(job)
    if job.upstream_id is not None:
        return _running(job, around.now)
    if job.ambiguous_since is not None:
        return _unanswered(job, around)
    return _waiting(job, around)


def _waiting(job: AnyRow, around: Surroundings) -> Situation:
    begun: tuple[Part, ...] = ("Waiting to be sent since ", job.created_at)
    hindrance = _hindrance(job, around)
    if hindrance is not None:
        return Situation("warn", (*begun, ": ", *hindrance, "."))
    if job.refusable:
        return Situation("busy", (*begun, ": its caller waits while it is sent."))
    if job.dispatch_count and job.dispatch_at > around.now:
        why = f" ({around.last_said})" if around.last_said else ""
        tried = f": attempt {job.dispatch_count} came to nothing{why}. It is sent again "
        return Situation("warn", (*begun, tried, job.dispatch_at, "."))
    if job.in_flight >= around.cap:
        return Situation("busy", (*begun, f": all {around.cap} slots are taken. It is sent when its turn comes."))
    if job.in_flight_limit is not None and job.team_in_flight >= job.in_flight_limit:
        limit = f": {job.team} has {job.team_in_flight} jobs under way, as many as it may at once."
        return Situation("busy", (*begun, limit))
    return Situation("busy", (*begun, ": its turn is next."))


def _hindrance(job: AnyRow, around: Surroundings) -> Sequence[Part] | None:
    """What holds all jobs back, or all of its team."""
    if around.paused_at is not None:
        return ("somebody paused dispatch for all teams ", around.paused_at)
    if job.team_paused_at is not None:
        return (f"somebody paused dispatch for the team {job.team} ", job.team_paused_at)
    reason = f" ({around.key.reason})" if around.key.reason else ""
    if around.key.held_until is not None:
        return (f"dispatch is held{reason}, and goes on ", around.key.held_until)
    if around.key.state == "probing":
        return (f"dispatch was held{reason}, and one job goes ahead to see whether it works again",)
    return None


def _unanswered(job: AnyRow, around: Surroundings) -> Situation:
    if job.is_leased and job.dispatch_at is not None and job.dispatch_at > around.now:
        return Situation("busy", ("Being sent since ", job.ambiguous_since, "."))
    why = f" ({around.last_said})" if around.last_said else ""
    said = (f", and not confirmed by the upstream{why}. It is paid once at most",)
    hindrance = _hindrance(job, around)
    if hindrance is not None:
        return Situation("warn", ("Sent ", job.ambiguous_since, *said, ": ", *hindrance, "."))
    again: tuple[Part, ...] = (": the same submission is repeated ", job.dispatch_at) if job.dispatch_at else ()
    return Situation("warn", ("Sent ", job.ambiguous_since, *said, *again, "."))


def _running(job: AnyRow, now: datetime) -> Situation:
    usual = timedelta(seconds=job.p50_seconds or expected_of(job.operation).p50)
    slow = timedelta(seconds=job.p99_seconds or expected_of(job.operation).p99)
    asked = _question(job.poll_at, now)
    since: tuple[Part, ...] = ("accepted upstream ", job.accepted_at) if job.accepted_at else ("accepted upstream",)
    if job.overdue_at is not None and job.overdue_at <= now:
        late: tuple[Part, ...] = ("Overdue: ", *since, ", while 99 in 100 of its model are over within ", slow, ".")
        return Situation("warn", (*late, *asked))
    if job.status == "PROCESSING":
        share = f", {job.progress} % done" if job.progress is not None else ""
        return Situation("busy", ("Running: ", *since, share, ". Half of its model take ", usual, ".", *asked))
    return Situation("busy", ("Waiting at the upstream: ", *since, ".", *asked))


def _question(poll_at: datetime | None, now: datetime) -> tuple[Part, ...]:
    """When the upstream is asked after a job of which nothing is heard."""
    if poll_at is None:
        return ()
    return (" If no webhook comes, we ask ", poll_at, ".") if poll_at > now else (" We are about to ask.",)


def _ended(job: AnyRow) -> Situation:
    mouth = f" {_MOUTHS[job.ended_by]}" if job.ended_by in _MOUTHS else ""
    took = job.completed_at - job.created_at
    if job.status == "COMPLETED":
        return Situation("good", ("Completed ", job.completed_at, ", ", took, f" after its submission.{mouth}"))
    error = job.error or job.error_code or "no reason was given"
    if job.status == "CANCELLED":
        how = "Cancelled before it was sent " if job.concluded_by == "framehook" else "Cancelled upstream "
        return Situation("idle", (how, job.completed_at, f".{mouth}"))
    if job.is_refused:
        return Situation("bad", ("Refused before acceptance ", job.completed_at, f": {error}"))
    if job.concluded_by == "framehook":
        how = "Given up " if job.error_code in _CONCLUSIONS else "Refused upstream "
        return Situation("bad", (how, job.completed_at, f": {error}"))
    return Situation("bad", ("Failed upstream ", job.completed_at, ", ", took, f" after its submission: {error}"))
