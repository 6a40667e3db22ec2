"""What stands in the upstream's place for test keys: it takes any job, makes a simulated result of it, and costs nothing.

It keeps nothing of its own. How far a job is follows from its row and the time, so any process answers for any job, and a
crash forgets none. It sends no webhooks: the reconciler asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import msgspec
from pydantic import SecretStr
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import Response

from app.apiframe.client import Answer, Passed, Passing, Upstream
from app.apiframe.errors import Refusal
from app.clock import timestamp, timestamp_or_null
from app.config import Settings
from app.context import SANDBOX, Context
from app.db import AnyRow
from app.errors import Forbidden, NotFound
from app.http import context
from app.simulator import outputs
from app.simulator.job import Job

QUEUED_SECONDS: Final = 0.3
SECONDS: Final = 2.0
"""From its acceptance to its end."""

JOBS_AT_ONCE: Final = 100
LISTED: Final = 100

FILE_PATH: Final = "/sandbox/files/{job_id}/{name}"

FAILURE: Final = "The model could not generate this: simulated failure"

_FINAL: Final[Mapping[str, str]] = {"failed": "FAILED", "cancelled": "CANCELLED"}
"""What `metadata.simulate` may ask for, instead of success."""


class Sandbox(Upstream):
    """An upstream for the jobs of test keys."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    @property
    def free_submissions(self) -> int:
        """As many as anybody wants."""
        return JOBS_AT_ONCE

    async def submit(self, api_key: str, operation: str, body: bytes, idempotency_key: str) -> Answer:
        """Take a job. The same key always stands for the same one."""
        for seconds in (QUEUED_SECONDS, SECONDS / 2, SECONDS):
            asyncio.get_running_loop().call_later(seconds + 0.05, self._ctx.notify.nudge, ["poll"])
        return Answer({"jobId": str(uuid5(NAMESPACE_URL, idempotency_key)), "status": "QUEUED"}, None)

    async def get_job(self, api_key: str, upstream_id: str) -> Answer:
        """A job as it is by now. Raises Refusal where there is none."""
        row = await _find_job(self._ctx, upstream_id)
        if row is None:
            raise _not_found("Job not found")
        return Answer(_shape(row, self._ctx), None)

    async def list_jobs(self, api_key: str, *, limit: int = LISTED, cursor: str | None = None) -> Answer:
        """The newest jobs; older ones are asked after one by one."""
        async with self._ctx.db.reading() as connection:
            rows = (await connection.execute(_LIST, {"account": SANDBOX, "limit": min(limit, LISTED)})).all()
        return Answer({"jobs": [_shape(row, self._ctx) for row in rows], "nextCursor": None, "hasMore": False}, None)

    async def me(self, api_key: str) -> Answer:
        """So many jobs may run at once."""
        return Answer({"team": {"name": SANDBOX, "maxConcurrentJobs": JOBS_AT_ONCE}}, None)

    async def document(self) -> Answer:
        """There is none: what test keys submit is judged by the upstream's own."""
        raise _not_found("Not found")

    async def models(self) -> Answer:
        """There is none, likewise."""
        raise _not_found("Not found")

    def stream(self, api_key: str | None, passing: Passing) -> AbstractAsyncContextManager[Passed]:
        """What makes no job is nothing that a sandbox has. Raises Forbidden."""
        raise Forbidden("A test key cannot do this, which would reach the upstream")

    async def close(self) -> None:
        """Nothing is held."""


def _not_found(words: str) -> Refusal:
    return Refusal(404, {"error": words}, retry_after_seconds=None, request_id=None)


def attach(ctx: Context) -> None:
    """Give a context the sandbox that its test keys lead to."""
    within = Context(_settings(ctx.settings), ctx.db, clock=ctx.clock, within=ctx)
    within.account = SANDBOX
    within.upstream = Sandbox(within)
    ctx.sandbox = within


