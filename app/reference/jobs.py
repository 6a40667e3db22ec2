"""The shapes of jobs: submitted, read, listed, traced, acted on."""

from __future__ import annotations

from typing import Any, Final

from app.apiframe.operations import ACTIONS, OPERATIONS
from app.models.jobs import STATUSES
from app.reference.shapes import (
    COUNT,
    FORMAT,
    JOB_ID,
    TEXT,
    TEXT_OR_NULL,
    TIME_OR_NULL,
    Route,
    answer,
    exported,
    failure,
    header,
    query,
    record,
    ref,
)

TAG: Final = "jobs"

_TRACED_JOB: Final = record(
    team={"type": "string"},
    upstreamId=TEXT_OR_NULL,
    idempotencyKey=TEXT_OR_NULL,
    acceptedAt=TIME_OR_NULL,
    dispatchCount=COUNT,
    nextDispatchAt=TIME_OR_NULL,
    pollCount=COUNT,
    nextPollAt=TIME_OR_NULL,
    overdue={"type": "boolean"},
)

SCHEMAS: Final[dict[str, Any]] = {
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
            "result": {
                "description": "As the upstream gave it; its shape depends on the model. Once the upstream has purged its "
                "files, and with FRAMEHOOK_RESULT_URLS=archive as soon as they are kept, the URLs of kept files lead here: "
                "signed links, good for a day."
            },
            "error": {"type": ["string", "null"]},
            "errorCode": {"type": ["string", "null"]},
            "creditCost": {"type": ["integer", "null"]},
            "webhookStatus": {"type": ["string", "null"], "enum": ["pending", "delivered", "failed", None]},
            "createdAt": {"type": "string", "format": "date-time"},
            "completedAt": {"type": ["string", "null"], "format": "date-time"},
            "expired": {
                "type": "boolean",
                "description": "The upstream has purged the files, and not all of them are kept here.",
            },
            "input": {"type": ["object", "null"]},
            "metadata": {"type": "object"},
            "test": {"type": "boolean", "description": "Made by a test key: simulated, and paid by nobody."},
            "retryOf": {"type": ["string", "null"], "format": "uuid", "description": "The job that this one repeats."},
            "archiveStatus": {
                "enum": ["pending", "stored", "failed", None],
                "description": "Of the file that is worst off: to be fetched, kept, or not to be had; null: none is kept.",
            },
            "files": {"type": "array", "items": ref("File"), "description": "Those that are kept."},
        },
    },
    "JobFile": record(
        jobId={"type": "string", "format": "uuid"},
        status={"type": "string", "enum": list(STATUSES)},
        url={"type": "string", "format": "uri"},
    ),
    "JobList": {
        "type": "object",
        "required": ["jobs", "nextCursor", "hasMore"],
        "properties": {
            "jobs": {"type": "array", "items": ref("Job")},
            "nextCursor": {"type": ["string", "null"]},
            "hasMore": {"type": "boolean", "description": "Also of a page that is short: the next one looks further."},
            "models": {"type": "array", "items": {"type": "string"}},
        },
    },
    "Trace": {
        "type": "object",
        "required": ["job", "steps", "hasMore"],
        "properties": {
            "job": {"allOf": [ref("Job"), _TRACED_JOB]},
            "steps": {"type": "array", "items": ref("Step")},
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
            "what": {
                "enum": [
                    *("submitted", "dispatch", "webhook", "poll", "transition", "action"),
                    *("archive", "attempt", "delivery"),
                ]
            },
            "by": {
                "type": "string",
                "description": "`submit`, `webhook`, `poll`, `framehook`, `cli`, or a key's id; of attempts and deliveries "
                "the subscription's id, or `callback`.",
            },
            "byName": {"type": ["string", "null"], "description": "The key's name."},
        },
        "additionalProperties": True,
    },
}

