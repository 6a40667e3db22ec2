"""The whole HTTP surface on one screen, and the application around it."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any, Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app import logs, partitions, sandbox, workers
from app.apiframe.signature import WEBHOOK_PATH
from app.archive import api as files
from app.auth import KeyRing
from app.config import Settings, load_settings
from app.context import Context, open_context
from app.dashboard import routes as dashboard
from app.dashboard.breaking import Demo
from app.db import OUTAGES, is_outage
from app.deliveries import api as deliveries
from app.errors import ApiError, Unavailable
from app.events import api as events
from app.events.tail import Tail
from app.front import Front, Handler
from app.http import json_response
from app.jobs import api as jobs
from app.jobs import events_api as job_events
from app.notify import wait
from app.ops import api as ops
from app.reference import routes as reference
from app.relay import api as relay
from app.relay.me import UpstreamCredits
from app.teams import api as teams
from app.teams import usage_api as usage
from app.teams.keys import ensure_bootstrap_key
from app.version import version
from app.webhooks import api as webhooks

log = structlog.get_logger()

HOT_ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("POST", "/v2/images/generate", jobs.generate_image),
    ("POST", "/v2/images/upscale", jobs.upscale_image),
    ("POST", "/v2/images/edit", jobs.edit_image),
    ("POST", "/v2/images/background-remove", jobs.remove_background),
    ("POST", "/v2/images/midjourney/action", jobs.act_on_midjourney),
    ("POST", "/v2/videos/generate", jobs.generate_video),
    ("POST", "/v2/videos/upscale", jobs.upscale_video),
    ("POST", "/v2/videos/edit", jobs.edit_video),
    ("POST", "/v2/music/generate", jobs.generate_music),
    ("POST", "/v2/music/suno/action", jobs.act_on_suno),
    ("GET", "/v2/jobs/{job_id}", jobs.get_job),
    ("POST", WEBHOOK_PATH, webhooks.receive_webhook),
)
"""Those that come by the thousand."""

ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    *HOT_ROUTES,
    ("GET", "/v2/jobs", jobs.list_jobs),
    ("GET", "/v2/models", relay.list_models),
    ("POST", "/v2/uploads", relay.create_upload),
    ("POST", "/v2/assets/create", relay.create_asset),
    ("GET", "/v2/assets/{asset_id}", relay.get_asset),
    ("POST", "/v2/loras", relay.create_lora),
    ("GET", "/v2/loras", relay.list_loras),
    ("GET", "/v2/loras/{lora_id}", relay.get_lora),
    ("DELETE", "/v2/loras/{lora_id}", relay.delete_lora),
    ("GET", "/v2/me", relay.get_me),
    ("GET", "/v1/jobs/{job_id}/trace", ops.get_trace),
    ("POST", "/v1/jobs/{job_id}/cancel", jobs.cancel_job),
    ("POST", "/v1/jobs/{job_id}/retry", jobs.retry_job),
    ("POST", "/v1/jobs/{job_id}/refresh", jobs.refresh_job),
    ("GET", "/v1/jobs/{job_id}/events", job_events.list_job_events),
    ("GET", "/v1/jobs/{job_id}/events/stream", job_events.stream_job_events),
    ("GET", "/v1/events", events.list_events),
    ("GET", "/v1/events/stream", events.stream_events),
    ("POST", "/v1/events/tickets", events.create_ticket),
    ("POST", "/v1/subscriptions", deliveries.create_subscription),
    ("GET", "/v1/subscriptions", deliveries.list_subscriptions),
    ("GET", "/v1/subscriptions/{subscription_id}", deliveries.get_subscription),
    ("PATCH", "/v1/subscriptions/{subscription_id}", deliveries.change_subscription),
    ("DELETE", "/v1/subscriptions/{subscription_id}", deliveries.delete_subscription),
    ("POST", "/v1/subscriptions/{subscription_id}/enable", deliveries.enable_subscription),
    ("POST", "/v1/subscriptions/{subscription_id}/rotate-secret", deliveries.rotate_secret),
    ("POST", "/v1/subscriptions/{subscription_id}/test", deliveries.try_subscription),
    ("GET", "/v1/subscriptions/{subscription_id}/deliveries", deliveries.list_deliveries),
    ("POST", "/v1/subscriptions/{subscription_id}/replay", deliveries.replay_subscription),
    ("GET", "/v1/replays/{replay_id}", deliveries.get_replay),
    ("POST", "/v1/replays/{replay_id}/abort", deliveries.abort_replay),
    ("GET", "/v1/deliveries/{delivery_id}", deliveries.get_delivery),
    ("POST", "/v1/deliveries/{delivery_id}/redeliver", deliveries.redeliver),
    ("GET", "/v1/undelivered", deliveries.list_undelivered),
    ("GET", "/v1/files/{file_id}", files.get_file),
    ("HEAD", "/v1/files/{file_id}", files.get_file),
    ("POST", "/v1/files/{file_id}/links", files.create_link),
    ("GET", "/v1/files/{file_id}/thumbnail", files.get_thumbnail),
    ("GET", "/v1/usage", usage.get_usage),
    ("GET", "/v1/teams", teams.list_teams),
    ("POST", "/v1/teams", teams.create_team),
    ("GET", "/v1/teams/{team_id}", teams.get_team),
    ("PATCH", "/v1/teams/{team_id}", teams.change_team),
    ("GET", "/v1/keys", teams.list_keys),
    ("POST", "/v1/keys", teams.create_key),
    ("GET", "/v1/keys/{key_id}", teams.get_key),
    ("DELETE", "/v1/keys/{key_id}", teams.revoke_key),
    ("POST", "/v1/keys/{key_id}/rotate", teams.rotate_key),
    ("GET", "/v1/audit", teams.list_entries),
    ("GET", "/v1/status", ops.get_status),
    ("GET", "/v1/stats", ops.get_stats),
    ("GET", sandbox.FILE_PATH, sandbox.get_file),
    ("GET", "/healthz", ops.healthz),
    ("GET", "/readyz", ops.readyz),
    ("GET", "/metrics", ops.get_metrics),
)


def create_app(settings: Settings | None = None, *, demo: Demo | None = None) -> Front:
    """The application, for `framehook serve` and for `uvicorn app.main:create_app --factory` alike.

    `demo` is what may be broken at `/ops/demo`; without it there is no such page.
    """
    settings = settings or load_settings()
    logs.configure(settings)
    app = Front(
        title="Framehook",
        summary="Apiframe's own calls, with every job kept, tracked and never paid twice.",
        version=version(),
        lifespan=lambda app: lifespan(app, settings),
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.demo = demo
    for route in ROUTES:
        method, path, handler = route
        shown = reference.describe(method, path, handler)
        if route in HOT_ROUTES:
            app.add_hot_route(method, path, handler, **shown)
        else:
            app.add_api_route(path, handler, methods=[method], **shown)
    app.router.routes.extend(dashboard.routes())
    _complete_reference(app)
    app.add_exception_handler(ApiError, _render)
    app.add_exception_handler(HTTPException, _render_framework_error)
    for outage in OUTAGES:
        app.add_exception_handler(outage, _render_outage)
    return app


def _complete_reference(app: Front) -> None:
    """Add to the generated document what all routes share: schemas and ways to authenticate."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        components = document.setdefault("components", {})
        components["schemas"] = reference.SCHEMAS
        components["securitySchemes"] = reference.SECURITY_SCHEMES
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI's documentation extends its document


