"""What a team may submit: so many jobs that wait, and some operations and models. What is refused leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec

from app.auth import Caller as Known
from app.errors import TooMany
from app.jobs import dispatch
from app.jobs.admission import is_allowed
from app.jobs.bodies import read_body
from app.jobs.queries.acceptance import NewJob
from app.jobs.submit import Accepted, accept, make_job
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Caller, Service, books, refused
from tests.locks import ACCEPTANCES, blocked, stopped_at
from tests.teams.admins import limit_team, team_id_of

Serve = Callable[..., Any]
LATER = {"Prefer": "respond-async"}


async def counts(service: Service) -> dict[str, int]:
    rows = await service.rows("SELECT t.name, count(*) AS n FROM jobs JOIN teams t ON t.id = team_id GROUP BY t.name")
    return {row.name: row.n for row in rows}


async def test_no_more_jobs_wait_than_the_limit_over_any_number_of_processes(
    serve: Serve, simulator: RunningSimulator
) -> None:
    one, other = [await serve(simulator, loops=False) for _ in range(2)]
    crowd, also = await one.new_caller("crowd"), await other.new_caller("crowd")
    await limit_team(one, "crowd", queuedLimit=7)

    answers = await asyncio.gather(
        *(caller.submit(FLUX, **LATER) for caller in (crowd, also) for _ in range(15)),
        *(caller.submit(FLUX, **LATER) for caller in (one.caller, other.caller) for _ in range(10)),
    )

    assert Counter(answer.status_code for answer in answers) == {202: 27, 429: 23}
    assert await counts(one) == {"crowd": 7, "tests": 20}
    refusal = next(answer for answer in answers if answer.status_code == 429)
    assert refused(refusal, 429) == {"error": "At most 7 jobs of your team may wait to be sent"}
    assert int(refusal.headers["Retry-After"]) > 0
    assert len(await one.rows("SELECT 1 FROM events WHERE type = 'job.queued'")) == 27


async def test_two_processes_at_once_do_not_take_the_last_place_both(serve: Serve, simulator: RunningSimulator) -> None:
    one, other = [await serve(simulator, loops=False) for _ in range(2)]
    crowd, also = await one.new_caller("crowd"), await other.new_caller("crowd")
    await limit_team(one, "crowd", queuedLimit=1)

    async with stopped_at(one, ACCEPTANCES):
        first = asyncio.create_task(crowd.submit(FLUX, **LATER))
        await blocked(one, 1)
        # The first has counted and is not committed; the second waits for the team's row.
        second = asyncio.create_task(also.submit(FLUX, **LATER))
        await blocked(one, 2)

    assert ((await first).status_code, (await second).status_code) == (202, 429)


async def test_an_idempotency_key_that_found_no_room_is_free_and_one_that_did_answers(quiet: Service) -> None:
    crowd = await quiet.new_caller("crowd")
    await limit_team(quiet, "crowd", queuedLimit=1)
    first = await crowd.accepted(FLUX, Idempotency_Key="one", **LATER)

    for _ in range(2):
        refused(await crowd.submit(FLUX, Idempotency_Key="two", **LATER), 429)
    assert await crowd.accepted(FLUX, Idempotency_Key="one", **LATER) == first
    assert len(await quiet.rows("SELECT 1 FROM idempotency_keys")) == 1

    assert (await crowd.http.post(f"/v1/jobs/{first}/cancel")).status_code == 200
    await crowd.accepted(FLUX | {"prompt": "another one"}, Idempotency_Key="two", **LATER)


async def test_a_job_that_was_sent_leaves_room(quiet: Service, simulator: RunningSimulator) -> None:
    crowd = await quiet.new_caller("crowd")
    await limit_team(quiet, "crowd", queuedLimit=1)
    await crowd.accepted(FLUX, **LATER)
    assert await dispatch.run_once(quiet.ctx) == 1

    await crowd.accepted(FLUX, **LATER)
    refused(await crowd.submit(FLUX), 429)

    assert (await books(simulator))["counters"]["submissions"] == 1


async def test_a_batch_lets_in_the_first_that_find_room_and_answers_the_same_when_it_is_run_again(
    quiet: Service,
) -> None:
    """As after a COMMIT whose fate is not known."""
    crowd, few = await quiet.new_caller("crowd"), await quiet.new_caller("few")
    await limit_team(quiet, "crowd", queuedLimit=3)
    await limit_team(quiet, "few", queuedLimit=1)
    await few.accepted(FLUX, **LATER)
    jobs = [
        await submission(quiet, caller, name, key)
        for caller, name in ((crowd, "crowd"), (few, "few"), (quiet.caller, "tests"))
        for key in ("a", "b", None, None, "a", "e")
    ]

    async def run() -> list[Accepted]:
        async with quiet.ctx.db.transaction() as tx:
            return await accept(quiet.ctx, tx, jobs)

    first, again = await run(), await run()

    told = [answer.refusal is None for answer in first]
    assert told == [True, True, True, False, True, False] + [False] * 6 + [True] * 6
    assert [answer.new for answer in first][:6] == [True, True, True, True, False, True]
    assert all(isinstance(answer.refusal, TooMany | None) for answer in first)
    assert [(answer.job_id, answer.new, answer.refusal is None) for answer in again] == [
        (answer.job_id, answer.new, answer.refusal is None) for answer in first
    ]
    assert await counts(quiet) == {"crowd": 3, "few": 1, "tests": 5}
    keys = await quiet.rows("SELECT key FROM idempotency_keys JOIN teams ON id = team_id WHERE name <> 'tests'")
    assert sorted(row.key for row in keys) == ["a", "b"]


async def submission(service: Service, caller: Caller, team: str, key: str | None) -> NewJob:
    known = Known(caller.key_id, UUID(await team_id_of(service, team)), team, frozenset(("submit",)))
    body = read_body("images/generate", msgspec.json.encode(FLUX), service.ctx.targets)
    return await make_job(service.ctx, known, body, key, refusable=False)


async def test_what_a_team_may_not_use_is_refused_before_anything_is_kept(
    quiet: Service, simulator: RunningSimulator
) -> None:
    crowd = await quiet.new_caller("crowd")
    await limit_team(quiet, "crowd", allowedModels=["flux-1*", "ideogram"], allowedOperations=["images/*"])

    await crowd.accepted(FLUX, **LATER)
    await crowd.accepted({"model": "ideogram", "prompt": "x"}, **LATER)
    other = {"model": "midjourney", "prompt": "x"}
    body = refused(await crowd.submit(other, Idempotency_Key="one"), 403)
    assert body == {"error": "Your team may not use the model midjourney"}
    await limit_team(quiet, "crowd", allowedOperations=[])
    body = refused(await crowd.submit(FLUX, Idempotency_Key="one"), 403)
    assert body == {"error": "Your team may not use images/generate"}

    assert await counts(quiet) == {"crowd": 2}
    assert await quiet.rows("SELECT 1 FROM idempotency_keys") == []
    assert (await books(simulator))["counters"]["submissions"] == 0
    await limit_team(quiet, "crowd", allowedOperations=None, allowedModels=None)
    await crowd.accepted(other, Idempotency_Key="one", **LATER)


async def test_a_retry_is_held_to_the_limits_of_the_jobs_team_whoever_asks(quiet: Service) -> None:
    crowd, operator = await quiet.new_caller("crowd"), await quiet.new_caller("operators", ("ops",))
    job_id = await crowd.accepted(FLUX, **LATER)
    await crowd.http.post(f"/v1/jobs/{job_id}/cancel")
    await limit_team(quiet, "crowd", allowedModels=["ideogram"])

    for caller in (crowd, operator):
        refused(await caller.http.post(f"/v1/jobs/{job_id}/retry", headers=LATER), 403)

    assert await counts(quiet) == {"crowd": 1}


def test_patterns_are_whole_names_with_stars_and_heed_case() -> None:
    assert is_allowed("anything", None)
    assert not is_allowed("anything", [])
    assert is_allowed("flux-1.1", ["x", "flux-*"])
    assert not is_allowed("Flux-1.1", ["flux-*"])
    assert not is_allowed("my-flux-1.1", ["flux-*"])
    assert is_allowed("images/generate", ["*/generate"])