_ENDED: Final[dict[str, Any]] = {
    "200": answer("With `Prefer: wait`: the job is over", ref("Job")),
    "303": {
        "description": "With `Accept: image/*` and the like besides: the way to the first such file",
        "headers": {"Location": {"schema": {"type": "string", "format": "uri"}, "description": "It needs no key"}},
        "content": {"application/json": {"schema": ref("JobFile")}},
    },
    "406": failure("The job made no file of the type in `Accept`"),
    "502": failure("With such an `Accept`: the job failed"),
}
"""Answers to a caller that waited for the end of its job."""


def _submitted(operation: str) -> dict[str, Any]:
    """The answers to a submission."""
    conflicts = "The Idempotency-Key stands for another request, or with such an `Accept`: the job was cancelled"
    return {
        "202": answer(
            "Accepted: it cannot be lost any more",
            ref("JobAccepted"),
            {"jobId": JOB_ID, "status": "QUEUED"},
        ),
        **_ENDED,
        "402": failure("The upstream account has no credits left"),
        **({"404": failure("Your team has no such parent job")} if operation in ACTIONS else {}),
        "409": failure(
            f"{conflicts}; or the action does not fit the parent job" if operation in ACTIONS else conflicts
        ),
        "413": failure("The body is larger than 1 MiB"),
    }


ANSWERS: Final[dict[Route, Any]] = {
    **{("POST", f"/v2/{operation}"): _submitted(operation) for operation in OPERATIONS},
    ("GET", "/v2/jobs"): {
        "200": exported(answer("A page of jobs", ref("JobList"))),
        "403": failure("Another team's jobs, and the key lacks the scope `ops`"),
    },
    ("GET", "/v2/jobs/{job_id}"): {
        "200": answer("The job", ref("Job")),
        "304": {"description": "The job is as it was: its `ETag` is one of those in `If-None-Match`"},
        "404": failure("Your team has no such job"),
    },
    ("GET", "/v1/jobs/{job_id}/trace"): {
        "200": answer("The job and its steps", ref("Trace")),
        "404": failure("Your team has no such job"),
    },
    ("POST", "/v1/jobs/{job_id}/cancel"): {
        "200": answer("The job, cancelled", ref("Job")),
        "404": failure("Your team has no such job"),
        "409": failure("The job was sent already, or is over"),
    },
    ("POST", "/v1/jobs/{job_id}/retry"): {
        "202": answer("A new job", ref("JobAccepted"), {"jobId": JOB_ID, "status": "QUEUED"}),
        **_ENDED,
        "404": failure("Your team has no such job"),
        "409": failure("The job is not over, or it completed; with such an `Accept`: the new one was cancelled"),
    },
    ("POST", "/v1/jobs/{job_id}/refresh"): {
        "200": answer("The job as it is now", ref("Job")),
        "404": failure("Your team has no such job"),
    },
}

_OWN_FIELDS: Final[dict[str, Any]] = {
    "metadata": {"type": "object"},
    "priority": {"type": "integer"},
    "webhook_url": {"type": "string", "format": "uri"},
    "webhookUrl": {"type": "string", "format": "uri"},
    "webhookEvents": {"type": "array", "items": {"enum": ["progress", "completed", "failed"]}},
}
_URL: Final = "https://example.com/in"
_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "images/generate": {
        "model": "flux-1.1-pro-ultra",
        "prompt": "a lighthouse in a storm",
        "fluxParams": {"aspect_ratio": "16:9", "output_format": "png"},
    },
    "images/upscale": {"model": "topaz-image-upscale", "topazUpscaleParams": {"image": f"{_URL}.png"}},
    "images/edit": {
        "model": "flux-fill-pro",
        "fluxFillParams": {
            "mode": "inpaint",
            "image": f"{_URL}.png",
            "mask": f"{_URL}-mask.png",
            "prompt": "a red door",
        },
    },
    "images/background-remove": {"model": "bria-bg-remove", "briaBgRemoveParams": {"image": f"{_URL}.png"}},
    "images/midjourney/action": {"action": "upsample", "parentJobId": JOB_ID, "index": 1},
    "videos/generate": {"model": "kling-2.6", "prompt": "waves at night", "klingParams": {"duration": 5}},
    "videos/upscale": {
        "model": "topaz-video-upscale",
        "topazVideoParams": {"video": f"{_URL}.mp4", "target_resolution": "1080p", "target_fps": 30},
    },
    "videos/edit": {
        "model": "wan-2.7-videoedit",
        "prompt": "make it snow",
        "wan27VideoeditParams": {"video": f"{_URL}.mp4"},
    },
    "music/generate": {"model": "suno", "prompt": "a shanty for a lighthouse keeper"},
    "music/suno/action": {"action": "extend", "parentJobId": JOB_ID, "index": 1},
}
"""One of each operation; the upstream's own reference has the others."""


