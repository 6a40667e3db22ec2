"""SQL of finding jobs: a walk along one index with an end to it, or the few that the index of words knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow
from app.jobs.queries.reading import JOB_COLUMNS

FOUND_COLUMNS: Final = f"""{JOB_COLUMNS}, team_id, key_id, upstream_id, overdue_at,
    (SELECT name FROM teams WHERE teams.id = team_id) AS team"""  # noqa: S608 - a constant of ours

ORDER: Final = "ORDER BY created_at DESC, id DESC"


LIVE_TEAM: Final = "team_id IN (SELECT id FROM teams WHERE test_of IS NULL)"
ONE_TEAM: Final = "team_id = :team_id"
EACH_TEAM: Final = "team_id = teams.id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Conditions on `jobs`, and what stands in them. The parts are ours; what others gave stands in `parameters`.

    Each of `walks` picks one stretch of an index, `span` says which part of it, and `tests` are put to what is met there.
    All jobs that match are on one of the walks, and on one only. `labels` and `words` are what their words must match, a
    tsquery and what somebody typed, both of them where they are not None.
    """

    walks: Sequence[str]
    span: Sequence[str] = ()
    tests: Sequence[str] = ()
    labels: str | None = None
    words: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    team: str = ONE_TEAM
    each_team: bool = False  # `team` names the row of `teams` that the walk is made for

    @property
    def everything(self) -> str:
        """All that a job must be, but for its words."""
        team = LIVE_TEAM if self.each_team else self.team
        return " AND ".join([team, f"({' OR '.join(self.walks)})", *self.span, *self.tests])


async def walk(connection: AsyncConnection, sought: Sought, *, budget: int, limit: int) -> Sequence[AnyRow]:
    """The newest that match, newest first, as (created_at, id, matches, is_edge); at most `limit` of each walk.

    All walks together look at no more than about `budget` rows. `is_edge` marks where one ended for that reason: what is
    older was not looked at there.
    """
    parameters = {**sought.parameters, **_typed(sought)}
    tests = " AND ".join([*sought.tests, *([_HAS_WORDS] if sought.words is not None else [])]) or "true"
    parts = [
        _walk(" AND ".join([sought.team, condition, *sought.span]), tests, budget, limit) for condition in sought.walks
    ]
    if sought.each_team:
        parts = [
            f"SELECT part.* FROM teams CROSS JOIN LATERAL ({part}) AS part WHERE test_of IS NULL"  # noqa: S608
            for part in parts
        ]
    statement = f"SELECT * FROM ({' UNION ALL '.join(f'({part})' for part in parts)}) AS met {ORDER}"  # noqa: S608
    return (await connection.execute(text(statement), parameters)).all()


def _walk(condition: str, tests: str, budget: int, limit: int) -> str:
    """One walk. Numbers stand in it as they are, so that the planner knows how little will be read."""
    return f"""
        SELECT created_at, id, matches, place = {budget} AS is_edge
        FROM (
            SELECT created_at, id, matches, row_number() OVER () AS place
            FROM (
                SELECT created_at, id, coalesce({tests}, false) AS matches FROM jobs WHERE {condition}
                {ORDER} LIMIT {budget}
            ) AS looked
        ) AS counted
        WHERE matches OR place = {budget} {ORDER} LIMIT {limit}
        """  # noqa: S608 - all parts are ours


# Not an EXISTS, which the planner may turn into reading all that match.
_HAS_WORDS: Final = (
    "(SELECT words @@ websearch_to_tsquery('simple', :words) FROM job_words WHERE job_words.job_id = jobs.id)"
)


def _typed(sought: Sought) -> dict[str, str]:
    return {} if sought.words is None else {"words": sought.words}


def _in_words(sought: Sought) -> tuple[str, dict[str, str]]:
    """The condition on `job_words`, and what stands in it."""
    given = {"labels": (sought.labels, "CAST(:labels AS tsquery)")}
    given["words"] = (sought.words, "websearch_to_tsquery('simple', :words)")
    wanted = {name: query for name, (value, query) in given.items() if value is not None}
    values = {name: value for name, (value, _) in given.items() if value is not None}
    return " AND ".join(f"words @@ {query}" for query in wanted.values()), values


