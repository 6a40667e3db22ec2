"""The README's receivers, run as they stand: each event is handled once, forgeries never, and what was missed is found."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from app.deliveries.signing import make_secret, signed_headers
from tests.harness import Caller, Service, eventually
from tests.processes.harness import free_port
from tests.stories.quick_start.snippets import receiver
from tests.stories.test_quick_start import program

GO_FOLDER = "/usr/local/go/bin"
"""Where Go is put by its own installer, which does not add it to the PATH."""

PROXIES = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


async def python(folder: Path) -> list[str]:
    (folder / "receiver.py").write_text(receiver("python"), encoding="utf-8")
    return [sys.executable, "receiver.py"]


async def javascript(folder: Path) -> list[str]:
    node = program("node")
    (folder / "receiver.mjs").write_text(receiver("javascript"), encoding="utf-8")
    return [node, "receiver.mjs"]


async def go(folder: Path) -> list[str]:
    """Built rather than run: `go run` would leave the receiver behind when it is ended."""
    compiler = shutil.which("go", path=GO_FOLDER) or program("go")
    (folder / "receiver.go").write_text(receiver("go"), encoding="utf-8")
    cache = folder / "cache"
    offline = {"GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "", "CGO_ENABLED": "0"}
    environment = os.environ | {"HOME": str(folder), "GOCACHE": str(cache)} | offline
    build = ("build", "-o", "receiver", "receiver.go")
    process = await asyncio.create_subprocess_exec(compiler, *build, cwd=folder, env=environment)
    try:
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    shutil.rmtree(cache)  # its whole library is in there, which takes more room than all that tests leave
    return [str(folder / "receiver")]


class Consumer:
    """A receiver as a process of its own, and the lines that it has printed so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def has(self, *lines: str) -> None:
        """Wait for these lines, in whatever order they come."""
        await eventually(self._look, lambda seen: set(seen) >= set(lines))

    async def _look(self) -> list[str]:
        return self.lines


@asynccontextmanager
async def consuming(command: list[str], folder: Path, environment: dict[str, str]) -> AsyncIterator[Consumer]:
    """Run a receiver for so long; it listens, and has read the feed once."""
    consumer = Consumer()
    cursor = folder / "cursor.txt"
    before = cursor.stat().st_mtime_ns if cursor.exists() else 0
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=os.environ | PROXIES | environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None

    async def listen(stdout: asyncio.StreamReader) -> None:
        async for line in stdout:
            consumer.lines.append(line.decode().strip())

    reading = asyncio.create_task(listen(process.stdout))

    async def look() -> bool:
        assert process.returncode is None
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", int(environment["PORT"]))
            writer.close()
            return cursor.exists() and cursor.stat().st_mtime_ns > before
        return False

    try:
        await eventually(look)
        yield consumer
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


async def events_of(subscriber: Caller, job_id: str) -> list[str]:
    """The lines that are to be printed of a job that is over."""
    page = (await subscriber.http.get(f"/v1/jobs/{job_id}/events")).json()
    return [f"{event['type']} {event['id']}" for event in page["events"]]


async def completed(caller: Caller) -> str:
    """The id of a job that has run to its end."""
    job_id = await caller.accepted()
    assert (await caller.read(job_id, wait=50))["status"] == "COMPLETED"
    return job_id


def made_up(kind: str) -> tuple[UUID, bytes]:
    """An event that the service never had, and its id."""
    event_id = uuid4()
    return event_id, json.dumps({"id": str(event_id), "type": kind, "data": {}}).encode()


async def forge(url: str, secret: str, consumer: Consumer) -> None:
    """Post what is no delivery of ours, each wrong in one way, and one that is signed with two secrets."""
    now = datetime.now(UTC)
    other = make_secret()
    event_id, body = made_up("test.forged")
    genuine = signed_headers(event_id, now, body, [secret])
    wrong = {
        "another secret": signed_headers(event_id, now, body, [other]),
        "another body": signed_headers(event_id, now, body + b" ", [secret]),
        "another event": genuine | {"webhook-id": str(uuid4())},
        "too old": signed_headers(event_id, now - timedelta(minutes=6), body, [secret]),
        "from the future": signed_headers(event_id, now + timedelta(minutes=6), body, [secret]),
        "no time": genuine | {"webhook-timestamp": "now"},
        "another version": genuine | {"webhook-signature": genuine["webhook-signature"].replace("v1,", "v2,")},
        "no prefix": genuine | {"webhook-signature": genuine["webhook-signature"].removeprefix("v1,")},
        "half of it": genuine | {"webhook-signature": genuine["webhook-signature"][:20]},
        "nothing": {},
    }
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        statuses = {
            name: (await http.post(url, content=body, headers=headers)).status_code for name, headers in wrong.items()
        }
        assert statuses == dict.fromkeys(wrong, 401)
        event_id, body = made_up("test.rotated")
        both = signed_headers(event_id, now - timedelta(minutes=4), body, [other, secret])
        assert (await http.post(url, content=body, headers=both)).status_code == 204
    await consumer.has(f"test.rotated {event_id}")
    assert not any("test.forged" in line for line in consumer.lines)
    consumer.lines.remove(f"test.rotated {event_id}")


async def deliver_again(subscriber: Caller, subscription_id: str) -> None:
    """Have one delivery made again, and wait until it arrived."""
    (listed, *_) = (await subscriber.http.get(f"/v1/subscriptions/{subscription_id}/deliveries")).json()["deliveries"]
    path = f"/v1/deliveries/{listed['id']}"

    async def arrived() -> int:
        """How often; an attempt whose answer was too slow is followed by one more."""
        attempts = (await subscriber.http.get(path)).json()["attempts"]
        return [attempt["status"] for attempt in attempts].count(204)

    before = await eventually(arrived)
    assert (await subscriber.http.post(f"{path}/redeliver")).status_code == 202
    await eventually(arrived, lambda times: times > before)


@pytest.mark.timeout(900)  # Go compiles its own library first
@pytest.mark.parametrize("written_in", [python, javascript, go], ids=lambda language: language.__name__)
async def test_the_receiver_of_the_readme_handles_each_event_once_and_finds_what_it_missed(
    service: Service, tmp_path: Path, written_in: Callable[[Path], Awaitable[list[str]]]
) -> None:
    command = await written_in(tmp_path)
    subscriber = await service.new_caller("tests", ("subscribe", "submit", "read"))
    port = free_port()
    hook = f"http://127.0.0.1:{port}/"
    created = (await subscriber.http.post("/v1/subscriptions", json={"url": hook, "types": ["job.*"]})).json()
    environment = {
        "FRAMEHOOK_URL": service.url,
        "FRAMEHOOK_KEY": subscriber.key,
        "WEBHOOK_SECRET": created["secret"],
        "PORT": str(port),
    }
    async with AsyncExitStack() as stack:
        consumer = await stack.enter_async_context(consuming(command, tmp_path, environment))
        expected = await events_of(subscriber, await completed(subscriber))
        await consumer.has(*expected)
        await deliver_again(subscriber, created["id"])
        await forge(hook, created["secret"], consumer)
        assert sorted(consumer.lines) == sorted(expected), "by webhook, for the feed is read only once a minute"

    # Nothing is delivered any more, so that what happens now is found by the feed or never.
    assert (await subscriber.http.delete(f"/v1/subscriptions/{created['id']}")).status_code == 204
    missed = await events_of(subscriber, await completed(subscriber))
    async with consuming(command, tmp_path, environment) as consumer:
        await consumer.has(*missed)
        assert [line for line in consumer.lines if line in missed] == missed
