"""What the upstream says, read leniently: its documented forms mean what they say, and no form makes us lose a message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from app.apiframe.wire import Observation, observe_payload, read_json
from app.models.jobs import STATUSES, Status

JOB = UUID(int=7)
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
INT32 = range(-(2**31), 2**31)

# NUL and lone surrogates, which JSON can escape and PostgreSQL cannot keep, are as likely as all other characters.
texts = st.text(st.sampled_from(["\0", "\ud800", "\udfff", "\ud83d", "\ude00"]) | st.characters(), max_size=8)
json_values: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("event", "status", "jobId", "id", "progress", "result", "error", "creditCost", "completedAt")


def observe(payload: Mapping[str, Any]) -> Observation:
    return observe_payload(payload, job_id=JOB, source="webhook", at=NOW)


def cleaned(text: str) -> str:
    """What Unicode says of the text: pairs of surrogates are one character, lone ones are none (U+FFFD), as for NUL."""
    paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return paired.replace("\0", "\ufffd")


def all_texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in all_texts(item)]
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *all_texts(item))]
    return []


@given(json_values)
def test_whatever_json_can_say_becomes_something_that_postgres_can_keep(value: Any) -> None:
    for escaped in (True, False):
        body = json.dumps(value, ensure_ascii=escaped).encode("utf-8", "replace")
        for text in all_texts(read_json(body)):
            assert "\0" not in text
            assert text.encode("utf-8").decode("utf-8") == text


@given(texts)
def test_a_text_keeps_every_character_but_those(text: str) -> None:
    assert read_json(json.dumps([text]).encode()) == [cleaned(text)]


def test_an_escaped_pair_of_surrogates_is_one_character() -> None:
    assert read_json(b'["\\ud83d\\ude00", "\\ud83d", "a\\u0000b"]') == ["\U0001f600", "\ufffd", "a\ufffdb"]


@given(st.binary(max_size=30) | json_values.map(lambda value: json.dumps(value).encode()[:-1]))
def test_bytes_that_cannot_be_read_are_a_value_error_and_nothing_worse(body: bytes) -> None:
    with suppress(ValueError):
        read_json(body)


DEEP = {
    "open": b"[" * 100_000,
    "closed": b"[" * 100_000 + b"]" * 100_000,
    "objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "900 around a NUL": b"[" * 900 + b'"\\u0000"' + b"]" * 900,
    "900 around a lone surrogate": b"[" * 900 + b'"\\ud800"' + b"]" * 900,
    "beside a lone surrogate": b'["\\ud800",' + b"[" * 100_000 + b"]" * 100_000 + b"]",
}


@pytest.mark.parametrize("kind", DEEP)
def test_depth_is_a_value_error_and_nothing_worse(kind: str) -> None:
    with suppress(ValueError):
        read_json(DEEP[kind])


@given(st.dictionaries(st.sampled_from(FIELDS), json_values))
@example({"jobId": "up-1", "progress": 1e300, "creditCost": 1e300})
@example({"jobId": "up-1", "result": 10**400})
def test_no_payload_makes_an_observation_that_the_database_cannot_keep(payload: dict[str, Any]) -> None:
    seen = observe(read_json(json.dumps(payload).encode()))

    assert seen.status is None or seen.status in STATUSES
    assert seen.progress is None or 0 <= seen.progress <= 100
    assert seen.credit_cost is None or seen.credit_cost in INT32
    assert seen.upstream_id != ""
    if seen.result is not None:
        json.loads(seen.result, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("said", [2147483647, 2147483647.4, 2147483647.6, 2147483648, -2147483648.9, -2147483649])
def test_credits_fit_their_column(said: float) -> None:
    understood = observe({"creditCost": said}).credit_cost

    assert understood is None or understood in INT32


@pytest.mark.parametrize("said", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_at_the_end_of_time_can_be_kept(said: str) -> None:
    understood = observe({"completedAt": said}).completed_at

    assert understood is None or understood.astimezone(UTC) == understood


NUMBERS = {
    "a large float": "1e400",
    "a small float": "-1e400",
    "400 digits": "1" * 400,
    "5,000 digits": "1" * 5_000,
    "5,000 decimals": "0." + "1" * 5_000,
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_a_number_that_python_cannot_hold_does_not_cost_the_message(kind: str) -> None:
    """It is valid JSON: the job ended, whatever becomes of the number. A poll would meet the same number again."""
    seen = observe(read_json(f'{{"jobId":"up-1","event":"completed","result":{{"n":{NUMBERS[kind]}}}}}'.encode()))

    assert (seen.upstream_id, seen.status) == ("up-1", "COMPLETED")


def test_a_completed_webhook_says_everything() -> None:
    body = (
        b'{"event":"completed","jobId":"up-1","status":"COMPLETED","progress":100,'
        b'"result":{"images":["https://cdn/1.png"],"gridUrl":"https://cdn/g.png"},"model":"flux-1.1-pro-ultra",'
        b'"creditCost":10,"completedAt":"2026-03-01T11:59:58.123Z"}'
    )

    seen = observe(read_json(body))

    assert (seen.upstream_id, seen.status, seen.progress, seen.credit_cost) == ("up-1", "COMPLETED", 100, 10)
    assert seen.result is not None
    assert json.loads(seen.result) == {"images": ["https://cdn/1.png"], "gridUrl": "https://cdn/g.png"}
    assert seen.completed_at == datetime(2026, 3, 1, 11, 59, 58, 123_000, tzinfo=UTC)
    assert seen.error is None


def test_a_failed_webhook_says_why() -> None:
    seen = observe({"event": "failed", "jobId": "up-1", "status": "FAILED", "error": "Blocked", "model": "m"})

    assert (seen.upstream_id, seen.status, seen.error) == ("up-1", "FAILED", "Blocked")
    assert (seen.progress, seen.result, seen.credit_cost, seen.completed_at) == (None, None, None, None)


def test_a_progress_webhook_says_how_far() -> None:
    seen = observe({"event": "progress", "jobId": "up-1", "status": "PROCESSING", "progress": 45, "model": "m"})

    assert (seen.upstream_id, seen.status, seen.progress) == ("up-1", "PROCESSING", 45)


def test_a_job_object_and_a_submit_answer_are_read_alike() -> None:
    polled = observe({"id": "up-1", "status": "QUEUED", "progress": None, "result": None, "error": None})
    answered = observe({"jobId": "up-1", "status": "QUEUED"})

    assert polled == answered


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        ({"status": "PROCESSING"}, "PROCESSING"),
        ({"status": "completed"}, "COMPLETED"),
        ({"event": "failed"}, "FAILED"),
        ({"event": "progress"}, "PROCESSING"),
        ({"event": "completed", "status": "FAILED"}, "FAILED"),
        ({"event": "completed", "status": "RENDERING"}, None),
        ({"event": "completed", "status": 7}, None),
        ({"event": "purged"}, None),
        ({"event": ["completed"]}, None),
        ({"status": ""}, None),
        ({}, None),
    ],
)
def test_the_status_is_the_bodys_own_or_else_its_events(payload: dict[str, Any], status: Status | None) -> None:
    assert observe(payload).status == status


@pytest.mark.parametrize(
    ("said", "understood"),
    [(45, 45), (45.4, 45), (0, 0), (-3, 0), (101, 100), (10**6, 100), (True, None), ("45", None), (None, None)],
)
def test_progress_is_a_percentage_whatever_was_said(said: object, understood: int | None) -> None:
    assert observe({"progress": said}).progress == understood


@pytest.mark.parametrize(
    ("said", "understood"), [(10, 10), (10.0, 10), (10.6, 11), (0, 0), (False, None), ("10", None), (None, None)]
)
def test_credits_are_whole_numbers(said: object, understood: int | None) -> None:
    assert observe({"creditCost": said}).credit_cost == understood


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ("2026-03-01T12:00:00.000Z", NOW),
        ("2026-03-01T14:00:00+02:00", NOW),
        ("2026-03-01T12:00:00", NOW),
        ("yesterday", None),
        ("", None),
        (1772366400, None),
    ],
)
def test_times_are_aware(said: object, understood: datetime | None) -> None:
    assert observe({"completedAt": said}).completed_at == understood


@pytest.mark.parametrize(
    "result",
    ["https://cdn/1.png", [{"url": "https://cdn/1.png"}], {"tracks": [{"id": 1}]}, 0, False, "", [], {"n": 2**70}],
)
def test_a_result_of_any_shape_is_kept(result: object) -> None:
    seen = observe({"result": result})

    assert seen.result is not None
    assert json.loads(seen.result) == result


@pytest.mark.parametrize(("said", "understood"), [("No", "No"), (None, None), ({"code": 1}, '{"code":1}')])
def test_an_error_is_text(said: object, understood: str | None) -> None:
    assert observe({"error": said}).error == understood


@pytest.mark.parametrize("payload", [{}, {"jobId": ""}, {"jobId": 7}, {"jobId": None}, {"jobId": ["up-1"]}])
def test_what_names_no_job_has_no_id(payload: dict[str, Any]) -> None:
    assert observe(payload).upstream_id is None


def test_the_job_id_outranks_any_other_id() -> None:
    assert observe({"id": "evt-1", "jobId": "up-1"}).upstream_id == "up-1"
