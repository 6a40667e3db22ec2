"""The shapes of usage and budgets, and of the files that test keys make."""

from __future__ import annotations

from typing import Any, Final

from app.reference.shapes import COUNT, FORMAT, TEXT, TIME, Route, answer, exported, failure, query, record, ref

TAG: Final = "usage"

_MAYBE: Final = {"type": ["integer", "null"], "minimum": 0}

SCHEMAS: Final[dict[str, Any]] = {
    "Usage": record(
        **{"from": TIME},
        to=TIME,
        groups={"type": "array", "items": ref("UsageGroup")},
        total=record(jobs=COUNT, credits=COUNT),
        budget={"oneOf": [ref("Budget"), {"type": "null"}], "description": "null where all teams are asked for."},
    ),
    "UsageGroup": {
        "type": "object",
        "required": ["jobs", "credits"],
        "properties": {"team": TEXT, "model": TEXT, "operation": TEXT, "day": TEXT, "jobs": COUNT, "credits": COUNT},
    },
    "Budget": record(
        month={"type": "string", "examples": ["2026-11"]},
        limit=_MAYBE | {"description": "null: there is none."},
        reserved=COUNT | {"description": "For jobs that are not over."},
        spent=COUNT,
        available=_MAYBE,
    ),
}

_USAGE: Final = ("GET", "/v1/usage")
_SIMULATED: Final = ("GET", "/sandbox/files/{job_id}/{name}")

ANSWERS: Final[dict[Route, Any]] = {
    _USAGE: {
        "200": exported(answer("What jobs cost", ref("Usage"))),
        "403": failure("Another team's usage, and the key lacks the scope `ops`"),
    },
    _SIMULATED: {
        "200": {
            "description": "A picture, film or sound",
            "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        },
        "404": failure("No job of a test key made such a file"),
    },
}

BODIES: Final[dict[Route, Any]] = {}

PARAMETERS: Final[dict[Route, Any]] = {
    _USAGE: [
        query("group_by", {"type": "string", "default": "model"}, "Some of team, model, operation, day, with commas"),
        query("from", {"type": "string"}, "A date or a time; the default is the beginning of this month (UTC)"),
        query("to", {"type": "string"}, "A date or a time, itself not included; the default is now"),
        query("team", {"type": "string"}, "Your own team; with the scope `ops` any other, or `*` for all"),
        query("format", FORMAT, "The groups as a file, as with `Accept: text/csv` or `application/jsonl`"),
    ],
}
