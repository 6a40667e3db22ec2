"""Jobs and what is known of the upstream that runs them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.models.schema import Base, one_of

Status = Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED"]
"""The upstream's five; there is no sixth."""

STATUSES: Final[tuple[Status, ...]] = ("QUEUED", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED")
FINAL: Final[frozenset[Status]] = frozenset({"COMPLETED", "FAILED", "CANCELLED"})

IN_FLIGHT: Final = "ambiguous_since IS NOT NULL AND status IN ('QUEUED', 'PROCESSING')"
"""What holds a slot: sent, perhaps accepted, not known to be over. Slots are counted from rows and so cannot leak."""

DURATION_IS_KNOWN: Final = "status = 'COMPLETED' AND accepted_at IS NOT NULL"
"""Which jobs say how long their model takes."""

UNSUCCESSFUL: Final = "status IN ('FAILED', 'CANCELLED')"
HAS_ERROR_CODE: Final = "error_code IS NOT NULL"
"""Few jobs are so, and their indexes are small: what is looked for is seldom what went well."""

SOURCES: Final = ("submit", "webhook", "poll", "framehook")
"""By whose mouth a job's end became known."""

STEP_KINDS: Final = ("dispatch", "transition", "poll", "action", "archive")


class UpstreamAccount(Base):
    """What we know of the account at one upstream address. Its row's lock is what makes the counting of slots exact."""

    __tablename__ = "upstream_accounts"
    __table_args__ = (CheckConstraint(one_of("webhook_field", ("webhook_url", "webhookUrl")), name="webhook_field"),)

    id: Mapped[str] = mapped_column(primary_key=True)  # the address: host and port
    cap: Mapped[int | None]  # maxConcurrentJobs, as GET /v2/me last said
    webhook_field: Mapped[str | None]  # the spelling that works; NULL while unknown
    webhook_events: Mapped[bool] = mapped_column(server_default=text("true"))  # whether `webhookEvents` is understood
    cap_lowered_to: Mapped[int | None]  # what a 429 taught us of the cap, believed for a while
    cap_lowered_until: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]  # an operator stopped dispatch; acceptance goes on
    request_tokens: Mapped[float | None]  # what is left of FRAMEHOOK_REQUESTS_PER_MINUTE, as of the next column
    request_tokens_at: Mapped[datetime | None]
    trouble: Mapped[str | None]  # what an operator should know, e.g. "webhook signatures do not verify"
    trouble_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]


class UpstreamKey(Base):
    """The circuit breaker of one upstream key: what holds it back, and whether one job has to go ahead of the others."""

    __tablename__ = "upstream_keys"
    __table_args__ = (PrimaryKeyConstraint("account", "fingerprint"),)

    account: Mapped[str]
    fingerprint: Mapped[str]
    failure_count: Mapped[int] = mapped_column(server_default=text("0"))  # holds in a row
    held_until: Mapped[datetime | None]  # nothing is sent under this key before
    hold_reason: Mapped[str | None]
    must_probe: Mapped[bool] = mapped_column(server_default=text("false"))  # after the hold one job goes first
    updated_at: Mapped[datetime]


class ModelDuration(Base):
    """How long a model's generations take, from the upstream's acceptance to its end, by those that completed last."""

    __tablename__ = "model_durations"
    __table_args__ = (PrimaryKeyConstraint("operation", "model"),)

    operation: Mapped[str]
    model: Mapped[str]
    p50_seconds: Mapped[float]
    p95_seconds: Mapped[float]
    p99_seconds: Mapped[float]
    sample_count: Mapped[int]
    updated_at: Mapped[datetime]


