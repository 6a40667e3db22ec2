"""Every table on one page. Keys are UUIDv7, times are timestamptz, enumerations are text with a CHECK."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, ClassVar, Final, Literal
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Status = Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED"]
"""The upstream's five; there is no sixth."""

STATUSES: Final[tuple[Status, ...]] = ("QUEUED", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED")
FINAL: Final[frozenset[Status]] = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
SCOPES: Final = ("submit", "read", "subscribe", "ops", "admin")

IN_FLIGHT: Final = "ambiguous_since IS NOT NULL AND status IN ('QUEUED', 'PROCESSING')"
"""What holds a slot: sent, perhaps accepted, not known to be over. Slots are counted from rows and so cannot leak."""


DURATION_IS_KNOWN: Final = "status = 'COMPLETED' AND accepted_at IS NOT NULL"
"""Which jobs say how long their model takes."""

EVENT_TYPES: Final = (
    *("job.queued", "job.dispatched", "job.processing", "job.progress", "job.completed", "job.failed", "job.cancelled"),
    *("job.archived", "subscription.disabled", "budget.threshold"),
)

STEP_KINDS: Final = ("dispatch", "transition", "poll", "action")


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


class Base(DeclarativeBase):
    """Names constraints alike everywhere, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        str: Text(),
        bytes: LargeBinary(),
        dict[str, Any]: JSONB(),
        list[str]: ARRAY(Text()),
    }


class Team(Base):
    """Who shares jobs with whom."""

    __tablename__ = "teams"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    paused_at: Mapped[datetime | None]  # an operator stopped dispatch for this team; acceptance goes on


class ApiKey(Base):
    """A caller's key. Only its SHA-256 is kept, which is also the secret that its callbacks are signed with."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"), index=True)
    name: Mapped[str]
    key_hash: Mapped[bytes] = mapped_column(unique=True)
    prefix: Mapped[str]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class UpstreamAccount(Base):
    """What we know of the account at one upstream address. Its row's lock is what makes the counting of slots exact."""

    __tablename__ = "upstream_accounts"
    __table_args__ = (CheckConstraint(_one_of("webhook_field", ("webhook_url", "webhookUrl")), name="webhook_field"),)

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
        CheckConstraint(_one_of("status", STATUSES), name="status"),
        CheckConstraint(_one_of("concluded_by", ("upstream", "framehook")), name="concluded_by"),
        CheckConstraint("(status IN ('QUEUED', 'PROCESSING')) = (completed_at IS NULL)", name="completed_at"),
        CheckConstraint("completed_at IS NULL OR dispatch_at IS NULL", name="over_is_not_sent"),
        Index("ix_jobs_team_history", "team_id", "created_at", "id"),
        Index("ix_jobs_key_history", "key_id", "created_at", "id"),
        Index("ix_jobs_team_models", "team_id", "model", "created_at", "id"),
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

    # What the upstream says of it.
    status: Mapped[str]
    progress: Mapped[int | None] = mapped_column(SmallInteger)
    result: Mapped[dict[str, Any] | None]
    error: Mapped[str | None]
    error_code: Mapped[str | None]
    credit_cost: Mapped[int | None]
    completed_at: Mapped[datetime | None]
    concluded_by: Mapped[str | None]  # whose word the final status is; our own yields once to a later upstream final
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


class Receipt(Base):
    """One webhook as kept. The same bytes are applied to a job once; unapplied ones shadow nothing."""

    __tablename__ = "receipts"
    __table_args__ = (
        CheckConstraint(_one_of("signature", ("valid", "wrong", "absent")), name="signature"),
        Index("uq_receipts_applied", "job_id", "digest", unique=True, postgresql_where=text("applied")),
        Index("ix_receipts_job", "job_id", "received_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID]
    received_at: Mapped[datetime]
    digest: Mapped[bytes]
    signature: Mapped[str]
    event: Mapped[str | None]
    applied: Mapped[bool]
    outcome: Mapped[str]  # what the door or the check said, e.g. "applied", "other job", "hint"


class ReceiptBody(Base):
    """The raw bytes of a receipt, partitioned by day so that retention drops whole tables."""

    __tablename__ = "receipt_bodies"
    __table_args__ = (
        PrimaryKeyConstraint("receipt_id", "received_at"),
        {"postgresql_partition_by": "RANGE (received_at)"},
    )

    receipt_id: Mapped[UUID]
    received_at: Mapped[datetime]
    headers: Mapped[dict[str, Any]]
    body: Mapped[bytes]


class Step(Base):
    """One thing that happened to a job, for its trace: an attempt to send it, a transition, somebody's action."""

    __tablename__ = "steps"
    __table_args__ = (
        PrimaryKeyConstraint("job_id", "at", "id"),
        CheckConstraint(_one_of("kind", STEP_KINDS), name="kind"),
        {"postgresql_partition_by": "RANGE (at)"},
    )

    id: Mapped[UUID]
    job_id: Mapped[UUID]
    at: Mapped[datetime]
    kind: Mapped[str]
    source: Mapped[str]  # who said or did it: submit, webhook, poll, framehook, or the name of a key
    data: Mapped[dict[str, Any]]


class Event(Base):
    """A numbered, immutable fact that subscribers may read. The numbers are in the order of commits (see `events`)."""

    __tablename__ = "events"
    __table_args__ = (
        PrimaryKeyConstraint("id", "at"),
        CheckConstraint(_one_of("type", EVENT_TYPES), name="type"),
        Index("ix_events_sequence", "sequence"),
        Index("ix_events_team", "team_id", "sequence"),
        Index("ix_events_job", "job_id", "sequence"),
        {"postgresql_partition_by": "RANGE (at)"},
    )

    id: Mapped[UUID]
    at: Mapped[datetime]
    sequence: Mapped[int] = mapped_column(BigInteger)
    type: Mapped[str]
    team_id: Mapped[UUID]
    job_id: Mapped[UUID | None]
    data: Mapped[dict[str, Any]]


EVENT_NUMBERS: Final = Sequence("event_numbers", metadata=Base.metadata)
"""Numbers that a rollback leaves unused are gaps in the counting, never in what a reader is shown."""


class ForgottenEventDay(Base):
    """A day of events past retention, and the last number in it: cursors before that number are refused from then on."""

    __tablename__ = "forgotten_event_days"

    day: Mapped[date] = mapped_column(primary_key=True)
    last_sequence: Mapped[int] = mapped_column(BigInteger)
    forgotten_at: Mapped[datetime]


class Secret(Base):
    """A secret that all processes must agree on and nobody set: made once, by whoever comes first."""

    __tablename__ = "secrets"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]
    created_at: Mapped[datetime]
