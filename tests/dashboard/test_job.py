"""The page of one job: what it says is going on, what it shows, and what its buttons do."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import text

from app.apiframe.signature import fingerprint
from app.dashboard import commands
from app.deliveries import deliver
from app.jobs import dispatch
from app.simulator.server import RunningSimulator
from tests.archive.stories import Archive, archiving
from tests.dashboard.operators import Operator, sign_in
from tests.dashboard.pages import region, situation, text_of
from tests.harness import FLUX, SIMULATOR_KEY, Service, eventually, held_job, post_webhook, tell
from tests.media import png
from tests.objects import folder_place
from tests.receivers import receiving
from tests.sources import Gate, sourcing

LATER: Final = {"Prefer": "respond-async"}


@pytest.fixture
async def quiet(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> AsyncIterator[tuple[Service, RunningSimulator, Operator]]:
    """A service that does nothing by itself, an upstream whose jobs do not end, and somebody who looks."""
    simulator = simulate(hold=True)
    service: Service = await serve(simulator, loops=False)
    async with AsyncExitStack() as stack:
        yield service, simulator, await sign_in(stack, service)


async def change(service: Service, statement: str, **values: Any) -> None:
    async with service.ctx.db.transaction() as tx:
        await tx.execute(text(statement), values)


async def test_what_a_job_waits_for_is_told_in_words(quiet: tuple[Service, RunningSimulator, Operator]) -> None:
    service, _, operator = quiet
    job_id = await service.caller.accepted(FLUX, **LATER)

    async def told() -> str:
        return situation(await operator.read(f"/ops/jobs/{job_id}"))

    assert re.fullmatch(r"Waiting to be sent since (just now|\d+ s ago) : its turn is next\.", await told())
    await change(service, "UPDATE jobs SET dispatch_count = 2, dispatch_at = now() + interval '40 min'")
    assert re.search(r": attempt 2 came to nothing\. It is sent again in (39|40) min", await told())
    await change(service, "UPDATE teams SET in_flight_limit = 0")
    await change(service, "UPDATE jobs SET dispatch_at = now() - interval '1 s'")
    assert "tests has 0 jobs under way, as many as it may" in await told()
    await change(
        service,
        "INSERT INTO upstream_keys (account, fingerprint, held_until, hold_reason, updated_at)"
        " VALUES (:account, :key, now() + interval '1 min', 'the upstream answered 503', now())",
        account=service.ctx.account,
        key=fingerprint(SIMULATOR_KEY),
    )
    assert "dispatch is held (the upstream answered 503), and goes on in" in await told()
    await change(service, "UPDATE upstream_keys SET held_until = NULL, must_probe = true")
    assert "one job goes ahead to see whether it works again" in await told()
    await change(service, "UPDATE teams SET paused_at = now()")
    assert "somebody paused dispatch for the team tests" in await told()
    await change(
        service,
        "INSERT INTO upstream_accounts (id, paused_at, updated_at) VALUES (:account, now() - interval '2 min', now())",
        account=service.ctx.account,
    )
    assert "somebody paused dispatch for all teams 2 min ago" in await told()


async def test_how_far_a_job_has_come_is_told_in_words(quiet: tuple[Service, RunningSimulator, Operator]) -> None:
    service, simulator, operator = quiet

    async def told(job_id: str) -> str:
        return situation(await operator.read(f"/ops/jobs/{job_id}"))

    await tell(simulator, "faults", next=["accept_then_cut"])
    ambiguous = await held_job(service, simulator)
    assert re.search(
        r"^Sent .* not confirmed by the upstream \(.*\)\. It is paid once at most", await told(ambiguous.id)
    )
    running = await held_job(service, simulator)
    assert (await told(running.id)).startswith("Waiting at the upstream: accepted upstream")
    await tell(simulator, f"jobs/{running.upstream_id}/progress", progress=45, wait=True)
    assert re.search(r"^Running: .*, 45 % done\. Half of its model take", await told(running.id))
    await change(service, "UPDATE jobs SET overdue_at = now() WHERE id = :id", id=running.id)
    assert re.search(r"^Overdue: .* 99 in 100 of its model are over within 5.0 min", await told(running.id))
    await tell(simulator, f"jobs/{running.upstream_id}/finish", wait=True)
    assert re.search(r"^Completed .* after its submission. A webhook told us\.$", await told(running.id))
    failing = await held_job(service, simulator)
    await tell(simulator, f"jobs/{failing.upstream_id}/finish", status="FAILED", error="moderated <b>", wait=True)
    assert re.search(r"^Failed upstream .*: moderated <b>$", await told(failing.id))
    await tell(simulator, "faults", next=["forbidden"])
    assert (await service.caller.submit(FLUX)).status_code == 403
    (refused,) = await service.rows("SELECT id FROM jobs WHERE refusal IS NOT NULL")
    assert (await told(refused.id)).startswith("Refused before acceptance")
    cancelled = await service.caller.accepted(FLUX, **LATER)
    await operator.act(f"/ops/jobs/{cancelled}/cancel")
    assert (await told(cancelled)).startswith("Cancelled before it was sent")


async def test_the_page_shows_everything_that_is_known(quiet: tuple[Service, RunningSimulator, Operator]) -> None:
    service, simulator, operator = quiet
    prompt = "a fox, it's <script>alert(1)</script>"
    body = FLUX | {"prompt": prompt, "metadata": {"order": "A-7"}, "priority": 3}
    job = await held_job(service, simulator, body=body, Idempotency_Key="order-7")
    await post_webhook(service, job.url, job.says("progress", progress=10, note="<i>raw</i>"), "sha256=" + "0" * 64)
    await tell(simulator, f"jobs/{job.upstream_id}/finish", wait=True)

    page = await operator.read(f"/ops/jobs/{job.id}")

    assert "<script>alert" not in page
    assert "<i>raw" not in page
    facts = text_of(region(page, "facts"))
    for told in (
        "Priority 3",
        "Idempotency key order-7",
        f"Upstream id {job.upstream_id}",
        "Credits 10",
        "Sent 1 time",
    ):
        assert told in facts
    assert re.search(r"In queue [\d.]+ (ms|s|min)", facts)
    timeline = text_of(region(page, "timeline"))
    moments = (
        "Submitted",
        "Sent, and accepted upstream",
        "signature wrong",
        "Webhook “completed”",
        "QUEUED → COMPLETED",
    )
    places = [timeline.index(told) for told in moments]
    assert places == sorted(places)
    assert '"note": "<i>raw</i>"' in timeline
    links = re.findall(r'class="unkept"><a href="([^"]+)" rel="noreferrer noopener"', page)
    assert links == (await service.caller.read(job.id))["result"]["images"]
    assert '"order": "A-7"' in text_of(page)
    by_other_name = await operator.http.get(f"/ops/jobs/{job.upstream_id}")
    assert (by_other_name.status_code, by_other_name.headers["Location"]) == (303, f"/ops/jobs/{job.id}")
    for unknown in (uuid4(), "nothing", "%00"):
        assert "Job not found" in await operator.read(f"/ops/jobs/{unknown}", status=404)


async def test_what_is_too_large_or_too_deep_for_a_page_is_shown_as_far_as_it_goes(
    quiet: tuple[Service, RunningSimulator, Operator],
) -> None:
    service, _, operator = quiet
    job_id = await service.caller.accepted(FLUX, **LATER)
    long = "jsonb_build_object('prompt', repeat('far too long ', 30000))"
    deep = "[" * 5000 + "]" * 5000
    await change(service, f"UPDATE jobs SET result = CAST(:deep AS jsonb), input = {long}", deep=deep)

    page = await operator.read(f"/ops/jobs/{job_id}")

    assert f'Only the beginning: <a href="/ops/jobs.jsonl?q={job_id}&amp;team=tests"' in page
    assert "curl" not in page
    assert "[[[[[[[[" in page
    assert len(page) < 250_000
    assert "far too long far too long" in await operator.read(f"/ops/jobs.jsonl?q={job_id}")


async def test_who_was_told_is_shown_and_can_be_told_again(quiet: tuple[Service, RunningSimulator, Operator]) -> None:
    service, _, operator = quiet
    async with receiving() as receiver:
        receiver.status = 503
        job_id = await service.caller.accepted(
            FLUX | {"webhook_url": receiver.url, "webhookEvents": ["failed"]}, **LATER
        )
        await operator.act(f"/ops/jobs/{job_id}/cancel")
        assert await deliver.run_once(service.ctx) == 1
        await change(service, "UPDATE deliveries SET due_at = now() + interval '1 hour'")
        page = await operator.read(f"/ops/jobs/{job_id}")
        assert "Not told of job.cancelled: HTTP 503" in text_of(region(page, "timeline"))
        assert "answer 503" in region(page, "timeline")
        assert re.search(r"callback 127\.0\.0\.1:\d+ pending 1 next in", text_of(region(page, "deliveries")))
        assert "/redeliver" not in page
        await change(service, "UPDATE deliveries SET status = 'undelivered', ended_at = now(), due_at = NULL")
        page = await operator.read(f"/ops/jobs/{job_id}")
        action = re.search(r'action="(/ops/deliveries/[^"]+/redeliver)"', page)
        assert action
        answer = await operator.act(action[1], on=f"/ops/jobs/{job_id}", job=job_id)
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/ops/jobs/{job_id}")
        receiver.status = 200
        assert await deliver.run_once(service.ctx) == 1
    assert "delivered" in text_of(region(await operator.read(f"/ops/jobs/{job_id}"), "deliveries"))
    (noted,) = await service.rows("SELECT actor FROM audit_log WHERE action = 'delivery.redelivered'")
    assert noted.actor == str(operator.key_id)


async def test_every_action_is_in_the_audit_log_though_the_job_be_the_operators_own(
    quiet: tuple[Service, RunningSimulator, Operator],
) -> None:
    service, simulator, operator = quiet
    owner = await service.new_caller("operators")  # the operator's own team
    cancelled = await owner.accepted(FLUX, **LATER)
    page = await operator.read(f"/ops/jobs/{cancelled}")
    assert [name for name in ("cancel", "retry", "refresh") if f"/{name}" in page] == ["cancel"]
    assert (await operator.act(f"/ops/jobs/{cancelled}/cancel")).headers["Location"] == f"/ops/jobs/{cancelled}"
    page = await operator.read(f"/ops/jobs/{cancelled}")
    assert [name for name in ("cancel", "retry", "refresh") if f"/{name}" in page] == ["retry"]

    again = [await operator.act(f"/ops/jobs/{cancelled}/retry", after="") for _ in range(2)]

    (new,) = {answer.headers["Location"] for answer in again}
    page = await operator.read(f"/ops/jobs/{cancelled}")
    assert f'href="{new}"' in page
    assert f'name="after" value="{new.rpartition("/")[2]}"' in page
    assert await dispatch.run_once(service.ctx) == 1
    assert f'action="{new}/refresh"' in await operator.read(new)
    await tell(simulator, f"jobs/{new.rpartition('/')[2]}/finish", announce=False)
    answer = await operator.act(f"{new}/refresh")
    assert "COMPLETED" in answer.headers["Set-Cookie"]
    assert "Retry of" in text_of(region(await operator.read(new), "facts"))
    for action, status in (("retry", 409), ("cancel", 409)):
        assert (await operator.act(f"{new}/{action}")).status_code == status
    noted = await service.rows("SELECT action, actor FROM audit_log WHERE action LIKE 'job.%' ORDER BY id")
    assert [row.action for row in noted] == ["job.cancelled", "job.retried", "job.refreshed"]
    assert {row.actor for row in noted} == {str(operator.key_id)}


@pytest.fixture
async def archive(
    database_url: str, simulate: Callable[..., RunningSimulator], tmp_path: Path
) -> AsyncIterator[Archive]:
    """A service that keeps files in a folder."""
    async with archiving(database_url, simulate, folder_place(tmp_path)) as running:
        yield running


async def test_kept_files_are_shown_with_the_sessions_cookie_in_parts_too(archive: Archive) -> None:
    held = await held_job(archive.service, archive.simulator)
    await tell(archive.simulator, f"jobs/{held.upstream_id}/finish", wait=True)
    (file,) = (await archive.settled(held.id))["files"]
    async with AsyncExitStack() as stack:
        operator = await sign_in(stack, archive.service)
        page = await operator.read(f"/ops/jobs/{held.id}")
        assert f'<img src="/ops/files/{file["id"]}"' in page
        assert "File kept: image/jpeg" in text_of(region(page, "timeline"))
        whole = await operator.http.get(f"/ops/files/{file['id']}")
        part = await operator.http.get(f"/ops/files/{file['id']}", headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, whole.content[10:20])
        assert part.headers["Content-Range"] == f"bytes 10-19/{file['bytes']}"
        saved = await operator.http.get(f"/ops/files/{file['id']}?download=true")
        assert saved.headers["Content-Disposition"].startswith("attachment")
        assert (await operator.http.head(f"/ops/files/{file['id']}")).headers["Content-Length"] == str(file["bytes"])
        thumbnail = await operator.http.get(f"/ops/files/{file['id']}/thumbnail")
        assert (thumbnail.status_code, thumbnail.headers["Content-Type"]) == (200, "image/webp")
        assert (await operator.http.get(f"/ops/files/{uuid4()}")).status_code == 404
        await operator.act("/ops/sign-out")
        assert (await operator.http.get(f"/ops/files/{file['id']}")).status_code == 303


async def media_of(operator: Operator, job_id: str) -> str:
    return region(await operator.read(f"/ops/jobs/{job_id}"), "media")


async def test_a_file_that_is_being_fetched_is_told_of_as_such(archive: Archive) -> None:
    gate = Gate()
    async with sourcing() as source, AsyncExitStack() as stack:
        operator = await sign_in(stack, archive.service)
        job_id = await archive.job({"images": [source.serve("0.png", png(), gate=gate)]})
        await gate.reached.wait()
        assert "Being kept … Attempt 1 is being made" in text_of(await media_of(operator, job_id))
        gate.released.set()
        await archive.settled(job_id)
        assert "Attempt" not in text_of(await media_of(operator, job_id))


async def test_files_that_are_not_kept_are_told_of_with_the_reason(archive: Archive) -> None:
    gone = f"{archive.simulator.url}/nothing.png"
    job_id = await archive.job({"images": [gone]})
    async with AsyncExitStack() as stack:
        operator = await sign_in(stack, archive.service)

        async def media() -> str:
            return await media_of(operator, job_id)

        pending = await eventually(media, lambda html: "404" in html)
        assert re.search(r"Being kept …: .*404.* Attempt ([2-9]|\d\d) ", text_of(pending))
        assert f'href="{gone}" rel="noreferrer noopener"' in pending
        await change(archive.service, "UPDATE files SET status = 'failed', due_at = NULL, lease_token = NULL")
        assert re.search(r"Could not be kept: .*404", text_of(await media()))


@pytest.mark.parametrize("prompt", ['it\'s "raging" $HOME `id` \\ !', "line\nbreak '' é 🦊", "-d @/etc/passwd"])
async def test_the_command_to_submit_again_means_the_same_to_a_shell(prompt: str) -> None:
    body = {"model": "flux-2-max", "prompt": prompt}
    command = commands.submission("https://framehook.test", "images/generate", body)
    script = f"curl() {{ printf '%s\\0' \"$@\"; }}; FRAMEHOOK_KEY=fh_live_1; {command}"
    process = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    url, *options, data, end = said.decode().split("\0")
    assert (url, end) == ("https://framehook.test/v2/images/generate", "")
    assert options == ["-H", "X-API-Key: fh_live_1", "-H", "Content-Type: application/json", "--data-raw"]
    assert json.loads(data) == body
