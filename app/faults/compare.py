"""Lay the books side by side: what callers were told, what the database holds, what the upstream saw, and what a
subscriber was told. Pure.

*Lost*: a submission that was answered 202, and whose job the database lacks or has under another prompt; or has not
ended, although the upstream ended it or never got it; or has COMPLETED, although the upstream never saw it, or
without its result; or ended otherwise than the upstream says, or at nobody's word but ours.
*Paid twice*: a prompt for which the upstream holds several jobs or we do, or an upstream job that several of ours claim.
*Stuck*: a job that has not ended when the time to drain is over, whether or not somebody was told of it.
*Not applied*: a webhook with a good signature that was answered 2xx, and of whose bytes no applied receipt is kept for
that job. A further copy of applied bytes needs no receipt of its own.
*Billed wrongly*: a job that has ended and still has credits reserved, or was charged otherwise than the upstream did; or a
team's balance that is not the sum of its entries in the ledger.
*Not told*: an event that the subscriber never acknowledged, or a job that has ended without an event that says so.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

ENDED: Final = ("COMPLETED", "FAILED", "CANCELLED")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptJob:
    """A job as the database has it."""

    id: UUID
    prompt: str
    status: str
    upstream_id: str | None
    result: str  # as JSON text, in which the simulator's addresses name the upstream job; empty where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamJob:
    """A job as the upstream's books have it."""

    id: str
    prompt: str
    status: str
    credit_cost: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """The sums of a job's entries in the ledger."""

    job_id: UUID
    reserved: int
    spent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A webhook that was answered 2xx: for which of our jobs, and the digest of its bytes."""

    job_id: UUID
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptEvent:
    """An event as the log has it."""

    id: str
    type: str
    job_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What is compared. `submitted` are all prompts, `acknowledged` leads from those answered 202 to the job's id.

    `told` are the ids of the events that the subscriber has acknowledged. `unbalanced` are the teams whose balance is not
    the sum of their entries.
    """

    submitted: Collection[str]
    acknowledged: Mapping[str, str]
    kept: Sequence[KeptJob]
    upstream: Sequence[UpstreamJob]
    webhooks: Sequence[Webhook]
    applied: Collection[tuple[UUID, bytes]]
    events: Sequence[KeptEvent]
    told: Collection[str]
    bills: Sequence[Bill]
    unbalanced: Sequence[str]


@dataclass(slots=True)
class Findings:
    """What does not agree, each with a line that says why."""

    unacknowledged: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    paid_twice: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    not_applied: list[str] = field(default_factory=list)
    not_told: list[str] = field(default_factory=list)
    billed_wrongly: list[str] = field(default_factory=list)


def compare(books: Books) -> Findings:
    """Find every disagreement."""
    return Findings(
        unacknowledged=[f"{prompt!r} was never answered 202" for prompt in books.submitted if _is_open(books, prompt)],
        lost=_lost(books),
        paid_twice=_paid_twice(books),
        stuck=[f"job {job.id} is {job.status}" for job in books.kept if job.status not in ENDED],
        not_applied=_not_applied(books),
        not_told=_not_told(books),
        billed_wrongly=_billed_wrongly(books),
    )


def confirmed(books: Books) -> dict[str, int]:
    """How many of our jobs ended in each final status, as far as the upstream says the same."""
    theirs = {job.id: job.status for job in books.upstream}
    return Counter(
        job.status for job in books.kept if job.status in ENDED and theirs.get(job.upstream_id or "") == job.status
    )


def _is_open(books: Books, prompt: str) -> bool:
    return prompt not in books.acknowledged


def _lost(books: Books) -> list[str]:
    kept = {str(job.id): job for job in books.kept}
    by_id = {job.id: job for job in books.upstream}
    by_prompt = {job.prompt: job for job in books.upstream}
    found = []
    for prompt, job_id in books.acknowledged.items():
        job = kept.get(job_id)
        why = "it is not in the database" if job is None else _why_lost(job, prompt, by_id, by_prompt)
        if why:
            found.append(f"job {job_id}, {prompt!r}: {why}")
    return found


def _why_lost(
    job: KeptJob, prompt: str, by_id: Mapping[str, UpstreamJob], by_prompt: Mapping[str, UpstreamJob]
) -> str | None:
    """Why a job that was promised to a caller is lost to it, None where it is not."""
    if job.prompt != prompt:
        return f"the database has it as {job.prompt!r}"
    if job.status not in ENDED:
        theirs = by_prompt.get(prompt)
        if theirs is None:
            return f"it is {job.status}, and the upstream never got it"
        return f"it is {job.status}, and {theirs.status} upstream" if theirs.status in ENDED else None
    if job.upstream_id is None:
        return f"it is {job.status} without the upstream's word"
    bound = by_id.get(job.upstream_id)
    if bound is None or bound.prompt != prompt:
        return f"it is {job.status}, and the upstream has no such job"
    if bound.status != job.status:
        return f"it is {job.status}, and {bound.status} upstream"
    return "its result is not the upstream's" if job.status == "COMPLETED" and bound.id not in job.result else None


def _paid_twice(books: Books) -> list[str]:
    paid = _grouped((job.prompt, job.id) for job in books.upstream)
    made = _grouped((job.prompt, str(job.id)) for job in books.kept)
    bound = _grouped((job.upstream_id, str(job.id)) for job in books.kept if job.upstream_id is not None)
    prompts = sorted({prompt for prompt, ids in [*paid.items(), *made.items()] if len(ids) > 1})
    return [
        *(f"{prompt!r}: upstream jobs {paid[prompt]}, jobs {made[prompt]}" for prompt in prompts),
        *(f"upstream job {upstream_id}: jobs {ids}" for upstream_id, ids in bound.items() if len(ids) > 1),
    ]


def _grouped(pairs: Iterable[tuple[str, str]]) -> defaultdict[str, list[str]]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in pairs:
        groups[name].append(value)
    return groups


def _not_applied(books: Books) -> list[str]:
    applied = set(books.applied)
    missing = {(webhook.job_id, webhook.digest) for webhook in books.webhooks} - applied
    return [f"job {job_id}: bytes of digest {digest.hex()}" for job_id, digest in sorted(missing)]


def _not_told(books: Books) -> list[str]:
    told = set(books.told)
    endings = {(event.job_id, event.type) for event in books.events}
    silent = [job for job in books.kept if job.status in ENDED and (job.id, f"job.{job.status.lower()}") not in endings]
    return [
        *(f"event {event.id}, {event.type} of job {event.job_id}" for event in books.events if event.id not in told),
        *(f"job {job.id} is {job.status}, and no event says so" for job in silent),
    ]


def _billed_wrongly(books: Books) -> list[str]:
    bills = {bill.job_id: bill for bill in books.bills}
    costs = {job.id: job.credit_cost or 0 for job in books.upstream}
    found = []
    for job in books.kept:
        bill = bills.get(job.id, Bill(job_id=job.id, reserved=0, spent=0))
        cost = costs.get(job.upstream_id or "", 0) if job.status == "COMPLETED" else 0
        if job.status in ENDED and (bill.reserved, bill.spent) != (0, cost):
            words = f"{bill.reserved} credits are reserved for it and {bill.spent} spent on it, not {cost}"
            found.append(f"job {job.id} is {job.status}: {words}")
    return found + [f"the balance of team {team} is not the sum of its entries" for team in books.unbalanced]
