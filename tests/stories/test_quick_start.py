"""A newcomer's first hour: the README's own snippets, run as they stand, and what clients of Apiframe rely on."""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Caller, Service, eventually, tell
from tests.stories.quick_start.snippets import first_call, one_call

SNIPPET_SECONDS = 60


def program(name: str) -> str:
    """Where a program is. Without it the test is skipped, but not where everything must be there."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not on the PATH"
        print(reason)
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


async def run(service: Service, *command: str) -> str:
    """Run a snippet as a newcomer does, address and key in its environment; return what it prints."""
    environment = os.environ | {
        "FRAMEHOOK_URL": service.url,
        "FRAMEHOOK_KEY": service.caller.key,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)
    try:
        async with asyncio.timeout(SNIPPET_SECONDS):
            said, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, complaint.decode()
    return said.decode()


async def picture_is_real(said: str) -> None:
    """What was printed names a final status and the address of a picture that is there."""
    assert "COMPLETED" in said
    urls = re.findall(r"https?://[^\s\"]+", said)
    assert urls, said
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.get(urls[0])
    assert answer.status_code == 200
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height


async def one_job_was_made(service: Service) -> None:
    (job,) = (await service.caller.http.get("/v2/jobs")).json()["jobs"]
    assert job["status"] == "COMPLETED"


async def test_the_one_call_of_the_readme_ends_with_a_picture(service: Service, tmp_path: Path) -> None:
    program("curl")
    script = tmp_path / "one-call.sh"
    script.write_text(f"cd '{tmp_path}'\n{one_call()}", encoding="utf-8")
    assert await run(service, program("bash"), "-u", str(script)) == ""
    with Image.open(tmp_path / "lighthouse.jpg") as picture:
        assert picture.format == "JPEG"
    await one_job_was_made(service)


async def test_the_curl_lines_of_the_readme_end_with_a_picture(service: Service, tmp_path: Path) -> None:
    script = tmp_path / "first-call.sh"
    script.write_text(first_call("bash"), encoding="utf-8")
    program("curl")
    said = await run(service, program("bash"), "-u", str(script))
    await picture_is_real(said)
    assert '"status":"COMPLETED"' in said.splitlines()[-1]
    await one_job_was_made(service)


async def test_the_python_of_the_readme_ends_with_a_picture(service: Service, tmp_path: Path) -> None:
    script = tmp_path / "first_call.py"
    script.write_text(first_call("python"), encoding="utf-8")
    await picture_is_real(await run(service, sys.executable, str(script)))
    await one_job_was_made(service)


async def test_the_javascript_of_the_readme_ends_with_a_picture(service: Service, tmp_path: Path) -> None:
    script = tmp_path / "first-call.mjs"
    script.write_text(first_call("javascript"), encoding="utf-8")
    await picture_is_real(await run(service, program("node"), str(script)))
    await one_job_was_made(service)


# What clients of Apiframe rely on


async def wait_for(caller: Caller, job_id: str) -> dict[str, Any]:
    """The client's `jobs.waitFor`: poll until the job is over, faster here than a client would; raise its error."""

    def over(job: dict[str, Any]) -> bool:
        return job["status"] in ("COMPLETED", "FAILED", "CANCELLED")

    job = await eventually(lambda: caller.read(job_id), over)
    if job["status"] == "FAILED":
        raise RuntimeError(job["error"])
    return job


async def test_waiting_by_polling_ends_with_the_result(service: Service) -> None:
    job = await wait_for(service.caller, await service.caller.accepted())
    assert job["status"] == "COMPLETED"
    assert job["progress"] == 100
    assert job["result"]["images"]
    assert job["creditCost"] == 10


async def test_waiting_by_polling_raises_the_error_of_a_failed_job(
    simulator: RunningSimulator, service: Service
) -> None:
    await tell(simulator, "faults", next=["fail"])
    job_id = await service.caller.accepted()
    with pytest.raises(RuntimeError, match=r"\w"):
        await wait_for(service.caller, job_id)


async def test_waiting_by_polling_ends_with_a_cancelled_job(simulator: RunningSimulator, serve: Any) -> None:
    await tell(simulator, "faults", next=["cancel"])
    service = await serve(simulator, reconcile_after_seconds=0.2)
    job = await wait_for(service.caller, await service.caller.accepted())
    assert job["status"] == "CANCELLED"


async def test_an_idempotency_key_is_honoured_as_apiframe_does(service: Service) -> None:
    job_id = await service.caller.accepted(Idempotency_Key="order-17")
    assert await service.caller.accepted(Idempotency_Key="order-17") == job_id
    other = await service.caller.submit(FLUX | {"prompt": "something else"}, Idempotency_Key="order-17")
    assert other.status_code == 409
    assert isinstance(other.json()["error"], str)


async def test_errors_have_the_shapes_that_clients_map(
    simulate: Callable[..., RunningSimulator], serve: Callable[..., Any]
) -> None:
    service = await serve(simulate(credits=0))

    wrong = await service.caller.submit({"model": "flux-1.1-pro-ultra", "fluxParams": {"raw": "yes"}})
    assert wrong.status_code == 400
    assert {"prompt", "fluxParams.raw"} <= set(wrong.json()["details"])

    poor = await service.caller.submit()
    assert poor.status_code == 402
    assert poor.json() == {"error": "Insufficient credits", "creditsRequired": 10, "creditsAvailable": 0}

    absent = await service.caller.http.get("/v2/jobs/00000000-0000-0000-0000-000000000000")
    assert absent.status_code == 404

    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60) as stranger:
        unknown = await stranger.get("/v2/jobs", headers={"X-API-Key": "fh_live_nobody"})
    assert unknown.status_code == 401
    assert all(isinstance(answer.json()["error"], str) for answer in (wrong, poor, absent, unknown))