async def guess_words(connection: AsyncConnection, sought: Sought) -> int:
    """How many jobs the planner believes to have these words and labels. Nothing is read."""
    condition, parameters = _in_words(sought)
    statement = text(f"EXPLAIN (FORMAT JSON) SELECT 1 FROM job_words WHERE {condition}")  # noqa: S608
    told = (await connection.execute(statement, parameters)).scalar_one()
    plan = msgspec.json.decode(told) if isinstance(told, str) else told
    return int(plan[0]["Plan"]["Plan Rows"])


async def count_words(connection: AsyncConnection, sought: Sought, *, limit: int) -> int:
    """How many jobs have these words and labels, counted up to `limit`."""
    condition, parameters = _in_words(sought)
    statement = f"SELECT count(*) FROM (SELECT 1 FROM job_words WHERE {condition} LIMIT {limit}) AS few"  # noqa: S608
    return int((await connection.execute(text(statement), parameters)).scalar_one())


async def list_by_words(connection: AsyncConnection, sought: Sought, *, most: int, limit: int) -> Sequence[AnyRow]:
    """The newest that match of those that have these words and labels, as `walk` gives them.

    There must be no more than `most`. Labels are also looked for in jobs whose words were not read yet, which `jobs` knows
    itself.
    """
    in_words, parameters = _in_words(sought)
    waiting = "" if sought.words is not None else f"UNION ALL ({_WAITING} LIMIT {most})"
    statement = f"""
        WITH hits AS MATERIALIZED (
            SELECT * FROM jobs WHERE id = ANY(ARRAY(
                (SELECT job_id FROM job_words WHERE {in_words} LIMIT {most}) {waiting}
            ))
        )
        SELECT created_at, id, true AS matches, false AS is_edge
        FROM hits AS jobs WHERE {sought.everything} {ORDER} LIMIT {limit}
        """  # noqa: S608 - all parts are ours
    return (await connection.execute(text(statement), {**sought.parameters, **parameters})).all()


# What follows the reader's place in the log is not in `job_words` yet. That is little, unless it cannot keep up.
_WAITING: Final = """
    SELECT job_id FROM events
    WHERE sequence > coalesce((SELECT sequence FROM log_readers WHERE name = 'words'), 0) AND type = 'job.queued'
    ORDER BY sequence DESC
"""


async def find_by_id(connection: AsyncConnection, sought: Sought, job_id: str, *, limit: int) -> Sequence[AnyRow]:
    """The jobs with this id, ours or the upstream's, that match, as `walk` gives them."""
    has_words = "" if sought.words is None else f"AND {_HAS_WORDS}"
    statement = f"""
        SELECT created_at, id, true AS matches, false AS is_edge FROM jobs
        WHERE (id = CAST(CAST(:search AS text) AS uuid) OR upstream_id = :search)
            AND {sought.everything} {has_words} {ORDER} LIMIT {limit}
        """  # noqa: S608 - all parts are ours
    parameters = {**sought.parameters, **_typed(sought), "search": job_id}
    return (await connection.execute(text(statement), parameters)).all()


async def list_found(connection: AsyncConnection, ids: Sequence[UUID]) -> Sequence[AnyRow]:
    """These jobs, newest first: the job object and whose it is."""
    return (await connection.execute(_LIST_FOUND, {"ids": ids})).all() if ids else []


_LIST_FOUND: Final = text(
    f"SELECT {FOUND_COLUMNS} FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) {ORDER}"  # noqa: S608
)


async def count_live_teams(connection: AsyncConnection) -> int:
    """How many teams there are that are no test teams."""
    return int((await connection.execute(text("SELECT count(*) FROM teams WHERE test_of IS NULL"))).scalar_one())
