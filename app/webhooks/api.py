"""The route that the upstream calls."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from app.apiframe.signature import token_is_ours
from app.errors import Conflict, Invalid, NotFound
from app.http import context, json_response, read_body
from app.paging import find_id
from app.webhooks.receive import LARGEST_BODY, receive


async def receive_webhook(request: Request) -> Response:
    """Take a webhook from Apiframe. A 2xx says that it is committed; repeating it changes nothing.

    404: no such URL of ours. 401: the signature is wrong. 409: the message is about another job. 400: it names no job.
    """
    ctx = context(request)
    job_id = find_id(request.path_params["job_id"])
    if job_id is None:
        raise NotFound()
    if not token_is_ours(request.path_params["token"], await ctx.webhook_secrets(), job_id):
        ctx.measures.webhook_taken("unknown_token")
        raise NotFound()
    body = await read_body(request, largest=LARGEST_BODY)
    received = await receive(ctx, job_id, body, request.headers)
    if received.outcome in ("other job", "never sent"):
        raise Conflict("This webhook is about another job")
    if received.outcome in ("names no job", "unreadable"):
        raise Invalid("This webhook names no job")
    return json_response({"received": True})
