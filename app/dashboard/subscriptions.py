"""The pages of subscriptions: how each fares, and what helps one that does not: try it out, enable it, replay."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from app.dashboard.listing import Listing
from app.dashboard.visits import Visit
from app.dashboard.words import capped, duration
from app.deliveries import replay, standing, subscriptions, trial
from app.deliveries.replay import HIGHEST_PER_SECOND, PER_SECOND, ReplayRequest
from app.errors import Invalid
from app.paging import parse_id

SHOWN: Final = 50

_REPLAY_FIELDS: Final = ("what", "from", "to", "perSecond")


async def show_subscriptions(visit: Visit) -> Response:
    """A page of the subscriptions of all teams, by state and team."""
    listing = Listing.of(visit, standing.FILTERS)
    page = await standing.find_subscriptions(visit.ctx, visit.caller, listing.asked, limit=SHOWN)
    return visit.render(
        "subscriptions.html",
        subscriptions=page["subscriptions"],
        states=standing.STATES,
        **listing.links(page["nextCursor"]),
    )


async def show_subscription(visit: Visit) -> Response:
    """A subscription: what it wants, how it fares, its newest deliveries and replays."""
    shown = await standing.show_standing(visit.ctx, visit.caller, _subscription_id(visit))
    own = visit.caller.team_id == shown["teamId"] and not shown["allTeams"]
    return visit.render(
        "subscription.html",
        subscription=shown,
        may_disable=visit.is_admin or own,
        asked={name: visit.request.query_params.get(name, "") for name in _REPLAY_FIELDS},
        running=any(each["status"] == "running" for each in shown["replays"]),
        per_second=PER_SECOND,
        highest_per_second=HIGHEST_PER_SECOND,
    )


async def enable(visit: Visit) -> Response:
    """Have a subscription told again, from now on."""
    subscription_id = _subscription_id(visit)
    await subscriptions.enable(visit.ctx, visit.caller, subscription_id)
    return visit.done(
        _page(subscription_id), "Enabled. What happened meanwhile is kept as undelivered: replay it if it is wanted."
    )


async def disable(visit: Visit) -> Response:
    """Have a subscription told no more. What is due to it ends as undelivered, and is kept."""
    subscription_id = _subscription_id(visit)
    await subscriptions.change(visit.ctx, visit.caller, subscription_id, {"enabled": False})
    return visit.done(_page(subscription_id), "Disabled. What it would have been told is kept as undelivered.")


async def try_out(visit: Visit) -> Response:
    """Send a test event now, and tell what came of it."""
    subscription_id = _subscription_id(visit)
    tried = await trial.try_out(visit.ctx, visit.caller, subscription_id)
    said = f"HTTP {tried['status']}" if tried["status"] else tried["error"]
    verdict = "The test event was received" if tried["delivered"] else "The test event was not received"
    return visit.done(_page(subscription_id), f"{verdict}: {said}, {duration(tried['seconds'])}.")


async def start_replay(visit: Visit) -> Response:
    """Have deliveries made again, or with `dry` only count them."""
    subscription_id = _subscription_id(visit)
    asked = _read_replay(visit)
    begun = await replay.start(visit.ctx, visit.caller, subscription_id, asked)
    count = capped(begun["totalCount"], begun.get("hasMore", False))
    if asked.dry_run:
        kept = Listing({}, {name: visit.value(name) for name in _REPLAY_FIELDS}).url()
        return visit.done(f"{_page(subscription_id)}{kept}#replay", f"It would be {count} deliveries.")
    return visit.done(_page(subscription_id), f"A replay of {count} deliveries has begun.")


async def abort_replay(visit: Visit) -> Response:
    """End a replay that runs."""
    replay_id = parse_id(visit.request.path_params["replay_id"], "Replay")
    ended = await replay.abort(visit.ctx, visit.caller, replay_id)
    return visit.done(_page(ended["subscriptionId"]), f"Ended after {ended['doneCount']} deliveries.")


def _read_replay(visit: Visit) -> ReplayRequest:
    rate = visit.value("perSecond") or str(PER_SECOND)
    if not (rate.isascii() and rate.isdecimal() and len(rate) < 20):
        raise Invalid(details={"perSecond": [f"Expected an integer from 1 to {HIGHEST_PER_SECOND}"]})
    body: dict[str, Any] = {name: visit.value(name) for name in ("from", "to") if visit.value(name)}
    body |= {"undeliveredOnly": visit.value("what") != "everything", "perSecond": int(rate)}
    return ReplayRequest.parse(body | {"dryRun": visit.value("dry") == "1"})


def _subscription_id(visit: Visit) -> UUID:
    return parse_id(visit.request.path_params["subscription_id"], "Subscription")


def _page(subscription_id: UUID) -> str:
    return f"/ops/subscriptions/{subscription_id}"
