"""What a submission may say, what of it goes upstream, and that a refused one leaves no trace anywhere."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.jobs import dispatch
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Service, books, eventually, refused, tell

MEBIBYTE: Final = 1024 * 1024
LATER: Final = {"Prefer": "respond-async"}
GENERATE: Final = "/v2/images/generate"


def other_model(params: bytes) -> bytes:
    """A submission whose params nobody here judges."""
    return b'{"model":"midjourney","prompt":"x","midjourneyParams":{"a":' + params + b"}}"


def padded(size: int) -> bytes:
    """A submission of exactly so many bytes that the upstream takes."""
    return other_model(b'"' + b"x" * (size - len(other_model(b'""'))) + b'"')


NO_SUBMISSIONS: Final[dict[str, bytes]] = {
    "empty": b"",
    "spaces": b"  \n",
    "cut short": b'{"model":"flux-1.1-pro-ultra","prompt":"x"',
    "something after it": b'{"model":"midjourney"} {}',
    "single quotes": b"{'model':'midjourney'}",
    "a comma too many": b'{"model":"midjourney",}',
    "a comment": b'{"model":"midjourney"/* */}',
    "a byte order mark": b'\xef\xbb\xbf{"model":"midjourney"}',
    "Latin-1": '{"model":"midjourney","prompt":"café"}'.encode("latin-1"),
    "UTF-16": '{"model":"midjourney","prompt":"x"}'.encode("utf-16"),
    "an overlong UTF-8 sequence": b'{"model":"midjourney","prompt":"\xc0\x80"}',
    "a surrogate in UTF-8": b'{"model":"midjourney","prompt":"\xed\xa0\x80"}',
    "a form": b"model=midjourney&prompt=x",
    "an array": b'[{"model":"midjourney"}]',
    "a string": b'"midjourney"',
    "a number": b"5",
    "true": b"true",
    "null": b"null",
    "an empty object": b"{}",
    "10,000 levels": other_model(b"[" * 10_000 + b"]" * 10_000),
    "10,000 levels of objects": other_model(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "10,000 levels left open": b"[" * 10_000,
    "a lone high surrogate": other_model(rb'"\ud800"'),
    "a lone low surrogate": other_model(rb'"\udc00"'),
    "surrogates in the wrong order": other_model(rb'"\udc00\ud800"'),
    "a lone surrogate in a key": other_model(rb'{"\ud800":1}'),
    "a lone surrogate in the prompt": rb'{"model":"flux-1.1-pro-ultra","prompt":"\ud800"}',
    "a lone surrogate in the metadata": rb'{"model":"midjourney","metadata":{"a":"\udfff"}}',
    "NUL in the prompt": rb'{"model":"midjourney","prompt":"a\u0000b"}',
    "NUL in the model": rb'{"model":"mid\u0000journey","prompt":"x"}',
    "NUL in a field's name": rb'{"model":"midjourney","a\u0000":1}',
    "NUL in a nested value": other_model(rb'[{"deep":["\u0000"]}]'),
    "NUL in a nested key": other_model(rb'[{"deep\u0000":1}]'),
    "NUL in the metadata": rb'{"model":"midjourney","metadata":{"a":"\u0000"}}',
    "NUL in a key of the metadata": rb'{"model":"midjourney","metadata":{"\u0000":"a"}}',
    "NUL in the callback": rb'{"model":"midjourney","webhook_url":"https://caller.example/\u0000"}',
    "NUL unescaped": b'{"model":"midjourney","prompt":"a\0b"}',
    "a line break in a string": b'{"model":"midjourney","prompt":"a\nb"}',
    "an integer of 5,000 digits": other_model(b"9" * 5_000),
    "a priority of 5,000 digits": b'{"model":"midjourney","priority":' + b"9" * 5_000 + b"}",
    "a number beyond all doubles": other_model(b"1e999"),
    "NaN": other_model(b"NaN"),
    "Infinity": other_model(b"-Infinity"),
    "a number with a leading zero": other_model(b"01"),
    "no model": b'{"prompt":"x"}',
    "a model that is null": b'{"model":null,"prompt":"x"}',
    "an empty model": b'{"model":"","prompt":"x"}',
    "a model that is a number": b'{"model":5,"prompt":"x"}',
    "no prompt": b'{"model":"flux-1.1-pro-ultra"}',
    "a field that Flux does not have": b'{"model":"flux-1.1-pro-ultra","prompt":"x","size":"big"}',
}


async def test_what_is_no_submission_is_refused_and_leaves_no_trace(
    service: Service, simulator: RunningSimulator
) -> None:
    for name, raw in NO_SUBMISSIONS.items():
        answer = await service.caller.submit(raw)
        assert answer.status_code == 400, f"{name}: {answer.status_code} {answer.text[:300]}"
        refused(answer, 400)
    await _expect_too_large(service, {"content": padded(MEBIBYTE + 1)})
    await _expect_too_large(service, {"content": _in_parts(padded(MEBIBYTE + 1))})
    await _expect_too_large(service, {"content": _in_parts(b"[" * (MEBIBYTE + 1))})

    assert await service.rows("SELECT id FROM jobs") == []
    assert await service.rows("SELECT job_id FROM idempotency_keys") == []
    assert (await books(simulator))["counters"]["submissions"] == 0


async def _expect_too_large(service: Service, request: dict[str, Any]) -> None:
    refused(await service.caller.http.post(GENERATE, **request), 413)


async def _in_parts(raw: bytes) -> AsyncIterator[bytes]:
    """Send in chunks, so that no length is declared."""
    for start in range(0, len(raw), 100_000):
        yield raw[start : start + 100_000]


async def test_a_body_of_a_whole_mebibyte_is_forwarded(service: Service, simulator: RunningSimulator) -> None:
    whole = padded(MEBIBYTE)
    assert len(whole) == MEBIBYTE

    declared = await service.caller.accepted(whole)
    chunked = await service.caller.http.post(GENERATE, content=_in_parts(whole))

    assert chunked.status_code == 202, chunked.text
    for job_id in (declared, chunked.json()["jobId"]):
        job = await service.caller.read(job_id, wait=60)
        assert job["status"] == "COMPLETED"
        assert job["input"] == json.loads(whole)
    assert (await books(simulator))["counters"]["accepted"] == 2


async def test_a_number_that_the_database_cannot_keep_is_no_internal_error(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    """PostgreSQL's numeric, and so its jsonb, has at most 16,383 digits after the point."""
    service = await serve(simulator, loops=False)
    numbers = [b"1e-20000", b"0e-9999999", b"1e-999999999999", b"0." + b"1" * 20_000, b"9" * 4_000 + b".5"]

    statuses = {
        (number[:20], block): (await service.caller.submit(raw, **LATER)).status_code
        for number in numbers
        for block, raw in (
            ("fluxParams", b'{"model":"flux-1.1-pro-ultra","prompt":"x","fluxParams":{"seed":' + number + b"}}"),
            ("midjourneyParams", other_model(number)),
        )
    }

    assert {case: status for case, status in statuses.items() if status not in (202, 400)} == {}


