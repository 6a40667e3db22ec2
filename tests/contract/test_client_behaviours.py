"""What callers of the vendor's own client rely on, over real HTTP, by a client that does as that one is known to do.

The behaviours are facts about the vendor; nothing of its client's code is here.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest

from app.simulator.server import RunningSimulator
from tests.harness import FLUX, NO_TLS, FrozenClock, Service, eventually, held_job, tell
from tests.receivers import receiving

Simulate = Callable[..., RunningSimulator]

POLL_SECONDS = 0.05


class ApiError(Exception):
    """An answer that is not a success, mapped by its status."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(body.get("error"))
        self.status = status
        self.body = body
        self.headers = headers


class GenerationFailed(Exception):
    """A job that was waited for ended without success."""


class Client:
    """Asks with `X-API-Key`, repeats after 429, and after 5xx where a key makes that safe, and waits by polls."""

    def __init__(self, base_url: str, key: str) -> None:
        self.key = key
        self.http = httpx.AsyncClient(
            base_url=base_url, headers={"X-API-Key": key}, trust_env=False, timeout=60, verify=NO_TLS
        )
        self.tries = 0

    async def call(self, method: str, path: str, *, idempotency_key: str | None = None, **request: Any) -> Any:
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        for left in range(4, -1, -1):
            self.tries += 1
            answer = await self.http.request(method, path, headers=headers, **request)
            if answer.is_success:
                return answer.json() if answer.content else None
            may_repeat = answer.status_code == 429 or (answer.status_code >= 500 and idempotency_key is not None)
            if not (may_repeat and left):
                raise ApiError(answer.status_code, answer.json(), answer.headers)
            await asyncio.sleep(min(float(answer.headers["Retry-After"]), 2))
        raise AssertionError("the last try returns or raises")

    async def generate(self, body: Mapping[str, Any], **options: Any) -> str:
        job_id: str = (await self.call("POST", "/v2/images/generate", json=body, **options))["jobId"]
        return job_id

    async def wait_for(self, job_id: str) -> dict[str, Any]:
        while True:
            job: dict[str, Any] = await self.call("GET", f"/v2/jobs/{job_id}")
            if job["status"] == "COMPLETED":
                return job
            if job["status"] in ("FAILED", "CANCELLED"):
                raise GenerationFailed(job["error"] or job["status"])
            await asyncio.sleep(POLL_SECONDS)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[Service], Client]]:
    """Clients of a service, with its caller's key unless another one is named."""
    clients: list[Client] = []

    def open_client(service: Service, key: str | None = None) -> Client:
        clients.append(Client(service.url, key or service.caller.key))
        return clients[-1]

    yield open_client
    for client in clients:
        await client.http.aclose()


Connect = Callable[..., Client]


async def test_a_job_is_waited_for_by_polls_until_it_is_completed(service: Service, connect: Connect) -> None:
    client = connect(service)
    job = await client.wait_for(await client.generate(FLUX))
    assert job["result"]["images"]
    assert isinstance(job["creditCost"], int)


async def test_a_job_that_fails_or_is_cancelled_ends_the_wait_with_its_error(
    serve: Callable[..., Any], simulate: Simulate, connect: Connect
) -> None:
    simulator = await asyncio.to_thread(simulate, hold=True)
    service = await serve(simulator)
    client = connect(service)
    for how, words in (
        ({"status": "FAILED", "error": "Content was flagged"}, "flagged"),
        ({"status": "CANCELLED"}, "CANC"),
    ):
        job = await held_job(service, simulator, body=FLUX | {"prompt": words})
        waiting = asyncio.create_task(client.wait_for(job.id))
        await eventually(lambda job=job: service.job(job.id), lambda row: row.upstream_id)  # type: ignore[misc]
        await tell(simulator, f"jobs/{job.upstream_id}/finish", **how)
        await service.caller.http.post(f"/v1/jobs/{job.id}/refresh")
        with pytest.raises(GenerationFailed, match=words):
            await asyncio.wait_for(waiting, 60)