class Job(Base):
    """One generation, from our acceptance to a final status. `jobs/observe` alone writes `status`."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(one_of("status", STATUSES), name="status"),
        CheckConstraint(one_of("concluded_by", ("upstream", "framehook")), name="concluded_by"),
        CheckConstraint(one_of("ended_by", SOURCES), name="ended_by"),
        CheckConstraint("(status IN ('QUEUED', 'PROCESSING')) = (completed_at IS NULL)", name="completed_at"),
        CheckConstraint("completed_at IS NULL OR dispatch_at IS NULL", name="over_is_not_sent"),
        Index("ix_jobs_team_history", "team_id", "created_at", "id"),
        Index("ix_jobs_key_history", "key_id", "created_at", "id"),
        Index("ix_jobs_team_models", "team_id", "model", "created_at", "id"),
        Index("ix_jobs_open", "team_id", "created_at", "id", postgresql_where=text("completed_at IS NULL")),
        Index(
            "ix_jobs_unsuccessful",
            *("team_id", "status", "created_at", "id"),
            postgresql_where=text(UNSUCCESSFUL),
            postgresql_include=["model"],
        ),
        Index(
            "ix_jobs_errors",
            *("team_id", "error_code", "created_at", "id"),
            postgresql_where=text(HAS_ERROR_CODE),
            postgresql_include=["model"],
        ),
        Index("ix_jobs_retries", "retry_of", postgresql_where=text("retry_of IS NOT NULL")),
        Index("ix_jobs_upstream_id", "upstream_id", postgresql_where=text("upstream_id IS NOT NULL")),
        Index(
            "ix_jobs_waiting",
            "upstream_account",
            "team_id",
            text("priority DESC"),
            "created_at",
            "id",
            postgresql_where=text("dispatch_at IS NOT NULL"),
        ),
        Index("ix_jobs_in_flight", "upstream_account", "team_id", postgresql_where=text(IN_FLIGHT)),
        Index("ix_jobs_poll_at", "poll_at", postgresql_where=text("poll_at IS NOT NULL")),
        Index("ix_jobs_overdue", "team_id", "created_at", "id", postgresql_where=text("overdue_at IS NOT NULL")),
        Index("ix_jobs_completed", "operation", "model", "completed_at", postgresql_where=text(DURATION_IS_KNOWN)),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    # What was asked.
    operation: Mapped[str]
    model: Mapped[str]
    input: Mapped[dict[str, Any]]
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    priority: Mapped[int] = mapped_column(server_default=text("0"))
    callback: Mapped[dict[str, Any] | None]
    idempotency_key: Mapped[str | None]
    retry_of: Mapped[UUID | None]  # the job that this one tries again
    parent_id: Mapped[UUID | None]  # the job that this one goes on from

    # What the upstream says of it.
    status: Mapped[str]
    progress: Mapped[int | None] = mapped_column(SmallInteger)
    result: Mapped[dict[str, Any] | None]
    error: Mapped[str | None]
    error_code: Mapped[str | None]
    credit_cost: Mapped[int | None]
    completed_at: Mapped[datetime | None]
    concluded_by: Mapped[str | None]  # whose word the final status is; our own yields once to a later upstream final
    ended_by: Mapped[str | None]  # by whose mouth its end became known
    upstream_account: Mapped[str]
    upstream_id: Mapped[str | None]  # NULL: not yet accepted upstream, as far as we know
    upstream_key: Mapped[str | None]  # fingerprint of the upstream key that it is sent with
    upstream_request_id: Mapped[str | None]
    accepted_at: Mapped[datetime | None]  # when we learned that the upstream has it

    # Dispatch. `dispatch_at` is when it may be claimed: due time while unleased, the lease's end while leased.
    wire_body: Mapped[bytes]  # the caller's fields; from the first claim on, exactly what is sent
    wire_key: Mapped[str | None]  # the Idempotency-Key it is sent under; NULL until the first claim freezes the wire
    wire_webhook: Mapped[str | None]  # the spelling that the frozen body uses
    ambiguous_since: Mapped[datetime | None]  # NULL: never possibly received by the upstream
    ambiguous_by: Mapped[UUID | None]  # the lease that set it, the only one that may clear it
    dispatch_at: Mapped[datetime | None]
    dispatch_count: Mapped[int] = mapped_column(server_default=text("0"))
    lease_token: Mapped[UUID | None]
    refusable: Mapped[bool] = mapped_column(server_default=text("false"))  # nobody was told 202 yet
    refusal: Mapped[dict[str, Any] | None]  # the upstream's refusal as told to the caller: status and body

    # Reconcile.
    poll_at: Mapped[datetime | None]
    poll_count: Mapped[int] = mapped_column(server_default=text("0"))
    poll_hinted_at: Mapped[datetime | None]  # when a webhook that may not be believed last moved `poll_at`
    missing_count: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))  # 404s in a row to its own key
    missing_since: Mapped[datetime | None]
    overdue_at: Mapped[
        datetime | None
    ]  # from then on it takes longer than 99 in 100 of its model; NULL once it is over
    overdue_told: Mapped[bool] = mapped_column(server_default=text("false"))
    progress_event_at: Mapped[datetime | None]  # when subscribers were last told of its progress, which is throttled


class IdempotencyKey(Base):
    """Which job a caller's Idempotency-Key stands for. No foreign key: the key is inserted first and picks the winner."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (PrimaryKeyConstraint("team_id", "key"),)

    team_id: Mapped[UUID]
    key: Mapped[str]
    job_id: Mapped[UUID]
    request_hash: Mapped[bytes]
    created_at: Mapped[datetime]


class Step(Base):
    """One thing that happened to a job, for its trace: an attempt to send it, a transition, somebody's action."""

    __tablename__ = "steps"
    __table_args__ = (
        PrimaryKeyConstraint("job_id", "at", "id"),
        CheckConstraint(one_of("kind", STEP_KINDS), name="kind"),
        {"postgresql_partition_by": "RANGE (at)"},
    )

    id: Mapped[UUID]
    job_id: Mapped[UUID]
    at: Mapped[datetime]
    kind: Mapped[str]
    source: Mapped[str]  # who said or did it: submit, webhook, poll, framehook, or the name of a key
    data: Mapped[dict[str, Any]]
