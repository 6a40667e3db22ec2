"""The route of usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.exports import Format, export_page, wanted_format
from app.http import caller, context, json_response
from app.teams.usage import Asked, read_usage


async def get_usage(request: Request) -> Response:
    """Read what jobs cost, in Apiframe's credits: sums of the ledger, by `group_by`, and this month's budget.

    `group_by` takes some of `team`, `model`, `operation` and `day` (UTC), with commas between them. `from` and `to` are
    dates or times; the default is this month so far. With the scope `ops`, `team` names another team, or all by `*`. With
    `format=csv`, `format=jsonl` or such an `Accept` the groups come as a file. A job counts when it is settled: at its end.
    """
    who = await caller(request, "read", "ops")
    ctx = context(request)
    asked = Asked.parse(request.query_params, ctx.now())
    wanted = wanted_format(request)
    usage = await read_usage(ctx, who, asked)
    return json_response(usage) if wanted is None else as_file(wanted, asked, usage)


def as_file(wanted: Format, asked: Asked, usage: Mapping[str, Any]) -> Response:
    """The groups of an answer, as a file."""
    name = f"usage-{asked.begins_at:%Y%m%d}-{asked.ends_at:%Y%m%d}"
    return export_page(wanted, name, (*asked.groups, "jobs", "credits"), usage["groups"])
