"""The routes of jobs, at Apiframe's own paths."""

from __future__ import annotations

from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from app.apiframe import operations
from app.auth import Caller
from app.context import SANDBOX, Context
from app.errors import Invalid
from app.exports import Format, export, read_most, wanted_format
from app.http import caller, context, json_response, read_body, tagged_response
from app.jobs import actions, exporting, reading, waiting
from app.jobs.bodies import LARGEST_BODY, check_idempotency_key
from app.jobs.filters import JobFilter
from app.jobs.submit import submit
from app.jobs.waiting import Wish
from app.models.jobs import Status
from app.paging import parse_id


async def generate_image(request: Request) -> Response:
    """Generate an image. Answers 202 with our job's id as soon as the job cannot be lost any more.

    The body is Apiframe's own, picked by `model`; what is added here and never forwarded: `metadata` (a flat object),
    `priority` (higher goes first within your team), `webhook_url` or `webhookUrl` with `webhookEvents` (your callback).
    What Apiframe's own document refuses is refused here, before it is sent, with the path of the field in `details`.
    An `Idempotency-Key` makes repeating safe: the same key with the same body answers with the same job. With
    `Prefer: respond-async` the answer does not wait for the upstream. A refusal by the upstream that you can act on
    (400, 402, 403, 409) is passed on in its own words, and the key is free again.

    With `Prefer: wait=SECONDS` (at most 300) the answer waits for the end of the job, and is the job object (200). With
    `Accept: image/*`, `video/*` or `audio/*` besides, it is a redirect (303) to the first such file that the job made, by a
    link that needs no key. A job that failed is a 502, one that was cancelled a 409; when the time is over, it is the 202.
    """
    return await _submit(request, operations.IMAGES_GENERATE)


async def upscale_image(request: Request) -> Response:
    """Enlarge an image. In all else as `POST /v2/images/generate`."""
    return await _submit(request, operations.IMAGES_UPSCALE)


async def edit_image(request: Request) -> Response:
    """Change an image. In all else as `POST /v2/images/generate`."""
    return await _submit(request, operations.IMAGES_EDIT)


async def remove_background(request: Request) -> Response:
    """Take the background out of an image. In all else as `POST /v2/images/generate`."""
    return await _submit(request, operations.IMAGES_BACKGROUND_REMOVE)


async def act_on_midjourney(request: Request) -> Response:
    """Go on from a Midjourney job of your team. In all else as `POST /v2/images/generate`.

    The body is picked by `action`. `parentJobId` is the id of the earlier job as it is here; Apiframe gets its own. 404:
    your team has no such job. 409: it did not complete, is of another model, or the action does not fit it.
    """
    return await _submit(request, operations.MIDJOURNEY_ACTION)


async def generate_video(request: Request) -> Response:
    """Generate a video. In all else as `POST /v2/images/generate`."""
    return await _submit(request, operations.VIDEOS_GENERATE)


async def upscale_video(request: Request) -> Response:
    """Enlarge a video. In all else as `POST /v2/images/generate`."""
    return await _submit(request, operations.VIDEOS_UPSCALE)


async def edit_video(request: Request) -> Response:
    """Change a video. In all else as `POST /v2/images/generate`."""
    return await _submit(request, operations.VIDEOS_EDIT)


async def generate_music(request: Request) -> Response:
    """Generate music. In all else as `POST /v2/images/generate`."""
    return await _submit(request, operations.MUSIC_GENERATE)


async def act_on_suno(request: Request) -> Response:
    """Go on from a Suno job of your team. In all else as `POST /v2/images/midjourney/action`."""
    return await _submit(request, operations.SUNO_ACTION)


async def get_job(request: Request) -> Response:
    """Read one of your team's jobs, or with the scope `ops` any team's.

    With `?wait=SECONDS` (at most 300) the answer comes when the job is over, or then. With the `ETag` of an earlier answer
    in `If-None-Match`, 304 says that nothing has changed since.
    """

    async def identify() -> Caller:
        return await caller(request, "read", "ops")

    who = await identify()
    # There is seldom a query, and the framework takes an empty one apart as well.
    wait_seconds = _wait_seconds(request.query_params.get("wait", "0")) if request.scope["query_string"] else 0
    job_id = request.path_params["job_id"]
    job = await reading.get_job(context(request), who, job_id, identify=identify, wait_seconds=wait_seconds)
    return tagged_response(request, job)


