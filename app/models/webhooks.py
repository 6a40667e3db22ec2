"""Webhooks as they came in."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Index,
    PrimaryKeyConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.models.schema import Base, one_of


class Receipt(Base):
    """One webhook as kept. The same bytes are applied to a job once; unapplied ones shadow nothing."""

    __tablename__ = "receipts"
    __table_args__ = (
        CheckConstraint(one_of("signature", ("valid", "wrong", "absent")), name="signature"),
        Index("uq_receipts_applied", "job_id", "digest", unique=True, postgresql_where=text("applied")),
        Index("ix_receipts_job", "job_id", "received_at"),
        Index("ix_receipts_unapplied", "id", postgresql_where=text("NOT applied")),
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
