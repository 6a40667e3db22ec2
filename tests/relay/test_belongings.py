"""What a team made at the upstream is its own: nobody else finds it, and its maker hears of it whatever happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import quote
from uuid import uuid4

import pytest
import structlog
from structlog.testing import LogCapture

from app.relay import belongings
from app.simulator.server import RunningSimulator
from tests.harness import Caller, Service, books, eventually, refused, running_service, settings_for, tell
from tests.relay.upstreams import FORM, PNG, Fits, Upstream, form, plain
from tests.wires import PostgresWire

Lines = list[Any]
ASSET = {"url": "https://example.com/a.mp4", "type": "video"}
STYLE = {"name": "woodcut", "subjectKind": "style"}


async def train(caller: Caller, **fields: str) -> str:
    """Train a LoRA that is to be accepted; return its id."""
    answer = await caller.http.post("/v2/loras", data=STYLE | fields, files=[("images", PNG)] * 15)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def register(caller: Caller) -> str:
    """The same of an asset."""
    answer = await caller.http.post("/v2/assets/create", json=ASSET)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["assetId"])


async def seen(simulator: RunningSimulator) -> dict[str, int]:
    return dict((await books(simulator))["counters"]["requests"])


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """What is logged of belongings."""
    capture = LogCapture()
    monkeypatch.setattr(
        belongings, "log", structlog.wrap_logger(None, [capture], structlog.make_filtering_bound_logger(0))
    )
    return capture.entries


@pytest.fixture
async def other(quiet: Service) -> Caller:
    """Another team's caller."""
    return await quiet.new_caller("others")


@pytest.fixture
async def operator(quiet: Service) -> Caller:
    """One who sees everything."""
    return await quiet.new_caller("operators", scopes=("ops",))


async def test_what_a_team_made_is_its_own_to_read_and_delete(quiet: Service, fits: Fits) -> None:
    http = quiet.caller.http
    asset = fits((await http.post("/v2/assets/create", json=ASSET)).json(), "AssetCreated")["assetId"]
    answer = await http.post("/v2/loras", data=STYLE, files=[("images", PNG)] * 15)
    lora = fits(answer.json(), "LoraCreated")["id"]
    assert (answer.status_code, answer.json()["imageCount"]) == (202, 15)
    assert (await http.get(f"/v2/assets/{asset}")).json()["SourceUrl"] == ASSET["url"]
    assert fits((await http.get(f"/v2/loras/{lora}")).json(), "Lora")["name"] == "woodcut"
    colleague = await quiet.new_caller("tests")
    assert (await colleague.http.get(f"/v2/loras/{lora.upper()}")).status_code == 200
    for _ in range(2):
        answer = await http.delete(f"/v2/loras/{lora}")
        assert (answer.status_code, answer.content) == (204, b"")
    assert (await http.get(f"/v2/loras/{lora}")).json()["status"] == "ARCHIVED"
    rows = await quiet.rows("SELECT account, kind, upstream_id, key_id FROM belongings ORDER BY kind")
    account, key_id = quiet.ctx.account, quiet.caller.key_id
    assert [tuple(row) for row in rows] == [(account, "asset", asset, key_id), (account, "lora", lora, key_id)]


async def test_another_team_finds_none_of_it_by_any_verb_and_the_upstream_is_not_asked(
    quiet: Service, simulator: RunningSimulator, other: Caller, fits: Fits
) -> None:
    lora, asset = await train(quiet.caller), await register(quiet.caller)
    before = await seen(simulator)
    for method, path, words in (
        ("GET", f"loras/{lora}", "LoRA not found"),
        ("DELETE", f"loras/{lora}", "LoRA not found"),
        ("GET", f"loras/{uuid4()}", "LoRA not found"),
        ("DELETE", f"loras/{uuid4()}", "LoRA not found"),
        ("GET", f"assets/{asset}", "Asset not found"),
        ("GET", f"assets/{uuid4()}", "Asset not found"),
        ("GET", f"assets/{lora}", "Asset not found"),
        ("GET", "assets/create", "Asset not found"),
    ):
        assert fits(refused(await other.http.request(method, f"/v2/{path}"), 404), "ErrorResponse") == {"error": words}
    for method in ("GET", "DELETE"):
        answer = await other.http.request(method, "/v2/loras/x")
        assert fits(refused(answer, 400), "ValidationError")["details"] == {"id": ["Invalid uuid"]}
    assert (await other.http.get("/v2/loras")).json() == {"items": [], "nextCursor": None}
    assert await seen(simulator) == before
    assert (await quiet.caller.http.get(f"/v2/loras/{lora}")).json()["status"] != "ARCHIVED"


