"""Who is believed: whoever knows the token that only we can make, and signs the raw bytes with a key of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from app.apiframe.signature import webhook_url
from app.simulator.server import RunningSimulator
from tests.harness import SIMULATOR_KEY, HeldJob, Service, held_job, post_webhook, tell
from tests.simulator.walks import sign

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]

OLD_KEY = "afk_the_key_before_this_one"


async def holding(serve: Serve, simulate: Simulate, **settings: Any) -> tuple[Service, RunningSimulator]:
    """A service without loops, before an upstream that holds its jobs."""
    simulator = simulate(hold=True, webhook_field="both")
    return await serve(simulator, loops=False, **settings), simulator


async def written(service: Service) -> list[Any]:
    """Everything that a webhook could have written."""
    return [
        await service.rows(f"SELECT * FROM {table} ORDER BY 1")
        for table in ("jobs", "receipts", "receipt_bodies", "upstream_accounts")
    ]


async def test_a_wrong_token_is_not_found_and_writes_nothing(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate)
    job, other = [await held_job(service, simulator) for _ in range(2)]
    base, token = job.url.rsplit("/", 1)
    others_token = other.url.rsplit("/", 1)[1]
    changed = token[:-1] + ("A" if token[-1] != "A" else "E")
    before = await written(service)

    for url in (
        f"{base}/{others_token}",
        f"{base}/{changed}",
        f"{base}/{token[:-1]}",
        f"{base}/{token}A",
        f"{base}/{token.swapcase()}",
        f"{base}/",
        base,
        f"{base}/%00",
        f"{base}/%C3%A9%F0%9F%98%80",
        job.url.replace(job.id, "not-a-job-id"),
        job.url.replace(job.id, "%00"),
        job.url.replace(job.id, str(uuid4())),
    ):
        answer = await post_webhook(service, url, job.says("completed"), sign(job.says("completed")))
        assert answer.status_code == 404, url
        assert set(answer.json()) == {"error"}, url
        assert token not in answer.text, url

    assert await written(service) == before


async def test_a_good_token_of_a_job_that_nobody_has_is_not_found(serve: Serve, simulate: Simulate) -> None:
    service, _ = await holding(serve, simulate)
    secret = (await service.ctx.webhook_secrets())[0]
    nobodys = HeldJob(str(uuid4()), str(uuid4()), "")
    url = webhook_url(service.url, secret, uuid4())

    for signature in (sign(nobodys.says("completed")), "0" * 64, None):
        assert (await post_webhook(service, url, nobodys.says("completed"), signature)).status_code == 404

    assert await service.rows("SELECT 1 FROM receipts") == []


async def test_the_secret_before_this_one_still_opens_its_jobs_urls(serve: Serve, simulate: Simulate) -> None:
    before, simulator = await holding(serve, simulate, secret_key="the secret of last year")
    job = await held_job(before, simulator)
    path = job.url.removeprefix(before.url)

    after = await serve(simulator, loops=False, secret_key="this year's", previous_secret_key="the secret of last year")
    forgetful = await serve(simulator, loops=False, secret_key="this year's")

    body = job.says("completed")
    assert (await post_webhook(forgetful, forgetful.url + path, body, sign(body))).status_code == 404
    assert (await post_webhook(after, after.url + path, body, sign(body))).status_code == 200
    assert (await after.job(job.id)).status == "COMPLETED"
    newer = await held_job(after, simulator)
    assert (
        await post_webhook(after, newer.url, newer.says("completed"), sign(newer.says("completed")))
    ).status_code == 200


async def test_a_secret_that_nobody_set_is_the_same_in_every_process(serve: Serve, simulate: Simulate) -> None:
    one, simulator = await holding(serve, simulate)
    job = await held_job(one, simulator)
    other = await serve(simulator, loops=False)

    answer = await post_webhook(
        other, other.url + job.url.removeprefix(one.url), job.says("completed"), sign(job.says("completed"))
    )

    assert answer.status_code == 200


async def test_either_reading_and_writing_of_the_signature_is_believed(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate, apiframe_previous_api_keys=f"afk_unused,{OLD_KEY}")
    job = await held_job(service, simulator)
    percent = 0
    for key in (SIMULATOR_KEY, OLD_KEY):
        for as_hex in (False, True):
            for written_as in ("{}", "sha256={}"):
                for letters in (str.lower, str.upper):
                    percent += 1
                    body = job.says("progress", progress=percent)
                    signature = written_as.format(letters(sign(body, key, as_hex=as_hex)))
                    assert (await post_webhook(service, job.url, body, signature)).status_code == 200
                    assert (await service.job(job.id)).progress == percent, (key, as_hex, signature)
    assert percent == 16


async def test_the_upstreams_own_webhooks_verify_however_it_signs(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate()
    service = await serve(simulator, loops=False)
    for secret in ("digest", "hex"):
        for prefix in (True, False):
            await tell(simulator, "config", signature_secret=secret, signature_prefix=prefix)
            job = await service.caller.read(await service.caller.accepted(), wait=50)
            assert job["status"] == "COMPLETED", (secret, prefix)

    assert {row.signature for row in await service.rows("SELECT signature FROM receipts")} == {"valid"}


async def test_jobs_sent_under_the_key_before_this_one_report_under_it(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate(hold=True, webhook_field="both", api_keys=(OLD_KEY, SIMULATOR_KEY))
    before = await serve(simulator, loops=False, apiframe_api_key=OLD_KEY)
    job = await held_job(before, simulator)
    after = await serve(simulator, loops=False, apiframe_previous_api_keys=OLD_KEY)

    sent = await tell(
        simulator, f"jobs/{job.upstream_id}/webhook", event="progress", url=job.url.replace(before.url, after.url)
    )

    assert [send["answer_status"] for send in sent["sends"]] == [200]
    assert (await after.job(job.id)).status == "PROCESSING"


async def test_the_signature_is_over_the_bytes_and_not_over_their_meaning(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate)
    job = await held_job(service, simulator)
    body = job.says("completed")

    answer = await post_webhook(service, job.url, body.replace(b": ", b":"), sign(body))

    assert answer.status_code == 401
    assert (await service.job(job.id)).status == "QUEUED"


async def test_unsigned_webhooks_can_be_rejected(serve: Serve, simulate: Simulate) -> None:
    service, simulator = await holding(serve, simulate, unsigned_webhooks="reject")
    job = await held_job(service, simulator)
    before = await written(service)

    assert (await post_webhook(service, job.url, job.says("completed"), None)).status_code == 401

    assert await written(service) == before
    assert (await post_webhook(service, job.url, job.says("completed"), sign(job.says("completed")))).status_code == 200
    assert (await service.job(job.id)).status == "COMPLETED"
