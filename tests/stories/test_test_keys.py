"""A test key: the same URL and calls, no model reached, nothing paid, and nothing of it among what is live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from uuid import UUID

import httpx
import pytest

from app import sandbox
from app.errors import Conflict
from app.simulator.server import RunningSimulator
from app.teams.keys import create_key
from tests.harness import FLUX, Caller, Service, books, eventually, refused, running_service, settings_for
from tests.receivers import receiving

Simulate = Callable[..., RunningSimulator]


async def client_of_tests(
    service: Service, team: str = "tests", scopes: tuple[str, ...] = ("submit", "read", "subscribe")
) -> Caller:
    """A client with a test key of a team."""
    async with service.ctx.db.transaction() as tx:
        made = await create_key(tx, team=team, scopes=scopes, now=service.ctx.now(), test=True)
    caller = Caller(service.url, made.key, made.id)
    await service.clients.enter_async_context(caller.http)
    assert made.key.startswith("fh_test_")
    return caller


async def test_a_job_of_a_test_key_completes_with_a_picture_and_no_word_to_the_upstream(
    service: Service, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 3600.0)  # not before it was looked at
    caller = await client_of_tests(service)
    answer = await caller.submit(FLUX | {"fluxParams": {"output_format": "png"}}, Idempotency_Key="mine")
    assert answer.status_code == 202
    job_id = answer.json()["jobId"]
    assert (await caller.submit(FLUX | {"fluxParams": {"output_format": "png"}}, Idempotency_Key="mine")).json()[
        "jobId"
    ] == job_id
    seen = await caller.read(job_id)
    assert seen["test"]
    assert seen["status"] in ("QUEUED", "PROCESSING")
    monkeypatch.setattr(sandbox, "SECONDS", 0.0)
    job = await caller.read(job_id, wait=50)
    assert (job["status"], job["progress"], job["creditCost"], job["test"]) == ("COMPLETED", 100, 0, True)
    (url,) = job["result"]["images"]
    async with httpx.AsyncClient(trust_env=False, timeout=60) as nobody:
        picture = await nobody.get(url)
    assert picture.headers["Content-Type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    seen_upstream = await books(simulator)
    assert seen_upstream["jobs"] == []
    assert await service.rows("SELECT * FROM ledger") == []
    assert await service.rows("SELECT * FROM files") == []


async def test_the_ways_in_which_a_job_may_end_can_be_asked_for(service: Service) -> None:
    caller = await client_of_tests(service)
    asked = {"failed": "FAILED", "cancelled": "CANCELLED", "anything else": "COMPLETED"}
    job_ids = {status: await caller.accepted(FLUX | {"metadata": {"simulate": wish}}) for wish, status in asked.items()}
    for status, job_id in job_ids.items():
        job = await caller.read(job_id, wait=50)
        assert job["status"] == status
        assert bool(job["error"]) == (status == "FAILED")


async def test_what_is_done_with_test_keys_is_not_among_what_is_live(service: Service) -> None:
    caller = await client_of_tests(service)
    operator = await service.new_caller("operators", ("ops",))
    admin = await service.new_caller("operators", ("admin",))
    async with receiving() as everything, receiving() as own, receiving() as live:
        for who, receiver, more in (
            (admin, everything, {"allTeams": True}),
            (caller, own, {}),
            (await service.new_caller("tests", ("subscribe",)), live, {}),
        ):
            made = await who.http.post("/v1/subscriptions", json={"url": receiver.url, "types": ["job.*"]} | more)
            assert made.status_code == 201, made.text
        job_id = await caller.accepted()
        await caller.read(job_id, wait=50)
        await eventually(lambda: asyncio.sleep(0, own.types), lambda types: "job.completed" in types)
        live_id = await service.caller.accepted()
        await service.caller.read(live_id, wait=50)
        await eventually(lambda: asyncio.sleep(0, live.types), lambda types: "job.completed" in types)
        await eventually(lambda: asyncio.sleep(0, everything.types), lambda types: "job.completed" in types)
        assert {one.event["data"]["id"] for one in own.received} == {job_id}
        assert {one.event["data"]["test"] for one in own.received} == {True}
        assert {one.event["data"]["id"] for one in (*live.received, *everything.received)} == {live_id}
    for reader, expected in ((service.caller, [live_id]), (caller, [job_id])):
        listed = (await reader.http.get("/v2/jobs", params={"scope": "team"})).json()["jobs"]
        assert [job["id"] for job in listed] == expected
    everybody = (await operator.http.get("/v2/jobs", params={"team": "*"})).json()["jobs"]
    assert [job["id"] for job in everybody] == [live_id]
    feed = (await operator.http.get("/v1/events")).json()["events"]
    assert {event["data"]["id"] for event in feed} == {live_id}
    assert {event["data"]["id"] for event in (await caller.http.get("/v1/events")).json()["events"]} == {job_id}
    for reader, hidden in ((service.caller, job_id), (caller, live_id)):
        refused(await reader.http.get(f"/v2/jobs/{hidden}"), 404)
    # Whoever looks after the service finds a test by its id, and sees what it is.
    assert (await operator.read(job_id))["test"]


async def test_a_test_job_is_tried_again_in_the_sandbox_whoever_asks(
    service: Service, simulator: RunningSimulator
) -> None:
    caller = await client_of_tests(service)
    operator = await service.new_caller("operators", ("ops",))
    job_id = await caller.accepted(FLUX | {"metadata": {"simulate": "failed"}})
    assert (await caller.read(job_id, wait=50))["status"] == "FAILED"
    again = await operator.http.post(f"/v1/jobs/{job_id}/retry")
    assert again.status_code == 202, again.text
    job = await caller.read(again.json()["jobId"], wait=50)
    assert (job["test"], job["retryOf"]) == (True, job_id)
    assert (await operator.http.post(f"/v1/jobs/{job_id}/refresh")).status_code == 200
    assert (await books(simulator))["jobs"] == []


async def test_any_process_goes_on_with_a_test_job(database_url: str, simulate: Simulate) -> None:
    simulator = await asyncio.to_thread(simulate)
    settings = settings_for(database_url, simulator)
    async with running_service(settings) as one:
        caller = await client_of_tests(one)
        job_id = await caller.accepted()
        key = caller.key
    async with running_service(settings) as other:
        again = Caller(other.url, key, UUID(int=0))
        await other.clients.enter_async_context(again.http)
        assert (await again.read(job_id, wait=50))["status"] == "COMPLETED"


async def test_a_live_key_and_a_budget_are_untouched_by_tests(service: Service) -> None:
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE teams SET monthly_credits = 5 WHERE name = 'tests'")
    caller = await client_of_tests(service)
    refused(await service.caller.submit(), 402)
    assert (await caller.submit()).status_code == 202


async def test_bad_input_is_refused_in_the_sandbox_as_it_is_live(service: Service) -> None:
    caller = await client_of_tests(service)
    for body in ({"model": "flux-1.1-pro-ultra"}, {"prompt": "no model"}, FLUX | {"surprise": 1}):
        assert refused(await caller.submit(body), 400) | {} == refused(await service.caller.submit(body), 400)


@pytest.mark.parametrize("first", ["live", "test"])
async def test_no_name_of_a_team_makes_a_test_key_live_or_a_live_key_a_test(service: Service, first: str) -> None:
    """Whoever comes first has the name; money is not spent by a key that says it spends none."""

    async def make(team: str, *, test: bool) -> None:
        async with service.ctx.db.transaction() as tx:
            await create_key(tx, team=team, scopes=("submit",), now=service.ctx.now(), test=test)

    live, test = partial(make, "design (test)", test=False), partial(make, "design", test=True)
    before, after = (live, test) if first == "live" else (test, live)
    await before()
    with pytest.raises(Conflict, match=r"design \(test\)"):
        await after()
    rows = await service.rows(
        "SELECT prefix LIKE 'fh_test_%' AS says_test, test_of IS NOT NULL AS is_test"
        " FROM api_keys k JOIN teams t ON t.id = k.team_id WHERE t.name LIKE 'design%'"
    )
    assert [row.says_test for row in rows] == [row.is_test for row in rows] == [first == "test"]


async def test_a_team_of_tests_reserves_nothing_though_somebody_gave_it_a_budget(service: Service) -> None:
    caller = await client_of_tests(service)
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE teams SET monthly_credits = 15 WHERE name = 'tests (test)'")
    for number in range(3):
        await caller.accepted(FLUX | {"prompt": f"picture {number}"})
    assert await service.rows("SELECT * FROM ledger") == []
    assert await service.rows("SELECT * FROM balances") == []


async def test_a_test_key_cannot_be_an_operators(service: Service) -> None:
    with pytest.raises(ValueError, match="scopes"):
        await client_of_tests(service, scopes=("ops",))


async def test_files_of_jobs_that_are_none_of_the_sandboxs_are_not_found(service: Service) -> None:
    live = await service.caller.accepted()
    await service.caller.read(live, wait=50)
    upstream_id = (await service.job(live)).upstream_id
    caller = await client_of_tests(service)
    done = (await service.job(await caller.accepted())).upstream_id
    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60) as nobody:
        for path in (f"{upstream_id}/0.jpg", f"{done}/9.jpg", "x/0.jpg", "%00/0.jpg"):
            refused(await nobody.get(f"/sandbox/files/{path}"), 404)
