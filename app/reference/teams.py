"""The shapes of teams, keys and the audit log."""

from __future__ import annotations

from typing import Any, Final

from app.config import MODALITIES
from app.models.teams import SCOPES
from app.reference.shapes import TEXT, TEXT_OR_NULL, TIME, TIME_OR_NULL, Route, answer, failure, query, record, ref

TAG: Final = "teams"

_ID: Final = {"type": "string", "format": "uuid"}
_FLAG: Final = {"type": "boolean"}
_LIMIT: Final = {"type": ["integer", "null"], "minimum": 1}
_NAMES: Final = {"type": ["array", "null"], "items": TEXT, "description": "Names, or patterns with `*`."}
_SCOPES: Final = {"type": "array", "items": {"enum": list(SCOPES)}}

_LIMITS: Final[dict[str, dict[str, Any]]] = {
    "requestsPerMinute": _LIMIT | {"description": "Of all its keys together. A wait or a stream is one request."},
    "queuedLimit": _LIMIT | {"description": "Jobs that may wait to be sent."},
    "inFlightLimit": _LIMIT | {"description": "Jobs that may be under way at Apiframe at a time."},
    "allowedOperations": _NAMES,
    "allowedModels": _NAMES,
    "monthlyCredits": {
        "type": ["integer", "null"],
        "minimum": 0,
        "description": "Its budget of a calendar month (UTC).",
    },
    "archivedModalities": {
        "type": ["array", "null"],
        "items": {"enum": list(MODALITIES)},
        "description": "Which results are kept; null: what the settings say.",
    },
    "paused": _FLAG | {"description": "Its jobs are accepted, and wait."},
}

_KEY: Final[dict[str, Any]] = record(
    id=_ID,
    team=TEXT,
    name=TEXT,
    prefix=TEXT | {"description": "How the key begins, to recognise it by."},
    scopes=_SCOPES,
    createdAt=TIME,
    expiresAt=TIME_OR_NULL,
    revokedAt=TIME_OR_NULL,
    lastUsedAt=TIME_OR_NULL | {"description": "Right to the minute."},
    rotatedTo={"type": ["string", "null"], "format": "uuid", "description": "The key that takes its place."},
    test=_FLAG,
)


def _page(name: str, schema: str) -> dict[str, Any]:
    return record(**{name: {"type": "array", "items": ref(schema)}}, nextCursor=TEXT_OR_NULL, hasMore=_FLAG)


SCHEMAS: Final[dict[str, Any]] = {
    "Team": record(id=_ID, name=TEXT, createdAt=TIME, **_LIMITS, pausedAt=TIME_OR_NULL),
    "TeamPage": _page("teams", "Team"),
    "Key": _KEY,
    "NewKey": {"allOf": [ref("Key"), record(key=TEXT | {"description": "Shown now and never again."})]},
    "KeyPage": _page("keys", "Key"),
    "AuditEntry": record(
        id=_ID,
        at=TIME,
        actor=TEXT | {"description": "A key's id, or `cli`."},
        action=TEXT | {"description": "Such as `key.revoked`."},
        subject=TEXT | {"description": "The id or name of what it was done to."},
        team=TEXT_OR_NULL | {"description": "Whose affair it is; null: everybody's."},
        data={"type": "object"},
    ),
    "AuditPage": _page("entries", "AuditEntry"),
}

_TEAM: Final = "/v1/teams/{team_id}"
_ONE_KEY: Final = "/v1/keys/{key_id}"
_NO_TEAM: Final = failure("There is no such team, or it is not yours")
_NO_KEY: Final = failure("Your team has no such key")
_FORBIDDEN: Final = failure("The key lacks the scope")

ANSWERS: Final[dict[Route, Any]] = {
    ("GET", "/v1/teams"): {"200": answer("A page of teams", ref("TeamPage")), "403": _FORBIDDEN},
    ("POST", "/v1/teams"): {
        "201": answer("The team", ref("Team")),
        "403": _FORBIDDEN,
        "409": failure("There is a team of this name"),
    },
    ("GET", _TEAM): {"200": answer("The team", ref("Team")), "404": _NO_TEAM},
    ("PATCH", _TEAM): {"200": answer("The team as it is now", ref("Team")), "403": _FORBIDDEN, "404": _NO_TEAM},
    ("GET", "/v1/keys"): {"200": answer("A page of keys", ref("KeyPage"))},
    ("POST", "/v1/keys"): {"201": answer("The key", ref("NewKey")), "403": _FORBIDDEN},
    ("GET", _ONE_KEY): {"200": answer("The key", ref("Key")), "404": _NO_KEY},
    ("DELETE", _ONE_KEY): {
        "204": {"description": "It is revoked"},
        "403": _FORBIDDEN,
        "404": _NO_KEY,
        "409": failure("No other admin key is good for as long"),
    },
    ("POST", f"{_ONE_KEY}/rotate"): {
        "201": answer(
            "The key that takes its place",
            {"allOf": [ref("NewKey"), record(previousKeyId=_ID, previousExpiresAt=TIME)]},
        ),
        "403": _FORBIDDEN,
        "404": _NO_KEY,
        "409": failure("The key is over, or was rotated already"),
    },
    ("GET", "/v1/audit"): {"200": answer("A page of entries", ref("AuditPage"))},
}


def _body(properties: dict[str, Any], example: dict[str, Any], *required: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties} | ({"required": list(required)} if required else {})
    return {"required": bool(required), "content": {"application/json": {"schema": schema, "example": example}}}


BODIES: Final[dict[Route, Any]] = {
    ("POST", "/v1/teams"): _body({"name": TEXT, **_LIMITS}, {"name": "design", "queuedLimit": 500}, "name"),
    ("PATCH", _TEAM): _body(_LIMITS, {"requestsPerMinute": 600, "allowedModels": ["flux-*"]}),
    ("POST", "/v1/keys"): _body(
        {
            "team": TEXT,
            "scopes": _SCOPES,
            "name": TEXT,
            "expiresAt": TIME_OR_NULL,
            "test": {"type": "boolean", "default": False},
        },
        {"team": "design", "scopes": ["submit", "read"], "name": "poster machine"},
        "team",
        "scopes",
    ),
    ("POST", f"{_ONE_KEY}/rotate"): _body(
        {"graceSeconds": {"type": "number", "minimum": 0, "default": 86400}}, {"graceSeconds": 3600}
    ),
}


def _listed(most: int, **more: str) -> list[dict[str, Any]]:
    limit = query("limit", {"type": "integer", "minimum": 1, "maximum": most, "default": 50})
    words = more | {"cursor": "`nextCursor` of the page before"}
    return [limit, *(query(name, TEXT, text) for name, text in words.items())]


PARAMETERS: Final[dict[Route, Any]] = {
    ("GET", "/v1/teams"): _listed(200),
    ("GET", "/v1/keys"): _listed(200, team="For admins: only this team's"),
    ("GET", "/v1/audit"): _listed(
        500, action="The beginning of an action", since="Not before this time", team="For operators: only this team's"
    ),
}