async def test_a_model_too_long_for_an_index_is_no_internal_error(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    """An entry of a B-tree has at most a third of a page; what compresses well may pass, what does not may not."""
    service = await serve(simulator, loops=False)
    model = hashlib.shake_256(b"any").hexdigest(10_000)

    answer = await service.caller.submit({"model": model, "prompt": "x"}, **LATER)

    assert answer.status_code in (202, 400), f"{answer.status_code} {answer.text[:300]}"


async def test_a_nul_beside_deep_nesting_is_refused(serve: Callable[..., Any], simulator: RunningSimulator) -> None:
    service = await serve(simulator, loops=False)
    depths = (100, 300, 500, 700, 900, 1_100)

    statuses = {
        depth: (await service.caller.submit(other_model(b"[" * depth + b"]" * depth + rb',"b":"\u0000"'))).status_code
        for depth in depths
    }

    assert statuses == dict.fromkeys(depths, 400)


async def test_faults_in_all_parts_are_told_together(service: Service) -> None:
    body = {
        "model": "flux-1.1-pro-ultra",
        "prompt": "",
        "size": 1,
        "fluxParams": {"output_quality": 101, "seed": "7"},
        "metadata": {"a": {}},
        "priority": 1001,
        "webhookUrl": "ftp://caller.example",
        "webhookEvents": [],
    }

    told = refused(await service.caller.submit(body), 400)

    assert set(told["details"]) == {
        *("prompt", "size", "fluxParams.output_quality", "fluxParams.seed"),
        *("metadata", "priority", "webhookUrl", "webhookEvents"),
    }


async def test_a_nul_is_told_by_its_path(service: Service) -> None:
    answer = await service.caller.submit(other_model(rb'[{"deep":["x","\u0000"]}]'))

    assert list(refused(answer, 400)["details"]) == ["midjourneyParams.a.0.deep.1"]


OWN_FIELDS_REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "51 entries": ({"metadata": {str(n): n for n in range(51)}}, "metadata"),
    "an object in it": ({"metadata": {"a": {}}}, "metadata"),
    "a list in it": ({"metadata": {"a": ["b"]}}, "metadata"),
    "null in it": ({"metadata": {"a": None}}, "metadata"),
    "501 characters": ({"metadata": {"a": "x" * 501}}, "metadata"),
    "a number of 501 digits": ({"metadata": {"a": 10**500}}, "metadata"),
    "a text": ({"metadata": "campaign"}, "metadata"),
    "a list": ({"metadata": [{"a": 1}]}, "metadata"),
    "true": ({"metadata": True}, "metadata"),
    "priority too high": ({"priority": 1001}, "priority"),
    "priority too low": ({"priority": -1001}, "priority"),
    "priority true": ({"priority": True}, "priority"),
    "priority false": ({"priority": False}, "priority"),
    "priority with a fraction": ({"priority": 1.5}, "priority"),
    "priority a text": ({"priority": "1"}, "priority"),
    "priority null": ({"priority": None}, "priority"),
    "priority of 600 digits": ({"priority": 10**600}, "priority"),
    "callback by ftp": ({"webhook_url": "ftp://caller.example/hook"}, "webhook_url"),
    "callback a script": ({"webhookUrl": "javascript:alert(1)"}, "webhookUrl"),
    "callback relative": ({"webhook_url": "/hook"}, "webhook_url"),
    "callback without host": ({"webhookUrl": "https:///hook"}, "webhookUrl"),
    "callback with a space": ({"webhook_url": "https://caller.example/a b"}, "webhook_url"),
    "callback to this machine": ({"webhook_url": "http://127.0.0.1:8000/hook"}, "webhook_url"),
    "callback to localhost": ({"webhookUrl": "http://localhost/hook"}, "webhookUrl"),
    "callback to a number": ({"webhook_url": "http://2130706433/hook"}, "webhook_url"),
    "callback to a private address": ({"webhookUrl": "https://[::ffff:10.0.0.1]/hook"}, "webhookUrl"),
    "callback to metadata": ({"webhook_url": "http://169.254.169.254/latest/meta-data"}, "webhook_url"),
    "callback with a password": ({"webhookUrl": "https://user:pass@caller.example/hook"}, "webhookUrl"),
    "callback null": ({"webhookUrl": None}, "webhookUrl"),
    "callback a list": ({"webhookUrl": ["https://caller.example"]}, "webhookUrl"),
    "both spellings": (
        {"webhook_url": "https://caller.example/a", "webhookUrl": "https://caller.example/a"},
        "webhookUrl",
    ),
    "both spellings, one null": ({"webhook_url": "https://caller.example/a", "webhookUrl": None}, "webhookUrl"),
    "no events": ({"webhook_url": "https://caller.example", "webhookEvents": []}, "webhookEvents"),
    "events a text": ({"webhook_url": "https://caller.example", "webhookEvents": "completed"}, "webhookEvents"),
    "an unknown event": ({"webhook_url": "https://caller.example", "webhookEvents": ["done"]}, "webhookEvents"),
    "an event that is a number": ({"webhook_url": "https://caller.example", "webhookEvents": [1]}, "webhookEvents"),
    "an event that is a list": ({"webhook_url": "https://caller.example", "webhookEvents": [[]]}, "webhookEvents"),
    "events null": ({"webhook_url": "https://caller.example", "webhookEvents": None}, "webhookEvents"),
}


