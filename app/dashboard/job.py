"""The page of one job: what is going on with it, what it made, everything that happened, and what can be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from starlette.responses import RedirectResponse, Response

from app.dashboard import commands, words
from app.dashboard.timeline import lay_out
from app.dashboard.visits import Visit
from app.deliveries.replay import redeliver
from app.jobs import actions
from app.jobs.outputs import PURGED_AFTER, urls_of
from app.ops.closely import Closeup, look_closely
from app.paging import find_id, parse_id

LONGEST_SUMMARY: Final = 300

LONGEST_JSON: Final = 100_000
"""Characters of an input or a result that a page shows; all of it is in an export."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What may be done to a job as it is: the actions themselves decide again."""

    retry: bool
    cancel: bool
    refresh: bool


async def show_job(visit: Visit) -> Response:
    """One job, by its id or by the upstream's."""
    given = visit.request.path_params["job_id"]
    seen = await look_closely(visit.ctx, visit.caller, given)
    job_id = str(seen.job["id"])
    if given != job_id:
        return RedirectResponse(f"/ops/jobs/{job_id}", status_code=303, headers={"Cache-Control": "no-store"})
    body = _body(seen)
    return visit.render(
        "job.html",
        seen=seen,
        job=seen.job,
        details=seen.details,
        told=[_written(part) for part in seen.situation.parts],
        tone=seen.situation.tone,
        can=_abilities(seen),
        may_change=_may_change(seen),
        media=[_medium(row) for row in seen.files],
        unkept=_unkept(seen),
        purged_after=PURGED_AFTER,
        moments=lay_out(seen),
        result=_readable(seen.job["result"]) if seen.job["result"] is not None else None,
        input=_readable(seen.job["input"]),
        callback=msgspec.json.decode(seen.details.callback) if seen.details.callback else None,
        summary=summary(body),
        command=_command(visit, seen, body),
        queue=_between(seen.details.created_at, seen.details.accepted_at),
        generation=_between(seen.details.accepted_at, seen.details.completed_at),
    )


async def retry(visit: Visit) -> Response:
    """Submit a job that is over once more; the same button of the same page makes one job, however often it is pressed."""
    job_id = _job_id(visit)
    new, _ = await actions.retry(
        visit.ctx,
        visit.caller,
        job_id,
        idempotency_key=f"dashboard {job_id} {visit.value('after')[:36]}",
        respond_async=True,
    )
    return visit.done(f"/ops/jobs/{new}", "Submitted again: this is the new job.")


async def cancel(visit: Visit) -> Response:
    """End a job that was never sent."""
    job_id = _job_id(visit)
    await actions.cancel(visit.ctx, visit.caller, job_id)
    return visit.done(f"/ops/jobs/{job_id}", "Cancelled.")


async def refresh(visit: Visit) -> Response:
    """Ask the upstream after a job now."""
    job_id = _job_id(visit)
    job = await actions.refresh(visit.ctx, visit.caller, job_id)
    share = f", {job['progress']} % done" if job["status"] == "PROCESSING" and job["progress"] is not None else ""
    return visit.done(f"/ops/jobs/{job_id}", f"The upstream was asked: {job['status']}{share}.")


async def deliver_again(visit: Visit) -> Response:
    """Make a delivery again, and go back to the page of its job, or to its own."""
    delivery_id = parse_id(visit.request.path_params["delivery_id"], "Delivery")
    made = await redeliver(visit.ctx, visit.caller, delivery_id)
    on_job = made["jobId"] is not None and find_id(visit.value("job")) == made["jobId"]
    return visit.done(f"/ops/jobs/{made['jobId']}" if on_job else f"/ops/deliveries/{delivery_id}", "Delivered again.")


def summary(input_: Mapping[str, Any]) -> str:
    """What a job is about, in its caller's words: its prompt, or else whatever text its input begins with."""
    texts = [value for value in input_.values() if isinstance(value, str) and value.strip()]
    prompt = input_.get("prompt")
    first = prompt if isinstance(prompt, str) and prompt.strip() else next(iter(texts), "")
    words = " ".join(first.split())
    return words if len(words) <= LONGEST_SUMMARY else f"{words[: LONGEST_SUMMARY - 1]}…"


def _job_id(visit: Visit) -> UUID:
    return parse_id(visit.request.path_params["job_id"], "Job")


def _written(part: str | datetime | timedelta) -> tuple[str, Any]:
    """A part of a sentence, and how the page has to write it."""
    if isinstance(part, datetime):
        return "time", part
    return ("duration", part.total_seconds()) if isinstance(part, timedelta) else ("words", part)


def _abilities(seen: Closeup) -> Abilities:
    row = seen.details
    open_ = row.completed_at is None
    return Abilities(
        retry=row.status in actions.WORTH_TRYING_AGAIN,
        cancel=open_ and row.ambiguous_since is None and row.upstream_id is None,
        refresh=open_ and row.upstream_id is not None,
    )


def _may_change(seen: Closeup) -> bool:
    """Whether the page changes without an event that tells of it: attempts to send, to keep a file, or to tell somebody."""
    pending = [row.status for row in (*seen.files, *seen.deliveries)]
    return seen.details.completed_at is None or "pending" in pending


def _medium(row: Any) -> dict[str, Any]:
    kind = (row.content_type or "").partition("/")[0]
    return {"row": row, "kind": kind if row.status == "stored" else "none", "url": f"/ops/files/{row.id}"}


def _unkept(seen: Closeup) -> list[str]:
    """The upstream's URLs in the result of a job of which nothing is kept."""
    result = seen.job["result"]
    return urls_of(seen.job["id"], bytes(result)) if result is not None and not seen.files else []


def _body(seen: Closeup) -> dict[str, Any]:
    """What the job's caller sent, as far as it decides what is made and who is told."""
    body: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(seen.job["input"]))
    metadata = msgspec.json.decode(msgspec.json.encode(seen.job["metadata"]))
    callback = msgspec.json.decode(seen.details.callback) if seen.details.callback else None
    more = {"metadata": metadata, "priority": seen.details.priority}
    if callback is not None:
        more |= {"webhook_url": callback["url"], "webhookEvents": callback["events"]}
    return body | {name: value for name, value in more.items() if value}


def _readable(value: Any) -> tuple[str, bool]:
    """JSON to read, and whether it was too much for a page: pictures may be in it as text."""
    text = words.pretty(value)
    return text[:LONGEST_JSON], len(text) > LONGEST_JSON


def _command(visit: Visit, seen: Closeup, body: Mapping[str, Any]) -> str | None:
    """How to submit the job again; None where that is too much for a page."""
    command = commands.submission(visit.ctx.settings.base_url, seen.job["operation"], body)
    return command if len(command) <= LONGEST_JSON else None


def _between(start: datetime | None, end: datetime | None) -> float | None:
    return max((end - start).total_seconds(), 0.0) if start is not None and end is not None else None
