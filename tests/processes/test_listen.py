"""A developer's laptop hears of everything: signed, in order, once, whatever becomes of the service meanwhile."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

from app.simulator.server import RunningSimulator
from tests.harness import eventually as soon
from tests.processes.harness import (
    KEY,
    Ended,
    Program,
    client,
    eventually,
    free_port,
    in_front_of,
    query,
    read,
    ready,
    submit,
)
from tests.receivers import Received, Receiver, receiving

IDS = "SELECT id FROM events ORDER BY sequence"
QUIET = {"archive_url": "off"}
"""Nothing is told after a job's end then, so what there is at that time is all there is."""

Launch = Callable[..., Program]


def listen(launch: Launch, url: str, *arguments: str, key: str = KEY) -> Program:
    """Start the command, and return when it is connected."""
    listener = launch("listen", *arguments, FRAMEHOOK_URL=url, FRAMEHOOK_KEY=key)
    eventually(lambda: f"Listening to {url}.\n" in listener.said)
    return listener


def complete(url: str, count: int = 1) -> None:
    """Have some jobs run to their ends."""
    with client(url) as caller:
        for job_id in [submit(caller) for _ in range(count)]:
            assert read(caller, job_id, wait=30)["status"] == "COMPLETED"


def is_completed(url: str, job_id: str) -> bool:
    with client(url) as caller:
        return bool(read(caller, job_id)["status"] == "COMPLETED")


async def has_all(receiver: Receiver, database_url: str) -> list[str]:
    """Wait until as many events were received as there are, and return their ids in the order of the log."""
    ids = [str(each) for each in await asyncio.to_thread(query, database_url, IDS)]
    await receiver.wait(len(ids), seconds=30)
    return ids


async def slowly(_received: Received) -> web.Response:
    await asyncio.sleep(0.03)
    return web.Response()


def test_what_happens_is_posted_in_order_signed_with_the_secret_that_is_shown(
    launch: Launch, simulator: RunningSimulator, database_url: str
) -> None:
    url = ready(launch("serve", **in_front_of(simulator, database_url, **QUIET)))

    async def story() -> None:
        async with receiving() as receiver:
            listener = await asyncio.to_thread(listen, launch, url, "--forward", receiver.url)
            (secret,) = re.findall(r"whsec_\S+", listener.said)
            await asyncio.to_thread(complete, url)
            ids = await has_all(receiver, database_url)
            assert [received.id for received in receiver.received] == ids
            assert len(set(ids)) == len(ids)
            assert receiver.types[0] == "job.queued"
            assert receiver.types[-1] == "job.completed"
            for received in receiver.received:
                assert Webhook(secret).verify(received.body, received.headers) == received.event
                assert received.headers["content-type"] == "application/json"
            with client(url) as caller:
                assert caller.get("/v1/events").json()["events"] == [each.event for each in receiver.received]
            receiver.status = 500
            await asyncio.to_thread(complete, url)
            refused = len(await has_all(receiver, database_url)) - len(ids)
        await asyncio.to_thread(complete, url)
        total = len(await asyncio.to_thread(query, database_url, IDS))
        await soon(partial(count_lines, listener), lambda seen: seen == total)

        shown = [re.fullmatch(r"(\S+Z)  (\S+) +(\S+)  -> (.+) \(\d+ ms\)", line) for line in lines_of(listener)]
        assert all(shown), listener.printed
        said = [(line[1], line[2], line[3]) for line in shown if line]
        events = [received.event for received in receiver.received]
        assert said[: len(events)] == [(each["timestamp"], each["type"], each["data"]["id"]) for each in events]
        outcomes = [line[4] for line in shown if line]
        assert outcomes[: len(events)] == ["200"] * len(ids) + ["500"] * refused
        away = outcomes[len(events) :]
        assert away
        assert all("connect" in outcome for outcome in away), away

        listener.ctrl_c()
        assert await asyncio.to_thread(listener.wait) == 130
        assert "Traceback" not in listener.said

    asyncio.run(story())


async def count_lines(listener: Program) -> int:
    return len(lines_of(listener))


def lines_of(listener: Program) -> list[str]:
    return listener.printed.splitlines()


