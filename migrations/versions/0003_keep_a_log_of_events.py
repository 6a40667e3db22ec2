"""Keep a log of events, numbered in the order of commits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TYPES = (
    "type IN ('job.queued', 'job.dispatched', 'job.processing', 'job.progress', 'job.completed', 'job.failed',"
    " 'job.cancelled', 'job.archived', 'subscription.disabled', 'subscription.test', 'budget.threshold')"
)


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("event_numbers")))
    op.create_table(
        "events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint(TYPES, name=op.f("ck_events_type")),
        sa.PrimaryKeyConstraint("id", "at", name=op.f("pk_events")),
        postgresql_partition_by="RANGE (at)",
    )
    op.create_index("ix_events_sequence", "events", ["sequence"], unique=False)
    op.create_index("ix_events_team", "events", ["team_id", "sequence"], unique=False)
    op.create_index("ix_events_job", "events", ["job_id", "sequence"], unique=False)
    op.create_table(
        "forgotten_event_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_forgotten_event_days")),
    )
    op.add_column("jobs", sa.Column("progress_event_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "progress_event_at")
    op.drop_table("forgotten_event_days")
    op.drop_table("events")
    op.execute(sa.schema.DropSequence(sa.Sequence("event_numbers")))