def _body(operation: str) -> dict[str, Any]:
    """What a submission holds, as far as it is the same for all models."""
    named: dict[str, Any] = {"model": TEXT, "prompt": TEXT}
    if operation in ACTIONS:
        named = {"action": TEXT, "parentJobId": {"type": "string", "format": "uuid"}}
    required = list(named) if operation in ACTIONS else ["model"]
    schema = {"type": "object", "required": required, "properties": named | _OWN_FIELDS}
    content = {"application/json": {"schema": schema, "example": _EXAMPLES[operation]}}
    return {"required": True, "content": content}


BODIES: Final[dict[Route, Any]] = {("POST", f"/v2/{operation}"): _body(operation) for operation in OPERATIONS}

_OF_SUBMISSIONS: Final = [
    header("Idempotency-Key", "At most 255 characters"),
    header(
        "Prefer",
        "`respond-async`: answer without waiting for the upstream; `wait=SECONDS`, at most 300: with the job's end",
    ),
    header(
        "Accept", "With `Prefer: wait`: `image/*`, `video/*`, `audio/*` or types of these, for the way to such a file"
    ),
]

PARAMETERS: Final[dict[Route, Any]] = {
    **{("POST", f"/v2/{operation}"): _OF_SUBMISSIONS for operation in OPERATIONS},
    ("POST", "/v1/jobs/{job_id}/retry"): _OF_SUBMISSIONS,
    ("GET", "/v2/jobs"): [
        query("status", {"type": "string"}, f"One of {', '.join(STATUSES)}, or several with commas between them"),
        query("model", {"type": "string"}),
        query("operation", {"type": "string"}, "Such as `images/generate`"),
        query("errorCode", {"type": "string"}),
        query("createdAfter", {"type": "string", "format": "date-time"}, "From then on"),
        query("createdBefore", {"type": "string", "format": "date-time"}, "Before then"),
        query(
            "metadata.KEY",
            {"type": "string"},
            "What the metadata must hold under a key, as text; up to 10 of them, such as `metadata.shot=12`",
        ),
        query("q", {"type": "string", "maxLength": 500}, "Words of the prompt, lyrics or title; or a job id"),
        query("overdue", {"type": "string", "enum": ["true", "false"], "default": "false"}, "Only overdue ones"),
        query("team", {"type": "string"}, "Your own team; with the scope `ops` any other, or `*` for all"),
        query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}, "Of an export: any, or none"),
        query("cursor", {"type": "string"}, "`nextCursor` of the page before"),
        query("format", FORMAT, "All that match as a file, as with `Accept: text/csv` or `application/jsonl`"),
        query(
            "scope",
            {"type": "string", "enum": ["user", "team"], "default": "user"},
            "`team` goes without saying if one is named",
        ),
        query("search", {"type": "string", "format": "uuid"}, "A job id, ours or the upstream's"),
        query("include_models", {"type": "string", "enum": ["true", "false"], "default": "false"}),
    ],
    ("GET", "/v2/jobs/{job_id}"): [
        query("wait", {"type": "number", "minimum": 0, "maximum": 300, "default": 0}),
        header("If-None-Match", "The `ETag` of an answer that you have"),
    ],
}
