"""The shapes of subscriptions, deliveries and replays."""

from __future__ import annotations

from typing import Any, Final

from app.models.deliveries import DELIVERY_STATUSES, REPLAY_STATUSES
from app.models.events import EVENT_TYPES
from app.reference.shapes import (
    COUNT,
    TEXT,
    TEXT_OR_NULL,
    TIME,
    TIME_OR_NULL,
    Route,
    answer,
    failure,
    query,
    record,
    ref,
)

TAG: Final = "subscriptions"

_ID: Final = {"type": "string", "format": "uuid"}
_ID_OR_NULL: Final = {"type": ["string", "null"], "format": "uuid"}
_FLAG: Final = {"type": "boolean"}
_TYPES: Final = {
    "type": "array",
    "items": TEXT,
    "description": f"Of {', '.join(EVENT_TYPES)}, or patterns such as `job.*`.",
}
_METADATA: Final = {"type": ["object", "null"], "description": "What a job's metadata must hold."}
_RATE: Final = {"type": ["integer", "null"], "minimum": 1, "description": "Deliveries a minute, at most."}

_ASKED: Final[dict[str, dict[str, Any]]] = {
    "url": {"type": "string", "format": "uri"},
    "description": TEXT,
    "types": _TYPES | {"default": ["job.*"]},
    "operation": TEXT_OR_NULL,
    "model": TEXT_OR_NULL,
    "metadata": _METADATA,
    "allTeams": _FLAG | {"description": "Needs the scope `admin`."},
    "headers": {"type": "object", "additionalProperties": TEXT, "description": "Sent along; not shown again."},
    "rateLimit": _RATE,
    "enabled": _FLAG,
}

_SUBSCRIPTION: Final = record(
    id=_ID,
    team=TEXT,
    **_ASKED,
    disabledReason=TEXT_OR_NULL,
    failureCount=COUNT | {"description": "Failed attempts since the last success."},
    createdAt=TIME,
    updatedAt=TIME,
    disabledAt=TIME_OR_NULL,
    failingSince=TIME_OR_NULL,
    lastSuccessAt=TIME_OR_NULL,
)

_DELIVERY: Final = record(
    id=_ID,
    eventId=_ID,
    eventType={"enum": list(EVENT_TYPES)},
    subscriptionId=_ID_OR_NULL,
    callbackUrl=TEXT_OR_NULL,
    jobId=_ID_OR_NULL,
    status={"enum": list(DELIVERY_STATUSES)},
    reason=TEXT_OR_NULL | {"description": "Why it ended without success."},
    attemptCount=COUNT,
    createdAt=TIME,
    nextAttemptAt=TIME_OR_NULL,
    endedAt=TIME_OR_NULL,
)

_ATTEMPT: Final = record(
    number=COUNT,
    at=TIME,
    seconds={"type": "number"},
    status={"type": ["integer", "null"], "description": "The HTTP status; null where there was no answer."},
    error=TEXT_OR_NULL,
    address=TEXT_OR_NULL | {"description": "The IP address that was connected to."},
    requestHeaders={"type": "object", "description": "As sent, without secrets."},
    responseBody=TEXT | {"description": "Its first 16 KiB."},
    nextAttemptAt=TIME_OR_NULL,
)

SCHEMAS: Final[dict[str, Any]] = {
    "Subscription": _SUBSCRIPTION,
    "NewSubscription": {"allOf": [ref("Subscription"), record(secret=TEXT)]},
    "Delivery": _DELIVERY,
    "DeliveryWithAttempts": {
        "allOf": [ref("Delivery"), record(attempts={"type": "array", "items": ref("Attempt")})],
    },
    "Attempt": _ATTEMPT,
    "DeliveryPage": record(
        deliveries={"type": "array", "items": ref("Delivery")}, nextCursor=TEXT_OR_NULL, hasMore=_FLAG
    ),
    "Trial": record(
        deliveryId=_ID,
        eventId=_ID,
        delivered=_FLAG,
        status={"type": ["integer", "null"]},
        error=TEXT_OR_NULL,
        seconds={"type": "number"},
        address=TEXT_OR_NULL,
        responseBody=TEXT,
    ),
    "Replay": record(
        id=_ID,
        subscriptionId=_ID,
        status={"enum": list(REPLAY_STATUSES)},
        undeliveredOnly=_FLAG,
        **{"from": TIME_OR_NULL, "to": TIME_OR_NULL},
        perSecond=COUNT,
        totalCount=COUNT,
        doneCount=COUNT,
        createdAt=TIME,
        endedAt=TIME_OR_NULL,
    ),
}

