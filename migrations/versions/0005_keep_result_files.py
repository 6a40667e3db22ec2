"""Keep result files: which there are, what became of each, and who wants which of them kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JOB_EVENTS = (
    "'job.queued', 'job.dispatched', 'job.processing', 'job.progress', 'job.completed', 'job.failed', 'job.cancelled'"
)
OTHER_EVENTS = "'subscription.disabled', 'subscription.test', 'budget.threshold'"
OLD_STEPS = "'dispatch', 'transition', 'poll', 'action'"


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("give_up_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("attempt_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("unrecorded_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("refused_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("late_told", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("told", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("object", sa.Text(), nullable=True),
        sa.Column("thumbnail", sa.Text(), nullable=True),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("byte_count", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.CheckConstraint("status IN ('pending', 'stored', 'failed', 'deleted')", name=op.f("ck_files_status")),
        sa.CheckConstraint("(status = 'pending') = (due_at IS NOT NULL)", name=op.f("ck_files_due_while_pending")),
        sa.CheckConstraint(
            "status <> 'stored' OR object IS NOT NULL AND content_type IS NOT NULL AND byte_count IS NOT NULL"
            " AND sha256 IS NOT NULL",
            name=op.f("ck_files_described_when_stored"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_files_job_id"), ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_files_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index("uq_files_job", "files", ["job_id", "position"], unique=True)
    op.create_index("ix_files_due", "files", ["due_at"], postgresql_where=sa.text("due_at IS NOT NULL"))
    op.create_index("ix_files_pending", "files", ["completed_at"], postgresql_where=sa.text("due_at IS NOT NULL"))
    op.create_index("ix_files_failed", "files", ["id"], postgresql_where=sa.text("status = 'failed'"))
    op.create_index("ix_files_stored", "files", ["stored_at"], postgresql_where=sa.text("status = 'stored'"))
    op.create_index("ix_files_orphaned", "files", ["id"], postgresql_where=sa.text("job_id IS NULL"))
    op.create_index(
        "ix_files_to_remove", "files", ["id"], postgresql_where=sa.text("status = 'deleted' AND object IS NOT NULL")
    )
    op.add_column("teams", sa.Column("archived_modalities", postgresql.ARRAY(sa.Text()), nullable=True))
    _allow("events", "type", f"{JOB_EVENTS}, 'job.archived', 'job.archive_late', 'job.archive_failed', {OTHER_EVENTS}")
    _allow("steps", "kind", f"{OLD_STEPS}, 'archive'")


def downgrade() -> None:
    op.execute("DELETE FROM steps WHERE kind = 'archive'")
    op.execute("DELETE FROM events WHERE type IN ('job.archive_late', 'job.archive_failed')")
    _allow("steps", "kind", OLD_STEPS)
    _allow("events", "type", f"{JOB_EVENTS}, 'job.archived', {OTHER_EVENTS}")
    op.drop_column("teams", "archived_modalities")
    op.drop_table("files")


def _allow(table: str, column: str, values: str) -> None:
    """Put another list of values in the place of the one that a column's constraint has."""
    op.drop_constraint(op.f(f"ck_{table}_{column}"), table, type_="check")
    op.create_check_constraint(op.f(f"ck_{table}_{column}"), table, f"{column} IN ({values})")
