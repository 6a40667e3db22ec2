"""Keep what dispatch and reconcile learn: breakers, durations, steps, and what makes a job overdue or lost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COMPLETED = sa.text("status = 'COMPLETED' AND accepted_at IS NOT NULL")
OVERDUE = sa.text("overdue_at IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "upstream_keys",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("failure_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("hold_reason", sa.Text(), nullable=True),
        sa.Column("must_probe", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account", "fingerprint", name=op.f("pk_upstream_keys")),
    )
    op.create_table(
        "model_durations",
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("p50_seconds", sa.Float(), nullable=False),
        sa.Column("p95_seconds", sa.Float(), nullable=False),
        sa.Column("p99_seconds", sa.Float(), nullable=False),
        sa.Column("sample_count", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("operation", "model", name=op.f("pk_model_durations")),
    )
    op.create_table(
        "steps",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint("kind IN ('dispatch', 'transition', 'poll', 'action')", name=op.f("ck_steps_kind")),
        sa.PrimaryKeyConstraint("job_id", "at", "id", name=op.f("pk_steps")),
        postgresql_partition_by="RANGE (at)",
    )
    op.add_column("teams", sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_column("upstream_accounts", "paused_until")
    op.drop_column("upstream_accounts", "pause_reason")
    op.add_column("upstream_accounts", sa.Column("cap_lowered_to", sa.Integer(), nullable=True))
    op.add_column("upstream_accounts", sa.Column("cap_lowered_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("upstream_accounts", sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("upstream_accounts", sa.Column("request_tokens", sa.Float(), nullable=True))
    op.add_column("upstream_accounts", sa.Column("request_tokens_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("retry_of", sa.Uuid(), nullable=True))
    op.add_column("jobs", sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("missing_count", sa.SmallInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("jobs", sa.Column("missing_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("overdue_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("overdue_told", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    # Nobody wrote down when the upstream took the jobs that it has already; their last change is the best guess there is.
    op.execute("UPDATE jobs SET accepted_at = updated_at WHERE upstream_id IS NOT NULL AND completed_at IS NULL")
    op.create_index("ix_jobs_overdue", "jobs", ["team_id", "created_at", "id"], unique=False, postgresql_where=OVERDUE)
    op.create_index(
        "ix_jobs_completed", "jobs", ["operation", "model", "completed_at"], unique=False, postgresql_where=COMPLETED
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_completed", table_name="jobs", postgresql_where=COMPLETED)
    op.drop_index("ix_jobs_overdue", table_name="jobs", postgresql_where=OVERDUE)
    for column in ("overdue_told", "overdue_at", "missing_since", "missing_count", "accepted_at", "retry_of"):
        op.drop_column("jobs", column)
    for column in ("request_tokens_at", "request_tokens", "paused_at", "cap_lowered_until", "cap_lowered_to"):
        op.drop_column("upstream_accounts", column)
    op.add_column("upstream_accounts", sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("upstream_accounts", sa.Column("pause_reason", sa.Text(), nullable=True))
    op.drop_column("teams", "paused_at")
    op.drop_table("steps")
    op.drop_table("model_durations")
    op.drop_table("upstream_keys")