def test_a_service_that_is_killed_and_started_again_costs_no_event_and_doubles_none(
    launch: Launch, simulator: RunningSimulator, database_url: str
) -> None:
    port = free_port()
    settings = in_front_of(simulator, database_url, port=port, **QUIET)
    url = f"http://127.0.0.1:{port}"
    secret = "whsec_" + base64.b64encode(b"a secret of the developer's own").decode()

    async def story() -> None:
        service = launch("serve", **settings)
        await asyncio.to_thread(ready, service)
        async with receiving() as receiver:
            is_stopped = asyncio.Event()

            async def hold(_received: Received) -> web.Response:
                await is_stopped.wait()
                return web.Response()

            receiver.answers += [slowly, slowly, hold, *[slowly] * 27]
            command = ("--forward", receiver.url, "--secret", secret)
            listener = await asyncio.to_thread(listen, launch, url, *command)
            with client(url) as caller:
                job_ids = [await asyncio.to_thread(submit, caller) for _ in range(6)]
            await receiver.wait(3)
            # Stopped, so that it is away while things happen and not back before the service is; and between two events:
            # one that it has begun to post and not written would be too old when it goes on.
            listener.signal(signal.SIGSTOP)
            is_stopped.set()
            await asyncio.to_thread(service.kill_all)
            service = launch("serve", **settings)
            await asyncio.to_thread(ready, service)
            await asyncio.to_thread(complete, url, 2)
            # What the killed one was just asking after is asked again when its lease is over.
            for job_id in job_ids:
                await asyncio.to_thread(eventually, partial(is_completed, url, job_id))
            listener.signal(signal.SIGCONT)
            await soon(partial(said, listener), lambda text: "Trying again in 1 s." in text)
            ids = await has_all(receiver, database_url)
            await soon(partial(count_lines, listener), lambda seen: seen == len(ids))
            assert [received.id for received in receiver.received] == ids
            for received in receiver.received:
                Webhook(secret).verify(received.body, received.headers)

            service.stop()
            await soon(partial(said, listener), lambda text: "the stream ended. Trying again in 1 s." in text)
            assert await asyncio.to_thread(listener.stop) == 130
            assert "Traceback" not in listener.said

    asyncio.run(story())


async def said(listener: Program) -> str:
    return listener.said


def test_earlier_events_are_replayed_from_a_time_on_and_what_happens_follows(
    launch: Launch, simulator: RunningSimulator, database_url: str
) -> None:
    url = ready(launch("serve", **in_front_of(simulator, database_url)))
    complete(url)
    since = datetime.now(UTC).isoformat()
    complete(url, 2)
    command = ("--replay-since", since, "--types", "job.queued,job.completed", "--json")
    listener = listen(launch, url, *command)
    assert len(lines_of(listener)) == 4, "the past comes first"
    complete(url)
    eventually(lambda: len(lines_of(listener)) == 6)

    with client(url) as caller:
        page = caller.get("/v1/events", params={"types": "job.queued,job.completed"}).json()
    assert [json.loads(line) for line in lines_of(listener)] == page["events"][2:]
    assert listener.said == f"Listening to {url}.\n"


def test_with_json_the_outcomes_of_deliveries_are_told_beside_it(
    launch: Launch, simulator: RunningSimulator, database_url: str
) -> None:
    url = ready(launch("serve", **in_front_of(simulator, database_url)))
    nobody = f"http://127.0.0.1:{free_port()}/hook"
    listener = listen(launch, url, "--forward", nobody, "--json", "--types", "job.completed")
    complete(url)
    eventually(lambda: len(lines_of(listener)) == 1)
    eventually(lambda: " -> " in listener.said)
    (line,) = lines_of(listener)
    assert json.loads(line)["type"] == "job.completed"


def test_what_cannot_go_on_says_why_in_one_line(
    launch: Launch,
    run: Callable[..., list[Ended]],
    simulator: RunningSimulator,
    database_url: str,
) -> None:
    url = ready(launch("serve", **in_front_of(simulator, database_url)))
    key: dict[str, Any] = {"FRAMEHOOK_URL": url, "FRAMEHOOK_KEY": KEY}
    reasons = {
        f"listen --url {url}": "a key is needed: --key, or FRAMEHOOK_KEY in the environment",
        f"listen --url {url} --key fh_live_nobody": f"{url} answered 401: Missing or invalid API key",
        "listen --types job.done": f"{url} answered 400: Validation failed; types: Neither a type of event nor a"
        " pattern such as job.*: job.done",
        "listen --url 127.0.0.1:8000": "--url must be a URL such as http://localhost:3000, not 127.0.0.1:8000",
        "listen --forward localhost": "--forward must be a URL such as http://localhost:3000, not localhost",
        "listen --replay-since yesterday": "--replay-since must be a time such as 2026-11-25T09:30:00Z, not yesterday",
        "listen --secret whsec_?": "--secret must be whsec_ and Base64 after it, as subscriptions show theirs",
        f"listen --url {simulator.url}": f"{simulator.url} answered 404: Not Found",
    }
    without = {f"listen --url {url}", f"listen --url {url} --key fh_live_nobody"}
    ended = run(*((command, {} if command in without else key) for command in reasons))
    assert [(one.exit_code, one.printed) for one in ended] == [(1, "")] * len(reasons)
    assert [one.said for one in ended] == [f"framehook: {reason}\n" for reason in reasons.values()]


def test_a_service_that_is_away_is_tried_again_and_events_that_are_gone_end_it(launch: Launch) -> None:
    async def story() -> None:
        async with receiving() as stranger:
            stranger.answers, stranger.status = [503], 410
            url = stranger.url.removesuffix("/hook")
            listener = launch("listen", "--replay-since", "2026-11-25", FRAMEHOOK_URL=url, FRAMEHOOK_KEY=KEY)
            assert await asyncio.to_thread(listener.wait) == 1
            again, why = listener.said.splitlines()
            assert again == f"{url}: it answered 503. Trying again in 1 s."
            assert why.startswith(f"framehook: {url} answered 410: ")
            assert why.endswith("; start again without --replay-since")

    asyncio.run(story())
