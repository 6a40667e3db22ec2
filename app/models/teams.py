"""Teams, their keys, and the secrets that all processes share."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.schema import Base

SCOPES: Final = ("submit", "read", "subscribe", "ops", "admin")
TEST_SCOPES: Final = ("submit", "read", "subscribe")
"""What a test key may have: an operator's keys see all teams, which is not to be tried out."""


class Team(Base):
    """Who shares jobs with whom."""

    __tablename__ = "teams"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    paused_at: Mapped[datetime | None]  # an operator stopped dispatch for this team; acceptance goes on
    archived_modalities: Mapped[list[str] | None]  # what of its results is kept; NULL: what the settings say
    test_of: Mapped[UUID | None] = mapped_column(
        ForeignKey("teams.id"), unique=True
    )  # the team whose tests this one runs

    # What it may do. NULL: as much as the service.
    requests_per_minute: Mapped[int | None]
    request_tokens: Mapped[float | None]  # what is left of it, as of the next column
    request_tokens_at: Mapped[datetime | None]
    queued_limit: Mapped[int | None]  # jobs that wait to be sent
    in_flight_limit: Mapped[int | None]  # jobs that hold a slot at the upstream
    allowed_operations: Mapped[list[str] | None]
    allowed_models: Mapped[list[str] | None]  # names, or patterns with *
    monthly_credits: Mapped[int | None]  # its budget of a calendar month (UTC)


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
    rotated_to: Mapped[UUID | None]  # the key that takes its place, once it has expired


class AuditEntry(Base):
    """Something that an admin or an operator did."""

    __tablename__ = "audit_log"
    __table_args__ = (Index("ix_audit_log_team", "team_id", "id", postgresql_where=text("team_id IS NOT NULL")),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    team_id: Mapped[UUID | None]  # whose affair it is; NULL: everybody's
    actor: Mapped[str]  # a key's id, or `cli`
    action: Mapped[str]  # such as key.revoked
    subject: Mapped[str]  # the id or name of what it was done to
    data: Mapped[dict[str, Any]]


class Secret(Base):
    """A secret that all processes must agree on and nobody set: made once, by whoever comes first."""

    __tablename__ = "secrets"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]
    created_at: Mapped[datetime]
