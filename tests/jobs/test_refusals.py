"""What a refusal means for a job: DESIGN's walk of a submission and rules 1 and 2, row by row."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from app.apiframe.errors import Refusal
from app.jobs.refusals import error_code, fate_of

FIELD_FAULT = {"error": "Validation failed", "details": {"webhook_url": ["Unrecognized key"]}}
PROMPT_FAULT = {"error": "Validation failed", "details": {"prompt": ["Required"]}}


def refusal(status: int, body: dict[str, Any] | None = None) -> Refusal:
    return Refusal(status, body or {"error": "No"}, retry_after_seconds=None, request_id=None)


def fate(status: int, body: dict[str, Any] | None = None, **facts: bool) -> str:
    """The fate of a job whose first attempt met this; its caller waits, and its body carries our webhook."""
    usual = {"first": True, "refusable": True, "blames_key": False, "carries_webhook": True}
    return fate_of(refusal(status, body), **usual | facts)


@pytest.mark.parametrize("status", [400, 402, 403, 409])
def test_a_caller_who_still_waits_is_told_what_it_can_act_on(status: int) -> None:
    assert fate(status, refusable=True) == "tell"


@pytest.mark.parametrize("status", [400, 403, 409])
def test_after_the_202_a_refusal_of_this_request_ends_the_job(status: int) -> None:
    assert fate(status, refusable=False) == "end"


@pytest.mark.parametrize("status", [404, 405, 410, 451])
def test_after_the_202_a_refusal_that_blames_no_request_ends_no_job(status: int) -> None:
    """DESIGN: after the 202 only 400, 409 and a 403 of this request end a job. A 404 may be a misrouted address."""
    assert fate(status, refusable=False) == "wait"


def test_a_404_that_speaks_of_an_actions_parent_is_about_the_request() -> None:
    gone = {"error": "Parent job not found"}

    assert (fate(404, gone, goes_on=True), fate(404, gone, goes_on=True, refusable=False)) == ("tell", "end")
    assert fate(404, gone, goes_on=True, first=False) == "wait"
    assert fate(404, {"error": "Not Found"}, goes_on=True) == "wait"
    assert fate(404, gone) == "wait"


def test_out_of_credits_waits_after_the_202() -> None:
    assert fate(402, refusable=False) == "wait for credits"


@pytest.mark.parametrize(("first", "refusable"), list(product([True, False], repeat=2)))
def test_the_rate_limit_is_waited_for(first: bool, refusable: bool) -> None:
    assert fate(429, first=first, refusable=refusable) == "wait"


@pytest.mark.parametrize(("status", "first", "refusable"), list(product([401, 403], [True, False], [True, False])))
def test_a_refused_key_pauses_dispatch_and_fails_no_job(status: int, first: bool, refusable: bool) -> None:
    assert fate(status, first=first, refusable=refusable, blames_key=True) == "pause"


@pytest.mark.parametrize(
    ("status", "refusable", "body"), list(product([400, 402, 403, 409], [True, False], [FIELD_FAULT, PROMPT_FAULT]))
)
def test_what_an_earlier_attempt_may_have_sent_is_neither_ended_nor_respelled(
    status: int, refusable: bool, body: dict[str, Any]
) -> None:
    assert fate(status, body, first=False, refusable=refusable) == "wait"


@pytest.mark.parametrize("refusable", [True, False])
@pytest.mark.parametrize("field", ["webhook_url", "webhookUrl", "webhookEvents"])
def test_a_400_that_names_our_webhook_fields_is_ours_to_mend(field: str, refusable: bool) -> None:
    body = {"error": "Validation failed", "details": {field: ["Unrecognized key"]}}

    assert fate(400, body, refusable=refusable) == "respell"


def test_a_400_that_names_webhook_fields_which_we_did_not_send_is_the_callers() -> None:
    assert fate(400, FIELD_FAULT, carries_webhook=False) == "tell"
    assert fate(400, FIELD_FAULT, carries_webhook=False, refusable=False) == "end"


@pytest.mark.parametrize("status", [402, 403, 409])
def test_only_a_400_is_about_the_spelling(status: int) -> None:
    assert fate(status, FIELD_FAULT) == "tell"


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "upstream_rejected"), (402, "insufficient_credits"), (403, "forbidden"), (409, "conflict")],
)
def test_the_error_code_tells_refusals_apart(status: int, code: str) -> None:
    assert error_code(refusal(status)) == code
