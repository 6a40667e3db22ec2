"""The shapes of events: in the feed, in streams, and the tickets that open these."""

from __future__ import annotations

from typing import Any, Final

from app.models.events import EVENT_TYPES
from app.reference.shapes import (
    FORMAT,
    JOB_ID,
    TEXT,
    TIME,
    Route,
    answer,
    exported,
    failure,
    header,
    query,
    record,
    ref,
)

TAG: Final = "events"

_FILES: Final = {"type": "array", "items": ref("FailedFile")}

SCHEMAS: Final[dict[str, Any]] = {
    "Event": record(
        id={"type": "string", "format": "uuid", "description": "The same wherever the event is told."},
        type={"type": "string", "enum": list(EVENT_TYPES)},
        timestamp=TIME,
        sequence={
            "type": "integer",
            "description": "Its place in the log: greater is later, and numbers may be missing.",
        },
        data={
            "type": "object",
            "description": "For `job.*` the job object as it was then, and what is not kept where the event is about that.",
            "properties": {
                "failedFiles": _FILES | {"description": "Of `job.archive_failed`."},
                "lateFiles": _FILES | {"description": "Of `job.archive_late`."},
            },
        },
    ),
    "EventPage": record(
        events={"type": "array", "items": ref("Event")},
        nextCursor={"type": "string", "description": "Where to go on; also past events that were filtered out."},
        hasMore={"type": "boolean", "description": "Whether the next page has something on it already."},
    ),
    "Ticket": record(ticket=TEXT, expiresAt=TIME),
}

_PAGE: Final = answer(
    "Events in order",
    ref("EventPage"),
    {
        "events": [
            {
                "id": "01987c5e-9b10-7aa0-8c3e-2f6d1c0b9a87",
                "type": "job.queued",
                "timestamp": "2026-11-25T09:30:00.000Z",
                "sequence": 4182,
                "data": {"id": JOB_ID, "status": "QUEUED", "model": "flux-1.1-pro-ultra"},
            }
        ],
        "nextCursor": "4182",
        "hasMore": False,
    },
)

_STREAM: Final = {
    "description": "Events as they happen",
    "headers": {"Cache-Control": {"schema": {"type": "string"}}},
    "content": {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": 'id: 4182\nevent: job.queued\ndata: {"id":"...","type":"job.queued","sequence":4182,"data":{}}\n\n',
        }
    },
}

_GONE: Final = failure("What follows the cursor is not kept any more: `oldestCursor`")
_NO_JOB: Final = failure("Your team has no such job")
_NO_SCOPE: Final = failure("The key lacks the scope")

ANSWERS: Final[dict[Route, Any]] = {
    ("GET", "/v1/events"): {"200": exported(_PAGE), "403": _NO_SCOPE, "410": _GONE},
    ("GET", "/v1/jobs/{job_id}/events"): {"200": _PAGE, "403": _NO_SCOPE, "404": _NO_JOB, "410": _GONE},
    ("GET", "/v1/events/stream"): {"200": _STREAM, "403": _NO_SCOPE, "410": _GONE},
    ("GET", "/v1/jobs/{job_id}/events/stream"): {
        "200": _STREAM,
        "204": {"description": "The job is over, and nothing more is to come"},
        "403": _NO_SCOPE,
        "404": _NO_JOB,
        "410": _GONE,
    },
    ("POST", "/v1/events/tickets"): {"201": answer("The ticket", ref("Ticket")), "403": _NO_SCOPE},
}

BODIES: Final[dict[Route, Any]] = {}

_TYPES: Final = query("types", TEXT, "Comma-separated: types of events, or patterns such as `job.*`")

_OF_FEEDS: Final = [
    query("after", TEXT, "A `nextCursor`, or `latest`; without it from the oldest event that is kept"),
    query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
    _TYPES,
    query("wait", {"type": "number", "minimum": 0, "maximum": 60, "default": 0}, "Seconds to wait for an event"),
]

_OF_STREAMS: Final = [
    header("Last-Event-ID", "The number of the last event that was seen"),
    query("after", TEXT, "The same for the first connection; without either the stream begins now"),
    _TYPES,
    query("ticket", TEXT, "In place of a key"),
]

PARAMETERS: Final[dict[Route, Any]] = {
    ("GET", "/v1/events"): [
        *_OF_FEEDS,
        query("format", FORMAT, "All up to now as a file, as with `Accept: text/csv` or `application/jsonl`"),
    ],
    ("GET", "/v1/jobs/{job_id}/events"): _OF_FEEDS,
    ("GET", "/v1/events/stream"): _OF_STREAMS,
    ("GET", "/v1/jobs/{job_id}/events/stream"): _OF_STREAMS,
}
