"""What tests drive Framehook with: a service in this event loop, a caller, and waiting for a condition with an end."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import httpx
import uvicorn
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.config import Settings, load_settings
from app.context import Context
from app.db import Database
from app.main import create_app
from app.serving import server_config
from app.simulator.server import RunningSimulator
from app.teams.keys import create_key

Value = TypeVar("Value")

SIMULATOR_KEY = "afk_simulator_key_for_tests"
NO_TLS = ssl.create_default_context()
"""Made once: httpx would read all certificates for every client anew, and there are many."""

FLUX = {"model": "flux-1.1-pro-ultra", "prompt": "a lighthouse in a storm"}


def settings_for(database_url: str, simulator: RunningSimulator, **settings: Any) -> Settings:
    """Settings that leave the machine's environment aside; webhooks come back unless `public_base_url=None`."""
    values: dict[str, Any] = {
        "database_url": database_url,
        "apiframe_base_url": simulator.url,
        "apiframe_api_key": SIMULATOR_KEY,
        "public_base_url": "http://127.0.0.1:1",  # replaced by the port that is bound
        "log_level": "warning",
        "sweep_seconds": 0.5,
        "inline_seconds": 60.0,  # a machine that stands still for a while is not an upstream that does not answer
        "pool_size": 5,
        "allowed_targets": "127.0.0.0/8",  # where the tests' receivers are
        "archive_url": "off",  # only the tests of the archive keep anything
    }
    return load_settings(_env_file=None, **values | settings)