async def test_an_operator_reads_everything_and_deletes_nothing(
    quiet: Service, simulator: RunningSimulator, operator: Caller, fits: Fits
) -> None:
    lora, asset = await train(quiet.caller), await register(quiet.caller)
    admin = await quiet.new_caller("operators", scopes=("admin",))
    for caller in (operator, admin):
        assert (await caller.http.get(f"/v2/loras/{lora}")).json()["id"] == lora
        assert (await caller.http.get(f"/v2/assets/{asset}")).json()["Id"] == asset
        page = fits((await caller.http.get("/v2/loras?limit=1")).json(), "LoraList")
        assert [item["id"] for item in page["items"]] == [lora]
    refused(await operator.http.delete(f"/v2/loras/{lora}"), 403)
    refused(await admin.http.delete(f"/v2/loras/{lora}"), 404)
    for path in ("assets/%2E%2E", "assets/.%2E", "assets/nothing"):
        refused(await operator.http.get(f"/v2/{path}"), 404)


async def test_an_assets_id_is_escaped_on_its_way_up(facing: Callable[..., Any], upstream: Upstream) -> None:
    service = await facing(upstream.url)
    odd = "asset 7/..?y=1#z%41é"
    upstream.answer = plain(201, json.dumps({"assetId": odd}).encode())
    assert await register(service.caller) == odd
    refused(await service.caller.http.get("/v2/assets/asset%207"), 404)
    # A slash in a path is a slash to us, however it is written: such an id cannot be asked for.
    refused(await service.caller.http.get(f"/v2/assets/{quote(odd, safe='')}"), 404)
    odd = odd.replace("/", ":")
    await service.rows("UPDATE belongings SET upstream_id = :odd RETURNING 1", odd=odd)
    assert (await service.caller.http.get(f"/v2/assets/{quote(odd, safe='')}")).status_code == 201
    assert [asked.path for asked in upstream.asked[1:]] == [f"/v2/assets/{quote(odd, safe='')}"]


async def test_what_the_upstream_refuses_belongs_to_nobody(quiet: Service, simulator: RunningSimulator) -> None:
    http = quiet.caller.http
    assert (await http.post("/v2/loras", data=STYLE, files=[("images", PNG)] * 3)).status_code == 400
    assert (await http.post("/v2/assets/create", json={"url": "x"})).status_code == 400
    await tell(simulator, "config", credits=1)
    answer = await http.post("/v2/loras", data=STYLE, files=[("images", PNG)] * 15)
    assert refused(answer, 402) == {"error": "Insufficient credits", "creditsRequired": 2, "creditsAvailable": 1}
    await tell(simulator, "faults", accept_then_cut=1)
    refused(await http.post("/v2/assets/create", json=ASSET), 502)
    assert await quiet.rows("SELECT 1 FROM belongings") == []
    assert (await seen(simulator))["POST /v2/assets/create"] == 2, "what may have been accepted is not sent again"


async def test_an_answer_without_an_id_is_passed_on(facing: Callable[..., Any], upstream: Upstream) -> None:
    service = await facing(upstream.url)
    for body in (b"{}", b'{"assetId": 7}', b"[]", b"nonsense"):
        upstream.answer = plain(201, body)
        answer = await service.caller.http.post("/v2/assets/create", json=ASSET)
        assert (answer.status_code, answer.content) == (201, body)
    assert await service.rows("SELECT 1 FROM belongings") == []


async def test_what_is_taken_already_stays_with_its_owner(
    facing: Callable[..., Any], upstream: Upstream, lines: Lines
) -> None:
    service = await facing(upstream.url)
    other = await service.new_caller("others")
    upstream.answer = plain(201, b'{"assetId":"shared"}')
    assert await register(service.caller) == await register(other) == "shared"
    assert [line["event"] for line in lines] == ["belonging.taken"]
    assert (await service.caller.http.get("/v2/assets/shared")).status_code == 201
    refused(await other.http.get("/v2/assets/shared"), 404)


