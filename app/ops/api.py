"""The routes of whoever runs the service: is it well, and what happened to a job."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from app.http import caller, context, json_response
from app.jobs.reading import view
from app.ops.health import check_readiness
from app.ops.metrics import CONTENT_TYPE, render_metrics
from app.ops.statistics import show_statistics
from app.ops.status import read_status
from app.ops.trace import trace_job


async def healthz(_request: Request) -> Response:
    """Whether this process answers at all. It asks nobody."""
    return json_response({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Whether this process can serve: 503 while the database, its migrations or its partitions are missing.

    Trouble with the upstream is `degraded` in a 200, with the reasons.
    """
    ready, body = await check_readiness(context(request))
    return json_response(body, status=200 if ready else 503)


async def get_trace(request: Request) -> Response:
    """Read everything that happened to a job, in order, and who said so.

    The steps are the submission, every attempt to send it, every webhook, every poll that changed something, every
    transition and everybody's actions, each with the seconds since the submission. The id may be ours or the
    upstream's. Your team's jobs; with the scope `ops` those of all teams.
    """
    who = await caller(request, "read", "ops")
    ctx = context(request)
    async with ctx.db.reading() as connection:
        trace = await trace_job(
            connection, request.path_params["job_id"], only_team=who.only_team, seen=await view(ctx)
        )
    return json_response(trace)


async def get_status(request: Request) -> Response:
    """Read how things stand: the upstream account and its keys, paused teams, jobs, deliveries and files that wait.

    Besides, whether webhooks come (`endedByPoll`: jobs of the last hour that had to be asked after), which processes are
    at work, when each of their loops had its last turn, and how far our own readers of the event log are.

    A key that is `held` sends nothing before `heldUntil`; one that is `probing` sends a single job to see whether it
    works again. Jobs are counted up to 10,000; `moreWaiting` and `moreOverdue` say that there are more.
    """
    await caller(request, "ops")
    return json_response(await read_status(context(request)))


async def get_stats(request: Request) -> Response:
    """Read how your team's jobs went in a `window` up to now: `1h`, `24h`, `7d` or `30d`.

    `series` has the jobs that were submitted and that ended in each slot of the window; the last slot is not over. Models,
    teams and operations are those with the most jobs. Times are those from the submission until Apiframe took a job
    (`queue`), from there to its end (`generation`), and from there until its webhook came (`webhook`); they are within
    12 per cent. `pollShare` is the share of ends that no webhook told of in time. With the scope `ops`, `team` names
    another team, or all by `*`, tests left out. It takes a few seconds until a job is counted.
    """
    who = await caller(request, "read", "ops")
    return json_response(await show_statistics(context(request), who, request.query_params))


async def get_metrics(request: Request) -> Response:
    """Read what Prometheus scrapes: the numbers of `/v1/status`, and what all processes have counted and timed.

    It is read from the database, so any one process tells for all, and totals never go back. No key is needed: keep it
    from the outside.
    """
    return Response(await render_metrics(context(request)), headers={"Content-Type": CONTENT_TYPE})