def _settings(settings: Settings) -> Settings:
    """Those of the service, but that nothing is awaited, kept or limited that an upstream would be asked for."""
    return settings.model_copy(
        update={
            "public_base_url": None,
            "apiframe_api_key": SecretStr("afk_sandbox"),
            "apiframe_previous_api_keys": (),
            "max_in_flight": JOBS_AT_ONCE,
            "requests_per_minute": None,
            "reconcile_after_seconds": QUEUED_SECONDS,
            "archive_url": "off",
        }
    )


async def get_file(request: Request) -> Response:
    """Read a simulated file that a job of a test key made. It is made when it is asked for, always the same."""
    ctx = context(request)
    row = await _find_job(ctx, request.path_params["job_id"])
    job = None if row is None or row.upstream_account != SANDBOX else _simulated(row, ctx)
    name = request.path_params["name"]
    if job is None or name not in outputs.names(job):
        raise NotFound("File not found")
    data, content_type = await asyncio.to_thread(outputs.make, job, name)
    return Response(data, media_type=content_type, headers={"X-Content-Type-Options": "nosniff"})


def _shape(row: AnyRow, ctx: Context) -> dict[str, Any]:
    """The job object of the upstream."""
    job, now = _simulated(row, ctx), ctx.now()
    asked = (msgspec.json.decode(row.metadata) if row.metadata else {}).get("simulate")
    seconds = (now - row.accepted_at).total_seconds() if row.accepted_at else 0.0
    over = seconds >= SECONDS
    status = _FINAL.get(str(asked), "COMPLETED") if over else "QUEUED" if seconds < QUEUED_SECONDS else "PROCESSING"
    return {
        "id": row.upstream_id,
        "status": status,
        "model": row.model,
        "progress": _progress(seconds) if status == "PROCESSING" else 100 if status == "COMPLETED" else None,
        "result": outputs.result(job) if status == "COMPLETED" else None,
        "error": FAILURE if status == "FAILED" else None,
        "creditCost": 0 if status == "COMPLETED" else None,
        "createdAt": timestamp(row.created_at),
        "completedAt": timestamp_or_null(now if over else None),
        "expired": False,
    }


def _progress(seconds: float) -> int:
    return min(int(100 * seconds / SECONDS), 99)


def _simulated(row: AnyRow, ctx: Context) -> Job:
    """The row as the simulator has jobs, for what it makes of them."""
    return Job(
        id=row.upstream_id,
        serial=0,
        account=SANDBOX,
        api_key="",
        operation=row.operation,
        model=row.model,
        body=msgspec.json.decode(row.input),
        raw=b"",
        idempotency_key=None,
        webhook_url=None,
        base_url=f"{_base_url(ctx)}/sandbox",
        cost=0,
        faults=frozenset(),
        created_at=row.created_at,
    )


def _base_url(ctx: Context) -> str:
    return (ctx.within or ctx).settings.base_url


async def _find_job(ctx: Context, upstream_id: str) -> AnyRow | None:
    if not upstream_id.isprintable():  # some of the others PostgreSQL would not take as a text
        return None
    async with ctx.db.reading() as connection:
        return (await connection.execute(_FIND, {"id": upstream_id})).one_or_none()


_COLUMNS: Final = """upstream_id, upstream_account, operation, model, CAST(input AS text), CAST(metadata AS text),
    created_at, accepted_at"""
_FIND: Final = text(f"SELECT {_COLUMNS} FROM jobs WHERE upstream_id = :id")  # noqa: S608 - a constant of ours
_LIST: Final = text(
    f"""
    SELECT {_COLUMNS} FROM jobs WHERE upstream_account = :account AND status IN ('QUEUED', 'PROCESSING')
        AND upstream_id IS NOT NULL AND ambiguous_since IS NOT NULL
    ORDER BY created_at DESC LIMIT :limit
    """  # noqa: S608 - the only part put in is a constant of ours
)
