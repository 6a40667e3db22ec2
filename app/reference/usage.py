"""The shapes of usage, budgets and statistics, and of the files that test keys make."""

from __future__ import annotations

from typing import Any, Final

from app.reference.shapes import COUNT, FORMAT, TEXT, TIME, Route, answer, exported, failure, query, record, ref

TAG: Final = "usage"

_MAYBE: Final = {"type": ["integer", "null"], "minimum": 0}

_SECONDS: Final = {"type": ["number", "null"], "minimum": 0}
_SHARE: Final = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_PERCENTILES: Final = record(p50Seconds=_SECONDS, p95Seconds=_SECONDS)
_SERIES: Final = {"submitted": COUNT, "completed": COUNT, "failed": COUNT, "cancelled": COUNT}
_COUNTS: Final = {
    **_SERIES,
    "credits": COUNT,
    "successRate": _SHARE | {"description": "Of those that completed or failed; null where there are none."},
    "pollShare": _SHARE | {"description": "Of the ends that Apiframe told of: how many had to be asked for."},
}

SCHEMAS: Final[dict[str, Any]] = {
    "Statistics": record(
        window=TEXT,
        team=TEXT | {"description": "`*` for all teams."},
        **{"from": TIME},
        stepSeconds=COUNT,
        series={"type": "array", "items": record(**{"from": TIME}, **_SERIES)},
        total=record(**_COUNTS, queue=_PERCENTILES, generation=_PERCENTILES, webhook=_PERCENTILES),
        models={"type": "array", "items": record(model=TEXT, **_COUNTS, queue=_PERCENTILES, generation=_PERCENTILES)},
        teams={"type": "array", "items": record(team=TEXT, **_COUNTS)},
        operations={"type": "array", "items": record(operation=TEXT, **_COUNTS)},
    ),
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
_STATS: Final = ("GET", "/v1/stats")
_SIMULATED: Final = ("GET", "/sandbox/files/{job_id}/{name}")

ANSWERS: Final[dict[Route, Any]] = {
    _USAGE: {
        "200": exported(answer("What jobs cost", ref("Usage"))),
        "403": failure("Another team's usage, and the key lacks the scope `ops`"),
    },
    _STATS: {
        "200": answer("How jobs went", ref("Statistics")),
        "403": failure("Another team's statistics, and the key lacks the scope `ops`"),
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
    _STATS: [
        query("window", {"type": "string", "enum": ["1h", "24h", "7d", "30d"], "default": "24h"}, "Up to now"),
        query("team", {"type": "string"}, "Your own team; with the scope `ops` any other, or `*` for all"),
    ],
    _USAGE: [
        query("group_by", {"type": "string", "default": "model"}, "Some of team, model, operation, day, with commas"),
        query("from", {"type": "string"}, "A date or a time; the default is the beginning of this month (UTC)"),
        query("to", {"type": "string"}, "A date or a time, itself not included; the default is now"),
        query("team", {"type": "string"}, "Your own team; with the scope `ops` any other, or `*` for all"),
        query("format", FORMAT, "The groups as a file, as with `Accept: text/csv` or `application/jsonl`"),
    ],
}
