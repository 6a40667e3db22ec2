"""Submissions: who may, which bodies, once per idempotency key, within the cap and the credits."""

from __future__ import annotations

import ssl
import uuid
from typing import Any

import httpx
import pytest

from app.simulator.config import SimulatorConfig
from app.simulator.server import RunningSimulator
from tests.simulator.walks import KEY, OTHER_KEY, SUBMIT, at_once, counters, ended, eventually, flux, submit


def test_a_submission_is_accepted_with_a_uuid_and_queued(vendor: httpx.Client) -> None:
    answer = vendor.post(SUBMIT, json=flux())
    assert answer.status_code == 202
    assert answer.json() == {"jobId": str(uuid.UUID(answer.json()["jobId"])), "status": "QUEUED"}
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "afk_unknown"}, {"Authorization": "Basic abc"}])
def test_a_missing_or_unknown_key_is_a_401(simulator: RunningSimulator, headers: dict[str, str]) -> None:
    answer = httpx.get(f"{simulator.url}/v2/me", headers=headers, trust_env=False, timeout=60)
    assert answer.status_code == 401
    assert set(answer.json()) == {"error"}
    assert answer.headers["x-request-id"]


def test_a_bearer_token_is_a_key_as_well(simulator: RunningSimulator) -> None:
    answer = httpx.get(
        f"{simulator.url}/v2/me", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False, timeout=60
    )
    assert answer.status_code == 200
    assert answer.json()["apiKey"]["prefix"] == KEY[:8]