_ONE: Final = "/v1/subscriptions/{subscription_id}"
_NONE: Final = failure("Your team has no such subscription")
_PAGE: Final = [
    query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
    query("cursor", TEXT, "`nextCursor` of the page before"),
]

ANSWERS: Final[dict[Route, Any]] = {
    ("POST", "/v1/subscriptions"): {
        "201": answer("Subscribed", ref("NewSubscription")),
        "403": failure("The key lacks the scope"),
        "409": failure("The team has as many subscriptions as it may have"),
    },
    ("GET", "/v1/subscriptions"): {
        "200": answer(
            "All of them",
            record(subscriptions={"type": "array", "items": ref("Subscription")}),
        ),
    },
    ("GET", _ONE): {"200": answer("The subscription", ref("Subscription")), "404": _NONE},
    ("PATCH", _ONE): {"200": answer("The subscription as it is now", ref("Subscription")), "404": _NONE},
    ("DELETE", _ONE): {"204": {"description": "It is gone"}, "404": _NONE},
    ("POST", f"{_ONE}/enable"): {"200": answer("The subscription as it is now", ref("Subscription")), "404": _NONE},
    ("POST", f"{_ONE}/rotate-secret"): {
        "200": answer(
            "The subscription with its new secret",
            {"allOf": [ref("NewSubscription"), record(previousSecretUntil=TIME)]},
        ),
        "404": _NONE,
    },
    ("POST", f"{_ONE}/test"): {"200": answer("What came of it", ref("Trial")), "404": _NONE},
    ("GET", f"{_ONE}/deliveries"): {"200": answer("A page of deliveries", ref("DeliveryPage")), "404": _NONE},
    ("POST", f"{_ONE}/replay"): {
        "200": answer("With `dryRun`: how many it would be", record(totalCount=COUNT, hasMore=_FLAG)),
        "202": answer("It has begun", ref("Replay")),
        "404": _NONE,
        "409": failure("The subscription is disabled"),
    },
    ("GET", "/v1/replays/{replay_id}"): {
        "200": answer("The replay", ref("Replay")),
        "404": failure("Your team has no such replay"),
    },
    ("POST", "/v1/replays/{replay_id}/abort"): {
        "200": answer("The replay, aborted", ref("Replay")),
        "404": failure("Your team has no such replay"),
        "409": failure("It is over"),
    },
    ("GET", "/v1/deliveries/{delivery_id}"): {
        "200": answer("The delivery", ref("DeliveryWithAttempts")),
        "404": failure("Your team has no such delivery"),
    },
    ("POST", "/v1/deliveries/{delivery_id}/redeliver"): {
        "202": answer("It is due again", ref("DeliveryWithAttempts")),
        "404": failure("Your team has no such delivery"),
        "409": failure("It is under way already"),
    },
    ("GET", "/v1/undelivered"): {"200": answer("A page of deliveries", ref("DeliveryPage"))},
}


def _body(properties: dict[str, Any], example: dict[str, Any], *required: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties} | ({"required": list(required)} if required else {})
    return {"required": bool(required), "content": {"application/json": {"schema": schema, "example": example}}}


BODIES: Final[dict[Route, Any]] = {
    ("POST", "/v1/subscriptions"): _body(_ASKED, {"url": "https://orders.example/hook", "types": ["job.*"]}, "url"),
    ("PATCH", _ONE): _body(_ASKED, {"enabled": False}),
    ("POST", f"{_ONE}/rotate-secret"): _body(
        {"graceSeconds": {"type": "number", "minimum": 0, "default": 86400}}, {"graceSeconds": 3600}
    ),
    ("POST", f"{_ONE}/replay"): _body(
        {
            "from": TIME,
            "to": TIME,
            "undeliveredOnly": _FLAG | {"default": True},
            "perSecond": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50},
            "dryRun": _FLAG | {"default": False},
        },
        {"from": "2026-03-01T12:00:00Z", "dryRun": True},
    ),
}

PARAMETERS: Final[dict[Route, Any]] = {
    ("GET", f"{_ONE}/deliveries"): [*_PAGE, query("status", {"type": "string", "enum": list(DELIVERY_STATUSES)})],
    ("GET", "/v1/undelivered"): _PAGE,
}
