"""What is stuck and why, in words, each with the page that shows more of it. Pure; the worst comes first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from app.dashboard.words import ago, capped, duration
from app.ops.standing import Standing

NAMED: Final = 4
"""So many of them are named, the others counted."""

DELIVERIES_LATE_SECONDS: Final = 120.0
"""A delivery that is due for longer waits for more than its turn."""

QUEUE_LATE_SECONDS: Final = 600.0
"""A queue is told of where a job has waited for longer."""

UPSTREAM: Final = "/ops/upstream"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A sentence, where to look, and how bad it is: a `fault` holds work up, a `warning` may come to that."""

    text: str
    url: str
    tone: Literal["fault", "warning"] = "warning"


def list_troubles(standing: Standing, now: datetime) -> list[Trouble]:
    """All that an operator should know of before anything else; nothing where all is well."""
    found = [*_of_dispatch(standing, now), *_of_loops(standing), *_of_jobs(standing), *_of_telling(standing)]
    return sorted(found, key=lambda trouble: trouble.tone != "fault")


def _of_dispatch(standing: Standing, now: datetime) -> Iterator[Trouble]:
    if standing.paused_at is not None:
        yield Trouble(
            f"Nothing is sent to Apiframe: an operator paused dispatch {ago(standing.paused_at, now)}.",
            UPSTREAM,
            "fault",
        )
    for key in standing.keys:
        if key.state == "held":
            until = f" for {duration((key.held_until - now).total_seconds())} more" if key.held_until else ""
            yield Trouble(
                f"Nothing is sent under the key {key.fingerprint}{until}: {_said(key.reason)}", UPSTREAM, "fault"
            )
        elif key.state == "probing":
            why = _said(key.reason)
            yield Trouble(f"One job goes first to see whether the key {key.fingerprint} works again: {why}", UPSTREAM)
    if standing.paused_teams:
        yield Trouble(f"Nothing is sent for {_names(standing.paused_teams)}: paused by an operator.", "/ops/teams")
    if standing.cap_lowered_to is not None:
        yield Trouble(
            f"Apiframe refused more than {standing.cap_lowered_to} jobs at once, so no more are sent.", UPSTREAM
        )
    if standing.trouble is not None:
        text, at = standing.trouble
        page = "/ops/receipts" if "signature" in text else UPSTREAM
        yield Trouble(f"{text[:1].upper()}{text[1:]} ({ago(at, now)}).", page)
    if standing.poll_only:
        yield Trouble(
            "Poll-only: PUBLIC_BASE_URL is not reachable for Apiframe, so the ends of jobs are asked for.", UPSTREAM
        )


def _of_loops(standing: Standing) -> Iterator[Trouble]:
    if standing.runs_no_loops:
        yield Trouble("No process runs loops: nothing is sent, asked for or delivered.", "#processes", "fault")
    for loop in standing.late_loops:
        yield Trouble(f"The loop {loop.name} has had no turn for {duration(loop.seconds_ago)}.", "#processes", "fault")
    for name, error in sorted(standing.failing_loops.items()):
        yield Trouble(f"The loop {name} failed in its last turn: {error}", "#processes")


def _of_jobs(standing: Standing) -> Iterator[Trouble]:
    load, keeping = standing.load, standing.keeping
    waited = load.oldest_waiting_seconds or 0.0
    if waited > QUEUE_LATE_SECONDS:
        cap = standing.cap_lowered_to or standing.cap
        why = f", and all {cap} slots at Apiframe are taken" if load.in_flight >= cap else ""
        yield Trouble(
            f"{_count(load.waiting, load.more_waiting, 'job waits', 'jobs wait')} to be sent, the oldest for"
            f" {duration(waited)}{why}.",
            "/ops/jobs?status=QUEUED",
        )
    if load.overdue:
        yield Trouble(
            f"{_count(load.overdue, load.more_overdue, 'job takes', 'jobs take')} longer than 99 in 100 of their model.",
            "/ops/jobs?overdue=true",
        )
    if keeping.late:
        yield Trouble(
            f"{_count(keeping.late, False, 'result file is', 'result files are')} not kept yet, and Apiframe purges soon.",
            "/ops/jobs?status=COMPLETED",
            "fault",
        )


def _of_telling(standing: Standing) -> Iterator[Trouble]:
    telling = standing.telling
    if telling.oldest_due_seconds is not None and telling.oldest_due_seconds > DELIVERIES_LATE_SECONDS:
        yield Trouble(
            f"Deliveries are late: the oldest is due for {duration(telling.oldest_due_seconds)}.",
            "/ops/deliveries?status=pending",
        )
    if telling.undelivered:
        yield Trouble(
            f"{_count(telling.undelivered, telling.more_undelivered, 'delivery was', 'deliveries were')} given up.",
            "/ops/deliveries?status=undelivered",
        )
    if telling.disabled_subscriptions:
        yield Trouble(
            f"{_count(telling.disabled_subscriptions, False, 'subscription is', 'subscriptions are')} disabled:"
            " nothing is delivered to them.",
            "/ops/subscriptions",
        )


def _count(number: int, more: bool, one: str, several: str) -> str:
    return f"{capped(number, more)} {one if number == 1 and not more else several}"


def _names(known: Sequence[str]) -> str:
    shown = list(known) if len(known) <= NAMED else [*known[:NAMED], f"{len(known) - NAMED} more"]
    plural = "the team" if len(known) == 1 else "the teams"
    return f"{plural} {shown[0]}" if len(shown) == 1 else f"{plural} {', '.join(shown[:-1])} and {shown[-1]}"


def _said(reason: str | None) -> str:
    """A reason as a part of a sentence that ends with it."""
    return f"{(reason or 'it failed too often').rstrip('.')}."
