"""What was acknowledged and is missing, or is there twice, is found; what is there once is not complained of."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from app.auth import Caller
from app.bench import fanout
from app.bench.conversation import conversation
from app.bench.player import Played, play
from app.bench.sink import Arrivals
from app.bench.stage import ENDINGS, NOWHERE, Stage, Team
from app.bench.verify import OurBooks
from app.bench.workload import Prepared, Submissions, Webhooks
from app.deliveries import subscriptions
from app.teams.keys import create_key
from tests.harness import Service, eventually


@pytest.fixture
async def service(serve: Callable[..., Any], simulator: Any) -> Service:
    """A service that keeps what it is sent, and does nothing with it."""
    started: Service = await serve(simulator, loops=False)
    return started


async def make_stage(service: Service, folder: Path, url: str = NOWHERE) -> Stage:
    """A team with a subscriber."""
    ctx = service.ctx
    async with ctx.db.transaction() as tx:
        key = await create_key(tx, team="bench", scopes=("submit", "read", "subscribe"), now=ctx.now())
    caller = Caller(key.id, key.team_id, key.team, frozenset(key.scopes))
    made = await subscriptions.create(ctx, caller, {"url": url, "types": list(ENDINGS)})
    return Stage(
        folder=folder,
        data_dir=folder,
        socket_dir="",
        database_url="",
        settings=ctx.settings,
        db=ctx.db,
        team=Team(key, [made["id"]]),
        secret=(await ctx.webhook_secrets())[0],
        machine={},
        dice=random.Random(0),
    )


async def played(service: Service, prepared: Prepared) -> Played:
    port = urlsplit(service.url).port
    assert port is not None
    return await play(port, prepared.requests, connections=4, seconds=20)


async def execute(stage: Stage, statement: str, **values: object) -> None:
    async with stage.db.transaction() as tx:
        await tx.execute(text(statement), values)


async def test_a_webhook_that_was_lost_or_done_twice_is_found(service: Service, tmp_path: Path) -> None:
    stage = await make_stage(service, tmp_path)
    prepared = await Webhooks(OurBooks()).prepare(stage, 8)
    done = await played(service, prepared)
    assert done.acknowledged == list(range(8))
    good = await prepared.check(done.acknowledged)
    assert (good.acknowledged, good.wrong) == (8, [])

    jobs = sorted(str(row.id) for row in await service.rows("SELECT id FROM jobs"))
    copies = {
        1: "INSERT INTO events SELECT uuidv7(), at, sequence, type, team_id, job_id, data FROM events WHERE job_id = :job",
        2: """
           INSERT INTO deliveries SELECT (jsonb_populate_record(deliveries,
               jsonb_build_object('id', uuidv7(), 'event_id', uuidv7()))).* FROM deliveries WHERE job_id = :job
           """,
        3: "DELETE FROM events WHERE job_id = :job",
        4: "DELETE FROM deliveries WHERE job_id = :job",
        5: "UPDATE receipts SET applied = false WHERE job_id = :job",
        6: "UPDATE jobs SET status = 'PROCESSING', completed_at = NULL WHERE id = :job",
        7: "DELETE FROM jobs WHERE id = :job",
    }
    for number, statement in copies.items():
        await execute(stage, statement, job=jobs[number])
    bad = (await prepared.check(done.acknowledged)).wrong
    found = {line.split()[3].rstrip(":"): line.partition(": ")[2] for line in bad}
    assert found == {
        jobs[1]: "it is COMPLETED, with 1 receipts applied, 2 events and 1 deliveries",
        jobs[2]: "it is COMPLETED, with 1 receipts applied, 1 events and 2 deliveries",
        jobs[3]: "it is COMPLETED, with 1 receipts applied, 0 events and 1 deliveries",
        jobs[4]: "it is COMPLETED, with 1 receipts applied, 1 events and 0 deliveries",
        jobs[5]: "it is COMPLETED, with 0 receipts applied, 1 events and 1 deliveries",
        jobs[6]: "it is PROCESSING, with 1 receipts applied, 1 events and 1 deliveries",
        jobs[7]: "it is not there, with 1 receipts applied, 1 events and 1 deliveries",
    }


async def test_a_submission_that_was_lost_or_made_twice_is_found(service: Service, tmp_path: Path) -> None:
    stage = await make_stage(service, tmp_path)
    prepared = await Submissions(OurBooks()).prepare(stage, 4)
    done = await played(service, prepared)
    good = await prepared.check(done.acknowledged)
    assert (good.acknowledged, good.wrong) == (4, [])

    twice = """
        INSERT INTO jobs SELECT (jsonb_populate_record(jobs, jsonb_build_object('id', uuidv7()))).* FROM jobs
        WHERE idempotency_key = :key
        """
    changes = {
        1: twice,
        2: "DELETE FROM jobs WHERE idempotency_key = :key",
        3: "DELETE FROM idempotency_keys WHERE key = :key",
    }
    for number, statement in changes.items():
        await execute(stage, statement, key=f"bench-{number:012d}")
    bad = (await prepared.check(done.acknowledged)).wrong
    assert [line.partition(": ")[0] for line in bad] == [f"submission bench-{number:012d}" for number in (1, 2, 3)]
    assert [line.partition(": ")[2][:18] for line in bad] == [
        "it made 2 jobs and",
        "it made 0 jobs and",
        "it made 1 jobs and",
    ]


async def test_a_delivery_that_never_came_or_came_twice_is_found(
    serve: Callable[..., Any], simulator: Any, tmp_path: Path
) -> None:
    service: Service = await serve(simulator)
    async with conversation("app.bench.sink", "1") as sink:
        stage = await make_stage(service, tmp_path, f"http://127.0.0.1:{(await sink.hear(list[int]))[0]}/")
        prepared = await Webhooks(OurBooks()).prepare(stage, 4)
        done = await played(service, prepared)
        made = "SELECT event_id, id FROM deliveries WHERE status = 'delivered' ORDER BY event_id"
        rows = await eventually(lambda: service.rows(made), lambda rows: len(rows) == 4)
        assert await sink.ask("count", int) == 4
        came = await sink.ask("take", Arrivals)
    jobs = [row.id for row in await service.rows("SELECT id FROM jobs")]
    assert done.acknowledged == list(range(4))
    assert sorted(came.events) == [str(row.event_id) for row in rows]
    good = await fanout.check(stage, stage.team, jobs, 1, came)
    assert (good.acknowledged, good.wrong) == (4, [])

    lost, twice = came.events[0], came.events[1]
    came.events[0] = twice
    await execute(
        stage,
        "INSERT INTO attempts SELECT (jsonb_populate_record(attempts,"
        " jsonb_build_object('id', uuidv7()))).* FROM attempts WHERE delivery_id = :id",
        id=rows[2].id,
    )
    await execute(stage, "DELETE FROM attempts WHERE delivery_id = :id", id=rows[3].id)
    bad = await fanout.check(stage, stage.team, jobs, 1, came)
    assert sorted(bad.wrong) == sorted(
        [
            f"event {twice} came 2 times to receiver 0",
            f"event {lost} never came to receiver 0",
            f"delivery {rows[2].id}: it is delivered after 2 attempts",
            f"delivery {rows[3].id}: it is delivered after 0 attempts",
        ]
    )
