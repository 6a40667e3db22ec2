"""Make the tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("team_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "receipt_bodies",
        sa.Column("receipt_id", sa.Uuid(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("receipt_id", "received_at", name=op.f("pk_receipt_bodies")),
        postgresql_partition_by="RANGE (received_at)",
    )
    op.create_table(
        "receipts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=True),
        sa.Column("applied", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.CheckConstraint("signature IN ('valid', 'wrong', 'absent')", name=op.f("ck_receipts_signature")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_receipts")),
    )
    op.create_index("ix_receipts_job", "receipts", ["job_id", "received_at"], unique=False)
    op.create_index(
        "uq_receipts_applied", "receipts", ["job_id", "digest"], unique=True, postgresql_where=sa.text("applied")
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
    )
    op.create_table(
        "teams",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
        sa.UniqueConstraint("name", name=op.f("uq_teams_name")),
    )
    op.create_table(
        "upstream_accounts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cap", sa.Integer(), nullable=True),
        sa.Column("webhook_field", sa.Text(), nullable=True),
        sa.Column("webhook_events", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pause_reason", sa.Text(), nullable=True),
        sa.Column("trouble", sa.Text(), nullable=True),
        sa.Column("trouble_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "webhook_field IN ('webhook_url', 'webhookUrl')", name=op.f("ck_upstream_accounts_webhook_field")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upstream_accounts")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_api_keys_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
    )
    op.create_index(op.f("ix_api_keys_team_id"), "api_keys", ["team_id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("input", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("callback", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("progress", sa.SmallInteger(), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("credit_cost", sa.Integer(), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("concluded_by", sa.Text(), nullable=True),
        sa.Column("upstream_account", sa.Text(), nullable=False),
        sa.Column("upstream_id", sa.Text(), nullable=True),
        sa.Column("upstream_key", sa.Text(), nullable=True),
        sa.Column("upstream_request_id", sa.Text(), nullable=True),
        sa.Column("wire_body", sa.LargeBinary(), nullable=False),
        sa.Column("wire_key", sa.Text(), nullable=True),
        sa.Column("wire_webhook", sa.Text(), nullable=True),
        sa.Column("ambiguous_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ambiguous_by", sa.Uuid(), nullable=True),
        sa.Column("dispatch_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dispatch_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("refusable", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("refusal", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("poll_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("poll_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("poll_hinted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status IN ('QUEUED', 'PROCESSING')) = (completed_at IS NULL)", name=op.f("ck_jobs_completed_at")
        ),
        sa.CheckConstraint("completed_at IS NULL OR dispatch_at IS NULL", name=op.f("ck_jobs_over_is_not_sent")),
        sa.CheckConstraint("concluded_by IN ('upstream', 'framehook')", name=op.f("ck_jobs_concluded_by")),
        sa.CheckConstraint(
            "status IN ('QUEUED', 'PROCESSING', 'COMPLETED', 'FAILED', 'CANCELLED')", name=op.f("ck_jobs_status")
        ),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_jobs_key_id")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_jobs_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(
        "ix_jobs_in_flight",
        "jobs",
        ["upstream_account", "team_id"],
        unique=False,
        postgresql_where=sa.text("ambiguous_since IS NOT NULL AND status IN ('QUEUED', 'PROCESSING')"),
    )
    op.create_index("ix_jobs_key_history", "jobs", ["key_id", "created_at", "id"], unique=False)
    op.create_index(
        "ix_jobs_poll_at", "jobs", ["poll_at"], unique=False, postgresql_where=sa.text("poll_at IS NOT NULL")
    )
    op.create_index("ix_jobs_team_history", "jobs", ["team_id", "created_at", "id"], unique=False)
    op.create_index("ix_jobs_team_models", "jobs", ["team_id", "model", "created_at", "id"], unique=False)
    op.create_index(
        "ix_jobs_upstream_id",
        "jobs",
        ["upstream_id"],
        unique=False,
        postgresql_where=sa.text("upstream_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["upstream_account", "team_id", sa.literal_column("priority DESC"), "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("dispatch_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_waiting", table_name="jobs", postgresql_where=sa.text("dispatch_at IS NOT NULL"))
    op.drop_index("ix_jobs_upstream_id", table_name="jobs", postgresql_where=sa.text("upstream_id IS NOT NULL"))
    op.drop_index("ix_jobs_team_models", table_name="jobs")
    op.drop_index("ix_jobs_team_history", table_name="jobs")
    op.drop_index("ix_jobs_poll_at", table_name="jobs", postgresql_where=sa.text("poll_at IS NOT NULL"))
    op.drop_index("ix_jobs_key_history", table_name="jobs")
    op.drop_index(
        "ix_jobs_in_flight",
        table_name="jobs",
        postgresql_where=sa.text("ambiguous_since IS NOT NULL AND status IN ('QUEUED', 'PROCESSING')"),
    )
    op.drop_table("jobs")
    op.drop_index(op.f("ix_api_keys_team_id"), table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_table("upstream_accounts")
    op.drop_table("teams")
    op.drop_table("secrets")
    op.drop_index("uq_receipts_applied", table_name="receipts", postgresql_where=sa.text("applied"))
    op.drop_index("ix_receipts_job", table_name="receipts")
    op.drop_table("receipts")
    op.drop_table("receipt_bodies")
    op.drop_table("idempotency_keys")
