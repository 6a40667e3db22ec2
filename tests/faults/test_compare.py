"""The comparison can fail: each way in which the books may disagree is doctored into good ones, and is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

import pytest

from app.faults.compare import Bill, Books, Findings, KeptEvent, KeptJob, UpstreamJob, Webhook, compare, confirmed
from app.faults.plan import Plan
from app.faults.report import Report

PROMPTS = ("a tram", "a heron", "an orchard")
STATUSES = ("COMPLETED", "FAILED", "CANCELLED")


def our_id(number: int) -> UUID:
    return UUID(int=number + 1)


def kept(number: int, **changes: Any) -> KeptJob:
    made = KeptJob(
        id=our_id(number),
        prompt=PROMPTS[number],
        status=STATUSES[number],
        upstream_id=f"upstream {number}",
        result='{"images": ["/files/upstream 0/0.png"]}' if number == 0 else "",
    )
    return replace(made, **changes)


def upstream(number: int, **changes: Any) -> UpstreamJob:
    made = UpstreamJob(
        id=f"upstream {number}",
        prompt=PROMPTS[number],
        status=STATUSES[number],
        credit_cost=10 if number == 0 else None,
    )
    return replace(made, **changes)


def webhook(number: int, digest: bytes = b"bytes") -> Webhook:
    return Webhook(job_id=our_id(number), digest=digest)


def ending(job: KeptJob) -> KeptEvent:
    """The event that says how a job ended."""
    return KeptEvent(id=f"end of {job.id}", type=f"job.{job.status.lower()}", job_id=job.id)


def good() -> Books:
    """Three jobs, one for each final status; the first one's webhook was acknowledged, and a copy of it too."""
    return told_of(
        Books(
            submitted=PROMPTS,
            acknowledged={prompt: str(our_id(number)) for number, prompt in enumerate(PROMPTS)},
            kept=[kept(number) for number in range(3)],
            upstream=[upstream(number) for number in range(3)],
            webhooks=[webhook(0), webhook(0)],
            applied={(our_id(0), b"bytes")},
            events=[],
            told=(),
            bills=(),
            unbalanced=(),
        )
    )


def told_of(books: Books) -> Books:
    """The same books, and every end in them is an event that the subscriber was told, and billed as upstream."""
    events = [ending(job) for job in books.kept if job.status in STATUSES]
    costs = {job.id: job.credit_cost or 0 for job in books.upstream}
    completed = [job for job in books.kept if job.status == "COMPLETED"]
    bills = [Bill(job_id=job.id, reserved=0, spent=costs.get(job.upstream_id or "", 0)) for job in completed]
    return replace(books, events=events, told={event.id for event in events}, bills=bills)


def doctored(**changes: Any) -> Books:
    return told_of(replace(good(), **changes))


def with_first(job: KeptJob | None = None, theirs: UpstreamJob | None = None) -> Books:
    """The good books with another first job, here or upstream."""
    books = good()
    return doctored(
        kept=[job or books.kept[0], *books.kept[1:]], upstream=[theirs or books.upstream[0], *books.upstream[1:]]
    )


def counts(books: Books) -> dict[str, int]:
    """How many findings there are of each kind that has some."""
    return {name: len(lines) for name, lines in asdict(compare(books)).items() if lines}


def test_books_that_agree_have_no_findings() -> None:
    assert counts(good()) == {}
    assert confirmed(good()) == {"COMPLETED": 1, "FAILED": 1, "CANCELLED": 1}


LOST: dict[str, Books] = {
    "it is not in the database": doctored(kept=good().kept[1:]),
    "the database has it as 'a mountain hut'": with_first(kept(0, prompt="a mountain hut")),
    "it is COMPLETED, and the upstream has no such job": doctored(upstream=good().upstream[1:]),
    "it is COMPLETED, and FAILED upstream": with_first(theirs=upstream(0, status="FAILED")),
    "it is FAILED, and COMPLETED upstream": with_first(kept(0, status="FAILED")),
    "it is COMPLETED, and PROCESSING upstream": with_first(theirs=upstream(0, status="PROCESSING")),
    "it is FAILED without the upstream's word": with_first(kept(0, status="FAILED", upstream_id=None)),
    "its result is not the upstream's": with_first(kept(0, result='{"images": ["/files/upstream 7/0.png"]}')),
    "it is COMPLETED without the upstream's word": with_first(kept(0, upstream_id=None)),
}