async def test_our_own_fields_are_checked_for_every_model(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False, allowed_targets="")

    for name, (fields, path) in OWN_FIELDS_REFUSED.items():
        for body in (FLUX, {"model": "midjourney"}):
            answer = await service.caller.submit(body | fields)
            assert answer.status_code == 400, f"{name}: {answer.status_code} {answer.text[:300]}"
            assert list(refused(answer, 400)["details"]) == [path], name

    assert await service.rows("SELECT id FROM jobs") == []


async def test_a_callback_to_a_private_address_is_refused_unless_its_network_is_allowed(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False, allowed_targets="10.1.0.0/16, hooks.internal")

    await service.caller.accepted(FLUX | {"webhook_url": "http://10.1.2.3/hook"}, **LATER)
    told = refused(await service.caller.submit(FLUX | {"webhook_url": "http://10.2.0.1/hook"}), 400)

    assert told["details"] == {"webhook_url": ["10.2.0.1 is a private address"]}


OWN_FIELDS_KEPT: Final[tuple[tuple[dict[str, Any], dict[str, Any]], ...]] = (
    ({}, {"metadata": None, "priority": 0, "callback": None}),
    ({"metadata": {}, "priority": 0}, {"metadata": {}, "priority": 0}),
    *(
        ({"metadata": metadata}, {"metadata": metadata})
        for metadata in (
            {str(n): n for n in range(50)},
            {"a": "x" * 500, "b": "\U0001f30a" * 500, "": "\u00e9", "c": True, "d": 1.5, "e": -(2**63), "f": "null"},
        )
    ),
    *(({"priority": priority}, {"priority": priority}) for priority in (-1000, -1, 1, 1000)),
    *(
        (
            {spelling: "http://caller.example:8080/hook?a=b", **events},
            {"callback": {"url": "http://caller.example:8080/hook?a=b", "events": kept}},
        )
        for spelling in ("webhook_url", "webhookUrl")
        for events, kept in (
            ({}, ["progress", "completed", "failed"]),
            ({"webhookEvents": ["failed"]}, ["failed"]),
            ({"webhookEvents": ["completed", "failed"]}, ["completed", "failed"]),
        )
    ),
)


