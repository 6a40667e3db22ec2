"""Find jobs in a history of millions. Whatever is asked for, no more than a budget of rows is looked at: a page may be
short, and says from where on to look further."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.jobs.filters import JobFilter
from app.jobs.queries import finding as queries
from app.jobs.queries.finding import Sought
from app.jobs.queries.reading import OVERDUE
from app.jobs.queries.words import LONGEST_LABEL
from app.paging import Cursor

BUDGET: Final = 5_000
"""How many rows one page may look at."""

FEW: Final = 2_000
"""So many jobs with the words asked for are sorted; where there are more, a walk meets them soon enough."""

COMMON: Final = 100_000
"""As many jobs have a word that is common in a history of millions: reading the list of them takes its time."""

MOST_WORDS_GUESSED: Final = 8

IDS_AT_ONCE: Final = 1_000
MOST_WALKS: Final = 25
"""How many pages are looked at in a row to list or count jobs."""

_BY_KEY: Final = "key_id = :key_id"
"""The one walk that does not begin with a team: a key is of one team only, which the index on keys does not know."""

_OPEN: Final = ("QUEUED", "PROCESSING")
_UNSUCCESSFUL: Final = ("FAILED", "CANCELLED")


@dataclass(frozen=True, slots=True)
class Found:
    """A page of jobs, newest first. `cursor` is where to go on; None: nothing older can match.

    `looked_back_to` is set where the page is short because so many rows were looked at, up to a job of this time.
    """

    rows: Sequence[AnyRow]
    cursor: Cursor | None
    looked_back_to: datetime | None


async def find_jobs(
    connection: AsyncConnection,
    asked: JobFilter,
    *,
    team_id: UUID | None,
    key_id: UUID | None,
    now: datetime,
    budget: int = BUDGET,
) -> Found:
    """The jobs of a team, or with None of all teams that are no test teams, that match; of one key where it is given.

    A row is the job object's, with `team_id`, `team` (its name), `key_id`, `upstream_id` and `overdue_at` besides.
    """
    ids, cursor, edge = await _find(connection, asked, team_id=team_id, key_id=key_id, now=now, budget=budget)
    return Found(await queries.list_found(connection, ids), cursor, edge)


async def count_jobs(
    connection: AsyncConnection, asked: JobFilter, *, team_id: UUID | None, now: datetime, limit: int
) -> tuple[int, bool]:
    """How many jobs match, counted up to `limit`, and whether there may be more."""
    ids, cursor = await list_ids(connection, asked, team_id=team_id, now=now, created_before=now, limit=limit)
    return len(ids), cursor is not None


async def list_ids(
    connection: AsyncConnection,
    asked: JobFilter,
    *,
    team_id: UUID | None,
    now: datetime,
    created_before: datetime,
    limit: int,
) -> tuple[list[UUID], Cursor | None]:
    """The newest jobs that match and were created before then, after `asked.cursor`; and where to go on, None at the end.

    There are fewer than `limit` and yet a place to go on where too many rows would have to be looked at in one go.
    """
    before = created_before if asked.created_before is None else min(asked.created_before, created_before)
    ids: list[UUID] = []
    cursor = asked.cursor
    for _ in range(MOST_WALKS):
        part = replace(asked, created_before=before, cursor=cursor, limit=min(IDS_AT_ONCE, limit - len(ids)))
        found, cursor, _ = await _find(connection, part, team_id=team_id, key_id=None, now=now, budget=BUDGET)
        ids += found
        if cursor is None or len(ids) >= limit:
            break
    return ids, cursor


async def _find(
    connection: AsyncConnection,
    asked: JobFilter,
    *,
    team_id: UUID | None,
    key_id: UUID | None,
    now: datetime,
    budget: int,
) -> tuple[list[UUID], Cursor | None, datetime | None]:
    sought, limit = _seek(asked, team_id=team_id, key_id=key_id, now=now), asked.limit + 1
    if asked.search is not None:
        rows = await queries.find_by_id(connection, sought, asked.search, limit=limit)
    elif (few := await _find_few(connection, sought, limit=limit)) is not None:
        rows = few
    else:
        looks = budget if asked.words is None else -(-budget // 3)  # its words are another row of each job, a long one
        rows = await queries.walk(connection, sought, budget=looks, limit=limit)
    return _cut(rows, asked.limit)


def _cut(rows: Sequence[AnyRow], limit: int) -> tuple[list[UUID], Cursor | None, datetime | None]:
    """A page of what was met, newest first. Behind an edge there may be jobs that were not looked at: it ends there."""
    page: list[AnyRow] = []
    for row in rows:
        if row.matches and len(page) == limit:
            return [each.id for each in page], Cursor(page[-1].created_at, page[-1].id), None
        if row.matches:
            page.append(row)
        if row.is_edge:
            return [each.id for each in page], Cursor(row.created_at, row.id), row.created_at
    return [each.id for each in page], None, None


async def _find_few(connection: AsyncConnection, sought: Sought, *, limit: int) -> Sequence[AnyRow] | None:
    """The newest that match of the jobs with the words and labels sought; None where the index of words does not know them
    as so few.

    The planner is asked first: to count what there are millions of would take its time, up to whatever limit.
    """
    if sought.labels is None and sought.words is None:
        return None
    if sought.words is not None and await _are_all_common(connection, sought.words):
        return None
    ways = [sought] if sought.team_label is None else [sought, replace(sought, team_is_sought=True)]
    for way in ways:
        if await queries.guess_words(connection, way) <= 2 * FEW:
            found = await queries.list_by_words(connection, way, most=FEW, limit=limit)
            if found is not None:
                return found
    return None


async def _are_all_common(connection: AsyncConnection, words: str) -> bool:
    """Whether the index has so long a list for each of these words that a walk meets jobs with them sooner."""
    for word in words.split()[:MOST_WORDS_GUESSED]:
        if await queries.guess_words(connection, Sought(walks=(), words=word)) < COMMON:
            return False
    return True


def _seek(asked: JobFilter, *, team_id: UUID | None, key_id: UUID | None, now: datetime) -> Sought:
    """The conditions of a filter."""
    walks, tests_of_index, tests = _choose_walks(asked, key_id)
    span = []
    given: dict[str, Any] = {"team_id": team_id, "key_id": key_id, "model": asked.model, "operation": asked.operation}
    given |= {"error_code": asked.error_code, "now": now if asked.overdue else None}
    if asked.cursor is not None:
        span.append("(created_at, id) < (:after_time, :after_id)")
        given |= {"after_time": asked.cursor.created_at, "after_id": asked.cursor.id}
    if asked.created_after is not None:
        span.append("created_at >= :created_after")
        given["created_after"] = asked.created_after
    if asked.created_before is not None:
        span.append("created_at < :created_before")
        given["created_before"] = asked.created_before
    for number, (key, value) in enumerate(asked.metadata.items()):
        tests.append(f"metadata ->> :key_{number} = :value_{number}")
        given |= {f"key_{number}": key, f"value_{number}": value}
    team = queries.LIVE_TEAM if team_id is None else queries.ONE_TEAM
    if walks == [_BY_KEY]:
        tests.append(team)
        team = "true"
    return Sought(
        walks=walks,
        span=span,
        tests_of_index=tests_of_index,
        tests=tests,
        labels=_labels(asked),
        words=asked.words,
        team_label=None if team_id is None else quote_label(f"team={team_id}"),
        parameters={name: value for name, value in given.items() if value is not None},
        team=team,
        each_team=team == queries.LIVE_TEAM,
    )


def _choose_walks(asked: JobFilter, key_id: UUID | None) -> tuple[list[str], list[str], list[str]]:
    """Which stretches of an index lead to what is sought, the shortest that there are, and what remains to be tested: by
    what the index itself says, and by the job.

    Statuses are among our own, and stand in the conditions as they are: they are what the partial indexes are known by.
    """
    tests = {
        "error_code": "error_code = :error_code" if asked.error_code is not None else None,
        "overdue": OVERDUE if asked.overdue else None,
        "status": f"status IN ({', '.join(map(repr, asked.status))})" if asked.status else None,
        "model": "model = :model" if asked.model is not None else None,
        "key": _BY_KEY if key_id is not None else None,
        "operation": "operation = :operation" if asked.operation is not None else None,
    }
    walks: list[str | None]
    of_index: list[str | None] = []
    if asked.error_code is not None:
        walks, of_index = [tests.pop("error_code")], [tests.pop("model")]
    elif asked.overdue:
        walks = ["overdue_at IS NOT NULL"]
    elif asked.status and "COMPLETED" not in asked.status:
        walks = [f"status = {status!r}" for status in asked.status if status in _UNSUCCESSFUL]
        if set(asked.status) & set(_OPEN):
            walks.append("completed_at IS NULL")
        else:
            del tests["status"]
            of_index = [tests.pop("model")]
    elif asked.model is not None:
        walks = [tests.pop("model")]
    elif key_id is not None:
        walks = [tests.pop("key")]
    else:
        walks = ["true"]
    return _given(walks), _given(of_index), _given(tests.values())


def _given(conditions: Iterable[str | None]) -> list[str]:
    return [condition for condition in conditions if condition is not None]


def _labels(asked: JobFilter) -> str | None:
    """The tsquery of what is asked for that `job_words` knows by labels (see `queries.words`); None: nothing."""
    labels = [] if asked.operation is None else [f"operation={asked.operation}"]
    labels += [f"metadata {key}={value}" for key, value in asked.metadata.items()]
    return " & ".join(map(quote_label, labels)) or None


def quote_label(label: str) -> str:
    """A label as a tsquery, cut as labels are. Between quotes, only they and backslashes mean anything."""
    inner = label[:LONGEST_LABEL].replace("\\", "\\\\").replace("'", "''")
    return f"'{inner}'"
