"""The event log."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Index,
    PrimaryKeyConstraint,
    Sequence,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.models.schema import Base, one_of

EVENT_TYPES: Final = (
    *("job.queued", "job.dispatched", "job.processing", "job.progress", "job.completed", "job.failed", "job.cancelled"),
    *("job.archived", "job.archive_late", "job.archive_failed"),
    *("subscription.disabled", "subscription.test", "budget.threshold"),
)


class Event(Base):
    """A numbered, immutable fact that subscribers may read. The numbers are in the order of commits (see `events`)."""

    __tablename__ = "events"
    __table_args__ = (
        PrimaryKeyConstraint("id", "at"),
        CheckConstraint(one_of("type", EVENT_TYPES), name="type"),
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
