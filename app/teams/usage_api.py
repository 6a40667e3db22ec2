"""The route of usage."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from app.http import caller, context, json_response
from app.teams.usage import Asked, as_csv, read_usage

CSV: Final = "text/csv"


async def get_usage(request: Request) -> Response:
    """Read what jobs cost, in Apiframe's credits: sums of the ledger, by `group_by`, and this month's budget.

    `group_by` takes some of `team`, `model`, `operation` and `day` (UTC), with commas between them. `from` and `to` are
    dates or times; the default is this month so far. With the scope `ops`, `team` names another team, or all by `*`. With
    `format=csv` or `Accept: text/csv` the groups come as CSV. A job counts when it is settled: at its end.
    """
    who = await caller(request, "read", "ops")
    ctx = context(request)
    asked = Asked.parse(request.query_params, ctx.now())
    usage = await read_usage(ctx, who, asked)
    if request.query_params.get("format") == "csv" or request.headers.get("accept", "").startswith(CSV):
        name = f'attachment; filename="usage-{asked.begins_at:%Y%m%d}-{asked.ends_at:%Y%m%d}.csv"'
        return Response(as_csv(usage, asked.groups), media_type=CSV, headers={"Content-Disposition": name})
    return json_response(usage)