async def list_jobs(request: Request) -> Response:
    """List jobs, newest first: those of this key, or with `scope=team` of the whole team.

    `status` (one, or several with commas between them), `model`, `operation`, `errorCode`, `createdAfter` (from then on),
    `createdBefore`, `metadata.KEY=VALUE` and `overdue=true` (those under way that take longer than 99 in 100 of their model)
    filter. `q` finds words of the prompt, lyrics or title, a moment after the submission: all of them, "in this order", one
    OR the other, or -without it. `search`, or a `q` that is an id, finds a job by its id, ours or the upstream's. With the
    scope `ops`, `team` names another team, or all of them by `*`.

    `limit` is 1 to 100; `cursor` takes the `nextCursor` of the page before. Pages are stable whatever is submitted
    meanwhile. A page may be short, or empty, and have `hasMore: true`: no more than so many jobs are looked at for it, and
    the next page looks further. `include_models=true` adds the models that have been used.

    With `format=csv`, `format=jsonl` or such an `Accept`, all that match come as a file, or `limit` of them.
    """
    who = await caller(request, "read", "ops")
    if (wanted := wanted_format(request)) is not None:
        return await _export(request, wanted)
    asked = JobFilter.parse(request.query_params)
    return json_response(await reading.list_jobs(context(request), who, asked))


async def _export(request: Request, wanted: Format) -> Response:
    query = dict(request.query_params)
    most = read_most(query)
    query.pop("limit", None)

    async def identify() -> Caller:
        return await caller(request, "read", "ops")

    pages = exporting.list_pages(context(request), identify, JobFilter.parse(query), most=most)
    return await export(wanted, "jobs", exporting.COLUMNS, pages)


async def cancel_job(request: Request) -> Response:
    """Cancel a job that was not sent yet. Answers with the job, CANCELLED. 409: it was sent already, or is over."""
    who = await caller(request, "submit", "ops")
    return json_response(await actions.cancel(context(request), who, parse_id(request.path_params["job_id"], "Job")))


async def retry_job(request: Request) -> Response:
    """Try a job again that failed or was cancelled. Answers 202 with a new job's id; its `retryOf` names this one.

    The new job is of the same team and key, with the same fields, `metadata`, `priority` and callback. `Idempotency-Key`
    and `Prefer` are heeded as on a submission. 409: the job is not over, or it completed.
    """
    who = await caller(request, "submit", "ops")
    idempotency_key, wish = request.headers.get("idempotency-key"), Wish.parse(request.headers)
    check_idempotency_key(idempotency_key)
    job_id, status = await actions.retry(
        context(request),
        who,
        parse_id(request.path_params["job_id"], "Job"),
        idempotency_key=idempotency_key,
        respond_async=wish.respond_async,
    )
    return await _tell(request, job_id, status, wish)


async def refresh_job(request: Request) -> Response:
    """Ask Apiframe after a job now, and answer with the job as it is then.

    A job that is over, or was not sent yet, is answered as it is. 503: Apiframe could not be asked.
    """
    who = await caller(request, "read", "ops")
    return json_response(await actions.refresh(context(request), who, parse_id(request.path_params["job_id"], "Job")))


async def _submit(request: Request, operation: str) -> Response:
    with context(request).measures.submission():
        who, wish = await caller(request, "submit"), Wish.parse(request.headers)
        raw = await read_body(request, largest=LARGEST_BODY)
        job_id, status = await submit(
            _upstream_of(request, who),
            who,
            operation,
            raw,
            idempotency_key=request.headers.get("idempotency-key"),
            respond_async=wish.respond_async,
        )
    return await _tell(request, job_id, status, wish)


def _upstream_of(request: Request, who: Caller) -> Context:
    """The context with the upstream that a caller's jobs are sent to."""
    ctx = context(request)
    return ctx.at(SANDBOX if who.test else ctx.account)


async def _tell(request: Request, job_id: UUID, status: Status, wish: Wish) -> Response:
    """Answer a submission that was accepted, once the caller has waited for as long as it wanted to."""
    if wish.wait_seconds is None:
        return json_response({"jobId": job_id, "status": status}, status=202)

    async def identify() -> Caller:
        return await caller(request, "submit", "read", "ops")

    ctx = context(request)
    job = await reading.get_job(
        ctx, await identify(), str(job_id), identify=identify, wait_seconds=wish.wait_seconds, enough=wish.is_granted
    )
    return await waiting.answer(ctx, job, wish)


def _wait_seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= reading.LONGEST_WAIT_SECONDS:
        raise Invalid(details={"wait": [f"Expected seconds from 0 to {reading.LONGEST_WAIT_SECONDS}"]})
    return seconds
