"""What the upstream says of itself, and what is whose of the things that it keeps for us."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, PrimaryKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.schema import Base, one_of

BELONGING_KINDS: Final = ("lora", "asset")


class Catalog(Base):
    """The upstream's own OpenAPI document and list of models, as they were last read."""

    __tablename__ = "catalogs"

    account: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[dict[str, Any] | None]
    document_digest: Mapped[bytes | None]  # SHA-256 of its bytes: processes read it anew where this has changed
    document_at: Mapped[datetime | None]
    models: Mapped[dict[str, Any] | None]
    models_at: Mapped[datetime | None]


class Belonging(Base):
    """Something at the upstream that a team made: only that team may see it."""

    __tablename__ = "belongings"
    __table_args__ = (
        PrimaryKeyConstraint("account", "kind", "upstream_id"),
        CheckConstraint(one_of("kind", BELONGING_KINDS), name="kind"),
        Index("ix_belongings_team", "team_id", "kind", "created_at"),
    )

    account: Mapped[str]
    kind: Mapped[str]
    upstream_id: Mapped[str]
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    key_id: Mapped[UUID]
    created_at: Mapped[datetime]
