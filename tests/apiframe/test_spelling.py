"""The negotiation of the webhook field: whatever an upstream knows, it is found, and nothing else of the body changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.apiframe.spelling import POLL_ONLY, Spelling, documented_field, names_webhook_fields, next_spelling

URL = "https://hooks.example/w"
EVENTS = ["progress", "completed", "failed"]
ALL = [POLL_ONLY, *(Spelling(field, events) for field, events in product(("webhook_url", "webhookUrl"), (True, False)))]

Refuse = Callable[[list[str]], dict[str, Any]]


def zod_issue(unknown: list[str]) -> dict[str, Any]:
    keys = ", ".join(f"'{key}'" for key in unknown)
    return {"error": "Validation failed", "details": {"": [f"Unrecognized key(s) in object: {keys}"]}}


def by_field(unknown: list[str]) -> dict[str, Any]:
    return {"error": "Validation failed", "details": {key: ["Unrecognized key"] for key in unknown}}


def one_at_a_time(unknown: list[str]) -> dict[str, Any]:
    return {"error": f"additionalProperties: {unknown[0]} is not allowed"}


def private_address(_: list[str]) -> dict[str, Any]:
    return {"error": "Validation failed", "details": {"webhookUrl": ["Must be a public https address"]}}


@dataclass(frozen=True)
class Upstream:
    """One that knows some of our fields, and refuses a body with any other."""

    known: frozenset[str]
    refuse: Refuse

    def answer(self, body: bytes) -> dict[str, Any] | None:
        unknown = [name for name in json.loads(body) if name.startswith("webhook") and name not in self.known]
        return self.refuse(unknown) if unknown else None


def negotiate(upstream: Upstream, begin: Spelling) -> tuple[Spelling, ...]:
    """Send until it is taken; the trail of spellings."""
    trail: tuple[Spelling, ...] = (begin,)
    body = begin.respelled(b'{"prompt":"a fox"}', URL)
    while (refusal := upstream.answer(body)) is not None:
        assert names_webhook_fields(refusal)
        trail = (*trail, next_spelling(trail, refusal))
        body = trail[-1].respelled(body, URL)
        assert len(trail) <= 5, trail
    return trail


@pytest.mark.parametrize("begin", ALL[1:], ids=str)
@pytest.mark.parametrize("refuse", [zod_issue, by_field, one_at_a_time], ids=lambda refuse: refuse.__name__)
@pytest.mark.parametrize("events", [True, False], ids=["events known", "events unknown"])
@pytest.mark.parametrize("field", ["webhook_url", "webhookUrl"])
def test_the_field_that_the_upstream_knows_is_found(field: str, events: bool, refuse: Refuse, begin: Spelling) -> None:
    known = frozenset({field, "webhookEvents"} if events else {field})

    trail = negotiate(Upstream(known, refuse), begin)

    assert trail[-1] == Spelling(field, events and begin.events)
    assert len(set(trail)) == len(trail)


@pytest.mark.parametrize("begin", ALL[1:], ids=str)
@pytest.mark.parametrize("refuse", [zod_issue, by_field, one_at_a_time, private_address], ids=lambda r: r.__name__)
def test_an_upstream_that_takes_no_webhook_is_sent_none(refuse: Refuse, begin: Spelling) -> None:
    trail = negotiate(Upstream(frozenset(), refuse), begin)

    assert trail[-1] == POLL_ONLY
    assert len(set(trail)) == len(trail)


@given(st.lists(st.sampled_from([by_field(["webhook_url"]), by_field(["webhookUrl"]), by_field(["webhookEvents"])])))
def test_whatever_it_complains_of_no_spelling_is_tried_twice_before_the_walk_ends(refusals: list[Any]) -> None:
    trail: tuple[Spelling, ...] = (Spelling("webhook_url"),)
    for refusal in refusals:
        trail = (*trail, next_spelling(trail, refusal))

    with_webhook = [spelling for spelling in trail if spelling.field is not None]
    assert len(set(with_webhook)) == len(with_webhook)
    assert trail == (*with_webhook, *[POLL_ONLY] * (len(trail) - len(with_webhook)))
    assert len(refusals) < 4 or trail[-1] == POLL_ONLY


@pytest.mark.parametrize("spelling", ALL, ids=str)
def test_a_spelling_is_what_its_text_says(spelling: Spelling) -> None:
    assert Spelling.parse(str(spelling)) == spelling
    assert " " not in str(spelling)


def test_the_texts_of_spellings_differ() -> None:
    assert len({str(spelling) for spelling in ALL}) == len(ALL)


@pytest.mark.parametrize(
    ("spelling", "sent"),
    [
        (Spelling("webhook_url"), {"webhook_url": URL, "webhookEvents": EVENTS}),
        (Spelling("webhookUrl", events=False), {"webhookUrl": URL}),
        (POLL_ONLY, {}),
    ],
    ids=str,
)
def test_only_the_spelling_that_is_asked_for_is_in_the_body(spelling: Spelling, sent: dict[str, Any]) -> None:
    before = b'{"webhook_url":"a","model":"m","webhookUrl":"b","webhookEvents":["failed"],"prompt":"p"}'

    after = json.loads(spelling.respelled(before, URL))

    assert after == {"model": "m", "prompt": "p", **sent}


def test_without_an_address_no_webhook_is_asked_for() -> None:
    assert json.loads(Spelling("webhookUrl").respelled(b'{"prompt":"p"}', None)) == {"prompt": "p"}


names = st.text(st.characters(codec="utf-8"), max_size=6).filter(lambda name: not name.startswith("webhook"))
values = st.sampled_from(['"a"', "1.50", "1e3", "12345678901234567890123", '{"b": 1, "a": [ ]}', '"\\u00e9"', "null"])


@given(st.dictionaries(names, values, max_size=5), st.sampled_from(ALL), st.sampled_from(ALL))
def test_all_other_fields_keep_their_bytes_and_their_order(
    fields: dict[str, str], first: Spelling, second: Spelling
) -> None:
    """The wire is frozen: a respelled body differs from the first in our fields alone, value bytes included."""
    body = ("{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in fields.items()) + "}").encode()

    once = first.respelled(body, URL)
    after = second.respelled(once, URL)

    assert after == second.respelled(body, URL)
    assert [name for name in json.loads(after) if not name.startswith("webhook")] == list(fields)
    place = 0
    for value in fields.values():
        place = after.index(b":" + value.encode(), place) + 1


@pytest.mark.parametrize(
    ("body", "ours"),
    [
        (by_field(["webhookUrl"]), True),
        (by_field(["webhookEvents"]), True),
        ({"error": "Unknown field: WEBHOOK_URL"}, True),
        ({"error": "Validation failed", "details": {"prompt": ["Required"]}}, False),
        ({"error": "Insufficient credits"}, False),
        ({}, False),
    ],
)
def test_a_complaint_is_ours_where_it_names_our_fields(body: dict[str, Any], ours: bool) -> None:
    assert names_webhook_fields(body) == ours


@pytest.mark.parametrize(
    ("properties", "field"),
    [
        ({"webhookUrl": {"type": "string"}, "webhookEvents": {}}, "webhookUrl"),
        ({"webhook_url": {"type": "string"}}, "webhook_url"),
        ({"webhook_url": {}, "webhookUrl": {}}, None),
        ({"prompt": {"description": "not webhookUrl"}}, None),
        ({}, None),
    ],
)
def test_the_document_decides_where_it_names_one_spelling(properties: dict[str, Any], field: str | None) -> None:
    document = {"openapi": "3.1.0", "components": {"schemas": {"A": {"oneOf": [{"properties": properties}]}}}}

    assert documented_field(document) == field