# When the owner cannot be written down


@asynccontextmanager
async def table_away(service: Service) -> AsyncIterator[None]:
    """The table is not there, as where a migration is missing."""
    async with service.ctx.db.transactional.begin() as tx:
        await tx.exec_driver_sql("ALTER TABLE belongings RENAME TO away")
    try:
        yield
    finally:
        async with service.ctx.db.transactional.begin() as tx:
            await tx.exec_driver_sql("ALTER TABLE away RENAME TO belongings")


async def test_an_id_is_passed_on_though_its_owner_cannot_be_written_down_and_it_is_as_soon_as_can_be(
    quiet: Service, lines: Lines
) -> None:
    async with table_away(quiet):
        lora = await train(quiet.caller)
        (line,) = (line for line in lines if line["event"] == "belonging.unrecorded")
        assert line["log_level"] == "error"
        assert (line["kind"], line["upstream_id"]) == ("lora", lora)
        assert (line["account"], line["key_id"]) == (quiet.ctx.account, str(quiet.caller.key_id))
        refused(await quiet.caller.http.get(f"/v2/loras/{lora}"), 503)

    async def look() -> int:
        return (await quiet.caller.http.get(f"/v2/loras/{lora}")).status_code

    await eventually(look, lambda status: status == 200)
    await eventually(lambda: asyncio.sleep(0, "belonging.recorded" in [line["event"] for line in lines]))


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_commit_of_unknown_fate_is_made_again(
    simulator: RunningSimulator, database_url: str, moment: Literal["before", "after"]
) -> None:
    wire = PostgresWire(database_url)
    async with wire.open() as url, running_service(settings_for(url, simulator, loops=False)) as service:
        wire.cut_in_commit(moment=moment)
        asset = await register(service.caller)
        assert wire.cuts == 1

        async def look() -> int:
            return (await service.caller.http.get(f"/v2/assets/{asset}")).status_code

        await eventually(look, lambda status: status == 200)


async def test_a_service_that_stops_meanwhile_tries_once_more_and_says_what_is_lost(
    serve: Callable[..., Any], simulator: RunningSimulator, lines: Lines
) -> None:
    service: Service = await serve(simulator, loops=False)
    async with table_away(service):
        asset = await register(service.caller)
        service.ctx.begin_closing()
        await eventually(lambda: asyncio.sleep(0, not service.ctx._tasks))
    (line,) = (line for line in lines if line["event"] == "belonging.lost")
    assert line["upstream_id"] == asset


async def test_a_database_that_hangs_holds_the_answer_up_for_a_moment_only(
    quiet: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(belongings, "RECORD_SECONDS", 0.3)
    async with quiet.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("LOCK TABLE belongings")
        asset = await register(quiet.caller)

    async def look() -> int:
        return len(await quiet.rows("SELECT 1 FROM belongings WHERE upstream_id = :asset", asset=asset))

    await eventually(look)


async def test_a_maker_who_leaves_before_the_answer_owns_it_nevertheless(
    facing: Callable[..., Any], upstream: Upstream
) -> None:
    service = await facing(upstream.url)
    answering = asyncio.Event()

    async def slow(request: Any) -> Any:
        await answering.wait()
        return await plain(202, b'{"id":"5D3C1F0A-6A53-4B6E-9D3F-0D1F7F2F9A11"}')(request)

    upstream.answer = slow

    async def body() -> AsyncIterator[bytes]:
        yield form("images", PNG)

    leaving = asyncio.create_task(service.caller.http.post("/v2/loras", content=body(), headers=FORM))
    await eventually(lambda: asyncio.sleep(0, bool(upstream.asked) and upstream.asked[0].whole))
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    answering.set()

    async def look() -> list[Any]:
        found: list[Any] = await service.rows("SELECT upstream_id FROM belongings")
        return found

    (row,) = await eventually(look)
    assert row.upstream_id == "5d3c1f0a-6a53-4b6e-9d3f-0d1f7f2f9a11"
