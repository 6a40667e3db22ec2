"""A team's LoRAs are listed by pages that hold its own alone, however many of others lie between them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.relay.cursors import seal, unseal
from app.relay.loras import LARGEST_PAGE, MOST_PAGES
from app.simulator.loras import Lora
from app.simulator.server import RunningSimulator
from tests.harness import Caller, Service, books, refused, tell
from tests.relay.upstreams import Fits, Upstream, plain

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


async def team_of(service: Service) -> UUID:
    (row,) = await service.rows("SELECT team_id FROM api_keys WHERE id = :id", id=service.caller.key_id)
    return UUID(str(row.team_id))


async def stock(service: Service, simulator: RunningSimulator, owned: str) -> list[str]:
    """Put LoRAs into the account, the newest first: `x` are the caller's, `.` are others'. Return the caller's."""
    ids = [str(uuid4()) for _ in owned]
    for age, lora_id in enumerate(ids):
        at = BEGIN - timedelta(seconds=age)
        lora = Lora(lora_id, "main", {"name": lora_id[:8]}, 15, 1, at)
        simulator.world.loras[lora_id] = lora
    own = [lora_id for lora_id, whose in zip(ids, owned, strict=True) if whose == "x"]
    team_id = await team_of(service)
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(
            "INSERT INTO belongings SELECT $1, 'lora', unnest($2::text[]), $3, $4, $5",
            (service.ctx.account, own, team_id, service.caller.key_id, BEGIN),
        )
    return own


