"""The routes of subscriptions, their deliveries and replays."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from app.auth import Caller
from app.deliveries import history, replay, subscriptions, trial
from app.deliveries.replay import ReplayRequest
from app.errors import Invalid
from app.http import caller, context, json_response, read_object
from app.paging import parse_id

LARGEST_BODY: Final = 64 * 1024
LONGEST_GRACE_SECONDS: Final = 30 * 24 * 3600


async def create_subscription(request: Request) -> Response:
    """Subscribe a URL to your team's events. Answers 201 with the `secret` that signs them, now and never again.

    `types` are types of events or patterns such as `job.*`, which is the default. `operation`, `model` and `metadata` (keys
    and values that a job's metadata must hold) narrow them down. `headers` are sent along. `rateLimit` is the most
    deliveries a minute. `allTeams` needs the scope `admin`. The URL must be a public one, unless the operator allows it.
    """
    who = await caller(request, "subscribe")
    body = await read_object(request, largest=LARGEST_BODY)
    return json_response(await subscriptions.create(context(request), who, body), status=201)


async def list_subscriptions(request: Request) -> Response:
    """List your team's subscriptions, oldest first; with the scope `ops` those of all teams."""
    return json_response(await subscriptions.show_all(context(request), await _subscriber(request)))


async def get_subscription(request: Request) -> Response:
    """Read a subscription, and how it fares. Its secret and the values of its headers are not shown."""
    who = await _subscriber(request)
    return json_response(await subscriptions.show(context(request), who, _subscription_id(request)))


async def change_subscription(request: Request) -> Response:
    """Change some fields of a subscription. `enabled: false` ends what is due to it as undelivered; it can be replayed."""
    who = await caller(request, "subscribe")
    body = await read_object(request, largest=LARGEST_BODY)
    return json_response(await subscriptions.change(context(request), who, _subscription_id(request), body))


async def delete_subscription(request: Request) -> Response:
    """End a subscription for good. Answers 204."""
    await subscriptions.delete(context(request), await caller(request, "subscribe"), _subscription_id(request))
    return Response(status_code=204)


async def enable_subscription(request: Request) -> Response:
    """Enable a subscription again. What happened meanwhile is kept as undelivered: replay it if you want it."""
    who = await _subscriber(request)
    return json_response(await subscriptions.enable(context(request), who, _subscription_id(request)))


async def rotate_secret(request: Request) -> Response:
    """Make a new secret, shown now and never again. Both secrets sign for `graceSeconds`, a day if nothing is said."""
    who = await caller(request, "subscribe")
    body = await read_object(request, largest=LARGEST_BODY)
    grace = _grace_seconds(body)
    shown = await subscriptions.rotate_secret(context(request), who, _subscription_id(request), grace_seconds=grace)
    return json_response(shown)


async def try_subscription(request: Request) -> Response:
    """Send a signed `subscription.test` event now, once, and answer with what came of it.

    `delivered`, the receiver's `status` and the beginning of its body, or the `error`; `seconds`, and the `address`.
    """
    who = await _subscriber(request)
    return json_response(await trial.try_out(context(request), who, _subscription_id(request)))


async def list_deliveries(request: Request) -> Response:
    """List a subscription's deliveries, newest first. `status` is pending, delivered, undelivered or dropped."""
    who, ctx = await _subscriber(request), context(request)
    subscription_id = _subscription_id(request)
    await subscriptions.show(ctx, who, subscription_id)
    return json_response(await history.show_deliveries(ctx, who, request.query_params, subscription_id=subscription_id))


async def replay_subscription(request: Request) -> Response:
    """Have deliveries made again, `perSecond` of them (50) each second, with the same event ids. Answers 202.

    Those that ended as undelivered, or with `undeliveredOnly: false` all events that the subscription wants; of events
    between `from` and `to`, where they are given. With `dryRun: true` they are only counted.
    """
    who = await _subscriber(request)
    asked = ReplayRequest.parse(await read_object(request, largest=LARGEST_BODY))
    begun = await replay.start(context(request), who, _subscription_id(request), asked)
    return json_response(begun, status=200 if asked.dry_run else 202)


async def get_replay(request: Request) -> Response:
    """Read how far a replay has come."""
    who = await _subscriber(request)
    return json_response(await replay.show(context(request), who, parse_id(request.path_params["replay_id"], "Replay")))


async def abort_replay(request: Request) -> Response:
    """End a replay that runs; what it made due already is delivered. 409: it is over."""
    who = await _subscriber(request)
    return json_response(
        await replay.abort(context(request), who, parse_id(request.path_params["replay_id"], "Replay"))
    )


async def get_delivery(request: Request) -> Response:
    """Read a delivery with its attempts: when, what was sent, what was answered, and when the next one is."""
    who = await _subscriber(request)
    delivery_id = parse_id(request.path_params["delivery_id"], "Delivery")
    return json_response(await history.show_delivery(context(request), who, delivery_id))


async def redeliver(request: Request) -> Response:
    """Make a delivery again, from its first attempt, with the same event id. 409: it is under way already."""
    who = await _subscriber(request)
    delivery_id = parse_id(request.path_params["delivery_id"], "Delivery")
    return json_response(await replay.redeliver(context(request), who, delivery_id), status=202)


async def list_undelivered(request: Request) -> Response:
    """List the deliveries whose journey ended without success, and why, newest first: your team's, or with `ops` all."""
    who = await _subscriber(request)
    shown = await history.show_deliveries(
        context(request), who, request.query_params, subscription_id=None, status="undelivered"
    )
    return json_response(shown)


async def _subscriber(request: Request) -> Caller:
    return await caller(request, "subscribe", "ops")


def _subscription_id(request: Request) -> UUID:
    return parse_id(request.path_params["subscription_id"], "Subscription")


def _grace_seconds(body: dict[str, Any]) -> float | None:
    if unknown := [name for name in body if name != "graceSeconds"]:
        raise Invalid(details={name: ["No such field"] for name in unknown})
    grace = body.get("graceSeconds")
    is_number = isinstance(grace, int | float) and not isinstance(grace, bool)
    if grace is not None and not (is_number and 0 <= grace <= LONGEST_GRACE_SECONDS):
        raise Invalid(details={"graceSeconds": [f"Expected seconds from 0 to {LONGEST_GRACE_SECONDS}"]})
    return grace
