"""The vendor's document against a running service: what it takes is taken and arrives, what it refuses is refused here."""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from uuid import uuid4

import httpx
import jsonschema_rs
import msgspec
import pytest

from app.apiframe.operations import MIDJOURNEY_ACTION, OPERATIONS, SUNO_ACTION
from app.jobs import documents
from app.jobs.checking import find_faults
from app.main import create_app
from app.reference.jobs import BODIES
from tests.contract import bodies
from tests.contract.document import variants, vendor_bytes, vendor_document
from tests.contract.upstream import RecordingUpstream, recording_upstream
from tests.harness import Service, eventually, refused

LATER: Final = {"Prefer": "respond-async"}
OURS: Final = {
    "webhook_url": "https://caller.example/hook",
    "metadata": {"campaign": "autumn"},
    "priority": 7,
    "webhookEvents": ["failed"],
}
ADDED: Final = ("webhookUrl", "webhookEvents")


@dataclass
class Contract:
    """A service before an upstream that takes everything, and a completed job for each kind of action."""

    service: Service
    upstream: RecordingUpstream
    parents: dict[str, str]

    async def post(self, operation: str, raw: bytes) -> httpx.Response:
        headers = {"Content-Type": "application/json", **LATER}
        return await self.service.caller.http.post(f"/v2/{operation}", content=raw, headers=headers)

    def parent(self, operation: str) -> str:
        return self.parents.get(operation, "")


@pytest.fixture
async def contract(serve: Callable[..., Any]) -> AsyncIterator[Contract]:
    async with recording_upstream(vendor_bytes()) as upstream:
        service = await serve(upstream, max_in_flight=100_000, log_level="error")
        await documents.refresh_once(service.ctx)
        made = Contract(service, upstream, {})
        for action, operation, model in (
            (MIDJOURNEY_ACTION, "images/generate", "midjourney"),
            (SUNO_ACTION, "music/generate", "suno"),
        ):
            made.parents[action] = await completed(made, operation, {"model": model, "prompt": "x"})
        upstream.received.clear()
        yield made


async def completed(contract: Contract, operation: str, body: dict[str, Any]) -> str:
    """A job that the upstream has finished."""
    answer = await contract.post(operation, json.dumps(body).encode())
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["jobId"]

    async def refresh() -> Any:
        return (await contract.service.caller.http.post(f"/v1/jobs/{job_id}/refresh")).json()

    await eventually(refresh, lambda job: job["status"] == "COMPLETED")
    return job_id


async def each(work: Iterable[Awaitable[None]]) -> None:
    """All of these, a few at a time."""
    room = asyncio.Semaphore(12)

    async def one(item: Awaitable[None]) -> None:
        async with room:
            await item

    await asyncio.gather(*map(one, work))


def written(body: dict[str, Any]) -> bytes:
    """A body as no program of ours would write it, with our own fields among the others."""
    mixed = [*body.items(), *OURS.items()]
    mixed.sort(key=lambda field: zlib.crc32(field[0].encode()))
    fields = (b"%s :\t%s" % (json.dumps(name).encode(), json.dumps(value, indent=1).encode()) for name, value in mixed)
    return b"{ " + b" ,\n".join(fields) + b"}"


def fields_of(raw: bytes, without: Iterable[str]) -> list[tuple[str, bytes]]:
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return [(name, bytes(value)) for name, value in fields.items() if name not in without]


@pytest.mark.timeout(1200)
async def test_every_body_that_fits_is_taken_and_arrives_byte_for_byte(contract: Contract) -> None:
    sent = dict[str, tuple[str, bytes]]()

    async def submit(operation: str, chosen: str, name: str, body: dict[str, Any]) -> None:
        raw = written(body)
        answer = await contract.post(operation, raw)
        assert answer.status_code == 202, f"{operation} {chosen}, {name}: {answer.status_code} {answer.text[:500]}"
        fits("JobAccepted", answer.json())
        sent[answer.json()["jobId"]] = operation, raw

    await each(
        submit(operation, chosen, name, body)
        for operation, chosen, schema in variants(vendor_document())
        for name, body in bodies.valid(schema, contract.parent(operation))
    )
    print(f"bodies that fit: {len(sent)}")

    async def arrived() -> int:
        return len(contract.upstream.received)

    await eventually(arrived, lambda count: count == len(sent), seconds=900)
    ids = await contract.service.rows(
        "SELECT id, upstream_id FROM jobs WHERE id = ANY(:ids)", ids=[*contract.parents.values()]
    )
    upstream_ids = {str(row.id): row.upstream_id for row in ids}
    for job_id, (operation, raw) in sent.items():
        where, wire = contract.upstream.received[job_id]
        assert where == operation
        wanted = fields_of(raw, OURS)
        if operation in contract.parents:
            theirs = json.dumps(upstream_ids[contract.parent(operation)]).encode()
            wanted = [(name, theirs if name == "parentJobId" else value) for name, value in wanted]
        assert fields_of(wire, ADDED) == wanted
        assert set(json.loads(wire)) - set(json.loads(raw)) == {"webhookUrl"}


