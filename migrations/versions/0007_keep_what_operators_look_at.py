"""Keep tallies and words of jobs, processes, sessions, and by whose mouth a job's end became known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
JSON = postgresql.JSONB(astext_type=sa.Text())
COUNTS = ("submitted", "completed", "failed", "cancelled", "by_webhook", "by_poll", "credits")
SPANS = "span IN ('minutes', 'hour', 'six_hours', 'day')"

# Of jobs that are there already. Later ones are read from the log (see app/jobs/queries/words.py, as of this migration).
WORDS_OF_ALL = """
    INSERT INTO job_words (job_id, words)
    SELECT id, to_tsvector('simple', (
        SELECT coalesce(string_agg(left(found #>> '{}', 10000), E'\\n'), '')
        FROM jsonb_path_query(input, '$.**{0 to 1} ? (@.type() == "object").keyvalue()
            ? (@.key == "prompt" || @.key == "lyrics" || @.key == "title" || @.key == "negative_prompt"
                || @.key == "tags" || @.key == "style" || @.key == "text" || @.key == "description").value') AS found
    )) || array_to_tsvector(
        ARRAY[left('operation=' || operation, 500), 'team=' || team_id,
            'day=' || to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')] || ARRAY(
            SELECT left('metadata ' || key || '=' || value, 500)
            FROM jsonb_each_text(coalesce(metadata, '{}')) WHERE value IS NOT NULL
        )
    )
    FROM jobs
    """


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("span", sa.Text(), nullable=False),
        sa.Column("begins_at", TIME, nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False) for name in COUNTS),
        sa.CheckConstraint(SPANS, name=op.f("ck_tallies_span")),
        sa.PrimaryKeyConstraint("span", "begins_at", "team_id", "operation", "model", name=op.f("pk_tallies")),
    )
    op.create_table(
        "timings",
        sa.Column("span", sa.Text(), nullable=False),
        sa.Column("begins_at", TIME, nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("bucket", sa.SmallInteger(), nullable=False),
        sa.Column("job_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(SPANS, name=op.f("ck_timings_span")),
        sa.CheckConstraint("kind IN ('queue', 'generation', 'webhook')", name=op.f("ck_timings_kind")),
        sa.PrimaryKeyConstraint("span", "begins_at", "team_id", "kind", "model", "bucket", name=op.f("pk_timings")),
    )
    op.create_table(
        "job_words",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("words", postgresql.TSVECTOR(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_words")),
    )
    op.execute(WORDS_OF_ALL)
    op.create_index("ix_job_words_words", "job_words", ["words"], unique=False, postgresql_using="gin")
    op.create_table(
        "log_readers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("began_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_log_readers")),
    )
    op.create_table(
        "totals",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", "team_id", "model", "detail", name=op.f("pk_totals")),
    )
    op.create_table(
        "processes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("folded_at", TIME, nullable=True),
        sa.Column("pool_size", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("pool_in_use", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("loops", JSON, server_default=sa.text("'{}'"), nullable=False),
        sa.Column("measures", JSON, server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_processes")),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("used_at", TIME, nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("browser", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_sessions_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_sessions_token_hash")),
    )
    op.create_index(op.f("ix_sessions_key_id"), "sessions", ["key_id"], unique=False)
    op.create_index("ix_sessions_used_at", "sessions", ["used_at"], unique=False)
    op.create_table(
        "sign_in_limits",
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Float(), nullable=False),
        sa.Column("tokens_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("address", name=op.f("pk_sign_in_limits")),
    )
    op.add_column("jobs", sa.Column("ended_by", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_jobs_ended_by"), "jobs", "ended_by IN ('submit', 'webhook', 'poll', 'framehook')"
    )
    history = ("created_at", "id")
    for name, columns, which in (
        ("ix_jobs_open", ("team_id", *history), "completed_at IS NULL"),
        ("ix_jobs_unsuccessful", ("team_id", "status", *history), "status IN ('FAILED', 'CANCELLED')"),
        ("ix_jobs_errors", ("team_id", "error_code", *history), "error_code IS NOT NULL"),
        ("ix_jobs_retries", ("retry_of",), "retry_of IS NOT NULL"),
    ):
        op.create_index(name, "jobs", list(columns), unique=False, postgresql_where=sa.text(which))
    op.create_index("ix_receipts_unapplied", "receipts", ["id"], unique=False, postgresql_where=sa.text("NOT applied"))


def downgrade() -> None:
    op.drop_index("ix_receipts_unapplied", table_name="receipts")
    for name in ("ix_jobs_retries", "ix_jobs_errors", "ix_jobs_unsuccessful", "ix_jobs_open"):
        op.drop_index(name, table_name="jobs")
    op.drop_constraint(op.f("ck_jobs_ended_by"), "jobs", type_="check")
    op.drop_column("jobs", "ended_by")
    for table in (
        "sign_in_limits",
        "sessions",
        "processes",
        "totals",
        "log_readers",
        "job_words",
        "timings",
        "tallies",
    ):
        op.drop_table(table)
