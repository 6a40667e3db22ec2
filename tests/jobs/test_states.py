"""The judge: however a job's news arrive, doubled, reordered or in part, the same upstream final makes the same job.

What must be equal in the end: status, progress, result, error, error code, credit cost, whose word it was, and the upstream
id. `completed_at` too where the upstream names it; its `failed` webhook does not, and then it is when we first heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import accumulate, pairwise, permutations, product
from typing import Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec.structs import replace

from app.apiframe.wire import Observation
from app.jobs.states import JobState, facts, judge
from app.models.jobs import FINAL, STATUSES, Status

JOB = UUID(int=7)
UPSTREAM_ID = "9d7f1c1e-upstream"
ENDED_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RANK = {"QUEUED": 0, "PROCESSING": 1, "COMPLETED": 2, "FAILED": 2, "CANCELLED": 2}

tell = partial(Observation, job_id=JOB, at=ENDED_AT + timedelta(seconds=3))
told = partial(tell, upstream_id=UPSTREAM_ID)

GAVE_UP = tell(source="framehook", status="FAILED", error="Nobody knows", error_code="submission_unknown")
SUBMITTED = told(source="submit", status="QUEUED")


@dataclass(frozen=True)
class Ending:
    """How a job ends upstream, and what each mouth says of it (APIFRAME.md, job object and webhooks)."""

    status: Status
    result: str | None = None
    error: str | None = None
    cost: int | None = None

    @property
    def job(self) -> JobState:
        """The job that everybody must see in the end, but for the time of its end."""
        return JobState(
            status=self.status,
            progress=100 if self.status == "COMPLETED" else None,
            result=self.result,
            error=self.error,
            error_code="upstream_failed" if self.status == "FAILED" else None,
            credit_cost=self.cost,
            concluded_by="upstream",
            upstream_id=UPSTREAM_ID,
        )

    def told_by(
        self, source: Literal["webhook", "poll"], *, seconds: int = 3, progress: int | None = None
    ) -> Observation:
        """`progress` is how far it was said to be: a job object that failed keeps what it had reached."""
        return told(
            source=source,
            at=ENDED_AT + timedelta(seconds=seconds),
            status=self.status,
            progress=progress,
            result=self.result,
            error=self.error,
            credit_cost=self.cost,
            completed_at=ENDED_AT if self.status == "COMPLETED" or source == "poll" else None,
        )


COMPLETED = Ending("COMPLETED", result='{"images":["https://cdn/1.png"]}', cost=10)
FAILED = Ending("FAILED", error="The prompt was blocked")
CANCELLED = Ending("CANCELLED")


def walk(seen: Iterable[Observation], state: JobState | None = None) -> list[JobState]:
    """Every state on the way, the first included."""
    return list(accumulate(seen, lambda before, one: judge(before, one)[0], initial=state or JobState()))


def timeless(state: JobState) -> JobState:
    return replace(state, completed_at=None)


endings: SearchStrategy[Ending] = st.one_of(
    st.builds(
        Ending,
        status=st.just("COMPLETED"),
        result=st.sampled_from([None, '"https://cdn/1.png"', '{"images":[]}']),
        cost=st.none() | st.integers(0, 500),
    ),
    st.builds(Ending, status=st.just("FAILED"), error=st.none() | st.text(max_size=5)),
    st.just(CANCELLED),
)
percents = st.none() | st.integers(0, 100)
told_by_webhook_or_poll: SearchStrategy[Literal["webhook", "poll"]] = st.sampled_from(["webhook", "poll"])
on_the_way: SearchStrategy[Observation] = st.one_of(
    st.just(SUBMITTED),
    st.builds(
        told, source=told_by_webhook_or_poll, status=st.sampled_from(["QUEUED", "PROCESSING"]), progress=percents
    ),
    st.builds(told, source=told_by_webhook_or_poll, status=st.none(), progress=percents),
)
anything: SearchStrategy[Observation] = st.one_of(
    st.just(GAVE_UP),
    st.builds(
        tell,
        source=st.sampled_from(["submit", "webhook", "poll"]),
        upstream_id=st.sampled_from([None, UPSTREAM_ID, "another"]),
        status=st.none() | st.sampled_from(STATUSES),
        progress=percents,
        result=st.sampled_from([None, "1", "2"]),
        credit_cost=st.none() | st.integers(0, 9),
    ),
)


def finals(ending: Ending) -> SearchStrategy[Observation]:
    return st.builds(ending.told_by, told_by_webhook_or_poll, seconds=st.integers(0, 100), progress=percents)


def repeated(ending: Ending) -> Observation:
    """A repeated submission finds the job over: the answer has its status and nothing else."""
    return told(source="submit", status=ending.status)


@st.composite
def lives(draw: st.DrawFn) -> tuple[Ending, list[Observation], list[Observation]]:
    """An ending; what was seen before it was first told, our own giving up included; and all that was seen from there."""
    ending = draw(endings)
    before = draw(st.lists(on_the_way | st.just(GAVE_UP) | st.just(repeated(ending)), max_size=6))
    first = draw(finals(ending))
    after = draw(st.lists(on_the_way | st.just(GAVE_UP) | st.just(repeated(ending)) | finals(ending), max_size=6))
    return ending, before, [first, *after]


@given(lives())
def test_one_upstream_final_makes_one_job_whatever_else_is_seen(
    life: tuple[Ending, list[Observation], list[Observation]],
) -> None:
    ending, before, onwards = life

    states = walk(before + onwards)

    reached = states[len(before) + 1]
    assert timeless(reached) == ending.job
    assert reached.completed_at == (onwards[0].completed_at or onwards[0].at)
    assert all(state == reached for state in states[len(before) + 1 :])
    assert not any(state.concluded_by == "upstream" for state in states[: len(before) + 1])


@given(endings, st.data())
def test_a_job_ends_exactly_once_where_we_did_not_conclude_ourselves(ending: Ending, data: st.DataObject) -> None:
    seen = data.draw(st.lists(on_the_way | st.just(repeated(ending)) | finals(ending), max_size=8))
    told_final = any(one.status in FINAL and one.source != "submit" for one in seen)

    changes = [(before.final, after.final) for before, after in pairwise(walk(seen))]

    assert changes.count((False, True)) == told_final
    assert changes.count((True, False)) == 0


@pytest.mark.parametrize("ending", [COMPLETED, FAILED, CANCELLED], ids=lambda ending: ending.status)
def test_every_sequence_of_up_to_four_observations_ends_as_its_kind(ending: Ending) -> None:
    kinds = [
        SUBMITTED,
        told(source="webhook", status="PROCESSING", progress=25),
        told(source="poll", status="PROCESSING", progress=75),
        repeated(ending),
        GAVE_UP,
        ending.told_by("webhook", progress=100 if ending is COMPLETED else None),
        ending.told_by("poll", progress=80),
    ]
    finals_told = kinds[-2:]
    for seen in (sequence for length in range(5) for sequence in product(kinds, repeat=length)):
        end = walk(seen)[-1]
        if any(one in seen for one in finals_told):
            assert timeless(end) == ending.job, seen
        elif GAVE_UP in seen:
            assert (end.status, end.concluded_by, end.error_code) == ("FAILED", "framehook", "submission_unknown"), seen
        else:
            heard = [one for one in seen if one.progress is not None]
            assert end.status == ("PROCESSING" if heard else "QUEUED"), seen
            assert end.progress == max((one.progress or 0 for one in heard), default=None), seen
            assert end.upstream_id == (UPSTREAM_ID if seen else None), seen


@given(st.lists(on_the_way, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_before_the_end_any_order_and_repetition_comes_to_the_same_state(
    seen: list[Observation], random: st.DataObject
) -> None:
    ends = {walk((*order, order[0]))[-1] for order in list(permutations(seen))[:120]}

    assert len(ends) == 1


@given(st.lists(anything, max_size=8))
def test_nothing_ever_goes_backwards(seen: list[Observation]) -> None:
    for (before, after), one in zip(pairwise(walk(seen)), seen, strict=True):
        assert RANK[after.status] >= RANK[before.status]
        assert before.upstream_id in (None, after.upstream_id) or one.source == "submit"
        assert after.final or (after.progress or 0) >= (before.progress or 0)
        assert after == before or before.concluded_by != "upstream"
        assert (before.concluded_by, after.concluded_by) != ("framehook", None)
        assert (after.concluded_by is not None) == (after.completed_at is not None) == after.final


@given(st.lists(anything, max_size=4), anything)
def test_the_outcome_says_applied_exactly_where_something_changed(seen: list[Observation], one: Observation) -> None:
    before = walk(seen)[-1]

    after, outcome = judge(before, one)

    assert (outcome == "applied") == (after != before)


@pytest.mark.parametrize("source", ["webhook", "poll"])
@pytest.mark.parametrize(
    ("first", "second"),
    [(COMPLETED, FAILED), (FAILED, COMPLETED), (CANCELLED, COMPLETED), (COMPLETED, CANCELLED)],
    ids=lambda ending: ending.status,
)
def test_a_second_different_upstream_final_changes_nothing(
    first: Ending, second: Ending, source: Literal["webhook", "poll"]
) -> None:
    ended = walk([SUBMITTED, first.told_by("webhook")])[-1]

    assert judge(ended, second.told_by(source)) == (ended, "after the end")


@given(endings, st.lists(on_the_way, max_size=4), st.lists(on_the_way, max_size=4))
def test_our_own_failure_yields_once_to_a_later_upstream_final(
    ending: Ending, before: list[Observation], between: list[Observation]
) -> None:
    states = walk([*before, GAVE_UP, *between, ending.told_by("webhook"), GAVE_UP])

    words = [after.concluded_by for prior, after in pairwise(states) if after.concluded_by != prior.concluded_by]
    assert words == ["framehook", "upstream"]
    assert timeless(states[-1]) == ending.job


@given(st.lists(on_the_way | st.just(repeated(COMPLETED)) | st.just(GAVE_UP), max_size=5))
def test_our_own_failure_never_yields_to_progress_or_to_a_repeated_submission(later: list[Observation]) -> None:
    ended = judge(JobState(), GAVE_UP)[0]

    states = walk(later, ended)

    assert all(replace(state, upstream_id=None) == ended for state in states)


def test_progress_after_our_own_failure_still_teaches_the_upstream_id() -> None:
    ended = judge(JobState(), GAVE_UP)[0]

    after, outcome = judge(ended, told(source="webhook", status="PROCESSING", progress=50))

    assert (after, outcome) == (replace(ended, upstream_id=UPSTREAM_ID), "applied")


@pytest.mark.parametrize("status", sorted(FINAL))
def test_a_repeated_submission_that_is_answered_with_a_final_status_ends_nothing(status: Status) -> None:
    after, outcome = judge(JobState(), told(source="submit", status=status))

    assert (after, outcome) == (JobState(upstream_id=UPSTREAM_ID), "applied")


@given(st.lists(on_the_way, max_size=3), anything)
def test_an_observation_that_names_another_upstream_job_changes_nothing(
    seen: list[Observation], one: Observation
) -> None:
    before = walk([SUBMITTED, *seen])[-1]

    after, outcome = judge(before, replace(one, source="webhook", upstream_id="another"))

    assert (after, outcome) == (before, "other job")


def test_the_answer_to_our_own_submission_corrects_an_upstream_id_that_a_webhook_taught() -> None:
    before = walk([told(source="webhook", status="PROCESSING", progress=40, upstream_id="another")])[-1]

    after, outcome = judge(before, SUBMITTED)

    assert (after, outcome) == (replace(before, upstream_id=UPSTREAM_ID), "applied")
    assert judge(after, COMPLETED.told_by("webhook"))[0].status == "COMPLETED"


@pytest.mark.parametrize("ending", [FAILED, CANCELLED], ids=lambda ending: ending.status)
def test_what_did_not_complete_costs_nothing(ending: Ending) -> None:
    ended = walk([SUBMITTED, replace(ending.told_by("poll"), credit_cost=10)])[-1]

    assert (ended.status, ended.credit_cost) == (ending.status, None)


@given(st.lists(anything, max_size=4), anything, told_by_webhook_or_poll)
def test_a_webhook_or_poll_that_names_no_job_changes_nothing(
    seen: list[Observation], one: Observation, source: Literal["webhook", "poll"]
) -> None:
    before = walk(seen)[-1]

    after, outcome = judge(before, replace(one, source=source, upstream_id=None))

    assert (after, outcome) == (before, "names no job")


def settled(seen: Sequence[Observation]) -> bool:
    return walk(seen)[-1].settled


def test_dispatch_has_nothing_left_to_do_once_the_upstream_has_the_job_or_it_is_over() -> None:
    assert not settled([])
    assert settled([SUBMITTED])
    assert settled([told(source="webhook", status="PROCESSING", progress=1)])
    assert settled([GAVE_UP])


ACCEPTED = JobState(upstream_id="up_1")
RUNNING = JobState(upstream_id="up_1", status="PROCESSING", progress=10)
OVER = JobState(upstream_id="up_1", status="COMPLETED", progress=100, concluded_by="upstream")
GIVEN_UP = JobState(status="FAILED", concluded_by="framehook")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (JobState(), JobState(), []),
        (JobState(), ACCEPTED, ["job.dispatched"]),
        (JobState(), RUNNING, ["job.dispatched", "job.processing", "job.progress"]),
        (ACCEPTED, RUNNING, ["job.processing", "job.progress"]),
        (RUNNING, replace(RUNNING, progress=20), ["job.progress"]),
        (RUNNING, OVER, ["job.completed"]),
        (JobState(), OVER, ["job.dispatched", "job.completed"]),
        (JobState(), GIVEN_UP, ["job.failed"]),
        (GIVEN_UP, replace(GIVEN_UP, upstream_id="up_1"), ["job.dispatched"]),
        (GIVEN_UP, OVER, ["job.dispatched", "job.completed"]),
        (JobState(), JobState(status="CANCELLED", concluded_by="framehook"), ["job.cancelled"]),
        (OVER, OVER, []),
    ],
)
def test_subscribers_are_told_what_became_true_in_the_order_in_which_it_did(
    before: JobState, after: JobState, told: list[str]
) -> None:
    assert facts(before, after) == told
