"""One virtual job: what was asked, where it stands, and how the vendor's API, its list and the books show it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from app.simulator.bodies import EVENTS

Status = Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED"]
FINAL = ("COMPLETED", "FAILED", "CANCELLED")


@dataclass(slots=True, kw_only=True)
class Job:
    """A job from its acceptance on. `serial` is its submission's number; `faults` are those that strike all of it."""

    id: str
    serial: int
    account: str
    api_key: str
    operation: str
    model: str
    body: dict[str, Any]
    raw: bytes
    idempotency_key: str | None
    webhook_url: str | None
    base_url: str
    cost: int
    faults: frozenset[str]
    created_at: datetime
    status: Status = "QUEUED"
    progress: int | None = None
    result: Any = None
    error: str | None = None
    credit_cost: int | None = None
    webhook_status: str | None = None
    completed_at: datetime | None = None
    replay_count: int = 0
    # What is left of its way: seconds to wait, then the progress to reach (0 starts it, 100 ends it).
    steps: list[tuple[float, int]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None

    @property
    def webhook_events(self) -> tuple[str, ...]:
        """The events its submission asked for, all where it did not say."""
        return tuple(self.body.get("webhookEvents", EVENTS))

    @property
    def params(self) -> dict[str, Any]:
        """The model's params block."""
        return next((value for name, value in self.body.items() if name.endswith("Params")), {})

    @property
    def prompt(self) -> str:
        """What was asked for in words."""
        return str(self.body.get("prompt") or self.params.get("prompt") or self.model)

    @property
    def action(self) -> str | None:
        """Which follow-up this is, None for an ordinary job."""
        return self.body.get("action")

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL

    @property
    def order(self) -> tuple[str, str]:
        """Its place in the list: by the time as shown, then by id."""
        return stamp(self.created_at), self.id

    def expired(self, now: datetime, ttl_seconds: float) -> bool:
        """Whether its files have been purged."""
        ended = self.completed_at
        return self.status == "COMPLETED" and ended is not None and now >= ended + timedelta(seconds=ttl_seconds)


def stamp(when: datetime) -> str:
    """Write a time as the vendor does: ISO 8601 with milliseconds and `Z`."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def shown(job: Job, *, expired: bool, with_input: bool = True) -> dict[str, Any]:
    """Show a job as `GET /v2/jobs/{id}` does, or without its input as the list does."""
    item = {
        "id": job.id,
        "status": job.status,
        "model": job.model,
        "progress": job.progress,
        "result": job.result,
        "error": job.error,
        "creditCost": job.credit_cost,
        "webhookStatus": job.webhook_status,
        "createdAt": stamp(job.created_at),
        "completedAt": stamp(job.completed_at) if job.completed_at else None,
        "expired": expired,
    }
    if with_input:
        item["input"] = {name: value for name, value in job.body.items() if not name.startswith("webhook")}
    return item


def booked(job: Job) -> dict[str, Any]:
    """Show a job as the books do: how it was accepted, and what became of it."""
    return {
        "job_id": job.id,
        "submission": job.serial,
        "operation": job.operation,
        "model": job.model,
        "account": job.account,
        "api_key": job.api_key,
        "idempotency_key": job.idempotency_key,
        "body": job.raw.decode("utf-8", "replace"),
        "webhook_url": job.webhook_url,
        "faults": sorted(job.faults),
        "accepted_at": stamp(job.created_at),
        "finished_at": stamp(job.completed_at) if job.completed_at else None,
        "status": job.status,
        "progress": job.progress,
        "credit_cost": job.credit_cost,
        "webhook_status": job.webhook_status,
        "replays": job.replay_count,
    }
