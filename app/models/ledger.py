"""What teams may spend, have reserved and have spent, in the upstream's credits."""

from __future__ import annotations

from datetime import date, datetime
from typing import Final
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, PrimaryKeyConstraint, SmallInteger, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.schema import Base, one_of

LEDGER_KINDS: Final = ("reserve", "settle", "release")


class Balance(Base):
    """The sums of a team's ledger for one calendar month (UTC). Its row's lock is what makes a budget exact."""

    __tablename__ = "balances"
    __table_args__ = (PrimaryKeyConstraint("team_id", "month"),)

    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    month: Mapped[date]  # its first day
    reserved: Mapped[int] = mapped_column(server_default=text("0"))  # for jobs that are not over
    spent: Mapped[int] = mapped_column(server_default=text("0"))
    told: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))  # per cent of the budget last told of


class LedgerEntry(Base):
    """One change of a balance, made by a job once at most of each kind. A job counts in the month of its submission."""

    __tablename__ = "ledger"
    __table_args__ = (
        CheckConstraint(one_of("kind", LEDGER_KINDS), name="kind"),
        UniqueConstraint("job_id", "kind"),
        Index("ix_ledger_team", "team_id", "month"),
        Index("ix_ledger_at", "at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    month: Mapped[date]
    job_id: Mapped[UUID]
    operation: Mapped[str]
    model: Mapped[str]
    kind: Mapped[str]
    reserved_change: Mapped[int]
    spent_change: Mapped[int]
