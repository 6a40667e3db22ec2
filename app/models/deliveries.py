"""Who is to be told, what is due to them, and what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.models.schema import Base, one_of

DELIVERY_STATUSES: Final = ("pending", "delivered", "undelivered", "dropped")
REPLAY_STATUSES: Final = ("running", "done", "aborted")


class Subscription(Base):
    """A subscriber's standing request: where to, which events, and how they are signed. Deleted ones keep their history."""

    __tablename__ = "subscriptions"
    __table_args__ = (Index("ix_subscriptions_team", "team_id", "id", postgresql_where=text("deleted_at IS NULL")),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    url: Mapped[str]
    description: Mapped[str] = mapped_column(server_default=text("''"))

    # Which events: types by pattern, and what the job must be.
    types: Mapped[list[str]]
    all_teams: Mapped[bool] = mapped_column(server_default=text("false"))
    operation: Mapped[str | None]
    model: Mapped[str | None]
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata")  # what a job's metadata must hold

    # How they are sent.
    headers: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    secret: Mapped[str]
    previous_secret: Mapped[str | None]  # signs too, for receivers that do not know the new one yet
    previous_secret_until: Mapped[datetime | None]
    rate_per_minute: Mapped[int | None]
    rate_tokens: Mapped[float | None]  # what is left of the rate, as of the next column
    rate_tokens_at: Mapped[datetime | None]

    # Whether they are sent.
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    failure_count: Mapped[int] = mapped_column(server_default=text("0"))  # failed attempts since the last success
    failing_since: Mapped[datetime | None]
    last_success_at: Mapped[datetime | None]


class Delivery(Base):
    """The duty to tell one event to one subscription, or to a job's callback. `due_at` is the lease's end while leased."""

    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint(one_of("status", DELIVERY_STATUSES), name="status"),
        CheckConstraint("(status = 'pending') = (due_at IS NOT NULL)", name="due_while_pending"),
        CheckConstraint("(subscription_id IS NULL) = (callback_url IS NOT NULL)", name="target"),
        Index("ix_deliveries_due", "retrying", "target", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index(
            "uq_deliveries_event",
            "subscription_id",
            "event_id",
            unique=True,
            postgresql_where=text("subscription_id IS NOT NULL"),
        ),
        Index("ix_deliveries_job", "job_id", "id", postgresql_where=text("job_id IS NOT NULL")),
        Index("ix_deliveries_undelivered", "team_id", "id", postgresql_where=text("status = 'undelivered'")),
        Index("ix_deliveries_kept", "subscription_id", "id", postgresql_where=text("status = 'undelivered'")),
        Index("ix_deliveries_subscription", "subscription_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    event_id: Mapped[UUID]
    event_at: Mapped[datetime]  # the partition that the event is in
    event_type: Mapped[str]
    team_id: Mapped[UUID]
    job_id: Mapped[UUID | None]
    subscription_id: Mapped[UUID | None] = mapped_column(ForeignKey("subscriptions.id"))
    callback_url: Mapped[str | None]
    callback_key_id: Mapped[UUID | None]  # whose hash signs the callback, revoked or not
    target: Mapped[str]  # whose turn it is: the subscription, or the callback's host
    created_at: Mapped[datetime]
    status: Mapped[str]
    reason: Mapped[str | None]  # why it ended without success
    ended_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None]
    retrying: Mapped[bool] = mapped_column(server_default=text("false"))  # first attempts have a lane of their own
    attempt_count: Mapped[int] = mapped_column(server_default=text("0"))
    lease_token: Mapped[UUID | None]


class Attempt(Base):
    """One HTTP try of a delivery: partitioned by day, since it keeps what was sent and what was answered."""

    __tablename__ = "attempts"
    __table_args__ = (
        PrimaryKeyConstraint("delivery_id", "at", "id"),
        {"postgresql_partition_by": "RANGE (at)"},
    )

    id: Mapped[UUID]
    delivery_id: Mapped[UUID]
    at: Mapped[datetime]
    number: Mapped[int]
    seconds: Mapped[float]
    status: Mapped[int | None] = mapped_column(SmallInteger)  # the HTTP status; NULL where there was no answer
    error: Mapped[str | None]
    address: Mapped[str | None]  # the address that was connected to
    request_headers: Mapped[dict[str, Any]]  # without secrets
    response_body: Mapped[bytes]  # its beginning
    next_at: Mapped[datetime | None]


class Replay(Base):
    """An operation that has deliveries made again, a part of them at a time."""

    __tablename__ = "replays"
    __table_args__ = (
        CheckConstraint(one_of("status", REPLAY_STATUSES), name="status"),
        Index("ix_replays_running", "due_at", postgresql_where=text("status = 'running'")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    subscription_id: Mapped[UUID] = mapped_column(ForeignKey("subscriptions.id"), index=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str]  # a key's id; all zeros for the command line
    undelivered_only: Mapped[bool]
    begins_at: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]
    per_second: Mapped[int]
    total_count: Mapped[int]
    done_count: Mapped[int] = mapped_column(server_default=text("0"))
    after_sequence: Mapped[int | None] = mapped_column(BigInteger)  # how far it has come in the log
    after_delivery: Mapped[UUID | None]  # or in the undelivered ones
    status: Mapped[str]
    due_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
