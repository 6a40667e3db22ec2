"""The shapes of what operators and the upstream call."""

from __future__ import annotations

from typing import Any, Final

from app.reference.shapes import COUNT, TEXT, TEXT_OR_NULL, TIME, TIME_OR_NULL, Route, answer, record, ref

TAG: Final = "operations"

_UPSTREAM: Final = record(
    account={"type": "string", "description": "The upstream's host and port."},
    cap={"type": "integer", "description": "The setting, else what the upstream said, else 10."},
    capLoweredTo={"type": ["integer", "null"], "description": "Believed for a while after a 429."},
    inFlight=COUNT,
    ambiguous={
        "type": "integer",
        "description": "Those in flight of which the upstream has not said that it has them.",
    },
    pausedAt=TIME_OR_NULL,
    webhookField={"type": ["string", "null"], "enum": ["webhook_url", "webhookUrl", None]},
    trouble=TEXT_OR_NULL,
    troubleAt=TIME_OR_NULL,
    keys={
        "type": "array",
        "items": record(
            fingerprint={"type": "string"},
            state={"enum": ["ready", "held", "probing"]},
            heldUntil=TIME_OR_NULL,
            reason=TEXT_OR_NULL,
            failureCount=COUNT,
        ),
    },
)

_WEBHOOKS: Final = record(
    pollOnly={"type": "boolean"},
    unsigned={"enum": ["poll", "reject"]},
    lastReceivedAt=TIME_OR_NULL,
    lastAppliedAt=TIME_OR_NULL | {"description": "Of the last one that was believed, among the newest 1,000."},
    endedByWebhook=COUNT | {"description": "Jobs whose end became known by a webhook, in the last hour."},
    endedByPoll=COUNT | {"description": "Those of which Apiframe was asked, as no webhook had come."},
    endedByPollShare={
        "type": ["number", "null"],
        "description": "The latter as a part of both, 0 to 1; null if there were none.",
    },
)

_SECONDS: Final = {"type": "number", "minimum": 0}
_SECONDS_OR_NULL: Final = {"type": ["number", "null"], "minimum": 0}

_PROCESS: Final = record(
    host=TEXT,
    pid=COUNT,
    role={"enum": ["serve", "worker"]},
    version=TEXT,
    startedAt=TIME,
    seenAt=TIME,
    loops={
        "type": "array",
        "items": record(
            name=TEXT,
            everySeconds=_SECONDS | {"description": "How often it has a turn, if nothing wakes it before."},
            secondsAgo=_SECONDS | {"description": "When its last turn ended, or it began."},
            turnSeconds=_SECONDS_OR_NULL | {"description": "How long that turn took."},
            late={"type": "boolean", "description": "It should have had a turn long since."},
            lastError=TEXT_OR_NULL,
            lastErrorSecondsAgo=_SECONDS_OR_NULL,
        ),
    },
)

_READERS: Final = {
    "type": "array",
    "items": record(
        name=TEXT,
        behind=COUNT | {"description": "How many events it has yet to read, at most."},
        behindSeconds=_SECONDS | {"description": "How old the first of them is; 0 if there is none."},
        updatedAt=TIME,
    ),
}

SCHEMAS: Final[dict[str, Any]] = {
    "Status": {
        "type": "object",
        "required": ["upstream", "teams", "jobs", "deliveries", "files", "webhooks", "processes", "log"],
        "properties": {
            "upstream": _UPSTREAM,
            "teams": record(paused={"type": "array", "items": {"type": "string"}}),
            "jobs": record(
                waiting=COUNT,
                moreWaiting={"type": "boolean"},
                oldestWaitingSeconds={"type": ["number", "null"]},
                overdue=COUNT,
                moreOverdue={"type": "boolean"},
            ),
            "deliveries": record(
                pending=COUNT,
                morePending={"type": "boolean"},
                oldestDueSeconds={
                    "type": ["number", "null"],
                    "description": "How long ago the oldest pending delivery should have been made; null if none is late.",
                },
                undelivered={"type": "integer", "description": "Those of the last days, as long as they are kept."},
                moreUndelivered={"type": "boolean"},
                disabledSubscriptions=COUNT,
            ),
            "files": record(
                on={"type": "boolean", "description": "Whether result files are kept at all."},
                pending=COUNT,
                morePending={"type": "boolean"},
                oldestPendingSeconds={
                    "type": ["number", "null"],
                    "description": "How long ago the job ended that has waited longest for its files to be kept.",
                },
                late={"type": "integer", "description": "Pending ones whose job ended 20 hours ago or earlier."},
                failed=COUNT,
                moreFailed={"type": "boolean"},
            ),
            "webhooks": _WEBHOOKS,
            "processes": {"type": "array", "items": _PROCESS},
            "log": record(head=COUNT | {"description": "The number of the newest event."}, readers=_READERS),
        },
    },
}

ANSWERS: Final[dict[Route, Any]] = {
    ("GET", "/v1/status"): {"200": answer("How things stand", ref("Status"))},
    ("GET", "/metrics"): {
        "200": {"description": "The metrics", "content": {"text/plain": {"schema": {"type": "string"}}}},
    },
    ("GET", "/readyz"): {
        "200": answer("Ready, perhaps degraded", {"type": "object"}, {"status": "ok", "degraded": []}),
        "503": answer("Not ready", {"type": "object"}, {"status": "unavailable", "missing": ["database"]}),
    },
}

BODIES: Final[dict[Route, Any]] = {
    ("POST", "/webhooks/apiframe/{job_id}/{token}"): {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
    },
}

PARAMETERS: Final[dict[Route, Any]] = {}
