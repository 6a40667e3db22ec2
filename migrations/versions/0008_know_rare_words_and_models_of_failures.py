"""Know more words as rare, and the models of what failed by its index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

WORDS_KNOWN = 500
"""In tens, how many of the most common words ANALYZE keeps. Of any other it is only known that it is no more common than
those: with the usual 100, and millions of jobs, any other could be too common to be found by the index."""

INDEXES = {
    "ix_jobs_unsuccessful": (("team_id", "status", "created_at", "id"), "status IN ('FAILED', 'CANCELLED')"),
    "ix_jobs_errors": (("team_id", "error_code", "created_at", "id"), "error_code IS NOT NULL"),
}


def upgrade() -> None:
    op.execute(f"ALTER TABLE job_words ALTER COLUMN words SET STATISTICS {WORDS_KNOWN}")
    _make_anew(include=["model"])


def downgrade() -> None:
    op.execute("ALTER TABLE job_words ALTER COLUMN words SET STATISTICS -1")
    _make_anew(include=[])


def _make_anew(*, include: list[str]) -> None:
    for name, (columns, which) in INDEXES.items():
        op.drop_index(name, table_name="jobs")
        op.create_index(name, "jobs", list(columns), postgresql_where=sa.text(which), postgresql_include=include)