async def walk(caller: Caller, fits: Fits, **query: Any) -> list[list[str]]:
    """Every page from the first to the last."""
    pages: list[list[str]] = []
    cursor = None
    while cursor or not pages:
        answer = await caller.http.get("/v2/loras", params=query | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        page = fits(answer.json(), "LoraList")
        pages.append([item["id"] for item in page["items"]])
        cursor = page["nextCursor"]
        assert len(pages) < 100
    return pages


@pytest.mark.parametrize(
    ("owned", "limit", "sizes"),
    [
        ("x", 24, [1]),
        ("...", 24, [0]),
        ("xxxxx", 2, [2, 2, 1]),
        (".x..x.x....x", 2, [2, 2]),
        ("x" + "." * 250 + "x", 1, [1, 1]),
        ("." * 130 + "xxx" + "." * 130 + "x", 2, [2, 2]),
        ("x." * 120, 100, [100, 20]),
    ],
)
async def test_pages_hold_the_teams_own_in_order_each_once(
    quiet: Service, simulator: RunningSimulator, fits: Fits, owned: str, limit: int, sizes: list[int]
) -> None:
    own = await stock(quiet, simulator, owned)
    pages = await walk(quiet.caller, fits, limit=limit)
    assert [lora_id for page in pages for lora_id in page] == own
    assert [len(page) for page in pages if page] == [size for size in sizes if size]
    colleague = await quiet.new_caller("tests", scopes=("read",))
    assert await walk(colleague, fits, limit=limit) == pages


async def test_a_page_asks_the_upstream_a_bounded_number_of_times(
    quiet: Service, simulator: RunningSimulator, fits: Fits
) -> None:
    own = await stock(quiet, simulator, "." * (MOST_PAGES * LARGEST_PAGE + 50) + "x")
    assert await walk(quiet.caller, fits) == [[], own]
    assert (await books(simulator))["counters"]["requests"]["GET /v2/loras"] == MOST_PAGES + 1


async def test_a_cursor_shows_nothing_and_is_good_for_its_own_team_only(
    quiet: Service, simulator: RunningSimulator
) -> None:
    await stock(quiet, simulator, "x.x")
    cursor = (await quiet.caller.http.get("/v2/loras?limit=1")).json()["nextCursor"]
    other = await quiet.new_caller("others")
    for caller, wrong in (
        (other, cursor),
        (quiet.caller, ("B" if cursor[0] == "A" else "A") + cursor[1:]),
        (quiet.caller, "x"),
        (quiet.caller, "é"),
    ):
        body = refused(await caller.http.get("/v2/loras", params={"cursor": wrong}), 400)
        assert list(body["details"]) == ["cursor"]
    place = str(uuid4())
    secret, team = b"s" * 32, uuid4()
    sealed = seal(secret, team, place)
    assert place not in sealed
    assert unseal([b"other", secret], team, sealed) == place
    assert unseal([secret], uuid4(), sealed) is None


@given(st.text(max_size=300), st.binary(min_size=1, max_size=40))
def test_any_place_can_be_sealed_and_opened(place: str, secret: bytes) -> None:
    team = UUID(int=7)
    assert unseal([secret], team, seal(secret, team, place)) == place


@given(st.text(max_size=80))
def test_no_text_is_a_cursor_that_was_not_sealed(text: str) -> None:
    assert unseal([b"s"], UUID(int=7), text) is None


async def test_a_query_is_checked_as_the_upstream_does(quiet: Service, fits: Fits) -> None:
    for query in ({"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"includeArchived": "yes"}, {"cursor": ""}):
        body = fits(refused(await quiet.caller.http.get("/v2/loras", params=query), 400), "ValidationError")
        assert list(body["details"]) == list(query)


async def test_archived_ones_are_listed_on_request(quiet: Service, simulator: RunningSimulator, fits: Fits) -> None:
    first, second = await stock(quiet, simulator, "x.x")
    assert (await quiet.caller.http.delete(f"/v2/loras/{first}")).status_code == 204
    assert await walk(quiet.caller, fits) == [[second]]
    assert await walk(quiet.caller, fits, includeArchived="true", limit=1) == [[first], [second]]


async def test_one_that_is_made_between_two_pages_moves_nothing(quiet: Service, simulator: RunningSimulator) -> None:
    own = await stock(quiet, simulator, "xx.x.x")
    first = (await quiet.caller.http.get("/v2/loras?limit=2")).json()
    await asyncio.to_thread(
        simulator.world.loras.__setitem__, "new", Lora(str(uuid4()), "main", {"name": "n"}, 15, 1, BEGIN)
    )
    query = {"limit": 2, "cursor": first["nextCursor"]}
    second = (await quiet.caller.http.get("/v2/loras", params=query)).json()
    assert [item["id"] for item in first["items"] + second["items"]] == own


async def test_refusals_pass_and_nonsense_is_a_502(
    quiet: Service, simulator: RunningSimulator, facing: Callable[..., Any], upstream: Upstream
) -> None:
    await stock(quiet, simulator, "x")
    await tell(simulator, "faults", read_rate_limited=1)
    answer = await quiet.caller.http.get("/v2/loras")
    assert refused(answer, 429) == {"error": "Rate limit exceeded"}
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["X-Upstream-Request-Id"]
    service = await facing(upstream.url)
    await stock(service, simulator, "x")
    for body in (b"{}", b'{"items":[{}],"nextCursor":null}', b"x", b'{"items":[],"nextCursor":7}'):
        upstream.answer = plain(200, body)
        refused(await service.caller.http.get("/v2/loras"), 502)


async def test_items_are_passed_on_as_they_were_written(facing: Callable[..., Any], upstream: Upstream) -> None:
    service = await facing(upstream.url)
    lora_id = str(uuid4())
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(
            "INSERT INTO belongings VALUES ($1, 'lora', $2, $3, $4, $5)",
            (service.ctx.account, lora_id, await team_of(service), service.caller.key_id, BEGIN),
        )
    item = json.dumps({"id": lora_id, "new": 1.50, "big": 12345678901234567890}, indent=2)
    upstream.answer = plain(200, f'{{"items": [{item}], "nextCursor": null, "more": 1}}'.encode())
    answer = await service.caller.http.get("/v2/loras")
    assert item.encode() in answer.content
