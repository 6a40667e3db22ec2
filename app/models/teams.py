"""Teams, their keys, and the secrets that all processes share."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import (
    ForeignKey,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.models.schema import Base

SCOPES: Final = ("submit", "read", "subscribe", "ops", "admin")


class Team(Base):
    """Who shares jobs with whom."""

    __tablename__ = "teams"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    paused_at: Mapped[datetime | None]  # an operator stopped dispatch for this team; acceptance goes on
    archived_modalities: Mapped[list[str] | None]  # what of its results is kept; NULL: what the settings say


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


class Secret(Base):
    """A secret that all processes must agree on and nobody set: made once, by whoever comes first."""

    __tablename__ = "secrets"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]
    created_at: Mapped[datetime]
