"""The main job: submitted, forwarded, reported by webhook, read."""

from __future__ import annotations

from tests.harness import FLUX, Service


async def test_a_submission_is_forwarded_and_its_webhook_completes_it(service: Service) -> None:
    job_id = await service.caller.accepted(FLUX | {"metadata": {"campaign": "autumn"}})

    job = await service.caller.read(job_id, wait=50)

    assert job["status"] == "COMPLETED"
    assert job["result"]["images"][0].startswith("http")
    assert job["input"] == FLUX
    assert job["metadata"] == {"campaign": "autumn"}
