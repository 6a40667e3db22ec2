"""What is in a webhook: kept byte for byte, understood where it can be, and never a reason to fail or to lose a job."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.simulator.server import RunningSimulator
from app.webhooks.receive import LARGEST_BODY, Webhook, apply, read_webhook
from tests.harness import HeldJob, Service, held_job, post_webhook
from tests.simulator.walks import sign


@dataclass(frozen=True)
class Walk:
    """A service without loops, before an upstream that holds its jobs."""

    service: Service
    simulator: RunningSimulator

    async def job(self) -> HeldJob:
        return await held_job(self.service, self.simulator)

    async def post(self, job: HeldJob, body: bytes | dict[str, Any], *, signed: bool = True) -> httpx.Response:
        """Post a webhook; a dict is one that names the job."""
        if isinstance(body, dict):
            body = json.dumps({"jobId": job.upstream_id} | body).encode()
        return await post_webhook(self.service, job.url, body, sign(body) if signed else None)

    async def row(self, job: HeldJob) -> Any:
        return await self.service.job(job.id)

    async def receipts(self, job: HeldJob) -> list[Any]:
        return await self.service.rows(
            "SELECT signature, applied, outcome FROM receipts WHERE job_id = :id ORDER BY received_at", id=job.id
        )


@pytest.fixture
async def walk(serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]) -> Walk:
    simulator = simulate(hold=True, webhook_field="both", max_concurrent_jobs=100)
    return Walk(await serve(simulator, loops=False, max_in_flight=100), simulator)


async def test_a_receipt_keeps_the_bytes_as_they_came(walk: Walk) -> None:
    """Whitespace, order, escapes and doubled fields too: that is what the signature was made over."""
    job = await walk.job()
    body = (
        b' {"progress" :1.50e1,\r\n\t"jobId": "%s", "event":"pro\\u0067ress",'
        b'"note":"\\u0000\\ud800 \xc3\xa9","note":"again" }\n' % job.upstream_id.encode()
    )

    assert (await walk.post(job, body)).status_code == 200

    (kept,) = await walk.service.rows(
        "SELECT r.digest, r.event, r.applied, b.body, b.headers FROM receipts r"
        " JOIN receipt_bodies b ON b.receipt_id = r.id AND b.received_at = r.received_at"
    )
    assert (kept.body, kept.digest) == (body, hashlib.sha256(body).digest())
    assert (kept.event, kept.applied) == ("progress", True)
    assert kept.headers["x-webhook-signature"] == sign(body)
    assert "x-api-key" not in kept.headers
    assert (await walk.row(job)).progress == 15


async def test_nul_and_lone_surrogates_are_cleaned_and_not_an_error(walk: Walk) -> None:
    good, text, coded = [await walk.job() for _ in range(3)]
    result = r'{"title":"a\u0000b","list":["\ud800","\ud83d\ude00"],"k\u0000":"\udfff\ud800"}'
    said = {
        good: rf'"event":"completed","result":{result}',
        text: r'"event":"failed","error":"No\u0000pe \ud800"',
        coded: r'"event":"failed","error":{"why":"No\u0000pe \ud800"}',
    }

    for job, words in said.items():
        answer = await walk.post(job, f'{{"jobId":"{job.upstream_id}",{words}}}'.encode())
        assert answer.status_code == 200, words

    cleaned = {"title": "a\ufffdb", "list": ["\ufffd", "\U0001f600"], "k\ufffd": "\ufffd\ufffd"}
    assert (await walk.service.caller.read(good.id))["result"] == cleaned
    assert (await walk.service.caller.read(text.id))["error"] == "No\ufffdpe \ufffd"
    assert json.loads((await walk.service.caller.read(coded.id))["error"]) == {"why": "No\ufffdpe \ufffd"}


UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"jobId=1",
    "half": b'{"event":"completed"',
    "an array": b'[{"event":"completed"}]',
    "a number": b"7",
    "null": b"null",
    "not UTF-8": b'{"event":"\xff"}',
    "a raw NUL": b'{"event":"comp\0leted"}',
    "nested without end": b'{"result":' + b"[" * 100_000,
    "nested too deeply": b'{"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


async def test_a_signed_body_that_cannot_be_read_is_a_bad_request(walk: Walk) -> None:
    job = await walk.job()
    before = await walk.row(job)

    answers = {kind: (await walk.post(job, body)).status_code for kind, body in UNREADABLE.items()}

    assert answers == dict.fromkeys(UNREADABLE, 400)
    assert await walk.row(job) == before
    assert set(await walk.receipts(job)) == {("valid", False, "unreadable")}


async def test_an_unsigned_body_that_cannot_be_read_is_a_hint_like_any_other(walk: Walk) -> None:
    job = await walk.job()
    before = await walk.row(job)

    answers = {kind: (await walk.post(job, body, signed=False)).status_code for kind, body in UNREADABLE.items()}

    assert answers == dict.fromkeys(UNREADABLE, 200)
    after = await walk.row(job)
    assert (after.status, after.result) == (before.status, before.result)
    assert after.poll_at < before.poll_at


async def test_a_deeply_nested_result_with_characters_to_clean_is_no_internal_error(walk: Walk) -> None:
    answers = set()
    for depth in (300, 600, 900, 990):
        for character in (r"\u0000", r"\ud800"):
            job = await walk.job()
            deep = "[" * depth + f'"{character}"' + "]" * depth
            body = f'{{"event":"completed","jobId":"{job.upstream_id}","result":{deep}}}'.encode()
            answers.add((await walk.post(job, body)).status_code)

    assert answers <= {200, 400}


async def test_a_signed_body_that_names_no_job_is_a_bad_request_and_changes_nothing(walk: Walk) -> None:
    job = await walk.job()
    before = await walk.row(job)

    for named in ({}, {"jobId": None}, {"jobId": ""}, {"jobId": 7}, {"jobId": [job.upstream_id]}):
        body = {"event": "completed", "status": "COMPLETED"} | named
        assert (await walk.post(job, json.dumps(body).encode())).status_code == 400, named

    assert await walk.row(job) == before
    assert set(await walk.receipts(job)) == {("valid", False, "names no job")}


async def test_a_status_that_nobody_knows_is_acknowledged_and_ignored(walk: Walk) -> None:
    job = await walk.job()
    await walk.post(job, {"event": "progress", "progress": 30})
    before = await walk.row(job)

    for said in ({"status": "RENDERING"}, {"event": "purged"}, {"status": 7}, {"status": ["FAILED"]}, {}):
        assert (await walk.post(job, said)).status_code == 200, said
        row = await walk.row(job)
        assert (row.status, row.progress, row.poll_at) == ("PROCESSING", 30, before.poll_at), said

    assert (await walk.post(job, {"event": "completed"})).status_code == 200
    assert (await walk.row(job)).status == "COMPLETED"


async def test_credits_of_any_form_complete_the_job(walk: Walk) -> None:
    for said, understood in ((10.0, 10), (10.6, 11), (0, 0), (None, None), ("10", None), (True, None), (10**30, None)):
        job = await walk.job()
        assert (await walk.post(job, {"event": "completed", "creditCost": said})).status_code == 200, said
        row = await walk.row(job)
        assert (row.status, row.credit_cost) == ("COMPLETED", understood), said


async def test_values_at_the_edge_of_what_can_be_kept_complete_the_job(walk: Walk) -> None:
    """And the job can be read afterwards, alone and in the history."""
    outcomes = {}
    for field, said in (
        ("creditCost", 2147483647.6),
        ("creditCost", -2147483648.9),
        ("completedAt", "0001-01-01T00:00:00+14:00"),
        ("completedAt", "0001-01-01T00:00:00Z"),  # "no time" in the JSON of Go
        ("completedAt", "9999-12-31T23:59:59-14:00"),
        ("completedAt", "9999-12-31T23:59:59.999999Z"),
    ):
        job = await walk.job()
        told = await walk.post(job, {"event": "completed", field: said})
        read = await walk.service.caller.http.get(f"/v2/jobs/{job.id}")
        outcomes[said] = (told.status_code, read.status_code, read.json().get("status"))

    assert outcomes == dict.fromkeys(outcomes, (200, 200, "COMPLETED"))
    assert (await walk.service.caller.http.get("/v2/jobs")).status_code == 200


async def test_progress_out_of_range_is_brought_into_it(walk: Walk) -> None:
    job = await walk.job()

    for said, kept in ((-5, 0), (33.4, 33), ("90", 33), (True, 33), (10**30, 33), (250, 100)):
        assert (await walk.post(job, {"event": "progress", "progress": said})).status_code == 200
        assert (await walk.row(job)).progress == kept, said


async def test_a_result_of_any_shape_reaches_the_caller_as_it_came(walk: Walk) -> None:
    for result in (
        "https://cdn.example/1.png",
        [{"url": "https://cdn.example/1.png"}],
        {"tracks": [{"id": "t", "audioUrl": "https://cdn.example/1.mp3", "duration": 12.5}]},
        {"seed": 123456789012345678901234567890},
        {},
        [],
        "",
        0,
        False,
    ):
        job = await walk.job()
        assert (await walk.post(job, {"event": "completed", "result": result})).status_code == 200
        assert (await walk.service.caller.read(job.id))["result"] == result


async def test_the_largest_body_is_taken_and_one_byte_more_is_too_large(walk: Walk) -> None:
    job = await walk.job()
    start = json.dumps({"event": "completed", "jobId": job.upstream_id, "result": "x"}).encode()[:-3]
    largest = start + b"x" * (LARGEST_BODY - len(start) - 2) + b'"}'
    assert len(largest) == LARGEST_BODY == 4 * 1024 * 1024

    assert (await walk.post(job, largest + b" ")).status_code == 413
    assert await walk.receipts(job) == []
    assert (await walk.post(job, largest)).status_code == 200
    assert (await walk.row(job)).status == "COMPLETED"


async def test_a_body_that_does_not_say_how_large_it_is_is_cut_off_too(walk: Walk) -> None:
    job = await walk.job()

    async def long() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * (1024 * 1024)

    answer = await walk.service.caller.http.post(job.url, content=long())

    assert answer.status_code == 413
    assert await walk.receipts(job) == []


async def test_a_batch_that_is_run_again_after_an_unknown_commit_acknowledges_the_same(walk: Walk) -> None:
    """The first commit went through, but nobody was told; every copy is still answered as committed, and applied once."""
    job = await walk.job()
    ctx = walk.service.ctx
    job_id = (await walk.row(job)).id
    body = json.dumps({"event": "completed", "jobId": job.upstream_id, "creditCost": 10}).encode()
    copies = [read_webhook(ctx, job_id, body, {"x-webhook-signature": sign(body)}) for _ in range(2)]

    outcomes = []
    for _ in range(2):
        async with ctx.db.transaction() as tx:
            outcomes.append([answer.outcome for answer in await apply(ctx, tx, copies)])

    assert outcomes == [["applied", "repeated"], ["repeated", "repeated"]]
    assert await walk.receipts(job) == [("valid", True, "applied")]
    assert (await walk.row(job)).credit_cost == 10


async def test_webhooks_of_many_jobs_at_once_share_transactions_without_mixing_them_up(walk: Walk) -> None:
    jobs = await asyncio.gather(*(walk.job() for _ in range(30)))
    ctx = walk.service.ctx

    def finish(number: int, job: HeldJob) -> Webhook:
        body = job.says("completed", creditCost=number, result={"number": number}) if number % 10 else b"unreadable"
        return read_webhook(ctx, UUID(job.id), body, {"x-webhook-signature": sign(body)})

    webhooks = [finish(number, job) for number, job in enumerate(jobs)]
    received = await asyncio.gather(*(ctx.batched(apply, webhook) for webhook in webhooks))

    assert [each.outcome for each in received] == ["applied" if number % 10 else "unreadable" for number in range(30)]
    for number, job in enumerate(jobs):
        row = await walk.row(job)
        expected = ("COMPLETED", number, {"number": number}) if number % 10 else ("QUEUED", None, None)
        assert (row.status, row.credit_cost, row.result) == expected
    assert await walk.service.rows("SELECT count(DISTINCT xmin::text) FROM receipts") == [(1,)]
