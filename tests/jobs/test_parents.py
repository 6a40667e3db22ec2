"""Actions: the job that one goes on from has our id for its callers and the upstream's in the wire, and must fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from app.jobs import documents
from app.simulator.server import RunningSimulator
from tests.harness import Caller, Service, books, eventually, refused, tell

Serve = Callable[..., Any]
Simulate = Callable[..., RunningSimulator]
MIDJOURNEY: Final = "images/midjourney/action"
SUNO: Final = "music/suno/action"
PICTURE: Final = ("images/generate", {"model": "midjourney", "prompt": "a lighthouse"})
SONG: Final = ("music/generate", {"model": "suno", "prompt": "a shanty"})
LATER: Final = {"Prefer": "respond-async"}
PARENTS: Final = {MIDJOURNEY: PICTURE, SUNO: SONG}
ACTIONS: Final = {MIDJOURNEY: {"action": "upsample", "index": 2}, SUNO: {"action": "stems", "index": 1}}


async def post(caller: Caller, operation: str, body: Any, **headers: str) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await caller.http.post(f"/v2/{operation}", content=raw, headers=named)


async def accepted(caller: Caller, operation: str, body: Any, **headers: str) -> str:
    answer = await post(caller, operation, body, **headers)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["jobId"]
    return job_id


async def completed(caller: Caller, made: tuple[str, Any] = PICTURE) -> str:
    """A job of this caller that is over."""
    job_id = await accepted(caller, *made)
    assert (await caller.read(job_id, wait=60))["status"] == "COMPLETED"
    return job_id


async def sent(simulator: RunningSimulator, job_id: str) -> dict[str, Any]:
    """What the upstream has of a job."""
    jobs = (await books(simulator))["jobs"]
    found: dict[str, Any] = next(job for job in jobs if job["idempotency_key"].startswith(job_id))
    return found


@pytest.mark.parametrize("operation", [MIDJOURNEY, SUNO])
async def test_an_action_goes_on_from_a_job_by_our_id_and_arrives_with_the_upstreams(
    service: Service, simulator: RunningSimulator, operation: str
) -> None:
    parent = await completed(service.caller, PARENTS[operation])

    job_id = await accepted(service.caller, operation, ACTIONS[operation] | {"parentJobId": parent, "priority": 3})

    job = await service.caller.read(job_id, wait=60)
    assert (job["status"], job["operation"]) == ("COMPLETED", operation)
    assert job["model"] == PARENTS[operation][1]["model"]
    assert job["input"] == ACTIONS[operation] | {"parentJobId": parent}
    row = await service.job(job_id)
    assert row.parent_id == UUID(parent)
    upstream_id = (await service.job(parent)).upstream_id
    wire = json.loads((await sent(simulator, job_id))["body"])
    assert wire["parentJobId"] == upstream_id == json.loads(row.wire_body)["parentJobId"]
    assert parent not in row.wire_body.decode().replace(job_id, "")


async def test_all_other_fields_of_an_action_keep_their_bytes_and_their_order(
    service: Service, simulator: RunningSimulator
) -> None:
    parent = await completed(service.caller)
    raw = (
        b'{ "zoomRatio" : 2.0,\n"parentJobId":\t"%s" , "priority":1, "action":"outp\\u0061int" }'
        % parent.upper().encode()
    )
    upsampled = await accepted(service.caller, MIDJOURNEY, ACTIONS[MIDJOURNEY] | {"parentJobId": parent})
    await service.caller.read(upsampled, wait=60)

    job_id = await accepted(
        service.caller, MIDJOURNEY, raw.replace(parent.upper().encode(), upsampled.upper().encode())
    )

    fields = msgspec.json.decode((await sent(simulator, job_id))["body"], type=dict[str, msgspec.Raw])
    upstream_id = (await service.job(upsampled)).upstream_id
    assert [(name, bytes(value)) for name, value in fields.items()][:3] == [
        ("zoomRatio", b"2.0"),
        ("parentJobId", json.dumps(upstream_id).encode()),
        ("action", b'"outp\\u0061int"'),
    ]


async def test_a_parent_that_is_not_there_or_another_teams_is_404(service: Service) -> None:
    other = await service.new_caller("others", scopes=("submit", "read", "ops"))
    parent = await completed(service.caller)

    for caller, named in ((service.caller, str(uuid4())), (other, parent)):
        answer = await post(caller, MIDJOURNEY, ACTIONS[MIDJOURNEY] | {"parentJobId": named})
        assert refused(answer, 404)["error"] == "Parent job not found"
    (count,) = await service.rows("SELECT count(*) AS n FROM jobs")
    assert count.n == 1


@pytest.mark.parametrize("parent", [..., None, "", "x", 5, {}, "0198a5b0000070008000000000000000"], ids=repr)
@pytest.mark.parametrize("document", ["simulated", "absent"])
async def test_a_parent_that_is_no_id_is_400(serve: Serve, simulate: Simulate, parent: Any, document: str) -> None:
    config = {} if document == "simulated" else {"document": "absent"}
    service = await serve(simulate(**config), loops=False)
    await documents.refresh_once(service.ctx)
    body = ACTIONS[MIDJOURNEY] | ({} if parent is ... else {"parentJobId": parent})

    answer = await post(service.caller, MIDJOURNEY, body)

    assert list(refused(answer, 400)["details"]) == ["parentJobId"]


async def test_a_parent_that_is_not_over_failed_or_of_another_model_is_409(serve: Serve, simulate: Simulate) -> None:
    simulator = simulate(hold=True, max_concurrent_jobs=20)
    service = await serve(simulator)
    running = await accepted(service.caller, *PICTURE)
    waiting = await accepted(service.caller, *PICTURE, **LATER)
    failed = await accepted(service.caller, *PICTURE)
    await tell(simulator, f"jobs/{failed}/finish", status="FAILED", error="no")
    assert (await service.caller.read(failed, wait=60))["status"] == "FAILED"
    others = [
        await accepted(service.caller, "images/generate", {"model": "flux-2-pro", "prompt": "x"}),
        await accepted(
            service.caller,
            "videos/generate",
            {"model": "midjourney-video", "prompt": "x", "midjourneyVideoParams": {}},
        ),
        await accepted(service.caller, *SONG),
    ]
    for job_id in others:
        await tell(simulator, f"jobs/{job_id}/finish")
        assert (await service.caller.read(job_id, wait=60))["status"] == "COMPLETED"
    await eventually(lambda: books(simulator), lambda seen: waiting in {job["idempotency_key"] for job in seen["jobs"]})
    before = (await books(simulator))["counters"]["submissions"]

    for job_id in (running, waiting, failed, *others):
        answer = await post(service.caller, MIDJOURNEY, ACTIONS[MIDJOURNEY] | {"parentJobId": job_id})
        assert "goes on from" in refused(answer, 409)["error"]
    assert (await books(simulator))["counters"]["submissions"] == before


async def test_a_parent_that_another_upstream_account_ran_is_409_for_its_retries_too(
    serve: Serve, simulator: RunningSimulator
) -> None:
    service = await serve(simulator)
    parent = await completed(service.caller)
    child = await accepted(service.caller, MIDJOURNEY, ACTIONS[MIDJOURNEY] | {"parentJobId": parent})
    await service.caller.read(child, wait=60)
    await service.rows("UPDATE jobs SET status = 'FAILED' WHERE id = :id RETURNING 1", id=child)
    await service.rows("UPDATE jobs SET upstream_account = 'other.example' RETURNING 1")

    body = ACTIONS[MIDJOURNEY] | {"parentJobId": parent}
    assert "account" in refused(await post(service.caller, MIDJOURNEY, body), 409)["error"]
    assert "account" in refused(await service.caller.http.post(f"/v1/jobs/{child}/retry"), 409)["error"]


async def test_an_action_that_does_not_fit_the_parent_is_refused_by_the_upstream_and_told(
    service: Service, simulator: RunningSimulator
) -> None:
    parent = await completed(service.caller)

    answer = await post(service.caller, MIDJOURNEY, {"action": "pan", "direction": "up", "parentJobId": parent})

    assert refused(answer, 409)["error"] == "This action is not available for the parent job"
    (row,) = await service.rows("SELECT status, error_code FROM jobs WHERE parent_id IS NOT NULL")
    assert (row.status, row.error_code) == ("FAILED", "conflict")


@pytest.mark.parametrize("later", [False, True])
async def test_a_parent_that_the_upstream_has_forgotten_ends_the_action(
    service: Service, simulator: RunningSimulator, later: bool
) -> None:
    parent = await completed(service.caller)
    await service.rows("UPDATE jobs SET upstream_id = :id RETURNING 1", id=str(uuid4()))

    answer = await post(
        service.caller, MIDJOURNEY, ACTIONS[MIDJOURNEY] | {"parentJobId": parent}, **(LATER if later else {})
    )

    if later:
        job = await service.caller.read(answer.json()["jobId"], wait=60)
        assert (job["status"], job["error"], job["errorCode"]) == ("FAILED", "Parent job not found", "not_found")
    else:
        assert refused(answer, 404)["error"] == "Parent job not found"


async def test_a_retry_of_an_action_goes_on_from_the_same_parent(service: Service, simulator: RunningSimulator) -> None:
    parent = await completed(service.caller)
    await tell(simulator, "faults", next=["fail"])
    failed = await accepted(service.caller, MIDJOURNEY, ACTIONS[MIDJOURNEY] | {"parentJobId": parent})
    assert (await service.caller.read(failed, wait=60))["status"] == "FAILED"

    answer = await service.caller.http.post(f"/v1/jobs/{failed}/retry")

    assert answer.status_code == 202, answer.text
    job = await service.caller.read(answer.json()["jobId"], wait=60)
    assert (job["status"], job["retryOf"]) == ("COMPLETED", failed)
    assert job["input"] == ACTIONS[MIDJOURNEY] | {"parentJobId": parent}
    assert (await service.job(job["id"])).parent_id == UUID(parent)
    wire = json.loads((await sent(simulator, job["id"]))["body"])
    assert wire["parentJobId"] == (await service.job(parent)).upstream_id


async def test_the_translation_is_frozen_whatever_is_learned_of_the_parent_since(
    serve: Serve, simulator: RunningSimulator
) -> None:
    """Rule 2: a repetition is byte for byte what was sent first."""
    service = await serve(simulator)
    parent = await completed(service.caller)
    await tell(simulator, "faults", next=["server_error"])
    job_id = await accepted(service.caller, MIDJOURNEY, ACTIONS[MIDJOURNEY] | {"parentJobId": parent})
    upstream_id = (await service.job(parent)).upstream_id
    await service.rows("UPDATE jobs SET upstream_id = :other WHERE id = :id RETURNING 1", other=str(uuid4()), id=parent)

    assert (await service.caller.read(job_id, wait=60))["status"] == "COMPLETED"
    seen = (await books(simulator))["submissions"]
    calls = [call for call in seen if (call["idempotency_key"] or "").startswith(job_id)]
    assert len(calls) == 2
    assert {json.loads(call["body"])["parentJobId"] for call in calls} == {upstream_id}


async def test_a_repeat_of_an_action_is_answered_though_the_parent_is_gone_since(service: Service) -> None:
    parent = await completed(service.caller)
    body = ACTIONS[MIDJOURNEY] | {"parentJobId": parent}
    job_id = await accepted(service.caller, MIDJOURNEY, body, Idempotency_Key="one")
    await service.caller.read(job_id, wait=60)
    await service.rows("UPDATE jobs SET upstream_account = 'other.example' WHERE id = :id RETURNING 1", id=parent)

    assert await accepted(service.caller, MIDJOURNEY, body, Idempotency_Key="one") == job_id
    refused(await post(service.caller, MIDJOURNEY, body, Idempotency_Key="two"), 409)


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("images/upscale", {"model": "topaz-image-upscale", "topazUpscaleParams": {"image": "https://a.example/b"}}),
        ("images/edit", {"model": "flux-fill-pro", "fluxFillParams": {"mode": "inpaint"}}),
        ("images/background-remove", {"model": "bria-bg-remove", "briaBgRemoveParams": {}}),
        ("videos/generate", {"model": "kling-2.6", "prompt": "waves"}),
        ("videos/upscale", {"model": "topaz-video-upscale", "topazVideoParams": {}}),
        ("videos/edit", {"model": "wan-2.7-videoedit", "prompt": "snow", "wan27VideoeditParams": {}}),
        ("music/generate", {"model": "udio", "prompt": "a shanty"}),
    ],
)
async def test_every_other_operation_runs_a_job_to_its_end(
    service: Service, simulator: RunningSimulator, operation: str, body: dict[str, Any]
) -> None:
    job_id = await accepted(service.caller, operation, body | {"metadata": {"a": "b"}}, Idempotency_Key="one")

    job = await service.caller.read(job_id, wait=60)

    assert (job["status"], job["operation"], job["model"]) == ("COMPLETED", operation, body["model"])
    assert (job["input"], job["metadata"]) == (body, {"a": "b"})
    assert (await sent(simulator, job_id))["operation"] == operation
    assert await accepted(service.caller, operation, body | {"metadata": {"a": "b"}}, Idempotency_Key="one") == job_id
    refused(await post(service.caller, "images/generate", body | {"metadata": {"a": "b"}}, Idempotency_Key="one"), 400)
