"""Keep budgets and their ledger, limits of teams, what admins did, the upstream's catalog, and what is whose there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index(
        "ix_audit_log_team",
        "audit_log",
        ["team_id", "id"],
        unique=False,
        postgresql_where=sa.text("team_id IS NOT NULL"),
    )
    op.create_table(
        "catalogs",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("document_digest", sa.LargeBinary(), nullable=True),
        sa.Column("document_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("models", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("models_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_catalogs")),
    )
    op.create_table(
        "balances",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("reserved", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("spent", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("told", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_balances_team_id")),
        sa.PrimaryKeyConstraint("team_id", "month", name=op.f("pk_balances")),
    )
    op.create_table(
        "belongings",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("upstream_id", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('lora', 'asset')", name=op.f("ck_belongings_kind")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_belongings_team_id")),
        sa.PrimaryKeyConstraint("account", "kind", "upstream_id", name=op.f("pk_belongings")),
    )
    op.create_index("ix_belongings_team", "belongings", ["team_id", "kind", "created_at"], unique=False)
    op.create_table(
        "ledger",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reserved_change", sa.Integer(), nullable=False),
        sa.Column("spent_change", sa.Integer(), nullable=False),
        sa.CheckConstraint("kind IN ('reserve', 'settle', 'release')", name=op.f("ck_ledger_kind")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_ledger_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
        sa.UniqueConstraint("job_id", "kind", name=op.f("uq_ledger_job_id_kind")),
    )
    op.create_index("ix_ledger_at", "ledger", ["at"], unique=False)
    op.create_index("ix_ledger_team", "ledger", ["team_id", "month"], unique=False)
    op.add_column("api_keys", sa.Column("rotated_to", sa.Uuid(), nullable=True))
    op.add_column("jobs", sa.Column("parent_id", sa.Uuid(), nullable=True))
    op.add_column("teams", sa.Column("test_of", sa.Uuid(), nullable=True))
    op.add_column("teams", sa.Column("requests_per_minute", sa.Integer(), nullable=True))
    op.add_column("teams", sa.Column("request_tokens", sa.Float(), nullable=True))
    op.add_column("teams", sa.Column("request_tokens_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("teams", sa.Column("queued_limit", sa.Integer(), nullable=True))
    op.add_column("teams", sa.Column("in_flight_limit", sa.Integer(), nullable=True))
    op.add_column("teams", sa.Column("allowed_operations", postgresql.ARRAY(sa.Text()), nullable=True))
    op.add_column("teams", sa.Column("allowed_models", postgresql.ARRAY(sa.Text()), nullable=True))
    op.add_column("teams", sa.Column("monthly_credits", sa.Integer(), nullable=True))
    op.create_unique_constraint(op.f("uq_teams_test_of"), "teams", ["test_of"])
    op.create_foreign_key(op.f("fk_teams_test_of"), "teams", "teams", ["test_of"], ["id"])


def downgrade() -> None:
    op.drop_constraint(op.f("fk_teams_test_of"), "teams", type_="foreignkey")
    op.drop_constraint(op.f("uq_teams_test_of"), "teams", type_="unique")
    op.drop_column("teams", "monthly_credits")
    op.drop_column("teams", "allowed_models")
    op.drop_column("teams", "allowed_operations")
    op.drop_column("teams", "in_flight_limit")
    op.drop_column("teams", "queued_limit")
    op.drop_column("teams", "request_tokens_at")
    op.drop_column("teams", "request_tokens")
    op.drop_column("teams", "requests_per_minute")
    op.drop_column("teams", "test_of")
    op.drop_column("jobs", "parent_id")
    op.drop_column("api_keys", "rotated_to")
    op.drop_index("ix_ledger_team", table_name="ledger")
    op.drop_index("ix_ledger_at", table_name="ledger")
    op.drop_table("ledger")
    op.drop_index("ix_belongings_team", table_name="belongings")
    op.drop_table("belongings")
    op.drop_table("balances")
    op.drop_table("catalogs")
    op.drop_index("ix_audit_log_team", table_name="audit_log", postgresql_where=sa.text("team_id IS NOT NULL"))
    op.drop_table("audit_log")
