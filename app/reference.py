"""The API reference: what OpenAPI says of each route. The words are the handlers' docstrings; the shapes are here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any, Final

from app.models import STATUSES


def version() -> str:
    """This installation's version; a checkout that was never installed has none."""
    try:
        return installed_version("framehook")
    except PackageNotFoundError:
        return "0.0.0"


def describe(method: str, path: str, handler: Callable[..., Any]) -> dict[str, Any]:
    """FastAPI's arguments for a route: a summary and a description from the docstring, and the shapes of its traffic."""
    words = inspect.getdoc(handler) or ""
    summary, _, rest = words.partition(". ")
    public = path in ("/healthz", "/readyz", "/metrics") or path.startswith("/webhooks/")
    errors = {} if path == "/healthz" else _ERRORS | ({} if public else {"401": _failure("No valid key")})
    answer = _ANSWERS.get((method, path), {"200": _json("Done", {"type": "object"})})
    extra = {
        "security": [] if public else [{"ApiKey": []}, {"Bearer": []}],
        "parameters": [*_path_parameters(path), *_PARAMETERS.get((method, path), [])],
        "responses": answer | errors,
        **({"requestBody": _BODIES[(method, path)]} if (method, path) in _BODIES else {}),
    }
    return {
        "summary": summary.strip().rstrip("."),
        "description": rest.strip() or summary,
        "tags": ["operations" if public or path == "/v1/status" else "jobs"],
        "openapi_extra": extra,
        "response_model": None,
    }


SECURITY_SCHEMES: Final = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}


def _json(words: str, schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"description": words, "content": {"application/json": content}}


def _failure(words: str) -> dict[str, Any]:
    return _json(words, {"$ref": "#/components/schemas/Error"})


def _query(name: str, schema: dict[str, Any], words: str = "") -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": words}


