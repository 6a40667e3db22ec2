"""The `/sim` routes: how tests and demos steer the simulator. They need no key and name things in snake_case.

Jobs are named by their id or by the idempotency key they were submitted with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.simulator import lifecycle
from app.simulator.job import Job, booked
from app.simulator.replies import Json, refusal
from app.simulator.webhooks import Letter, Signing, body_of, headers_of
from app.simulator.world import World


class Finish(msgspec.Struct, forbid_unknown_fields=True):
    """How a job is to end. `announce` sends its webhook, `wait` answers only when that has been answered."""

    status: lifecycle.Ending = "COMPLETED"
    result: Any = None
    error: str | None = None
    credit_cost: int | None = None
    announce: bool = True
    wait: bool = False


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """How far a job is to get."""

    progress: int = 50
    announce: bool = True
    wait: bool = False


class Webhook(msgspec.Struct, forbid_unknown_fields=True):
    """A webhook to send now, faults aside. `fields` replace the body's, `raw` replaces the body."""

    event: Literal["progress", "completed", "failed"] | None = None
    copies: int = 1
    signature: Signing = "valid"
    url: str | None = None
    fields: dict[str, Any] = {}
    raw: str | None = None


class Advance(msgspec.Struct, forbid_unknown_fields=True):
    """How far the virtual clock is to move."""

    seconds: float


class Letting(msgspec.Struct, forbid_unknown_fields=True):
    """Whether hanging answers that are let go are told after all, and not cut."""

    answer: bool = False


Body = TypeVar("Body")
Handler = Callable[[World, Request], Awaitable[Response]]
_ENDED = {"COMPLETED": "completed", "FAILED": "failed"}


def control_routes(world: World) -> list[Route]:
    """Make the `/sim` routes of a world."""
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/sim/faults", _show_faults),
        ("POST", "/sim/faults", _set_faults),
        ("GET", "/sim/config", _show_config),
        ("POST", "/sim/config", _set_config),
        ("GET", "/sim/books", _books),
        ("POST", "/sim/advance", _advance),
        ("POST", "/sim/release", _release),
        ("POST", "/sim/reset", _reset),
        ("GET", "/sim/jobs/{id}", _show_job),
        ("POST", "/sim/jobs/{id}/progress", _progress),
        ("POST", "/sim/jobs/{id}/finish", _finish),
        ("POST", "/sim/jobs/{id}/webhook", _webhook),
    ]
    return [Route(path, partial(handler, world), methods=[method]) for method, path, handler in table]


async def _show_faults(world: World, _: Request) -> Response:
    script = ["+".join(sorted(faults)) or "none" for faults in world.script]
    return Json({**asdict(world.config.faults), "next": script})


async def _set_faults(world: World, request: Request) -> Response:
    changes = await _read(request, dict[str, Any])
    afresh = bool(changes.pop("replace", False))
    try:
        world.set_faults(changes, afresh=afresh)
    except ValueError as error:
        raise refusal(400, str(error)) from None
    return await _show_faults(world, request)


async def _show_config(world: World, _: Request) -> Response:
    return Json(asdict(world.config))


async def _set_config(world: World, request: Request) -> Response:
    try:
        world.reconfigure(await _read(request, dict[str, Any]))
    except ValueError as error:
        raise refusal(400, str(error)) from None
    return await _show_config(world, request)


async def _books(world: World, request: Request) -> Response:
    parts: dict[str, Callable[[], Any]] = {
        "counters": lambda: world.books.counters(world.running_count()),
        "jobs": lambda: [booked(job) for job in world.jobs.values()],
        "submissions": world.books.submissions,
        "webhooks": world.books.webhooks,
    }
    wanted = request.query_params.get("part")
    if wanted is not None and wanted not in parts:
        raise refusal(400, f"part: expected one of {', '.join(parts)}")
    return Json({name: show() for name, show in parts.items() if wanted in (None, name)})


async def _advance(world: World, request: Request) -> Response:
    change = await _read(request, Advance)
    if change.seconds < 0:
        raise refusal(400, "seconds: time moves on only")
    world.advance_clock(change.seconds)
    return Json({"now": world.now().isoformat()})


async def _release(world: World, request: Request) -> Response:
    world.release(answer=(await _read(request, Letting)).answer)
    return Json({})


async def _reset(world: World, _: Request) -> Response:
    await world.reset()
    return Json({})


async def _show_job(world: World, request: Request) -> Response:
    return Json(booked(_named(world, request)))


async def _progress(world: World, request: Request) -> Response:
    job, order = _running(world, request), await _read(request, Progress)
    lifecycle.advance(world, job, order.progress, announce=order.announce)
    return await _done(world, job, wait=order.wait)


async def _finish(world: World, request: Request) -> Response:
    job, order = _running(world, request), await _read(request, Finish)
    lifecycle.end(
        world,
        job,
        order.status,
        result=order.result,
        error=order.error,
        credit_cost=order.credit_cost,
        announce=order.announce,
    )
    return await _done(world, job, wait=order.wait)


async def _webhook(world: World, request: Request) -> Response:
    job, order = _named(world, request), await _read(request, Webhook)
    url = order.url or job.webhook_url
    if url is None:
        raise refusal(409, "This job was submitted without a webhook address")
    event = order.event or _ENDED.get(job.status, "progress")
    body = msgspec.json.encode({**body_of(job, event), **order.fields}) if order.raw is None else order.raw.encode()
    headers = headers_of(job.api_key, event, body, world.config, order.signature)
    letter = Letter(job=job, event=event, url=url, body=body, headers=headers)
    sends = await asyncio.gather(*(world.sender.send(letter, world.config) for _ in range(order.copies)))
    return Json({"sends": [asdict(send) for send in sends]})


async def _done(world: World, job: Job, *, wait: bool) -> Response:
    if wait:
        await world.sender.settled(job)
    return Json(booked(job))


def _named(world: World, request: Request) -> Job:
    job = world.find(request.path_params["id"])
    if job is None:
        raise refusal(404, "Job not found")
    return job


def _running(world: World, request: Request) -> Job:
    job = _named(world, request)
    if job.final:
        raise refusal(409, f"This job has ended: {job.status}")
    return job


async def _read(request: Request, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise refusal(400, str(error)) from None