async def test_every_fault_is_refused_under_its_path_and_nothing_is_sent(contract: Contract) -> None:
    """Every body is judged, and every eighth is also submitted: what refuses it over HTTP is the same for all."""
    count = 0

    async def judge_or_submit(operation: str, name: str, body: dict[str, Any], path: str) -> None:
        nonlocal count
        count += 1
        found = await find_faults(contract.service.ctx, operation, body)
        assert list(found) == [path], f"{operation}, {name}: {found}"
        if count % 8:
            return
        answer = await contract.post(operation, json.dumps(body).encode())
        said = f"{operation}, {name}: {answer.status_code} {answer.text[:500]}"
        assert answer.status_code == 400, said
        assert list(refused(answer, 400)["details"]) == [path], said
        fits("ValidationError", answer.json())

    await each(
        judge_or_submit(operation, f"{chosen}, {name}", body, path)
        for operation, chosen, schema in variants(vendor_document())
        for name, body, path in bodies.invalid(schema, contract.parent(operation))
    )
    print(f"bodies with a fault: {count}")
    assert count > 1_000
    assert contract.upstream.received == {}
    assert len(await contract.service.rows("SELECT id FROM jobs")) == len(contract.parents)


async def test_a_model_or_action_that_is_missing_or_unknown_is_named(contract: Contract) -> None:
    listed = list(variants(vendor_document()))
    for operation in OPERATIONS:
        field = "action" if operation in contract.parents else "model"
        _, chosen, schema = next(each for each in listed if each[0] == operation)
        _, body = next(bodies.valid(schema, contract.parent(operation)))
        for value in ("no-such-thing", "", 5, None, [chosen], ...):
            broken = {name: each for name, each in body.items() if name != field}
            answer = await contract.post(
                operation, json.dumps(broken | ({} if value is ... else {field: value})).encode()
            )
            assert list(refused(answer, 400)["details"]) == [field], answer.text
            if value == "no-such-thing":
                assert answer.json()["details"][field][0].startswith(f"Unknown {field}; there ")
                assert chosen in answer.text
    assert contract.upstream.received == {}


async def test_answers_are_as_the_document_has_them(contract: Contract) -> None:
    http = contract.service.caller.http
    job_id = contract.parents[SUNO_ACTION]
    await contract.post("images/generate", b'{"model":"midjourney","prompt":"x"}')

    fits("Job", (await http.get(f"/v2/jobs/{job_id}")).json())
    page = (await http.get("/v2/jobs", params={"include_models": "true"})).json()
    assert len(page["jobs"]) == 3
    fits("JobList", page)
    fits("ErrorResponse", (await http.get(f"/v2/jobs/{uuid4()}")).json())


async def test_judging_a_typical_body_takes_well_under_a_millisecond(contract: Contract) -> None:
    ctx = contract.service.ctx
    bodies_of = {operation: body["content"]["application/json"]["example"] for (_, operation), body in BODIES.items()}
    taken = []
    for _ in range(200):
        for path, body in bodies_of.items():
            began = time.thread_time()
            assert await find_faults(ctx, path.removeprefix("/v2/"), body) == {}
            taken.append((time.thread_time() - began) * 1000)

    taken.sort()
    print(f"judging by the vendor's document: median {taken[len(taken) // 2]:.3f} ms, 99 in 100 {taken[-20]:.3f} ms")
    assert taken[len(taken) // 2] < 1


def test_the_examples_of_our_reference_fit_the_document() -> None:
    document = vendor_document()
    known = {(operation, chosen): schema for operation, chosen, schema in variants(document)}
    for operation in OPERATIONS:
        example = BODIES[("POST", f"/v2/{operation}")]["content"]["application/json"]["example"]
        jsonschema_rs.validate(known[operation, example.get("model") or example["action"]], example)


def test_the_reference_describes_every_operation() -> None:
    paths = create_app().openapi()["paths"]
    assert {f"/v2/{operation}" for operation in OPERATIONS} <= set(paths)


def fits(name: str, value: Any) -> None:
    """Insist that a value fits one of the document's schemas, formats too."""
    judge(name).validate(value)


@cache
def judge(name: str) -> jsonschema_rs.Validator:
    """The judge of one of the document's schemas, made once: that takes longer than all it is asked."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": vendor_document()["components"]}
    return jsonschema_rs.validator_for(schema, validate_formats=True)