def test_an_inactive_key_is_a_403(vendor: httpx.Client) -> None:
    answer = vendor.post(SUBMIT, json=flux(), headers={"X-API-Key": "afk_inactive"})
    assert (answer.status_code, list(answer.json())) == (403, ["error"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "flux-1.1-pro-ultra"}, "prompt"),
        (flux(""), "prompt"),
        (flux("x" * 2001), "prompt"),
        (flux(fluxParams={"image_prompt": "no url"}), "fluxParams.image_prompt"),
        (flux(fluxParams={"image_prompt_strength": 1.01}), "fluxParams.image_prompt_strength"),
        (flux(fluxParams={"output_format": "gif"}), "fluxParams.output_format"),
        (flux(fluxParams={"output_quality": 101}), "fluxParams.output_quality"),
        (flux(fluxParams={"output_quality": 1.5}), "fluxParams.output_quality"),
        (flux(fluxParams={"raw": "yes"}), "fluxParams.raw"),
        (flux(fluxParams={"seed": True}), "fluxParams.seed"),
        (flux(fluxParams={"aspect_ratio": "wide"}), "fluxParams.aspect_ratio"),
        (flux(fluxParams={"guidance": 1}), "fluxParams.guidance"),
        (flux(fluxParams={"width": 100}), "fluxParams.width"),
        (flux(fluxParams={"no_such_field": 1}), "fluxParams.no_such_field"),
        (flux(fluxParams=[]), "fluxParams"),
        (flux(klingParams={}), "klingParams"),
        (flux(webhookUrl="not a url"), "webhookUrl"),
        (flux(webhookEvents=[]), "webhookEvents"),
        (flux(webhookEvents=["started"]), "webhookEvents.0"),
        ({"prompt": "x", "model": "no-such-model"}, "model"),
        ({"prompt": "x", "model": "suno"}, "model"),
        ([], ""),
    ],
)
def test_a_body_that_is_not_well_formed_is_a_400_naming_the_field(vendor: httpx.Client, body: Any, field: str) -> None:
    answer = vendor.post(SUBMIT, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"] == "Validation failed"
    assert list(answer.json()["details"]) == [field]
    assert all(isinstance(message, str) for message in answer.json()["details"][field])


def test_a_body_that_is_not_json_is_a_400(vendor: httpx.Client) -> None:
    answer = vendor.post(SUBMIT, content=b"{")
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_every_documented_flux_field_is_accepted(vendor: httpx.Client) -> None:
    params = {
        "image_prompt": "https://example.com/a.png",
        "image_prompt_strength": 0.33,
        "output_format": "webp",
        "output_quality": 0,
        "raw": True,
        "seed": -1,
        "aspect_ratio": "21:9",
        "go_fast": False,
        "guidance": 2.5,
        "height": 256,
        "width": 2048,
        "input_images": ["https://example.com/b.png"],
        "prompt_upsampling": True,
        "resolution": "1K",
        "steps": 50,
    }
    submit(vendor, prompt="x" * 2000, fluxParams=params)


@pytest.mark.parametrize(
    ("spelling", "accepted"),
    [
        ("webhookUrl", {"webhookUrl"}),
        ("webhook_url", {"webhook_url"}),
        ("both", {"webhookUrl", "webhook_url"}),
        ("none", set()),
    ],
)
def test_only_the_configured_spelling_of_the_webhook_field_is_known(
    simulator: RunningSimulator, vendor: httpx.Client, spelling: str, accepted: set[str]
) -> None:
    simulator.tell("config", webhook_field=spelling)
    for name in ("webhookUrl", "webhook_url"):
        answer = vendor.post(SUBMIT, json=flux(**{name: "http://127.0.0.1:9/hook"}))
        assert answer.status_code == (202 if name in accepted else 400)
        if name not in accepted:
            assert answer.json()["details"] == {name: ["Unrecognized key"]}


@pytest.mark.parametrize(
    ("style", "details"),
    [
        ("field", {"webhook_url": ["Unrecognized key"]}),
        ("zod", {"": ['Unrecognized key: "webhook_url"']}),
        ("zod3", {"": ["Unrecognized key(s) in object: 'webhook_url'"]}),
    ],
)
def test_the_wording_of_an_unknown_key_can_be_chosen(
    simulator: RunningSimulator, vendor: httpx.Client, style: str, details: dict[str, list[str]]
) -> None:
    simulator.tell("config", unknown_key_style=style)
    answer = vendor.post(SUBMIT, json=flux(webhook_url="http://127.0.0.1:9/hook"))
    assert (answer.status_code, answer.json()["details"]) == (400, details)


def test_webhook_events_can_be_unknown_as_well(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("config", webhook_events_known=False)
    answer = vendor.post(SUBMIT, json=flux(webhookEvents=["completed"]))
    assert answer.json()["details"] == {"webhookEvents": ["Unrecognized key"]}


def test_the_same_key_and_body_give_the_original_job(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    first, second = (vendor.post(SUBMIT, json=flux(), headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["jobId"] == second.json()["jobId"]
    assert counters(simulator)["accepted"] == 1
    assert counters(simulator)["replays"] == 1


def test_the_same_key_with_another_body_or_operation_is_a_409(vendor: httpx.Client) -> None:
    headers = {"Idempotency-Key": "k"}
    vendor.post(SUBMIT, json=flux("one"), headers=headers)
    for path, body in ((SUBMIT, flux("two")), ("/v2/videos/generate", {"model": "veo-3", "prompt": "one"})):
        answer = vendor.post(path, json=body, headers=headers)
        assert (answer.status_code, list(answer.json())) == (409, ["error"])


@pytest.mark.parametrize(("compares", "status"), [("bytes", 409), ("json", 202)])
def test_bodies_of_one_meaning_differ_unless_json_is_compared(
    simulator: RunningSimulator, vendor: httpx.Client, compares: str, status: int
) -> None:
    simulator.tell("config", idempotency_compares=compares)
    bodies = (b'{"model":"veo-3","prompt":"x"}', b'{"prompt": "x", "model": "veo-3"}')
    answers = [vendor.post("/v2/videos/generate", content=raw, headers={"Idempotency-Key": "k"}) for raw in bodies]
    assert [answer.status_code for answer in answers] == [202, status]


def test_an_idempotency_key_is_forgotten_after_a_day(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    headers = {"Idempotency-Key": "k"}
    first = vendor.post(SUBMIT, json=flux(), headers=headers).json()["jobId"]
    simulator.tell("advance", seconds=86_000)
    assert vendor.post(SUBMIT, json=flux(), headers=headers).json()["jobId"] == first
    simulator.tell("advance", seconds=400)
    assert vendor.post(SUBMIT, json=flux(), headers=headers).json()["jobId"] != first


def test_an_idempotency_key_belongs_to_its_account(vendor: httpx.Client) -> None:
    def job_id(api_key: str) -> str:
        headers = {"Idempotency-Key": "k", "X-API-Key": api_key}
        return str(vendor.post(SUBMIT, json=flux(), headers=headers).json()["jobId"])

    assert job_id(KEY) == job_id("afk_second_key")
    assert job_id(KEY) != job_id(OTHER_KEY)


def test_an_idempotency_key_may_have_255_characters(vendor: httpx.Client) -> None:
    assert vendor.post(SUBMIT, json=flux(), headers={"Idempotency-Key": "k" * 255}).status_code == 202
    answer = vendor.post(SUBMIT, json=flux(), headers={"Idempotency-Key": "k" * 256})
    assert (answer.status_code, list(answer.json()["details"])) == (400, ["Idempotency-Key"])


def test_a_refused_submission_leaves_its_key_free(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    headers = {"Idempotency-Key": "k"}
    assert vendor.post(SUBMIT, json=flux(""), headers=headers).status_code == 400
    simulator.tell("config", credits=0)
    assert vendor.post(SUBMIT, json=flux("one"), headers=headers).status_code == 402
    simulator.tell("config", credits=100)
    assert vendor.post(SUBMIT, json=flux("two"), headers=headers).status_code == 202


def test_many_at_once_with_one_key_make_one_job(
    simulator: RunningSimulator, vendor: httpx.Client, trust: ssl.SSLContext
) -> None:
    jobs: list[str] = []

    def send(client: httpx.Client) -> None:
        jobs.append(client.post(SUBMIT, json=flux(), headers={"Idempotency-Key": "k"}).json()["jobId"])

    for thread in at_once(20, vendor, trust, send):
        thread.join()
    assert len(jobs) == 20
    assert len(set(jobs)) == 1
    assert counters(simulator)["accepted"] == 1


def test_credits_are_spent_on_completed_jobs_only(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("config", credits=30, costs={"veo-3": 25})
    simulator.tell("faults", next=["fail", "none"])
    assert ended(vendor, submit(vendor))["creditCost"] is None
    assert vendor.get("/v2/me").json()["team"]["credits"] == 30
    assert ended(vendor, submit(vendor))["creditCost"] == 10
    assert vendor.get("/v2/me").json()["team"]["credits"] == 20
    answer = vendor.post("/v2/videos/generate", json={"model": "veo-3", "prompt": "x"})
    assert answer.status_code == 402
    assert answer.json() == {"error": "Insufficient credits", "creditsRequired": 25, "creditsAvailable": 20}


def test_jobs_beyond_the_cap_are_a_429_until_one_ends(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("config", max_concurrent_jobs=2, hold=True)
    first, _ = submit(vendor), submit(vendor)
    answer = vendor.post(SUBMIT, json=flux())
    assert (answer.status_code, list(answer.json())) == (429, ["error"])
    assert int(answer.headers["retry-after"]) >= 0
    assert vendor.post(SUBMIT, json=flux(), headers={"X-API-Key": OTHER_KEY}).status_code == 202
    simulator.tell(f"jobs/{first}/finish")
    submit(vendor)
    assert counters(simulator)["max_in_flight_seen"] == 3
    simulator.tell("config", enforce_cap=False)
    submit(vendor)


def test_requests_beyond_the_rate_are_a_429_for_a_minute(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("config", requests_per_minute=3)
    statuses = [vendor.get("/v2/me").status_code for _ in range(3)]
    refused = vendor.post(SUBMIT, json=flux())
    assert (*statuses, refused.status_code) == (200, 200, 200, 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    simulator.tell("advance", seconds=60)
    submit(vendor)


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (
            "images/upscale",
            {"model": "clarity-upscale", "clarityUpscaleParams": {"image": "https://example.com/a.png"}},
        ),
        ("images/edit", {"model": "flux-fill-pro", "fluxFillParams": {"prompt": "sky"}}),
        ("images/background-remove", {"model": "bria-bg-remove", "briaBgRemoveParams": {}}),
        ("videos/generate", {"model": "kling-3.0", "prompt": "x", "klingParams": {"anything": 1}}),
        ("videos/upscale", {"model": "topaz-video-upscale", "topazVideoParams": {}}),
        ("videos/edit", {"model": "wan-2.7-videoedit", "prompt": "x", "wan27VideoeditParams": {}}),
        ("music/generate", {"model": "udio", "prompt": "x"}),
    ],
)
def test_every_other_operation_makes_jobs_too(vendor: httpx.Client, operation: str, body: dict[str, Any]) -> None:
    assert ended(vendor, submit(vendor, f"/v2/{operation}", **body))["status"] == "COMPLETED"


def test_midjourney_actions_fit_the_parents_that_they_are_made_for(
    simulator: RunningSimulator, vendor: httpx.Client
) -> None:
    path = "/v2/images/midjourney/action"
    grid = submit(vendor, model="midjourney", prompt="x")
    assert set(ended(vendor, grid)["result"]) == {"images", "gridUrl"}
    chosen = submit(vendor, path, action="upsample", index=2, parentJobId=grid)
    assert len(ended(vendor, chosen)["result"]["images"]) == 1
    zoomed = submit(vendor, path, action="outpaint", zoomRatio=1.5, parentJobId=chosen)
    assert len(ended(vendor, zoomed)["result"]["images"]) == 4
    flux_job = submit(vendor)
    ended(vendor, flux_job)
    simulator.tell("config", hold=True)
    unfinished = submit(vendor, model="midjourney", prompt="x")
    for parent in (chosen, flux_job, unfinished):
        answer = vendor.post(path, json={"action": "variation", "index": 1, "parentJobId": parent})
        assert (answer.status_code, list(answer.json())) == (409, ["error"])
    missing = vendor.post(path, json={"action": "pan", "direction": "up", "parentJobId": str(uuid.uuid4())})
    assert missing.status_code == 404
    malformed = vendor.post(path, json={"action": "pan", "direction": "in", "parentJobId": "x"})
    assert set(malformed.json()["details"]) == {"direction", "parentJobId"}


def test_suno_actions_take_a_track_of_their_parent(vendor: httpx.Client) -> None:
    path = "/v2/music/suno/action"
    song = submit(vendor, "/v2/music/generate", model="suno", prompt="x")
    tracks = ended(vendor, song)["result"]["tracks"]
    assert {"id", "audioUrl", "title", "duration"} <= set(tracks[0])
    stems = submit(vendor, path, action="stems", parentJobId=song, trackId=tracks[1]["id"])
    assert len(ended(vendor, stems)["result"]["tracks"]) == 2
    submit(vendor, path, action="add_vocals", prompt="la la", index=2, parentJobId=song)
    for body in ({"parentJobId": stems}, {"parentJobId": song, "trackId": "no such track"}):
        assert vendor.post(path, json={"action": "extend", **body}).status_code == 409


def test_the_books_show_what_was_accepted(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    raw = b'{ "prompt": "x", "model": "veo-3" }'
    vendor.post("/v2/videos/generate", content=raw, headers={"Idempotency-Key": "k:2"})
    entry = eventually(lambda: next((e for e in simulator.ask("books")["jobs"] if e["finished_at"]), None))
    assert entry is not None
    expected = {"idempotency_key": "k:2", "api_key": KEY, "body": raw.decode(), "operation": "videos/generate"}
    assert expected.items() <= entry.items()
    assert simulator.ask("jobs/k:2") == entry
    calls = simulator.ask("books?part=submissions")
    assert calls == {"submissions": [{"idempotency_key": "k:2", "api_key": KEY, "body": raw.decode()}]}
    seen = counters(simulator)
    assert (seen["submissions"], seen["accepted"], seen["in_flight_now"]) == (1, 1, 0)
    assert seen["requests"] == {"POST /v2/videos/generate": 1}


def test_the_books_show_the_newest_and_count_all() -> None:
    with RunningSimulator(SimulatorConfig(books_kept=2)) as simulator:
        for key in ("one", "two", "three"):
            headers = {"X-API-Key": KEY, "Idempotency-Key": key}
            answer = httpx.post(f"{simulator.url}{SUBMIT}", json=flux(), headers=headers, trust_env=False, timeout=60)
            answer.raise_for_status()
        calls = simulator.ask("books?part=submissions")["submissions"]
        assert [call["idempotency_key"] for call in calls] == ["two", "three"]
        assert counters(simulator)["submissions"] == 3