def _header(name: str, words: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": words}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


_JOB_ID: Final = "01987c5e-7a2b-7c3d-8e4f-5a6b7c8d9e0f"

_TIME_OR_NULL: Final = {"type": ["string", "null"], "format": "date-time"}

_TEXT_OR_NULL: Final = {"type": ["string", "null"]}
_COUNT: Final = {"type": "integer", "minimum": 0}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object that always has all of these properties."""
    return {"type": "object", "required": list(properties), "properties": properties}


_TRACED_JOB: Final = _object(
    team={"type": "string"},
    upstreamId=_TEXT_OR_NULL,
    idempotencyKey=_TEXT_OR_NULL,
    acceptedAt=_TIME_OR_NULL,
    dispatchCount=_COUNT,
    nextDispatchAt=_TIME_OR_NULL,
    pollCount=_COUNT,
    nextPollAt=_TIME_OR_NULL,
    overdue={"type": "boolean"},
)

_UPSTREAM: Final = _object(
    account={"type": "string", "description": "The upstream's host and port."},
    cap={"type": "integer", "description": "The setting, else what the upstream said, else 10."},
    capLoweredTo={"type": ["integer", "null"], "description": "Believed for a while after a 429."},
    inFlight=_COUNT,
    ambiguous={
        "type": "integer",
        "description": "Those in flight of which the upstream has not said that it has them.",
    },
    pausedAt=_TIME_OR_NULL,
    webhookField={"type": ["string", "null"], "enum": ["webhook_url", "webhookUrl", None]},
    trouble=_TEXT_OR_NULL,
    troubleAt=_TIME_OR_NULL,
    keys={
        "type": "array",
        "items": _object(
            fingerprint={"type": "string"},
            state={"enum": ["ready", "held", "probing"]},
            heldUntil=_TIME_OR_NULL,
            reason=_TEXT_OR_NULL,
            failureCount=_COUNT,
        ),
    },
)

SCHEMAS: Final[dict[str, Any]] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {"type": "string"},
            "details": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
        },
    },
    "JobAccepted": {
        "type": "object",
        "required": ["jobId", "status"],
        "properties": {
            "jobId": {"type": "string", "format": "uuid"},
            "status": {"type": "string", "enum": list(STATUSES)},
        },
    },
    "Job": {
        "type": "object",
        "required": ["id", "status", "model", "progress", "error", "creditCost", "webhookStatus", "createdAt"],
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "status": {"type": "string", "enum": list(STATUSES)},
            "operation": {"type": "string"},
            "model": {"type": "string"},
            "progress": {"type": ["integer", "null"], "minimum": 0, "maximum": 100},
            "result": {"description": "As the upstream gave it; its shape depends on the model."},
            "error": {"type": ["string", "null"]},
            "errorCode": {"type": ["string", "null"]},
            "creditCost": {"type": ["integer", "null"]},
            "webhookStatus": {"type": ["string", "null"], "enum": ["pending", "delivered", "failed", None]},
            "createdAt": {"type": "string", "format": "date-time"},
            "completedAt": {"type": ["string", "null"], "format": "date-time"},
            "expired": {"type": "boolean"},
            "input": {"type": ["object", "null"]},
            "metadata": {"type": "object"},
            "retryOf": {"type": ["string", "null"], "format": "uuid", "description": "The job that this one repeats."},
        },
    },
    "JobList": {
        "type": "object",
        "required": ["jobs", "nextCursor", "hasMore"],
        "properties": {
            "jobs": {"type": "array", "items": {"$ref": "#/components/schemas/Job"}},
            "nextCursor": {"type": ["string", "null"]},
            "hasMore": {"type": "boolean"},
            "models": {"type": "array", "items": {"type": "string"}},
        },
    },
    "Trace": {
        "type": "object",
        "required": ["job", "steps", "hasMore"],
        "properties": {
            "job": {"allOf": [{"$ref": "#/components/schemas/Job"}, _TRACED_JOB]},
            "steps": {"type": "array", "items": {"$ref": "#/components/schemas/Step"}},
            "hasMore": {"type": "boolean", "description": "Whether older steps were left out."},
        },
    },
    "Step": {
        "type": "object",
        "required": ["at", "afterSeconds", "what", "by", "byName"],
        "description": "One thing that happened to a job; what else it holds depends on `what`.",
        "properties": {
            "at": {"type": "string", "format": "date-time"},
            "afterSeconds": {"type": "number", "description": "Since the submission."},
            "what": {"enum": ["submitted", "dispatch", "webhook", "poll", "transition", "action"]},
            "by": {"type": "string", "description": "`submit`, `webhook`, `poll`, `framehook`, `cli`, or a key's id."},
            "byName": {"type": ["string", "null"], "description": "The key's name."},
        },
        "additionalProperties": True,
    },
    "Status": {
        "type": "object",
        "required": ["upstream", "teams", "jobs", "webhooks"],
        "properties": {
            "upstream": _UPSTREAM,
            "teams": _object(paused={"type": "array", "items": {"type": "string"}}),
            "jobs": _object(
                waiting=_COUNT,
                moreWaiting={"type": "boolean"},
                oldestWaitingSeconds={"type": ["number", "null"]},
                overdue=_COUNT,
                moreOverdue={"type": "boolean"},
            ),
            "webhooks": _object(pollOnly={"type": "boolean"}, unsigned={"enum": ["poll", "reject"]}),
        },
    },
}

_ERRORS: Final = {"400": _failure("Something in the request is wrong"), "503": _failure("Not now: see Retry-After")}

_ANSWERS: Final = {
    ("POST", "/v2/images/generate"): {
        "202": _json(
            "Accepted: it cannot be lost any more",
            {"$ref": "#/components/schemas/JobAccepted"},
            {"jobId": _JOB_ID, "status": "QUEUED"},
        ),
        "402": _failure("The upstream account has no credits left"),
        "409": _failure("The Idempotency-Key stands for another request"),
        "413": _failure("The body is larger than 1 MiB"),
    },
    ("GET", "/v2/jobs"): {
        "200": _json("A page of jobs", {"$ref": "#/components/schemas/JobList"}),
        "403": _failure("Another team's jobs, and the key lacks the scope `ops`"),
    },
    ("GET", "/v2/jobs/{job_id}"): {
        "200": _json("The job", {"$ref": "#/components/schemas/Job"}),
        "404": _failure("Your team has no such job"),
    },
    ("GET", "/v1/jobs/{job_id}/trace"): {
        "200": _json("The job and its steps", {"$ref": "#/components/schemas/Trace"}),
        "404": _failure("Your team has no such job"),
    },
    ("POST", "/v1/jobs/{job_id}/cancel"): {
        "200": _json("The job, cancelled", {"$ref": "#/components/schemas/Job"}),
        "404": _failure("Your team has no such job"),
        "409": _failure("The job was sent already, or is over"),
    },
    ("POST", "/v1/jobs/{job_id}/retry"): {
        "202": _json("A new job", {"$ref": "#/components/schemas/JobAccepted"}, {"jobId": _JOB_ID, "status": "QUEUED"}),
        "404": _failure("Your team has no such job"),
        "409": _failure("The job is not over, or it completed"),
    },
    ("POST", "/v1/jobs/{job_id}/refresh"): {
        "200": _json("The job as it is now", {"$ref": "#/components/schemas/Job"}),
        "404": _failure("Your team has no such job"),
    },
    ("GET", "/v1/status"): {"200": _json("How things stand", {"$ref": "#/components/schemas/Status"})},
    ("GET", "/metrics"): {
        "200": {"description": "The gauges", "content": {"text/plain": {"schema": {"type": "string"}}}},
    },
    ("GET", "/readyz"): {
        "200": _json("Ready, perhaps degraded", {"type": "object"}, {"status": "ok", "degraded": []}),
        "503": _json("Not ready", {"type": "object"}, {"status": "unavailable", "missing": ["database"]}),
    },
}

_BODIES: Final = {
    ("POST", "/v2/images/generate"): {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model"],
                    "properties": {
                        "model": {"type": "string"},
                        "prompt": {"type": "string"},
                        "metadata": {"type": "object"},
                        "priority": {"type": "integer"},
                        "webhook_url": {"type": "string", "format": "uri"},
                        "webhookUrl": {"type": "string", "format": "uri"},
                        "webhookEvents": {"type": "array", "items": {"enum": ["progress", "completed", "failed"]}},
                    },
                },
                "example": {
                    "model": "flux-1.1-pro-ultra",
                    "prompt": "a lighthouse in a storm",
                    "fluxParams": {"aspect_ratio": "16:9", "output_format": "png"},
                },
            }
        },
    },
    ("POST", "/webhooks/apiframe/{job_id}/{token}"): {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
    },
}

_PARAMETERS: Final = {
    ("POST", "/v2/images/generate"): [
        _header("Idempotency-Key", "At most 255 characters"),
        _header("Prefer", "`respond-async`: answer without waiting for the upstream"),
    ],
    ("POST", "/v1/jobs/{job_id}/retry"): [
        _header("Idempotency-Key", "At most 255 characters"),
        _header("Prefer", "`respond-async`: answer without waiting for the upstream"),
    ],
    ("GET", "/v2/jobs"): [
        _query("status", {"type": "string", "enum": list(STATUSES)}),
        _query("model", {"type": "string"}),
        _query("operation", {"type": "string"}),
        _query("overdue", {"type": "string", "enum": ["true", "false"], "default": "false"}, "Only overdue ones"),
        _query("team", {"type": "string"}, "Your own team; with the scope `ops` any other, or `*` for all"),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
        _query("cursor", {"type": "string"}, "`nextCursor` of the page before"),
        _query(
            "scope",
            {"type": "string", "enum": ["user", "team"], "default": "user"},
            "`team` goes without saying if one is named",
        ),
        _query("search", {"type": "string", "format": "uuid"}, "A job id, ours or the upstream's"),
        _query("include_models", {"type": "string", "enum": ["true", "false"], "default": "false"}),
    ],
    ("GET", "/v2/jobs/{job_id}"): [_query("wait", {"type": "number", "minimum": 0, "maximum": 300, "default": 0})],
}
