"""What is kept for whoever runs the service: tallies of jobs, words to find them by, processes, and who is signed in."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, PrimaryKeyConstraint, SmallInteger, text
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.models.schema import Base, one_of

SPANS: Final = ("minutes", "hour", "six_hours", "day")
"""What a tally counts over: five minutes, an hour, six of them, a day, each beginning at a multiple of it in UTC."""

TIMING_KINDS: Final = ("queue", "generation", "webhook")
"""From submission to acceptance upstream, from there to the end, and from the end upstream to when we had word of it."""


TALLIES: Final = "tallies"
"""The reader of the log whose place says how far tallies go."""


class Tally(Base):
    """How many jobs of one kind were submitted and ended in one span of time. Made from the event log (see `tallying`)."""

    __tablename__ = "tallies"
    __table_args__ = (
        PrimaryKeyConstraint("span", "begins_at", "team_id", "operation", "model"),
        CheckConstraint(one_of("span", SPANS), name="span"),
    )

    span: Mapped[str]
    begins_at: Mapped[datetime]
    team_id: Mapped[UUID]
    operation: Mapped[str]
    model: Mapped[str]
    submitted: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    completed: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    failed: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    cancelled: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    by_webhook: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # of those that ended
    by_poll: Mapped[int] = mapped_column(
        BigInteger, server_default=text("0")
    )  # of those: their webhooks were lost or late
    credits: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class Timing(Base):
    """How many jobs of a model took about so long, in one span of time: a histogram, a row for each bucket in use.

    Each job is in two of them: its team's and, unless it was a test, that of all teams, which need not be added up then.
    """

    __tablename__ = "timings"
    __table_args__ = (
        PrimaryKeyConstraint("span", "begins_at", "team_id", "kind", "model", "bucket"),
        CheckConstraint(one_of("span", SPANS), name="span"),
        CheckConstraint(one_of("kind", TIMING_KINDS), name="kind"),
    )

    span: Mapped[str]
    begins_at: Mapped[datetime]
    team_id: Mapped[UUID]  # all zeros: of all teams
    kind: Mapped[str]
    model: Mapped[str]
    bucket: Mapped[int] = mapped_column(SmallInteger)
    job_count: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class JobWords(Base):
    """What a job may be found by that no index of `jobs` knows. Written once, after its submission (see `tallying`)."""

    __tablename__ = "job_words"
    __table_args__ = (Index("ix_job_words_words", "words", postgresql_using="gin"),)

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    words: Mapped[str] = mapped_column(TSVECTOR)


class LogReader(Base):
    """How far a reader of ours has come in the event log. Its row's lock is what has one process read at a time."""

    __tablename__ = "log_readers"

    name: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime]
    began_at: Mapped[datetime]  # of before it has made what the log still held by then


class Total(Base):
    """A number that only grows, for counters: what the event log told of jobs since this table was made (see `totals`)."""

    __tablename__ = "totals"
    __table_args__ = (PrimaryKeyConstraint("name", "team_id", "model", "detail"),)

    name: Mapped[str]
    team_id: Mapped[UUID]  # all zeros: of all teams
    model: Mapped[str]
    detail: Mapped[str]  # a status, a mouth, or the number of a bucket
    amount: Mapped[int] = mapped_column(BigInteger)
    since: Mapped[datetime]


class Process(Base):
    """A process of the service that is alive, or was a moment ago, and what it has measured since it began.

    What it measured is added to the row of all zeros once it is gone, `folded_at`; its own row stays for a while, so that
    one that was only slow sees how much of its measures is counted there. All times are by the database's clock.
    """

    __tablename__ = "processes"

    id: Mapped[UUID] = mapped_column(primary_key=True)  # all zeros: the sum of those that are gone
    host: Mapped[str]
    pid: Mapped[int]
    role: Mapped[str]  # serve, worker
    version: Mapped[str]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    folded_at: Mapped[datetime | None]
    pool_size: Mapped[int] = mapped_column(server_default=text("0"))  # connections that it may have
    pool_in_use: Mapped[int] = mapped_column(server_default=text("0"))
    loops: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # by name: how its last turn went
    measures: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # by name and labels: numbers


class Session(Base):
    """A browser that was signed in with a key. Only the SHA-256 of its cookie is kept."""

    __tablename__ = "sessions"
    __table_args__ = (Index("ix_sessions_used_at", "used_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"), index=True)
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]
    address: Mapped[str]
    browser: Mapped[str]


class SignInLimit(Base):
    """What is left of the attempts to sign in that an address may make."""

    __tablename__ = "sign_in_limits"

    address: Mapped[str] = mapped_column(primary_key=True)
    tokens: Mapped[float]
    tokens_at: Mapped[datetime]
