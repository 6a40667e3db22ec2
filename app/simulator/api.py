"""The vendor's routes. Every call is counted, may be struck by faults, is authenticated and rated, and then served."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from app.simulator import catalog, document, lifecycle, material, outputs, uploads
from app.simulator.accounts import Caller
from app.simulator.bodies import is_uuid
from app.simulator.books import Call
from app.simulator.config import SimulatorConfig
from app.simulator.control import control_routes
from app.simulator.faults import Attempt
from app.simulator.job import Job, Status, shown
from app.simulator.replies import (
    Cut,
    Envelope,
    Json,
    Refusal,
    invalid,
    refusal,
    render_http,
    render_nothing,
    render_refusal,
)
from app.simulator.world import Submission, World

Public = Callable[[World, Request], Awaitable[Response]]
Handler = Callable[[World, Request, Caller], Awaitable[Response]]
_REFUSING = ("unauthorized", "forbidden", "rate_limited", "server_error", "no_credits", "cap_reached")


def create_app(world: World | SimulatorConfig | None = None) -> Envelope:
    """Make the ASGI app of a world, or of a new one with this config."""
    stage = world if isinstance(world, World) else World(world)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await stage.close()

    routes = [*_vendor_routes(stage), *_file_routes(stage), *control_routes(stage)]
    handlers: dict[Any, Any] = {Refusal: render_refusal, HTTPException: render_http, ClientDisconnect: render_nothing}
    return Envelope(Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan))


def _vendor_routes(world: World) -> list[Route]:
    def route(method: str, path: str, handler: Handler) -> Route:
        return Route(path, _guarded(world, f"{method} {path}", partial(_secured, handler)), methods=[method])

    def public(path: str, handler: Public) -> Route:
        return Route(path, _guarded(world, f"GET {path}", handler), methods=["GET"])

    return [
        *(route("POST", f"/v2/{name}", partial(_submit, name)) for name in catalog.OPERATIONS),
        route("POST", "/v2/uploads", _upload),
        route("POST", "/v2/assets/create", material.create_asset),
        route("GET", "/v2/assets/{id}", material.get_asset),
        route("POST", "/v2/loras", material.create_lora),
        route("GET", "/v2/loras", material.list_loras),
        route("GET", "/v2/loras/{id}", material.get_lora),
        route("DELETE", "/v2/loras/{id}", material.archive_lora),
        route("GET", "/v2/jobs", _list_jobs),
        route("GET", "/v2/jobs/{id}", _get_job),
        route("GET", "/v2/me", _me),
        public("/v2/models", _models),
        public("/v2/openapi.json", _document),
    ]


def _file_routes(world: World) -> list[Route]:
    return [
        Route("/files/uploads/{name}", _guarded(world, "GET /files/uploads/{name}", _get_upload)),
        Route("/files/{id}/{name}", _guarded(world, "GET /files/{id}/{name}", _get_file)),
    ]


def _guarded(world: World, name: str, handler: Public) -> Callable[[Request], Awaitable[Response]]:
    """Count a call and its refusal, and answer for a vendor that is down."""

    async def serve(request: Request) -> Response:
        books = world.books
        books.requests[name] += 1
        books.counts["calls"] += 1
        try:
            if world.strikes("down", books.counts["calls"]):
                return _down(world)
            return await handler(world, request)
        except Refusal as error:
            books.refused[str(error.response.status_code)] += 1
            raise

    return serve


async def _secured(handler: Handler, world: World, request: Request) -> Response:
    caller = world.accounts.identify(request.headers, world.config)
    call = world.books.counts["calls"]
    for fault in ("unauthorized", "forbidden"):
        if world.strikes(fault, call):
            raise world.refuse(fault, call)
    world.accounts.admit(caller.account, world.now(), world.config)
    return await handler(world, request, caller)


def _down(world: World) -> Response:
    if world.config.faults.down_by == "cut":
        return Cut()
    raise world.refuse("down", 0)


async def _submit(operation: str, world: World, request: Request, caller: Caller) -> Response:
    raw = await request.body()
    key = request.headers.get("idempotency-key") or None
    world.books.calls.append(Call(key, caller.key, raw.decode(errors="replace")))
    attempt = world.next_attempt()
    if "down" in attempt.faults:
        return _down(world)
    for fault in _REFUSING:
        if fault in attempt.faults:
            raise world.refuse(fault, attempt.serial)
    submission = Submission(caller, operation, raw, key, str(request.base_url).rstrip("/"))
    job, is_new = world.accept(attempt, submission)
    if is_new and "early" in attempt.faults:
        await lifecycle.start_early(world, job)
    elif is_new:
        lifecycle.start(world, job)
    return await _tell(world, job, attempt)


async def _tell(world: World, job: Job, attempt: Attempt) -> Response:
    """Answer an accepted submission, unless a fault is between us and the caller."""
    if "accept_then_hang" in attempt.faults and not await world.hang(world.config.faults.hang_seconds):
        return Cut()
    if "accept_then_cut" in attempt.faults:
        return Cut()
    if "accept_then_error" in attempt.faults:
        return Json({"error": "Internal server error"}, world.error_status(attempt.serial))
    return Json({"jobId": job.id, "status": "QUEUED"}, 202)


async def _upload(world: World, request: Request, _: Caller) -> Response:
    expires_at = world.now() + timedelta(seconds=world.config.upload_ttl_seconds)
    upload = uploads.receive(await request.body(), request.headers.get("content-type", ""), expires_at)
    world.uploads[upload.name] = upload
    return Json(uploads.shown(upload, world.config.public_base_url or str(request.base_url).rstrip("/")), 201)


async def _get_job(world: World, request: Request, caller: Caller) -> Response:
    world.books.counts["polls"] += 1
    world.refuse_struck("read_rate_limited", "read_server_error")
    job_id = request.path_params["id"].lower()
    if not is_uuid(job_id):
        raise invalid({"id": ["Invalid uuid"]})
    job = world.jobs.get(job_id)
    if job is None or job.account != caller.account:
        raise refusal(404, "Job not found")
    return await _aged(world, shown(job, expired=world.expired(job)))


async def _list_jobs(world: World, request: Request, caller: Caller) -> Response:
    world.books.counts["lists"] += 1
    world.refuse_struck("read_rate_limited", "read_server_error")
    query = request.query_params
    limit, before = _checked_query(query)
    wanted = (job for job in world.newest_first(before) if job.account == caller.account and _matches(job, query))
    page = [job for _, job in zip(range(limit + 1), wanted, strict=False)]
    has_more, page = len(page) > limit, page[:limit]
    answer: dict[str, Any] = {
        "jobs": [shown(job, expired=world.expired(job), with_input=False) for job in page],
        "nextCursor": _cursor(page[-1]) if has_more else None,
        "hasMore": has_more,
    }
    if query.get("include_models") == "true":
        answer["models"] = sorted({job.model for job in world.jobs.values() if job.account == caller.account})
    return await _aged(world, answer)


def _matches(job: Job, query: Any) -> bool:
    """All of an account's keys are its one user's, so that both scopes show the same."""
    wanted = ((job.status, "status"), (job.model, "model"), (job.id, "search"))
    return all(query.get(name) in (None, "", value) for value, name in wanted)


def _checked_query(query: Any) -> tuple[int, tuple[str, str] | None]:
    details = {}
    limit = query.get("limit", "20")
    if not (limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= 100):
        details["limit"] = ["Expected a number from 1 to 100"]
    choices = {"status": get_args(Status), "scope": ("user", "team"), "include_models": ("true", "false")}
    for name, allowed in choices.items():
        if query.get(name, allowed[0]) not in allowed:
            details[name] = [f"Invalid enum value. Expected {' | '.join(allowed)}"]
    if not is_uuid(query.get("search", "00000000-0000-0000-0000-000000000000")):
        details["search"] = ["Invalid uuid"]
    before = _place(query["cursor"]) if "cursor" in query else None
    if "cursor" in query and before is None:
        details["cursor"] = ["Invalid cursor"]
    if details:
        raise invalid(details)
    return int(limit), before


def _cursor(job: Job) -> str:
    return base64.urlsafe_b64encode("|".join(job.order).encode()).decode().rstrip("=")


def _place(cursor: str) -> tuple[str, str] | None:
    try:
        created, _, job_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition("|")
    except (binascii.Error, UnicodeError, ValueError):
        return None
    return (created, job_id) if is_uuid(job_id) else None


async def _aged(world: World, answer: dict[str, Any]) -> Response:
    """Hold an answer back that was true when it was read, so that it may be overtaken by a webhook."""
    response = Json(answer)
    seconds = world.config.faults.stale_read_seconds
    if seconds:
        await world.hang(seconds)
    return response


async def _me(world: World, _: Request, caller: Caller) -> Response:
    return Json(world.accounts.me(caller, world.config))


async def _models(world: World, request: Request) -> Response:
    kind = request.query_params.get("modality")
    if kind not in (None, *get_args(catalog.Modality)):
        raise invalid({"modality": ["Invalid enum value. Expected image | video | music"]})
    entries = catalog.models(kind)
    for entry in entries:
        cost = world.config.costs.get(entry["id"], world.config.cost)
        entry |= {"pricingMode": "flat", "costMin": cost, "costMax": cost}
    return Json({"models": entries})


async def _document(world: World, _: Request) -> Response:
    if world.config.document == "absent":
        raise refusal(404, "Not found")
    return Json(document.openapi(world.config))


async def _get_file(world: World, request: Request) -> Response:
    if world.strikes("file_error", world.books.counts["calls"]):
        raise world.refuse("server_error", 0)
    job, name = world.jobs.get(request.path_params["id"]), request.path_params["name"]
    if job is None or job.status != "COMPLETED" or world.expired(job) or name not in outputs.names(job):
        raise refusal(404, "Not found")
    content, content_type = await asyncio.to_thread(outputs.make, job, name)
    return Response(content, media_type=content_type)


async def _get_upload(world: World, request: Request) -> Response:
    upload = world.uploads.get(request.path_params["name"])
    if upload is None or world.now() >= upload.expires_at:
        raise refusal(404, "Not found")
    return Response(upload.content, media_type=upload.content_type)
