"""Keys: known by their hash alone, listed without it, revoked once; and the bootstrap key of the settings."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from app.models.teams import SCOPES
from app.simulator.server import RunningSimulator
from app.teams.keys import NewKey, check_scopes, create_key, list_keys, revoke_key
from tests.harness import NO_TLS, Service, eventually, refused

BOOTSTRAP: Final = "fh_bootstrap_0123456789abcdef0123456789"


@pytest.fixture
async def quiet(serve: Callable[..., Any], simulator: RunningSimulator) -> Service:
    """A service that sends nothing by itself."""
    started: Service = await serve(simulator, loops=False)
    return started


async def make(service: Service, team: str, *scopes: str, **details: Any) -> NewKey:
    async with service.ctx.db.transaction() as tx:
        return await create_key(tx, team=team, scopes=scopes or ("read",), now=service.ctx.now(), **details)


async def test_a_key_is_kept_as_its_hash_and_a_few_characters(quiet: Service) -> None:
    made = await make(quiet, "painters", "submit", "read", name="the poster machine")
    headers = {"X-API-Key": made.key}
    async with httpx.AsyncClient(
        base_url=quiet.url, headers=headers, trust_env=False, timeout=60, verify=NO_TLS
    ) as client:
        assert (await client.get("/v2/jobs")).status_code == 200

    tables = [row.name for row in await quiet.rows("SELECT relname AS name FROM pg_class WHERE relkind IN ('r', 'p')")]
    assert "api_keys" in tables
    in_hex = made.key.encode().hex()
    for table in [table for table in tables if not table.startswith(("pg_", "sql_"))]:
        rows = " ".join(row.all_of_it for row in await quiet.rows(f"SELECT t::text AS all_of_it FROM {table} t"))
        assert made.key not in rows, table
        assert made.key[-20:] not in rows, table
        assert in_hex not in rows, table
    (row,) = await quiet.rows("SELECT * FROM api_keys WHERE id = :id", id=str(made.id))
    assert bytes(row.key_hash) == hashlib.sha256(made.key.encode()).digest()
    assert made.key.startswith(row.prefix)
    assert len(made.key) - len(row.prefix) >= 32
    assert (row.name, row.scopes, row.revoked_at, row.expires_at) == (
        "the poster machine",
        ["submit", "read"],
        None,
        None,
    )


async def test_no_two_keys_are_alike_and_a_team_is_made_once(quiet: Service) -> None:
    made = await asyncio.gather(*(make(quiet, "painters") for _ in range(10)))

    assert len({one.key for one in made}) == 10
    assert all(len(one.key) >= 40 for one in made)
    assert len(await quiet.rows("SELECT id FROM teams WHERE name = 'painters'")) == 1


def test_scopes_are_the_five_in_their_order_without_doubles() -> None:
    assert set(SCOPES) == {"submit", "read", "subscribe", "ops", "admin"}
    assert check_scopes(["read", "submit", "read"]) == ("submit", "read")
    assert check_scopes(["admin"]) == ("admin",)
    for wrong in ([], ["write"], ["read", "root"], ["READ"], [""], [" read"]):
        with pytest.raises(ValueError, match="submit, read, subscribe, ops, admin"):
            check_scopes(wrong)


async def test_a_key_with_an_unknown_scope_is_not_made(quiet: Service) -> None:
    with pytest.raises(ValueError, match="unknown scope root"):
        await make(quiet, "newcomers", "read", "root")

    assert await quiet.rows("SELECT id FROM teams WHERE name = 'newcomers'") == []


async def test_keys_are_listed_by_team_and_age_without_their_hash(quiet: Service) -> None:
    expires_at = quiet.ctx.now() + timedelta(days=1)
    made = [
        await make(quiet, "zoologists", name="z"),
        await make(quiet, "astronomers", "submit", name="a1", expires_at=expires_at),
        await make(quiet, "astronomers", name="a2"),
    ]
    async with quiet.ctx.db.transaction() as tx:
        await revoke_key(tx, made[2].id, quiet.ctx.now())
        everyone = await list_keys(tx)
        astronomers = await list_keys(tx, "astronomers")
        nobody = await list_keys(tx, "nobody")

    assert [row._mapping["name"] for row in everyone if row._mapping["team"] != "tests"] == ["a1", "a2", "z"]
    assert [row._mapping["id"] for row in astronomers] == [made[1].id, made[2].id]
    assert list(nobody) == []
    first, second = (row._mapping for row in astronomers)
    assert (first["scopes"], first["expires_at"], first["revoked_at"]) == (["submit"], expires_at, None)
    assert second["revoked_at"] is not None
    for row in everyone:
        for value in row:
            assert not isinstance(value, bytes), "a hash is the secret that callbacks are signed with"


async def test_a_key_is_revoked_once(quiet: Service) -> None:
    made = await make(quiet, "painters")
    async with quiet.ctx.db.transaction() as tx:
        assert await revoke_key(tx, made.id, quiet.ctx.now()) is True
        (row,) = await list_keys(tx, "painters")
    first = row._mapping["revoked_at"]
    async with quiet.ctx.db.transaction() as tx:
        assert await revoke_key(tx, made.id, quiet.ctx.now() + timedelta(hours=1)) is False
        assert await revoke_key(tx, uuid4(), quiet.ctx.now()) is False
        (row,) = await list_keys(tx, "painters")

    assert row._mapping["revoked_at"] == first


async def bootstrap_keys(service: Service) -> list[Any]:
    return await service.rows(
        "SELECT k.id, k.scopes, t.name AS team FROM api_keys k JOIN teams t ON t.id = k.team_id WHERE k.key_hash = :hash",
        hash=hashlib.sha256(BOOTSTRAP.encode()).digest(),
    )


async def ask_as_admin(service: Service) -> httpx.Response:
    return await service.caller.http.get("/v2/jobs", headers={"X-API-Key": BOOTSTRAP})


async def test_the_bootstrap_key_is_valid_from_the_start_and_made_once(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    """However many processes start with it, at once or later."""
    settings = {"loops": False, "bootstrap_admin_key": BOOTSTRAP}
    services = await asyncio.gather(*(serve(simulator, **settings) for _ in range(3)))
    services = [*services, await serve(simulator, **settings)]

    for service in services:
        assert (await ask_as_admin(service)).status_code == 200
    (row,) = await bootstrap_keys(services[0])
    assert row.scopes == ["admin"]


async def test_a_bootstrap_key_that_was_revoked_stays_revoked(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    settings = {"loops": False, "bootstrap_admin_key": BOOTSTRAP}
    before = await serve(simulator, **settings)
    assert (await ask_as_admin(before)).status_code == 200
    (row,) = await bootstrap_keys(before)
    async with before.ctx.db.transaction() as tx:
        await revoke_key(tx, row.id, before.ctx.now())

    after = await serve(simulator, **settings)

    refused(await ask_as_admin(after), 401)
    assert len(await bootstrap_keys(after)) == 1
    await eventually(lambda: ask_as_admin(before), lambda answer: answer.status_code == 401)