@pytest.mark.parametrize("why", LOST)
def test_a_job_that_was_promised_and_is_not_as_the_upstream_has_it_is_lost(why: str) -> None:
    assert counts(LOST[why]) == {"lost": 1}
    assert compare(LOST[why]).lost == [f"job {our_id(0)}, 'a tram': {why}"]


def test_a_job_that_claims_another_jobs_end_is_lost_and_one_end_is_claimed_twice() -> None:
    books = with_first(kept(0, upstream_id="upstream 1", status="FAILED"))
    assert counts(books) == {"lost": 1, "paid_twice": 1}
    assert compare(books).lost[0].endswith("it is FAILED, and the upstream has no such job")


def test_a_job_that_has_not_ended_is_stuck_and_lost_too_if_the_upstream_ended_it() -> None:
    books = with_first(kept(0, status="PROCESSING"))
    assert counts(books) == {"stuck": 1, "lost": 1}
    assert compare(books).lost[0].endswith("it is PROCESSING, and COMPLETED upstream")


def test_a_job_that_the_upstream_never_got_is_stuck_and_lost() -> None:
    books = doctored(kept=[kept(0, status="QUEUED", upstream_id=None), *good().kept[1:]], upstream=good().upstream[1:])
    assert counts(books) == {"stuck": 1, "lost": 1}
    assert compare(books).lost[0].endswith("it is QUEUED, and the upstream never got it")


def test_a_job_that_runs_on_upstream_is_stuck_and_not_lost() -> None:
    books = with_first(kept(0, status="PROCESSING"), upstream(0, status="PROCESSING"))
    assert counts(books) == {"stuck": 1}
    assert confirmed(books) == {"FAILED": 1, "CANCELLED": 1}


def test_a_job_of_which_nobody_was_told_is_stuck_all_the_same() -> None:
    left = KeptJob(id=our_id(7), prompt="a market", status="QUEUED", upstream_id=None, result="")
    assert counts(doctored(kept=[*good().kept, left])) == {"stuck": 1}


def test_two_upstream_jobs_for_one_prompt_are_paid_twice() -> None:
    books = doctored(upstream=[*good().upstream, upstream(0, id="upstream 9")])
    assert compare(books).paid_twice == [f"'a tram': upstream jobs ['upstream 0', 'upstream 9'], jobs ['{our_id(0)}']"]
    assert counts(books) == {"paid_twice": 1}


def test_two_jobs_of_ours_for_one_prompt_are_paid_twice() -> None:
    books = doctored(
        kept=[*good().kept, kept(0, id=our_id(9), upstream_id="upstream 9")],
        upstream=[*good().upstream, upstream(0, id="upstream 9")],
    )
    assert counts(books) == {"paid_twice": 1}


def test_an_upstream_job_that_two_of_ours_claim_is_found() -> None:
    books = doctored(kept=[*good().kept, kept(0, id=our_id(9), prompt="a market")])
    assert compare(books).paid_twice == [f"upstream job upstream 0: jobs ['{our_id(0)}', '{our_id(9)}']"]


def test_a_submission_that_was_never_answered_is_found() -> None:
    acknowledged = {prompt: job_id for prompt, job_id in good().acknowledged.items() if prompt != "a tram"}
    assert counts(doctored(acknowledged=acknowledged)) == {"unacknowledged": 1}