async def test_our_own_fields_are_kept_with_the_job(serve: Callable[..., Any], simulator: RunningSimulator) -> None:
    service = await serve(simulator, loops=False)

    for given_fields, kept in OWN_FIELDS_KEPT:
        job_id = await service.caller.accepted(FLUX | given_fields, **LATER)
        row = (await service.job(job_id))._mapping
        found = {name: json.loads(row[name]) if isinstance(row[name], str) else row[name] for name in kept}
        assert found == kept
        shown = await service.caller.read(job_id)
        assert shown["metadata"] == (kept.get("metadata") or {})
        assert shown["input"] == FLUX


def forwarded_fields(body: str) -> list[tuple[str, bytes]]:
    """A body's fields in their order, each value with the bytes it has."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return [(name, bytes(value)) for name, value in fields.items()]


EXACT: Final = {
    "flux": [
        ("prompt", r'"caf\u00e9 \/ \"café\" \ud83c\udf0a"'.encode()),
        (
            "fluxParams",
            b'{ "seed":1e2,\t"output_quality" : 90.0, "image_prompt_strength":0.50,"aspect_ratio":"\\u0031:1",\n"raw":true}',
        ),
        ("model", b'"flux-1.1-pro-ultra"'),
    ],
    "another model": [
        ("midjourneyParams", b'{"z":1.50,"a":[1E2,-0,-0.0,{"y":null,"b":[]}],"big":12345678901234567890123, "z":[2]}'),
        ("model", rb'"midjourn\u0065y"'),
        ("prompt", b'"  spaces  \\t\xe2\x80\xa8"'),
    ],
}


@pytest.mark.parametrize(("name", "spelling"), [("flux", "webhookUrl"), ("another model", "webhook_url")])
async def test_the_callers_fields_are_forwarded_byte_for_byte_and_ours_are_not(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator], name: str, spelling: str
) -> None:
    """Under the upstream's spelling stands our address, whichever way the caller spelled its own."""
    simulator = simulate(webhook_field=spelling)
    service = await serve(simulator, webhook_field=spelling)
    ours = [
        ("webhook_url", b'"https://caller.example/hook"'),
        ("metadata", b'{"campaign":"caller.example"}'),
        ("priority", b"7"),
        ("webhookEvents", b'["failed"]'),
    ]
    fields = [field for pair in zip(EXACT[name], ours, strict=False) for field in pair] + ours[3:]
    raw = b"{ " + b" ,\n".join(b'"%s" : %s' % (name.encode(), value) for name, value in fields) + b" }"

    job_id = await service.caller.accepted(raw)

    (sent,) = (await books(simulator))["jobs"]
    assert forwarded_fields(sent["body"])[:3] == EXACT[name]
    added = dict(forwarded_fields(sent["body"])[3:])
    assert set(added) == {spelling, "webhookEvents"}
    assert json.loads(added["webhookEvents"]) == ["progress", "completed", "failed"]
    assert json.loads(added[spelling]).startswith(f"{service.url}/webhooks/apiframe/{job_id}/")
    assert "caller.example" not in sent["body"]
    assert sent["idempotency_key"] == job_id


@pytest.mark.parametrize("spelling", ["webhook_url", "webhookUrl"])
async def test_in_poll_only_mode_no_webhook_field_is_forwarded_at_all(
    serve: Callable[..., Any], simulator: RunningSimulator, spelling: str
) -> None:
    service = await serve(simulator, public_base_url=None)

    await service.caller.accepted(FLUX | {spelling: "https://caller.example/hook", "webhookEvents": ["failed"]})

    (sent,) = (await books(simulator))["jobs"]
    assert json.loads(sent["body"]) == FLUX


