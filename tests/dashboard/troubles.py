"""A service in which something of everything went right and wrong: what the pages of operators have to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.webhooks.queries import Receipt, insert_receipts
from tests.deliveries.rows import deliveries
from tests.harness import FLUX, Caller, Service, eventually
from tests.receivers import Receiver
from tests.teams.admins import limit_team, team_id_of

SCOPES = ("submit", "read", "subscribe")


@dataclass(frozen=True)
class Troubles:
    """What there is: two subscriptions of the team `design`, of which one fails, its jobs, one with a callback."""

    design: Caller
    team_id: str
    works: str
    fails: str
    jobs: list[str]
    undelivered: str

    @property
    def pages(self) -> list[str]:
        """Every page of a list, and those of one thing each that need no look into the database."""
        lists = ("deliveries", "subscriptions", "receipts", "upstream", "teams", "sessions", "usage", "audit")
        return [
            *(f"/ops/{name}" for name in lists),
            f"/ops/subscriptions/{self.fails}",
            f"/ops/deliveries/{self.undelivered}",
            f"/ops/teams/{self.team_id}",
            f"/ops/keys/{self.design.key_id}",
        ]


async def make_troubles(service: Service, receiver: Receiver, deaf: Receiver, *, jobs: int = 2) -> Troubles:
    """Make them, and return when the jobs are over and everybody was told, or was not."""
    deaf.status = 503
    design = await service.new_caller("design", SCOPES)
    works = await subscribe(design, receiver, description="Order service", types=["job.*"], metadata={"shop": "de"})
    fails = await subscribe(design, deaf, types=["job.completed", "job.failed"], headers={"X-Token": "hush"})
    await limit_team(service, "design", monthlyCredits=60, requestsPerMinute=6000)
    body = FLUX | {"metadata": {"shop": "de"}}
    made = [await design.accepted(body) for _ in range(jobs - 1)]
    made.append(await design.accepted(body | {"webhook_url": receiver.url + "/callback"}))
    for job_id in made:
        await completed(design, job_id)
    failed = await eventually(
        lambda: deliveries(service),
        # Progress is not told to a callback any more once its job is over.
        lambda rows: all(row.attempt_count > 0 or row.status == "dropped" for row in rows) and len(rows) > 3 * jobs,
    )
    mine = [row.id for row in failed if str(row.subscription_id) == fails]
    await give_up(service, mine[0])
    await keep_odd_webhooks(service, made[0])
    return Troubles(design, await team_id_of(service, "design"), works, fails, made, str(mine[0]))


async def completed(caller: Caller, job_id: str) -> None:
    """Return when a job is completed."""
    await eventually(lambda: caller.read(job_id, wait=15), lambda job: job["status"] == "COMPLETED")


async def subscribe(caller: Caller, receiver: Receiver, **fields: Any) -> str:
    """Subscribe a receiver and return the subscription's id."""
    answer = await caller.http.post("/v1/subscriptions", json={"url": receiver.url, **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def give_up(service: Service, delivery_id: UUID) -> None:
    """Have a delivery end as undelivered."""
    await service.rows(
        "UPDATE deliveries SET status = 'undelivered', due_at = NULL, lease_token = NULL, ended_at = now(),"
        " reason = 'HTTP 503 at the last attempt' WHERE id = :id RETURNING 1",
        id=delivery_id,
    )


async def keep_odd_webhooks(service: Service, job_id: str) -> None:
    """Keep two webhooks about a job as they are kept while it runs: one whose signature is wrong, one without any."""
    odd = [
        Receipt(
            id=uuid7(),
            job_id=UUID(job_id),
            received_at=service.ctx.now(),
            digest=signature.encode(),
            signature=signature,
            event="completed",
            applied=False,
            outcome="hint",
            headers={"content-type": "text/plain"},
            body=body,
        )
        for signature, body in (("wrong", b'{"event": "completed"}'), ("absent", b"no JSON at all <script>"))
    ]
    async with service.ctx.db.transaction() as tx:
        await insert_receipts(tx, odd)


async def actions_of(service: Service, begin: str = "") -> list[tuple[str, str, str]]:
    """What the audit log tells of actions that begin so, oldest first: action, subject, actor."""
    rows = await service.rows(
        "SELECT action, subject, actor FROM audit_log WHERE starts_with(action, :begin) ORDER BY id", begin=begin
    )
    return [(row.action, row.subject, row.actor) for row in rows]