class FrozenClock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def now(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        """Move it on."""
        self.time += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Service:
    """A running service and its insides."""

    url: str
    ctx: Context
    caller: Caller
    server: uvicorn.Server
    clients: AsyncExitStack

    async def new_caller(self, team: str, scopes: tuple[str, ...] = ("submit", "read")) -> Caller:
        """A caller with a key of its own."""
        caller = await make_caller(self.ctx, self.url, team, scopes)
        await self.clients.enter_async_context(caller.http)
        return caller

    async def rows(self, statement: str, **parameters: Any) -> list[Any]:
        """What a query finds in the database."""
        async with self.ctx.db.reading() as connection:
            return list((await connection.execute(text(statement), parameters)).all())

    async def job(self, job_id: str | UUID) -> Any:
        """A job's whole row."""
        (row,) = await self.rows("SELECT * FROM jobs WHERE id = :id", id=str(job_id))
        return row


class Caller:
    """A team's client."""

    def __init__(self, url: str, key: str, key_id: UUID) -> None:
        self.key = key
        self.key_id = key_id
        self.http = httpx.AsyncClient(
            base_url=url, headers={"X-API-Key": key}, trust_env=False, timeout=60, verify=NO_TLS
        )

    async def submit(self, body: Any = None, **headers: str) -> httpx.Response:
        """Submit a generation; header names are written with underscores."""
        content = body if isinstance(body, bytes) else json.dumps(FLUX if body is None else body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(
            "/v2/images/generate", content=content, headers={"Content-Type": "application/json", **named}
        )

    async def accepted(self, body: Any = None, **headers: str) -> str:
        """Submit, insist on a 202, and return the job's id."""
        answer = await self.submit(body, **headers)
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["jobId"]
        return job_id

    async def read(self, job_id: str, *, wait: float = 0) -> dict[str, Any]:
        """The job object."""
        answer = await self.http.get(f"/v2/jobs/{job_id}", params={"wait": wait} if wait else {})
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job


async def make_caller(ctx: Context, url: str, team: str, scopes: tuple[str, ...]) -> Caller:
    """Make a key, and a client that uses it."""
    async with ctx.db.transaction() as tx:
        made = await create_key(tx, team=team, scopes=scopes, now=ctx.now())
    return Caller(url, made.key, made.id)


def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The body of an answer that must be a refusal: this status, Apiframe's envelope, a request id."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text[:500]}"
    assert answer.headers["X-Request-Id"]
    assert answer.headers["Content-Type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert isinstance(body["error"], str)
    assert body["error"]
    for messages in body.get("details", {}).values():
        assert messages
        assert all(isinstance(message, str) and message for message in messages)
    return body


@asynccontextmanager
async def running_service(settings: Settings) -> AsyncIterator[Service]:
    """A service on a free port of 127.0.0.1, in this event loop."""
    # The protocol is named because asyncio sets TCP_NODELAY on no other socket: without it every answer takes 40 ms.
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if settings.public_base_url is not None and settings.public_base_url.endswith(":1"):
            settings = settings.model_copy(update={"public_base_url": url})
        app = create_app(settings)
        config = server_config(app)
        config.timeout_graceful_shutdown = 5
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            assert not serving.done(), "the service did not start"
            await asyncio.sleep(0.005)
        ctx = app.state.ctx
        caller = await make_caller(ctx, url, "tests", ("submit", "read"))
        try:
            async with AsyncExitStack() as clients:
                await clients.enter_async_context(caller.http)
                yield Service(url, ctx, caller, server, clients)
        finally:
            server.should_exit = True
            await serving


class _GivenUp(Exception):
    """Why a transaction is rolled back."""


@asynccontextmanager
async def given_up(database: Database, *, plans_once: bool = False) -> AsyncIterator[AsyncConnection]:
    """A transaction that comes to nothing: it is rolled back at the end of the block."""
    with suppress(_GivenUp):
        async with database.transaction(plans_once=plans_once) as tx:
            yield tx
            raise _GivenUp


async def eventually(
    look: Callable[[], Awaitable[Value]], holds: Callable[[Value], Any] = bool, *, seconds: float = 60
) -> Value:
    """Look again until what is seen holds, and return it; fail with what was seen last when the time is over."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        seen = await look()
        if holds(seen):
            return seen
        assert asyncio.get_running_loop().time() < end, f"not within {seconds} s: {seen!r}"
        await asyncio.sleep(0.02)


async def settled(service: Service) -> None:
    """Return when what the service has begun beside its answers is done; of one without loops, nothing follows then."""
    while tasks := set(service.ctx._tasks):
        await asyncio.wait(tasks)


async def tell(simulator: RunningSimulator, path: str, **body: Any) -> Any:
    """Steer the simulator without blocking this loop, which its webhooks may need."""
    return await asyncio.to_thread(simulator.tell, path, **body)


async def books(simulator: RunningSimulator) -> Mapping[str, Any]:
    """What the simulator has seen and done."""
    seen: Mapping[str, Any] = await asyncio.to_thread(simulator.ask, "books")
    return seen


@dataclass(frozen=True)
class HeldJob:
    """A job that the upstream has accepted: its id in both worlds, and the address that it is to report to."""

    id: str
    upstream_id: str
    url: str

    def says(self, event: str, **fields: Any) -> bytes:
        """The body of a webhook about it."""
        return json.dumps({"event": event, "jobId": self.upstream_id} | fields).encode()


async def held_job(service: Service, simulator: RunningSimulator, *, body: Any = None, **headers: str) -> HeldJob:
    """Submit to a simulator that knows both spellings and holds its jobs; return when it has the job, answered or not."""
    job_id = await service.caller.accepted(body, **headers)

    async def look() -> list[dict[str, Any]]:
        jobs = (await asyncio.to_thread(simulator.ask, "books?part=jobs"))["jobs"]
        return [job for job in jobs if job["idempotency_key"] == job_id]

    (seen,) = await eventually(look)
    return HeldJob(job_id, seen["job_id"], seen["webhook_url"])


async def post_webhook(service: Service, url: str, body: bytes, signature: str | None) -> httpx.Response:
    """Post a webhook of the test's own making, as the upstream would."""
    headers = {"Content-Type": "application/json"} | ({"X-Webhook-Signature": signature} if signature else {})
    return await service.caller.http.post(url, content=body, headers=headers)


async def count_changes(service: Service) -> None:
    """Have this database note every change of what a job says, in a table `changes` (job_id, before, after)."""
    said = "(status, progress, result, error, credit_cost, completed_at, concluded_by)"
    old, new = (re.sub(r"(\w+)", rf"{row}.\1", said) for row in ("OLD", "NEW"))
    function = "BEGIN INSERT INTO changes VALUES (NEW.id, OLD.status, NEW.status); RETURN NULL; END"
    trigger = f"AFTER UPDATE ON jobs FOR EACH ROW WHEN ({old} IS DISTINCT FROM {new}) EXECUTE FUNCTION note_change()"
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql("CREATE TABLE changes (job_id uuid, before text, after text)")
        await tx.exec_driver_sql(f"CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS '{function}'")
        await tx.exec_driver_sql(f"CREATE TRIGGER note_change {trigger}")
