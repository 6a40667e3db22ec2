"""Every page and every action of the dashboard on one screen."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.dashboard import (
    audit,
    breaking,
    bulk,
    deliveries,
    files,
    job,
    jobs,
    keys,
    live,
    overview,
    receipts,
    signing,
    subscriptions,
    teams,
    upstream,
    usage,
)
from app.dashboard.visits import SIGN_IN, STATIC, Handler, Page, Visit, open_to_all, visiting
from app.errors import NotFound

PAGES: Final[tuple[tuple[str, Page], ...]] = (
    ("/ops", overview.show_overview),
    ("/ops/jobs", jobs.show_jobs),
    ("/ops/jobs.csv", jobs.export_csv),
    ("/ops/jobs.jsonl", jobs.export_jsonl),
    ("/ops/jobs/{job_id}", job.show_job),
    ("/ops/files/{file_id}", files.show_file),
    ("/ops/files/{file_id}/thumbnail", files.show_thumbnail),
    ("/ops/deliveries", deliveries.show_deliveries),
    ("/ops/deliveries/{delivery_id}", deliveries.show_delivery),
    ("/ops/subscriptions", subscriptions.show_subscriptions),
    ("/ops/subscriptions/{subscription_id}", subscriptions.show_subscription),
    ("/ops/receipts", receipts.show_receipts),
    ("/ops/receipts/{receipt_id}", receipts.show_receipt),
    ("/ops/upstream", upstream.show_upstream),
    ("/ops/teams", teams.show_teams),
    ("/ops/teams/{team_id}", teams.show_team),
    ("/ops/keys/{key_id}", keys.show_key),
    ("/ops/sessions", signing.show_sessions),
    ("/ops/usage", usage.show_usage),
    ("/ops/usage.csv", usage.download_usage),
    ("/ops/audit", audit.show_audit),
    ("/ops/demo", breaking.show_demo),
)

ACTIONS: Final[tuple[tuple[str, Page], ...]] = (
    ("/ops/sign-out", signing.sign_out),
    ("/ops/sessions/{session_id}/end", signing.end_session),
    ("/ops/jobs/bulk", bulk.preview),
    ("/ops/jobs/bulk/confirm", bulk.confirm),
    ("/ops/jobs/{job_id}/retry", job.retry),
    ("/ops/jobs/{job_id}/cancel", job.cancel),
    ("/ops/jobs/{job_id}/refresh", job.refresh),
    ("/ops/deliveries/redeliver", deliveries.redeliver_chosen),
    ("/ops/deliveries/{delivery_id}/redeliver", job.deliver_again),
    ("/ops/subscriptions/{subscription_id}/enable", subscriptions.enable),
    ("/ops/subscriptions/{subscription_id}/disable", subscriptions.disable),
    ("/ops/subscriptions/{subscription_id}/test", subscriptions.try_out),
    ("/ops/subscriptions/{subscription_id}/replay", subscriptions.start_replay),
    ("/ops/replays/{replay_id}/abort", subscriptions.abort_replay),
    ("/ops/upstream/pause", upstream.pause),
    ("/ops/upstream/resume", upstream.resume),
    ("/ops/teams", teams.create_team),
    ("/ops/teams/{team_id}/limits", teams.change_limits),
    ("/ops/teams/{team_id}/pause", teams.pause),
    ("/ops/teams/{team_id}/resume", teams.resume),
    ("/ops/teams/{team_id}/keys", keys.create_key),
    ("/ops/keys/{key_id}/rotate", keys.rotate_key),
    ("/ops/keys/{key_id}/revoke", keys.revoke_key),
    ("/ops/demo/{what}", breaking.break_it),
)

FOR_ALL: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("GET", SIGN_IN, signing.show_sign_in),
    ("POST", SIGN_IN, signing.sign_in),
    ("GET", "/ops/live", live.follow),
)


class _Kept(StaticFiles):
    """Files whose address changes with them."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        if scope["query_string"]:
            answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer


def routes() -> list[BaseRoute]:
    """What the application answers under `/ops`."""
    return [
        Mount("/ops/static", _Kept(directory=STATIC)),
        *(Route(path, open_to_all(handler), methods=[method]) for method, path, handler in FOR_ALL),
        *(Route(path, visiting(page)) for path, page in PAGES),
        *(Route(path, visiting(page), methods=["POST"]) for path, page in ACTIONS),
        Route("/ops/{rest:path}", visiting(_find_nothing)),
    ]


async def _find_nothing(visit: Visit) -> Response:
    raise NotFound(f"There is no page {visit.request.url.path}")
