"""Every table on one page. Keys are UUIDv7, times are timestamptz, enumerations are text with a CHECK."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final, Literal
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
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
    paused_until: Mapped[datetime | None]  # nothing is sent before
    pause_reason: Mapped[str | None]
    trouble: Mapped[str | None]  # what an operator should know, e.g. "webhook signatures do not verify"
    trouble_at: Mapped[datetime | None]
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


class Secret(Base):
    """A secret that all processes must agree on and nobody set: made once, by whoever comes first."""

    __tablename__ = "secrets"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]
    created_at: Mapped[datetime]