async def test_an_idempotency_key_makes_repeating_safe_and_its_misuse_a_409(service: Service, connect: Connect) -> None:
    client = connect(service)
    first = await client.generate(FLUX, idempotency_key="order-1")
    assert await client.generate(FLUX, idempotency_key="order-1") == first
    with pytest.raises(ApiError) as caught:
        await client.generate(FLUX | {"prompt": "another"}, idempotency_key="order-1")
    assert caught.value.status == 409


async def test_a_429_says_when_to_come_again_and_coming_again_helps(service: Service, connect: Connect) -> None:
    clock = service.ctx.clock = FrozenClock()
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(
            "UPDATE teams SET requests_per_minute = 60, request_tokens = 1, request_tokens_at = $1 WHERE name = 'tests'",
            (clock.time,),
        )

    async def let_time_pass(answer: httpx.Response) -> None:
        if answer.status_code == 429:
            clock.advance(float(answer.headers["Retry-After"]))

    fresh = await service.new_caller("tests")  # a key that no process knows the limits of yet
    client = connect(service, fresh.key)
    client.http.event_hooks = {"response": [let_time_pass]}
    await client.call("GET", "/v2/jobs")
    assert client.tries == 1
    await client.call("GET", "/v2/jobs")
    assert client.tries > 2


async def test_errors_are_mapped_by_status_with_the_bodies_that_belong_to_them(
    service: Service, connect: Connect
) -> None:
    client = connect(service)
    with pytest.raises(ApiError) as invalid:
        await client.generate({"model": "flux-1.1-pro-ultra", "prompt": "x", "fluxParams": {"output_quality": 101}})
    assert invalid.value.status == 400
    assert list(invalid.value.body["details"]) == ["fluxParams.output_quality"]
    assert all(isinstance(words, str) for words in invalid.value.body["details"]["fluxParams.output_quality"])

    with pytest.raises(ApiError) as unknown:
        await connect(service, "fh_live_nobody's").call("GET", "/v2/jobs")
    assert unknown.value.status == 401

    reader = await service.new_caller("tests", ("read",))
    with pytest.raises(ApiError) as forbidden:
        await connect(service, reader.key).generate(FLUX)
    assert forbidden.value.status == 403

    with pytest.raises(ApiError) as missing:
        await client.call("GET", "/v2/jobs/01987c5e-7a2b-7c3d-8e4f-5a6b7c8d9e0f")
    assert missing.value.status == 404

    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE teams SET monthly_credits = 3 WHERE name = 'tests'")
    with pytest.raises(ApiError) as short:
        await client.generate(FLUX)
    assert short.value.status == 402
    assert short.value.body == {"error": "Insufficient credits", "creditsRequired": 10, "creditsAvailable": 3}
    for error in (invalid, unknown, forbidden, missing, short):
        assert isinstance(error.value.body["error"], str)
        assert error.value.headers["X-Request-Id"]


async def test_me_knows_who_calls(service: Service, connect: Connect) -> None:
    me = await connect(service).call("GET", "/v2/me")
    assert "@" in me["user"]["email"]
    assert me["team"]["name"] == "tests"
    assert service.caller.key.startswith(me["apiKey"]["prefix"])


async def test_a_callback_is_verified_with_the_callers_own_key(service: Service, connect: Connect) -> None:
    client = connect(service)
    secret = hashlib.sha256(client.key.encode()).digest()
    async with receiving() as receiver:
        job_id = await client.generate(FLUX | {"webhookUrl": receiver.url, "webhookEvents": ["completed"]})
        (received,) = await receiver.wait(1)
    signed = received.headers["x-webhook-signature"].removeprefix("sha256=")
    assert hmac.compare_digest(signed, hmac.new(secret, received.body, "sha256").hexdigest())
    assert (received.event["event"], received.event["jobId"]) == ("completed", job_id)
    job = await eventually(
        lambda: client.call("GET", f"/v2/jobs/{job_id}"), lambda job: job["webhookStatus"] == "delivered"
    )
    assert job["status"] == "COMPLETED"
