"""Lost and paid twice are counted from the books of both sides: they are zero where these agree, and only there."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from app.dashboard.breaking import Counts
from app.demo.counting import Ours, Theirs, count

FIRST, SECOND = UUID(int=1), UUID(int=2)
OURS = Ours(
    id=FIRST,
    status="COMPLETED",
    upstream_id="a",
    sent=True,
    ended_by="webhook",
    concluded_by="upstream",
    refused=False,
    shows_result=True,
)
THEIRS = Theirs("a", str(FIRST), "COMPLETED")
OPEN = replace(OURS, status="PROCESSING", ended_by=None, concluded_by=None, shows_result=False)


def counted(
    *ours: Ours, theirs: tuple[Theirs, ...] = (THEIRS,), told: tuple[UUID, ...] = (), more: bool = False
) -> Counts:
    return count(ours, theirs, told, more=more)


def test_a_job_that_ended_as_the_upstream_says_is_neither_lost_nor_paid_twice() -> None:
    assert counted(OURS, told=(FIRST,)) == Counts(submitted=1, completed=1, by_webhook=1)


@pytest.mark.parametrize(
    "job",
    [
        replace(OURS, status="FAILED"),
        replace(OURS, upstream_id="nobody's"),
        replace(OURS, upstream_id=None),
        replace(OURS, shows_result=False),
        replace(OURS, concluded_by="framehook"),
    ],
)
def test_a_job_that_ended_in_another_way_is_lost(job: Ours) -> None:
    assert counted(job).lost == 1


def test_a_job_that_was_acknowledged_and_is_not_kept_is_lost() -> None:
    assert counted(OURS, told=(FIRST, SECOND)) == Counts(submitted=2, completed=1, by_webhook=1, lost=1)
    assert counted(replace(OURS, id=SECOND), told=(FIRST,), more=True).lost == 0, "it is too old to be compared"


def test_what_a_caller_cancelled_or_the_upstream_refused_is_not_lost() -> None:
    unsent = replace(OURS, upstream_id=None, sent=False, ended_by="framehook", shows_result=False)
    cancelled, refused = replace(unsent, status="CANCELLED"), replace(unsent, status="FAILED", refused=True)
    assert counted(cancelled, refused, theirs=()) == Counts(submitted=2, failed=2)


def test_a_job_that_is_not_over_is_not_lost_though_the_upstream_is_done() -> None:
    unsent = replace(OPEN, id=SECOND, upstream_id=None, sent=False, status="QUEUED")
    assert counted(OPEN, unsent) == Counts(submitted=2, in_flight=1, over_unheard=1, waiting=1)


def test_what_was_accepted_again_for_the_same_job_is_paid_twice() -> None:
    again = (Theirs("b", str(FIRST), "COMPLETED"), Theirs("c", f"{FIRST}:2", "FAILED"))
    assert counted(OURS, theirs=(THEIRS, *again)).paid_twice == 2
    assert counted(OURS, theirs=(THEIRS, Theirs("b", str(SECOND), "COMPLETED"))).paid_twice == 0, "of an earlier run"


def test_two_jobs_that_share_a_generation_are_counted_too() -> None:
    assert counted(OURS, replace(OURS, id=SECOND)).paid_twice == 1
