"""The result files that are kept, or are to be."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.schema import Base, one_of

FILE_STATUSES: Final = ("pending", "stored", "failed", "deleted")


class File(Base):
    """One file of a completed job's result. `due_at` is the lease's end while somebody fetches it.

    Only what is `stored` is served: the row becomes so after the whole object is in the storage.
    """

    __tablename__ = "files"
    __table_args__ = (
        CheckConstraint(one_of("status", FILE_STATUSES), name="status"),
        CheckConstraint("(status = 'pending') = (due_at IS NOT NULL)", name="due_while_pending"),
        CheckConstraint(
            "status <> 'stored' OR object IS NOT NULL AND content_type IS NOT NULL AND byte_count IS NOT NULL"
            " AND sha256 IS NOT NULL",
            name="described_when_stored",
        ),
        Index("uq_files_job", "job_id", "position", unique=True),
        Index("ix_files_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("ix_files_pending", "completed_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("ix_files_failed", "id", postgresql_where=text("status = 'failed'")),
        Index("ix_files_stored", "stored_at", postgresql_where=text("status = 'stored'")),
        Index("ix_files_orphaned", "id", postgresql_where=text("job_id IS NULL")),
        Index("ix_files_to_remove", "id", postgresql_where=text("status = 'deleted' AND object IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))  # NULL: the job is gone
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id"))
    position: Mapped[int] = mapped_column(SmallInteger)  # its place among the result's URLs
    source: Mapped[str]  # the upstream's URL
    created_at: Mapped[datetime]
    completed_at: Mapped[datetime]  # when its job was: the upstream's purge counts from then
    status: Mapped[str]
    reason: Mapped[str | None]  # why it is not stored, or was not at the last attempt

    # Fetching it.
    due_at: Mapped[datetime | None]
    give_up_at: Mapped[datetime]
    lease_token: Mapped[UUID | None]
    attempt_count: Mapped[int] = mapped_column(server_default=text("0"))
    unrecorded_count: Mapped[int] = mapped_column(server_default=text("0"))  # claims since the last record
    refused_count: Mapped[int] = mapped_column(server_default=text("0"))  # attempts whose failure time will hardly heal
    late_told: Mapped[bool] = mapped_column(server_default=text("false"))
    told: Mapped[bool] = mapped_column(server_default=text("false"))  # an event said what became of it

    # What was stored.
    stored_at: Mapped[datetime | None]
    object: Mapped[str | None]  # its name in the storage; NULL once it was removed
    thumbnail: Mapped[str | None]  # the same for its thumbnail
    content_type: Mapped[str | None]  # as its beginning says, not as its source did
    byte_count: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[bytes | None]
    width: Mapped[int | None]  # pixels, of images
    height: Mapped[int | None]
