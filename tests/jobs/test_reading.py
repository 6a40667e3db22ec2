"""Jobs as their callers read them: Apiframe's shape, long polls, and a history that no page of loses or repeats a job."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.clock import SettableClock
from app.jobs import dispatch, reading
from app.jobs.filters import JobFilter
from app.jobs.finding import find_jobs
from app.paging import Cursor
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Caller, Service, books, eventually, refused, tell
from tests.jobs.nudges import hears
from tests.statements import listening

LATER: Final = {"Prefer": "respond-async"}
TIME: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
DOCUMENT: Final = Path(__file__).resolve().parents[3] / "shared" / "apiframe-openapi.json"
TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


def misfits(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Where a value does not fit one of the vendor's schemas of a job; what is ours besides is no misfit."""
    kinds = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    if kinds and type(value) not in [each for kind in kinds for each in TYPES[kind]]:
        yield f"{path}: {value!r} is not {' or '.join(kinds)}"
    elif value not in schema.get("enum", [value]):
        yield f"{path}: {value!r} is not one of {schema['enum']}"
    elif isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{path}: {value} is out of range"
    elif schema.get("format") == "date-time" and value is not None and not re.fullmatch(TIME, value):
        yield f"{path}: {value} is not a time"
    elif schema.get("format") == "uuid" and str(UUID(value)) != value:
        yield f"{path}: {value} is not a UUID"
    elif isinstance(value, dict):
        yield from (f"{path}.{name} is missing" for name in schema.get("required", ()) if name not in value)
        for name in set(schema.get("properties", {})) & set(value):
            yield from misfits(value[name], schema["properties"][name], f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from misfits(item, schema.get("items", {}), f"{path}.{index}")


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service that sends nothing by itself: jobs stay as they were accepted."""
    started: Service = await serve(simulator, loops=False)
    return started


async def listed(caller: Caller, **query: Any) -> dict[str, Any]:
    answer = await caller.http.get("/v2/jobs", params=query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def ids(caller: Caller, **query: Any) -> list[str]:
    return [job["id"] for job in (await listed(caller, **query))["jobs"]]


async def fill(caller: Caller, count: int, model: str = "midjourney") -> list[str]:
    """Submit so many jobs that stay QUEUED; their ids, oldest first."""
    return [await caller.accepted({"model": model, "prompt": str(n)}, **LATER) for n in range(count)]


async def test_a_jobs_shape_is_the_vendors_from_its_acceptance_to_each_end(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    if not DOCUMENT.exists():
        pytest.skip(f"the vendor's document is not here: {DOCUMENT}")
    schemas = json.loads(DOCUMENT.read_text())["components"]["schemas"]
    simulator = simulate(hold=True)
    service = await serve(simulator)
    body = FLUX | {"webhook_url": "https://caller.example/hook", "metadata": {"a": 1}}
    waiting, *sent = [await service.caller.accepted(body, **headers) for headers in (LATER, {}, {}, {}, {})]
    running, completed, failed, cancelled = sent
    await tell(simulator, f"jobs/{running}/progress", progress=40, wait=True)
    await tell(simulator, f"jobs/{completed}/finish", credit_cost=11, wait=True)
    await tell(simulator, f"jobs/{failed}/finish", status="FAILED", error="NSFW", wait=True)
    await tell(simulator, f"jobs/{cancelled}/finish", status="CANCELLED")
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE jobs SET poll_at = now() WHERE poll_at IS NOT NULL")
    service.ctx.notify.nudge(["poll"])
    await eventually(lambda: service.caller.read(cancelled), lambda job: job["status"] == "CANCELLED")

    page = await listed(service.caller, include_models="true")
    assert list(misfits(page, schemas["JobList"])) == []
    found = {}
    for job_id in (waiting, *sent):
        job = await service.caller.read(job_id)
        assert list(misfits(job, schemas["Job"])) == []
        found[job_id] = (job["status"], job["progress"], job["error"], job["creditCost"], job["completedAt"] is None)
        assert job["input"] == FLUX
        assert (job["operation"], job["metadata"]) == ("images/generate", {"a": 1})
    assert found[running] == ("PROCESSING", 40, None, None, True)
    assert found[completed] == ("COMPLETED", 100, None, 11, False)
    assert found[failed] == ("FAILED", None, "NSFW", None, False)
    assert found[cancelled][0] == "CANCELLED"
    assert (await service.caller.read(completed))["result"]["images"]
    assert (await service.caller.read(failed))["errorCode"] == "upstream_failed"


async def test_a_result_is_shown_as_the_upstream_gave_it(held: tuple[Service, RunningSimulator]) -> None:
    service, simulator = held
    results: list[Any] = [
        "https://cdn.example/a.png",
        ["https://cdn.example/a.png"],
        {"z": 1, "a": {"nested": [None, True, 1.5, "\u00e9\U0001f30a"]}, "": 0},
        7,
        True,
        [],
        {},
    ]

    for result in results:
        job_id = await service.caller.accepted()
        await tell(simulator, f"jobs/{job_id}/finish", result=result, wait=True)
        shown = (await service.caller.read(job_id, wait=60))["result"]
        assert (type(shown), shown) == (type(result), result)


async def test_what_is_not_the_teams_is_not_found(quiet: Service) -> None:
    stranger = await quiet.new_caller("strangers")
    (job_id,) = await fill(quiet.caller, 1)

    assert (await quiet.caller.read(job_id))["id"] == job_id
    assert (await quiet.caller.read(job_id.upper()))["id"] == job_id
    refused(await stranger.http.get(f"/v2/jobs/{job_id}"), 404)
    refused(await stranger.http.get(f"/v2/jobs/{job_id}?wait=5"), 404)
    for unknown in (uuid4(), "x", "1", "null", f"{job_id}0", job_id[:-1], "%00", "%F0%9F%8C%8A", "a" * 5000, "..%2fx"):
        refused(await quiet.caller.http.get(f"/v2/jobs/{unknown}"), 404)


async def test_operators_read_the_jobs_of_all_teams(quiet: Service) -> None:
    (job_id,) = await fill(quiet.caller, 1)

    for scope in ("ops", "admin"):
        operator = await quiet.new_caller("operators", scopes=(scope,))
        assert await operator.read(job_id) == await quiet.caller.read(job_id)
        assert (await operator.read(job_id, wait=0.1))["id"] == job_id
        refused(await operator.http.get(f"/v2/jobs/{uuid4()}"), 404)


async def test_a_job_names_the_one_that_it_tries_again(quiet: Service) -> None:
    first, second = await fill(quiet.caller, 2)
    async with quiet.ctx.db.transaction() as tx:
        await tx.execute(
            text("UPDATE jobs SET retry_of = :first WHERE id = :second"), {"first": first, "second": second}
        )

    assert [job["retryOf"] for job in (await listed(quiet.caller))["jobs"]] == [first, None]
    assert (await quiet.caller.read(second))["retryOf"] == first


async def test_a_wait_ends_as_soon_as_the_job_does(held: tuple[Service, RunningSimulator]) -> None:
    service, simulator = held
    job_id = await service.caller.accepted()
    waiting = [asyncio.create_task(service.caller.read(job_id, wait=60)) for _ in range(3)]
    await eventually(lambda: listeners(service, job_id), lambda count: count == 3)

    await tell(simulator, f"jobs/{job_id}/progress", progress=40, wait=True)
    assert (await service.caller.read(job_id))["status"] == "PROCESSING"
    assert not any(task.done() for task in waiting)
    await tell(simulator, f"jobs/{job_id}/finish")

    async with asyncio.timeout(20):
        jobs = await asyncio.gather(*waiting)
    assert [job["status"] for job in jobs] == ["COMPLETED"] * 3
    assert (await service.caller.read(job_id, wait=60))["status"] == "COMPLETED"
    assert await listeners(service, job_id) == 0


async def listeners(service: Service, job_id: str) -> int:
    """How many wait for this job in this process."""
    return len(service.ctx.notify._waiters.get(f"job:{job_id}", ()))


async def test_a_wait_that_is_over_shows_the_job_as_it_is(quiet: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LOOK_AGAIN_SECONDS", 60)
    (job_id,) = await fill(quiet.caller, 1)

    started_at = asyncio.get_running_loop().time()
    job = await quiet.caller.read(job_id, wait=0.3)

    assert job["status"] == "QUEUED"
    assert 0.3 <= asyncio.get_running_loop().time() - started_at < 30


async def test_a_wait_must_be_a_number_of_seconds_up_to_300(quiet: Service) -> None:
    (job_id,) = await fill(quiet.caller, 1)

    for wait in ("-1", "-0.001", "300.1", "301", "1e9", "nan", "inf", "-inf", "", "x", "1s", "0x10", "1,5"):
        told = refused(await quiet.caller.http.get(f"/v2/jobs/{job_id}", params={"wait": wait}), 400)
        assert list(told["details"]) == ["wait"]
    for wait in ("0", "0.0", "0.01"):
        assert (await quiet.caller.http.get(f"/v2/jobs/{job_id}", params={"wait": wait})).status_code == 200


async def test_a_wait_in_another_process_is_woken_too(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook reaches the one process, the caller waits in the other, and does not look by itself in time."""
    monkeypatch.setattr(reading, "LOOK_AGAIN_SECONDS", 60)
    simulator = simulate(hold=True)
    told = await serve(simulator)
    asked = await serve(simulator, loops=False)
    await hears(asked, told)
    job_id = await told.caller.accepted()
    waiting = asyncio.create_task(asked.caller.read(job_id, wait=60))
    await eventually(lambda: listeners(asked, job_id), lambda count: count == 1)

    await tell(simulator, f"jobs/{job_id}/finish", wait=True)
    job = await asyncio.wait_for(waiting, 30)

    assert job["status"] == "COMPLETED"


async def test_files_expire_24_hours_after_their_completion(held: tuple[Service, RunningSimulator]) -> None:
    service, simulator = held
    service.ctx.clock = clock = SettableClock()
    completed, failed = [await service.caller.accepted() for _ in range(2)]
    await tell(simulator, f"jobs/{completed}/finish", wait=True)
    await tell(simulator, f"jobs/{failed}/finish", status="FAILED", wait=True)

    async def expired() -> list[bool]:
        return [job["expired"] for job in (await listed(service.caller))["jobs"]]

    assert await expired() == [False, False]
    clock.advance(24 * 3600 - 120)
    assert await expired() == [False, False]
    clock.advance(240)
    assert await expired() == [False, True]
    assert (await service.caller.read(completed))["expired"] is True
    assert (await service.caller.read(failed))["expired"] is False


async def test_a_job_on_its_way_is_not_expired_however_old(quiet: Service) -> None:
    quiet.ctx.clock = clock = SettableClock()
    (job_id,) = await fill(quiet.caller, 1)
    clock.advance(72 * 3600)

    assert (await quiet.caller.read(job_id))["expired"] is False


@pytest.fixture
async def held(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> tuple[Service, RunningSimulator]:
    """A service in front of an upstream whose jobs wait to be told how they end."""
    simulator = simulate(hold=True)
    return await serve(simulator), simulator


async def test_the_history_is_newest_first_and_as_long_as_asked_for(quiet: Service) -> None:
    jobs = list(reversed(await fill(quiet.caller, 25)))

    assert await ids(quiet.caller) == jobs[:20]
    for limit in (1, 24, 25, 26, 100):
        page = await listed(quiet.caller, limit=limit)
        assert [job["id"] for job in page["jobs"]] == jobs[:limit]
        assert page["hasMore"] is (limit < 25)
        assert (page["nextCursor"] is None) is (limit >= 25)
        assert "models" not in page


async def test_a_walk_by_cursor_meets_every_job_once_while_others_are_submitted(quiet: Service) -> None:
    jobs = list(reversed(await fill(quiet.caller, 20)))
    # Equal times, as of submissions within a microsecond: then the id decides.
    async with quiet.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("UPDATE jobs SET created_at = (SELECT min(created_at) FROM jobs)")

    walked: list[str] = []
    page = await listed(quiet.caller, limit=3)
    while True:
        walked += [job["id"] for job in page["jobs"]]
        assert page["hasMore"] is (page["nextCursor"] is not None)
        if not page["hasMore"]:
            break
        await fill(quiet.caller, 1)
        page = await listed(quiet.caller, limit=3, cursor=page["nextCursor"])

    assert walked == jobs


async def test_a_query_that_makes_no_sense_is_refused_by_its_name(quiet: Service) -> None:
    await fill(quiet.caller, 1)
    wrong = {
        "limit": ("0", "101", "-1", "1.5", "x", "", "1e1", "9" * 30, "\u0661"),
        "status": ("DONE", "queued", "", "QUEUED,DONE", "QUEUED,", "\0"),
        "scope": ("all", "", "USER", "admin"),
        "search": ("x", "", "01987c5e", "\0"),
        "include_models": ("1", "", "True", "yes"),
        "cursor": ("x", "", "\0", "A" * 31, "A" * 33, "!" * 32, "\u00e9" * 32, "_" * 32, "A" * 4000),
        "model": ("\0", "a\0b"),
        "operation": ("\0",),
        "team": ("\0",),
        "overdue": ("1", "", "True", "yes"),
    }

    for name, values in wrong.items():
        for value in values:
            answer = await quiet.caller.http.get("/v2/jobs", params={name: value})
            assert answer.status_code == 400, f"{name}={value!r}: {answer.status_code} {answer.text[:200]}"
            assert list(refused(answer, 400)["details"]) == [name]
    several = await quiet.caller.http.get("/v2/jobs", params={"limit": "0", "status": "x", "search": "y"})
    assert set(refused(several, 400)["details"]) == {"limit", "status", "search"}


async def test_zeros_in_front_of_a_limit_do_not_lift_it(quiet: Service) -> None:
    await fill(quiet.caller, 1)
    limits = ("0000999", "00000101", "000001" + "0" * 20, "000001" + "0" * 5000)

    answers = {
        limit[:12]: (await quiet.caller.http.get("/v2/jobs", params={"limit": limit})).status_code for limit in limits
    }

    assert answers == {limit[:12]: 400 for limit in limits}


async def test_a_cursor_of_any_place_is_harmless(quiet: Service) -> None:
    jobs = list(reversed(await fill(quiet.caller, 3)))
    far = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    early = datetime(1970, 1, 1, tzinfo=UTC)

    assert await ids(quiet.caller, cursor=str(Cursor(far, UUID(int=0)))) == jobs
    assert await ids(quiet.caller, cursor=str(Cursor(early, UUID(int=2**128 - 1)))) == []


async def test_the_history_is_filtered_by_status_and_model(
    serve: Callable[..., Any], simulate: Callable[..., RunningSimulator]
) -> None:
    simulator = simulate(hold=True)
    service = await serve(simulator, loops=False)
    first, second, third = [await service.caller.accepted(FLUX) for _ in range(3)]
    others = list(reversed(await fill(service.caller, 2)))
    await tell(simulator, f"jobs/{first}/finish", wait=True)
    await tell(simulator, f"jobs/{second}/finish", status="FAILED", wait=True)

    assert await ids(service.caller, status="COMPLETED") == [first]
    assert await ids(service.caller, status="FAILED") == [second]
    assert await ids(service.caller, status="QUEUED") == [*others, third]
    assert await ids(service.caller, status="CANCELLED") == []
    assert await ids(service.caller, model="midjourney") == others
    assert await ids(service.caller, model=FLUX["model"]) == [third, second, first]
    assert await ids(service.caller, model=FLUX["model"], status="QUEUED") == [third]
    assert await ids(service.caller, model="MIDJOURNEY") == []
    assert await ids(service.caller, model="") == []
    assert await ids(service.caller, model="x' OR '1'='1") == []
    page = await listed(service.caller, status="QUEUED", limit=2)
    assert (page["hasMore"], await ids(service.caller, status="QUEUED", cursor=page["nextCursor"])) == (True, [third])


async def test_the_scope_is_this_keys_jobs_or_the_teams(quiet: Service) -> None:
    colleague = await quiet.new_caller("tests")
    stranger = await quiet.new_caller("strangers")
    mine = await fill(quiet.caller, 2)
    theirs = await fill(colleague, 2)
    foreign = await fill(stranger, 1)

    assert await ids(quiet.caller) == await ids(quiet.caller, scope="user") == mine[::-1]
    assert await ids(colleague) == theirs[::-1]
    assert await ids(quiet.caller, scope="team") == await ids(colleague, scope="team") == [*theirs[::-1], *mine[::-1]]
    assert await ids(stranger, scope="team") == foreign
    assert (await quiet.caller.read(theirs[0]))["id"] == theirs[0]


async def test_a_job_is_searched_by_its_id_in_either_world(quiet: Service, simulator: RunningSimulator) -> None:
    stranger = await quiet.new_caller("strangers")
    first, second = await fill(quiet.caller, 2)
    assert await dispatch.run_once(quiet.ctx) == 2
    upstream_id = next(
        job["job_id"] for job in (await books(simulator))["jobs"] if job["idempotency_key"].startswith(second)
    )

    assert await ids(quiet.caller, search=first) == [first]
    assert await ids(quiet.caller, search=upstream_id) == [second]
    assert await ids(quiet.caller, search=upstream_id.upper()) == [second]
    assert await ids(quiet.caller, search=str(uuid4())) == []
    assert await ids(stranger, search=first, scope="team") == []
    assert await ids(stranger, search=upstream_id, scope="team") == []


async def test_the_models_are_those_that_the_team_has_used(quiet: Service) -> None:
    colleague = await quiet.new_caller("tests")
    stranger = await quiet.new_caller("strangers")
    for caller, model in ((quiet.caller, "midjourney"), (quiet.caller, "a-model"), (colleague, "zeta")):
        await fill(caller, 2, model)
    await fill(stranger, 1, "secret-model")

    assert (await listed(quiet.caller, include_models="true"))["models"] == ["a-model", "midjourney", "zeta"]
    assert (await listed(quiet.caller, include_models="true", limit=1, status="FAILED"))["models"] == [
        *("a-model", "midjourney", "zeta")
    ]
    assert (await listed(stranger, include_models="true"))["models"] == ["secret-model"]
    assert "models" not in await listed(quiet.caller, include_models="false")


async def test_a_team_without_jobs_sees_an_empty_history(quiet: Service) -> None:
    await fill(quiet.caller, 2)
    stranger = await quiet.new_caller("strangers")

    for scope in ("user", "team"):
        page = await listed(stranger, scope=scope, include_models="true")
        assert page == {"jobs": [], "nextCursor": None, "hasMore": False, "models": []}


async def test_a_cursor_of_another_teams_list_shows_nothing_of_it(quiet: Service) -> None:
    stranger = await quiet.new_caller("strangers")
    foreign = await fill(stranger, 1)
    await fill(quiet.caller, 3)
    cursor = (await listed(quiet.caller, limit=1))["nextCursor"]

    assert await ids(stranger, cursor=cursor, scope="team") == foreign


async def test_times_are_written_with_milliseconds_in_utc(quiet: Service) -> None:
    (job_id,) = await fill(quiet.caller, 1)
    written = (await quiet.caller.read(job_id))["createdAt"]

    assert re.fullmatch(TIME, written)
    kept = (await quiet.job(job_id)).created_at
    assert timedelta(0) <= kept - datetime.fromisoformat(written) < timedelta(milliseconds=1)


async def make_overdue(service: Service, *job_ids: str, seconds: float = 1) -> None:
    """Have these jobs be overdue since so many seconds ago; less than none is in the future."""
    async with service.ctx.db.transaction() as tx:
        for job_id in job_ids:
            at = service.ctx.now() - timedelta(seconds=seconds)
            await tx.execute(text("UPDATE jobs SET overdue_at = :at WHERE id = :id"), {"at": at, "id": job_id})


async def test_overdue_jobs_are_those_under_way_past_their_time(quiet: Service) -> None:
    first, second, later, over, _ = await fill(quiet.caller, 5)
    other = (await fill(quiet.caller, 1, "zeta"))[0]
    await make_overdue(quiet, first, second, over, other)
    await make_overdue(quiet, later, seconds=-3600)
    async with quiet.ctx.db.transaction() as tx:
        await tx.execute(
            text("UPDATE jobs SET status = 'FAILED', completed_at = now(), dispatch_at = NULL WHERE id = :id"),
            {"id": over},
        )

    assert await ids(quiet.caller, overdue="true") == [other, second, first]
    assert len(await ids(quiet.caller, overdue="false")) == 6
    assert await ids(quiet.caller, overdue="true", model="zeta") == [other]
    assert await ids(quiet.caller, overdue="true", status="FAILED") == []
    page = await listed(quiet.caller, overdue="true", limit=2)
    assert page["hasMore"] is True
    assert await ids(quiet.caller, overdue="true", cursor=page["nextCursor"]) == [first]
    assert all("overdue" not in job for job in page["jobs"])


async def test_the_history_is_filtered_by_operation(quiet: Service) -> None:
    first, second = await fill(quiet.caller, 2)
    async with quiet.ctx.db.transaction() as tx:
        await tx.execute(text("UPDATE jobs SET operation = 'videos/generate' WHERE id = :id"), {"id": first})

    assert await ids(quiet.caller, operation="videos/generate") == [first]
    assert await ids(quiet.caller, operation="images/generate") == [second]
    assert await ids(quiet.caller, operation="images") == []


async def test_an_operator_lists_the_jobs_of_any_team_or_of_all(quiet: Service) -> None:
    stranger = await quiet.new_caller("strangers")
    operator = await quiet.new_caller("operators", scopes=("ops",))
    ours = await fill(quiet.caller, 2)
    theirs = await fill(stranger, 2, "zeta")
    latest = (await fill(quiet.caller, 1))[0]
    await make_overdue(quiet, ours[0], theirs[1])

    assert await ids(operator) == await ids(operator, team="operators") == []
    assert await ids(operator, team="strangers") == theirs[::-1]
    assert await ids(operator, team="*") == [latest, *theirs[::-1], *ours[::-1]]
    assert await ids(operator, team="*", scope="user") == []
    assert await ids(operator, team="*", overdue="true") == [theirs[1], ours[0]]
    assert await ids(operator, team="*", search=theirs[0]) == [theirs[0]]
    page = await listed(operator, team="*", limit=2, include_models="true")
    assert page["models"] == ["midjourney", "zeta"]
    assert await ids(operator, team="*", cursor=page["nextCursor"]) == [theirs[0], *ours[::-1]]
    nobody = await operator.http.get("/v2/jobs", params={"team": "nobody"})
    assert list(refused(nobody, 400)["details"]) == ["team"]


async def test_other_teams_jobs_are_not_listed_for_anybody_else(quiet: Service) -> None:
    await quiet.new_caller("strangers")
    colleague = await quiet.new_caller("tests")
    jobs = await fill(quiet.caller, 2)

    for team in ("strangers", "nobody", "*", ""):
        assert set(refused(await quiet.caller.http.get("/v2/jobs", params={"team": team}), 403)) == {"error"}
    assert await ids(quiet.caller, team="tests") == await ids(colleague, team="tests") == jobs[::-1]
    assert await ids(colleague, team="tests", scope="user") == []


async def plan_of(service: Service, team_id: UUID | None, asked: JobFilter) -> str:
    """How PostgreSQL found a page of jobs: what was sent for it, sent again with EXPLAIN before."""
    sent = []

    def note(_connection: Any, statement: str, parameters: tuple[Any, ...]) -> None:
        sent.append((statement, parameters))

    async with service.ctx.db.reading() as connection:
        with listening(service.ctx.db, note):
            await find_jobs(connection, asked, team_id=team_id, key_id=None, now=service.ctx.now())
        plans = [await connection.exec_driver_sql(f"EXPLAIN {statement}", given) for statement, given in sent]
        return "\n".join(row[0] for plan in plans for row in plan)


async def test_pages_are_found_by_their_indexes_however_long_the_history(quiet: Service) -> None:
    (job_id,) = await fill(quiet.caller, 1)
    async with quiet.ctx.db.transaction() as tx:
        await tx.execute(
            text(
                """
                INSERT INTO jobs (id, team_id, key_id, created_at, updated_at, operation, model, input, status,
                    upstream_account, wire_body, dispatch_at, overdue_at)
                SELECT gen_random_uuid(), team_id, key_id, created_at + n * interval '1 ms', updated_at, operation,
                    model, input, status, upstream_account, wire_body, dispatch_at,
                    CASE WHEN n % 500 = 0 THEN created_at END
                FROM jobs CROSS JOIN generate_series(1, 10000) AS n WHERE id = :id
                """
            ),
            {"id": job_id},
        )
    async with quiet.ctx.db.reading() as connection:
        await connection.execute(text("VACUUM ANALYZE jobs"))
        await connection.execute(text("VACUUM ANALYZE teams"))
    team_id = (await quiet.job(job_id)).team_id

    for team in (team_id, None):
        history = await plan_of(quiet, team, JobFilter())
        overdue = await plan_of(quiet, team, JobFilter(overdue=True))
        assert "ix_jobs_team_history" in history
        assert "ix_jobs_overdue" in overdue
        assert "Seq Scan on jobs" not in history + overdue