async def test_an_answer_that_need_not_wait_comes_while_the_upstream_hangs(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, inline_seconds=60, upstream_timeout_seconds=60)
    await tell(simulator, "faults", accept_then_hang=1)

    async with asyncio.timeout(30):  # the upstream would be waited for for a minute
        answer = await service.caller.submit(FLUX, **LATER)
    assert answer.status_code == 202
    assert answer.json()["status"] == "QUEUED"

    job = await service.caller.read(answer.json()["jobId"], wait=60)
    assert job["status"] == "COMPLETED"
    assert (await books(simulator))["counters"]["hanging_now"] == 1
    assert (await books(simulator))["counters"]["accepted"] == 1
    await tell(simulator, "release")


async def test_an_upstream_that_is_not_asked_first_is_not_asked_at_all_before_the_answer(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service = await serve(simulator, loops=False)

    job_id = await service.caller.accepted(FLUX, **LATER)
    assert (await books(simulator))["counters"]["submissions"] == 0

    assert await dispatch.run_once(service.ctx) == 1
    assert (await service.caller.read(job_id, wait=60))["status"] == "COMPLETED"


async def test_an_upstream_that_hangs_is_waited_for_so_long_and_the_job_goes_on(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, inline_seconds=0.3, upstream_timeout_seconds=60)
    await tell(simulator, "faults", accept_then_hang=1)

    started_at = asyncio.get_running_loop().time()
    async with asyncio.timeout(30):
        answer = await service.caller.submit()
    assert asyncio.get_running_loop().time() - started_at >= 0.3
    assert answer.status_code == 202
    job_id = answer.json()["jobId"]
    assert answer.json() == {"jobId": job_id, "status": "QUEUED"}

    await eventually(
        lambda: books(simulator), lambda seen: [each["idempotency_key"] for each in seen["jobs"]] == [job_id]
    )
    await tell(simulator, f"jobs/{job_id}/finish")
    assert (await service.caller.read(job_id, wait=60))["status"] == "COMPLETED"
    await tell(simulator, "release")
    await eventually(lambda: books(simulator), lambda seen: seen["counters"]["hanging_now"] == 0)
    counters = (await books(simulator))["counters"]
    assert (counters["submissions"], counters["accepted"]) == (1, 1)


JSON_VALUES: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
OWN: Final = ("metadata", "priority", "webhook_url", "webhookUrl", "webhookEvents")
FIELDS: Final = st.sampled_from(["model", "prompt", "fluxParams", "midjourneyParams", "size", *OWN])
LIKELY: Final = st.sampled_from(
    [*FLUX.values(), "midjourney", 0, 1, True, ["failed"], {"a": "b"}, {"seed": 1}, "https://caller.example/hook"]
)
OBJECTS: Final = st.dictionaries(FIELDS | st.text(max_size=8), LIKELY | JSON_VALUES, max_size=6)
BODIES: Final = st.one_of(
    OBJECTS.map(lambda fields: {**FLUX, **fields}),
    OBJECTS.map(lambda fields: {"model": "midjourney", "prompt": "x", **fields}),
    OBJECTS,
    JSON_VALUES,
)


@given(body=BODIES, escaped=st.booleans(), cut=st.integers(0, 40))
@settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_no_body_makes_an_internal_error(fuzzed: Service, body: Any, escaped: bool, cut: int) -> None:
    """Whatever is sent is refused in the envelope, or accepted and read back as it was sent."""
    text = json.dumps(body, ensure_ascii=escaped)
    raw = text.encode("utf-8", "surrogatepass")

    answer = await fuzzed.caller.submit(raw if cut else raw[: len(raw) // 2], **LATER)

    if answer.status_code != 202:
        refused(answer, 400)
        return
    read = await fuzzed.caller.http.get(f"/v2/jobs/{answer.json()['jobId']}")
    job = exactly(read.text)
    assert job["status"] == "QUEUED"
    assert job["input"] == {name: value for name, value in exactly(text).items() if name not in OWN}


def exactly(text: str) -> Any:
    """JSON with its numbers as they are written, whatever their size."""
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


@pytest.fixture
async def fuzzed(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service that accepts and sends nothing on, so that thousands of jobs cost nothing."""
    started: Service = await serve(simulator, loops=False)
    return started