@pytest.mark.parametrize(
    "applied",
    [set(), {(our_id(1), b"bytes")}, {(our_id(0), b"other bytes")}],
    ids=["no receipt", "another job's", "of other bytes"],
)
def test_an_acknowledged_webhook_without_its_receipt_is_found_once(applied: set[tuple[UUID, bytes]]) -> None:
    assert counts(doctored(applied=applied)) == {"not_applied": 1}


def test_an_event_that_the_subscriber_never_acknowledged_is_found() -> None:
    books = replace(good(), told=[event.id for event in good().events[1:]])
    assert counts(books) == {"not_told": 1}
    assert compare(books).not_told == [f"event end of {our_id(0)}, job.completed of job {our_id(0)}"]


def test_an_end_that_no_event_tells_of_is_found() -> None:
    books = replace(good(), events=good().events[1:])
    assert compare(books).not_told == [f"job {our_id(0)} is COMPLETED, and no event says so"]
    assert counts(replace(good(), events=[])) == {"not_told": 3}


@pytest.mark.parametrize(
    ("bill", "words"),
    [
        (Bill(job_id=our_id(0), reserved=0, spent=20), "0 credits are reserved for it and 20 spent on it, not 10"),
        (Bill(job_id=our_id(0), reserved=0, spent=0), "0 credits are reserved for it and 0 spent on it, not 10"),
        (Bill(job_id=our_id(0), reserved=10, spent=10), "10 credits are reserved for it and 10 spent on it, not 10"),
    ],
)
def test_a_job_that_was_charged_otherwise_than_upstream_is_found(bill: Bill, words: str) -> None:
    books = replace(good(), bills=[bill])
    assert compare(books).billed_wrongly == [f"job {our_id(0)} is COMPLETED: {words}"]
    assert counts(books) == {"billed_wrongly": 1}


def test_a_charge_for_what_failed_a_missing_one_and_a_wrong_balance_are_found() -> None:
    charged = [*good().bills, Bill(job_id=our_id(2), reserved=0, spent=10)]
    assert counts(replace(good(), bills=charged)) == {"billed_wrongly": 1}
    assert counts(replace(good(), bills=[])) == {"billed_wrongly": 1}
    assert counts(replace(good(), unbalanced=["design"])) == {"billed_wrongly": 1}


def report(findings: Findings, **changes: Any) -> Report:
    plain: dict[str, Any] = {
        "plan": Plan(jobs=3, kills=2),
        "seconds": 1.0,
        "acknowledged": 3,
        "ended": {"COMPLETED": 3},
        "webhooks_acknowledged": 1,
        "events": 1,
        "deliveries": 1,
        "repeats": 0,
        "replays": 0,
        "unexpected_answers": {},
        "kills": {"service": 1, "worker": 1},
        "ended_by_themselves": 0,
        "findings": findings,
    }
    return Report(**plain | changes)


WRONG: dict[str, Callable[[], Report]] = {
    "never acknowledged": lambda: report(Findings(unacknowledged=["x"])),
    "lost": lambda: report(Findings(lost=["x"])),
    "paid twice": lambda: report(Findings(paid_twice=["x"])),
    "stuck": lambda: report(Findings(stuck=["x"])),
    "webhooks acknowledged and not applied": lambda: report(Findings(not_applied=["x"])),
    "events that the subscriber was not told": lambda: report(Findings(not_told=["x"])),
    "jobs billed wrongly": lambda: report(Findings(billed_wrongly=["x"])),
    "answers that are neither 202 nor 503": lambda: report(Findings(), unexpected_answers={500: 1}),
    "kills that were not made": lambda: report(Findings(), kills={"service": 1}),
}


@pytest.mark.parametrize("name", WRONG)
def test_any_number_that_is_not_zero_makes_the_report_wrong(name: str) -> None:
    made = WRONG[name]()
    assert {zero: number for zero, number in made.zeros.items() if number} == {name: 1}
    assert made.wrong
    assert made.as_json()["wrong"] is True


def test_a_report_without_findings_is_right_and_no_number_goes_unchecked() -> None:
    assert not report(Findings()).wrong
    assert set(report(Findings()).zeros) == set(WRONG)