@asynccontextmanager
async def lifespan(app: Front, settings: Settings) -> AsyncIterator[None]:
    """Open everything, run the loops, and on the way out finish what was begun."""
    logs.hide_tokens()
    async with open_context(settings) as ctx:
        equip(app, ctx)
        await _announce(ctx)
        _close_on_signal(ctx)
        async with workers.running(ctx, loops=settings.loops):
            yield
            ctx.begin_closing()


def equip(app: Front, ctx: Context) -> None:
    """Give the application what its routes ask for."""
    sandbox.attach(ctx)
    app.state.ctx = ctx
    app.state.keys = KeyRing(ctx)
    app.state.tail = Tail(ctx)
    app.state.credits = UpstreamCredits(ctx)


async def _announce(ctx: Context) -> None:
    settings = ctx.settings
    if not await _is_prepared(ctx):
        ctx.start(_prepare_later(ctx))
    if settings.poll_only:
        log.warning("upstream.poll_only", reason="PUBLIC_BASE_URL is unset, or loopback with a remote upstream")
    log.info("service.started", upstream=ctx.account, loops=settings.loops)


async def _is_prepared(ctx: Context) -> bool:
    """Make what this process needs in the database; False while that is away or not migrated."""
    key = ctx.settings.bootstrap_admin_key
    try:
        await ctx.webhook_secrets()
        async with ctx.db.transaction() as tx:
            await partitions.ensure(tx, ctx.now())
            if key is not None:
                await ensure_bootstrap_key(tx, key.get_secret_value(), ctx.now())
    except OUTAGES as error:
        if not is_outage(error):
            raise
        log.warning("database.unavailable", error=str(error)[:200])
        return False
    return True


async def _prepare_later(ctx: Context) -> None:
    while not ctx.closing.is_set():
        await wait(ctx.closing, ctx.settings.sweep_seconds)
        if await _is_prepared(ctx):
            return


def _close_on_signal(ctx: Context) -> None:
    """Let long polls answer as soon as the process is told to stop, rather than hold the shutdown up."""
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        if not callable(before):
            continue

        def stop(signum: int, frame: FrameType | None, before: Callable[..., Any] = before) -> None:
            loop.call_soon_threadsafe(ctx.begin_closing)
            before(signum, frame)

        signal.signal(number, stop)


async def _render(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return json_response(error.body, status=error.status, headers=error.headers)


async def _render_framework_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"No such route: {request.method} {request.url.path}" if error.status_code == 404 else error.detail
    headers = dict(error.headers or {})
    if "Allow" in headers:  # of several routes on one path, the framework names the methods of the first
        path = request.scope["route"].path
        headers["Allow"] = ", ".join(method for method, known, _ in ROUTES if known == path) or headers["Allow"]
    return json_response({"error": text}, status=error.status_code, headers=headers)


async def _render_outage(request: Request, error: Exception) -> Response:
    if not is_outage(error):
        raise error
    log.warning("database.unavailable", route=request.scope["route"].path, error=str(error)[:200])
    return await _render(request, Unavailable("The database is unavailable"))
