"""Jobs: how they move, how they are polled and listed, and what the caller is told of itself."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace

import httpx
import pytest

from app.simulator.config import SimulatorConfig
from app.simulator.lifecycle import steps
from app.simulator.server import RunningSimulator
from tests.simulator.walks import MODEL, OTHER_KEY, counters, ended, eventually, get_job, submit

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_a_job_goes_from_queued_over_processing_to_completed(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("config", hold=True)
    job_id = submit(vendor, prompt="a fox", fluxParams={"seed": 7}, webhookUrl="http://127.0.0.1:9/hook")
    queued = get_job(vendor, job_id)
    assert (queued["status"], queued["progress"], queued["completedAt"]) == ("QUEUED", None, None)
    assert queued["input"] == {"model": MODEL, "prompt": "a fox", "fluxParams": {"seed": 7}}
    simulator.tell(f"jobs/{job_id}/progress", progress=45, announce=False)
    assert (get_job(vendor, job_id)["status"], get_job(vendor, job_id)["progress"]) == ("PROCESSING", 45)
    simulator.tell(f"jobs/{job_id}/finish", announce=False)
    done = get_job(vendor, job_id)
    assert (done["status"], done["progress"], done["creditCost"], done["error"]) == ("COMPLETED", 100, 10, None)
    assert done["expired"] is False
    assert TIME.fullmatch(done["createdAt"])
    assert TIME.fullmatch(done["completedAt"])
    assert done["createdAt"] <= done["completedAt"]


def test_a_job_moves_by_itself(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("config", queue_seconds=0.1, generate_seconds=0.6)
    job_id = submit(vendor)
    seen = []

    def watched() -> bool:
        job = get_job(vendor, job_id)
        seen.append((job["status"], job["progress"]))
        return bool(job["status"] == "COMPLETED")

    eventually(watched)
    way = [("QUEUED", None), *[("PROCESSING", progress) for progress in (0, 25, 50, 75)], ("COMPLETED", 100)]
    assert [place for place in way if place in seen] == list(dict.fromkeys(seen))


def test_the_way_of_a_job_is_spread_over_its_latency_and_jittered_by_the_seed() -> None:
    even = SimulatorConfig(queue_seconds=1, generate_seconds=4, jitter=0)
    assert steps(even, 1) == [(1, 0), (1, 25), (1, 50), (1, 75), (1, 100)]
    paces = {steps(replace(even, jitter=0.5), serial)[0][0] for serial in range(50)}
    assert paces == {steps(replace(even, jitter=0.5), serial)[0][0] for serial in range(50)}
    assert len(paces) == 50
    assert all(0.5 <= pace <= 1.5 for pace in paces)
    assert [progress for _, progress in steps(replace(even, progress_steps=()), 1)] == [0, 100]


def test_videos_and_music_have_results_of_their_own(vendor: httpx.Client) -> None:
    video = ended(vendor, submit(vendor, "/v2/videos/generate", model="sora-2", prompt="x"))
    assert list(video["result"]) == ["videoUrl"]
    music = ended(vendor, submit(vendor, "/v2/music/generate", model="suno", prompt="x"))
    assert len(music["result"]["tracks"]) == 2


def test_an_unknown_or_foreign_job_is_a_404_and_a_malformed_id_a_400(vendor: httpx.Client) -> None:
    job_id = submit(vendor)
    assert vendor.get(f"/v2/jobs/{job_id}", headers={"X-API-Key": OTHER_KEY}).status_code == 404
    assert vendor.get(f"/v2/jobs/{uuid.uuid4()}").json() == {"error": "Job not found"}
    assert vendor.get("/v2/jobs/abc").status_code == 400


def test_the_list_pages_newest_first_without_gap_or_repeat(vendor: httpx.Client) -> None:
    submitted = {submit(vendor, prompt=f"number {number}") for number in range(7)}
    pages, cursor = [], None
    while True:
        page = vendor.get("/v2/jobs", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        pages.append(page["jobs"])
        submit(vendor)
        cursor = page["nextCursor"]
        assert page["hasMore"] is (cursor is not None)
        if cursor is None:
            break
    assert [len(page) for page in pages] == [3, 3, 1]
    jobs = [job for page in pages for job in page]
    assert {job["id"] for job in jobs} == submitted
    places = [(job["createdAt"], job["id"]) for job in jobs]
    assert places == sorted(places, reverse=True)
    assert "input" not in jobs[0]


def test_the_list_filters_by_status_model_and_id(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    simulator.tell("config", hold=True)
    held, video = submit(vendor), submit(vendor, "/v2/videos/generate", model="veo-3", prompt="x")
    simulator.tell(f"jobs/{video}/finish", status="FAILED", error="no", announce=False)

    def ids(**params: str) -> list[str]:
        return [job["id"] for job in vendor.get("/v2/jobs", params=params).json()["jobs"]]

    assert ids() == ids(scope="team") == ids(scope="user")
    assert ids(status="QUEUED") == ids(model=MODEL) == ids(search=held) == [held]
    assert ids(status="FAILED") == [video]
    assert ids(status="FAILED", model=MODEL) == []
    assert vendor.get("/v2/jobs", headers={"X-API-Key": OTHER_KEY}).json() == {
        "jobs": [],
        "nextCursor": None,
        "hasMore": False,
    }
    assert vendor.get("/v2/jobs?include_models=true").json()["models"] == [MODEL, "veo-3"]
    assert counters(simulator)["lists"] == 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "ten"),
        ("status", "DONE"),
        ("scope", "all"),
        ("search", "abc"),
        ("cursor", "abc"),
        ("cursor", "é"),
        ("include_models", "yes"),
    ],
)
def test_a_list_that_is_asked_for_wrongly_is_a_400(vendor: httpx.Client, name: str, value: str) -> None:
    answer = vendor.get("/v2/jobs", params={name: value})
    assert (answer.status_code, list(answer.json()["details"])) == (400, [name])


def test_the_caller_is_told_its_team_credits_and_cap(simulator: RunningSimulator, vendor: httpx.Client) -> None:
    team = vendor.get("/v2/me").json()["team"]
    assert (team["maxConcurrentJobs"], team["credits"]) == (50, 1_000_000)
    simulator.tell("config", show_cap_in_me=False)
    assert "maxConcurrentJobs" not in vendor.get("/v2/me").json()["team"]


def test_the_models_are_public_and_filtered_by_modality(simulator: RunningSimulator) -> None:
    with httpx.Client(base_url=simulator.url, trust_env=False, timeout=60) as anybody:
        models = anybody.get("/v2/models").json()["models"]
        music = anybody.get("/v2/models?modality=music").json()["models"]
        assert MODEL in {model["id"] for model in models}
        assert {model["modality"] for model in music} == {"music"}
        assert len(music) < len(models)
        assert anybody.get("/v2/models?modality=smell").status_code == 400


def test_the_document_describes_the_webhook_field_as_it_is_spelled(simulator: RunningSimulator) -> None:
    def fields() -> set[str]:
        document = httpx.get(f"{simulator.url}/v2/openapi.json", trust_env=False, timeout=60).json()
        body = document["paths"]["/v2/images/generate"]["post"]["requestBody"]
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        return {
            field for variant in document["components"]["schemas"][name]["oneOf"] for field in variant["properties"]
        }

    assert {"webhookUrl", "webhookEvents"} <= fields()
    simulator.tell("config", webhook_field="webhook_url", webhook_events_known=False)
    assert {"webhookUrl", "webhookEvents"} & fields() == set()
    assert "webhook_url" in fields()
    simulator.tell("config", document="absent")
    assert httpx.get(f"{simulator.url}/v2/openapi.json", trust_env=False, timeout=60).status_code == 404


def test_unknown_paths_and_methods_answer_in_the_same_envelope(vendor: httpx.Client) -> None:
    for answer in (vendor.get("/v2/nothing"), vendor.put("/v2/loras"), vendor.delete("/v2/jobs")):
        assert answer.status_code in (404, 405)
        assert list(answer.json()) == ["error"]
        assert answer.headers["x-request-id"]


def test_every_key_of_an_account_sees_its_jobs(vendor: httpx.Client) -> None:
    job_id = submit(vendor)
    assert vendor.get(f"/v2/jobs/{job_id}", headers={"X-API-Key": "afk_second_key"}).status_code == 200
