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
from app.statements import Statement

FOUND_COLUMNS: Final = f"""{JOB_COLUMNS}, team_id, key_id, upstream_id, overdue_at,
    (SELECT name FROM teams WHERE teams.id = team_id) AS team"""  # noqa: S608 - a constant of ours

ORDER: Final = "ORDER BY created_at DESC, id DESC"


LIVE_TEAM: Final = "team_id IN (SELECT id FROM teams WHERE test_of IS NULL)"
ONE_TEAM: Final = "team_id = :team_id"
EACH_TEAM: Final = "team_id = teams.id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Conditions on `jobs`, and what stands in them. The parts are ours; what others gave stands in `parameters`.

    Each of `walks` picks one stretch of an index, `span` says which part of it, and `tests` are put to what is met there:
    before the others those that the index itself can tell. All jobs that match are on one of the walks, and on one only.
    `labels` and `words` are what their words must match, a tsquery and what somebody typed, both of them where they are not
    None; `team_label` is the tsquery of the team.
    """

    walks: Sequence[str]
    span: Sequence[str] = ()
    tests_of_index: Sequence[str] = ()
    tests: Sequence[str] = ()
    labels: str | None = None
    words: str | None = None
    team_label: str | None = None
    team_is_sought: bool = False  # by the index of words; else it is read of what the index finds
    parameters: Mapping[str, Any] = field(default_factory=dict)
    team: str = ONE_TEAM
    each_team: bool = False  # the walk is made in each of several teams

    @property
    def everything(self) -> str:
        """All that a job must be, but for its words."""
        return " AND ".join([self.team, f"({' OR '.join(self.walks)})", *self.span, *self.tests_of_index, *self.tests])


async def walk(connection: AsyncConnection, sought: Sought, *, budget: int, limit: int) -> Sequence[AnyRow]:
    """The newest that match, newest first, as (created_at, id, matches, is_edge), at most `limit`.

    No more than `budget` rows are looked at. Where that ends it, the last row looked at comes in any case, as `is_edge`, and
    may match or not: what is older was not looked at. With very many teams each is walked through by itself, and may have
    an edge of its own.
    """
    parameters: dict[str, Any] = {**sought.parameters, **_typed(sought)}
    if not sought.each_team:
        statement = _walk(sought, [sought.team], budget, limit)
        return (await connection.execute(text(statement), parameters)).all()
    teams = [row.id for row in await connection.execute(_LIVE_TEAMS)]
    if len(teams) * len(sought.walks) <= MOST_MERGED:
        parameters |= {f"team_{number}": team_id for number, team_id in enumerate(teams)}
        statement = _walk(sought, [f"team_id = :team_{n}" for n in range(len(teams))] or ["false"], budget, limit)
    else:
        share = max(budget // len(teams), limit)
        each = _walk(sought, [EACH_TEAM], share, limit)
        statement = f"""
            SELECT part.* FROM teams CROSS JOIN LATERAL ({each}) AS part WHERE test_of IS NULL
            {ORDER}
            """  # noqa: S608 - all parts are ours
    return (await connection.execute(text(statement), parameters)).all()


def _walk(sought: Sought, teams: Sequence[str], budget: int, limit: int) -> str:
    """One walk along some stretches of indexes at once, in each of the teams, which are merged as they are read.

    The walk itself reads nothing but the indexes; a job and its words are looked at by their primary keys, and only until
    enough match. So numbers stand in the statement as they are, for the planner to know how little is read, and the rows
    that match have no order of their own but that in which they are met: to sort them, all would be read first.
    """
    fits = " AND ".join(sought.tests_of_index) or "true"
    ways = [" AND ".join([team, walk, *sought.span]) for team in teams for walk in sought.walks]
    merged = " UNION ALL ".join(
        f"(SELECT created_at, id, {fits} AS fits FROM jobs WHERE {way} {ORDER} LIMIT {budget})"  # noqa: S608
        for way in ways
    )
    places = f"SELECT created_at, id, fits FROM ({merged}) AS stretch {ORDER} LIMIT {budget}"  # noqa: S608
    looks = ["fits"]
    if sought.tests:
        looks.append(f"(SELECT {' AND '.join(sought.tests)} FROM jobs WHERE jobs.id = place.id)")  # noqa: S608
    if sought.words is not None:
        looks.append(_has_words("place.id"))
    matches = " AND ".join(looks)
    return f"""
        SELECT created_at, id, coalesce(matches, false) AS matches, number = {budget} AS is_edge
        FROM (
            SELECT created_at, id, {matches} AS matches, row_number() OVER () AS number FROM ({places}) AS place
        ) AS looked
        WHERE matches OR number = {budget} LIMIT {limit}
        """  # noqa: S608 - all parts are ours


MOST_MERGED: Final = 64
"""Each stretch that is merged is planned for."""

_LIVE_TEAMS: Final = text("SELECT id FROM teams WHERE test_of IS NULL")


def _has_words(job_id: str) -> str:
    """Whether a job has the words that somebody typed. Not an EXISTS: the planner may turn that into reading all that do."""
    return f"(SELECT words @@ websearch_to_tsquery('simple', :words) FROM job_words WHERE job_words.job_id = {job_id})"  # noqa: S608


def _typed(sought: Sought) -> dict[str, str]:
    return {} if sought.words is None else {"words": sought.words}


def _in_words(sought: Sought) -> tuple[str, dict[str, str]]:
    """What the index of `job_words` is asked, and what stands in it."""
    given = {"labels": (sought.labels, "words @@ CAST(:labels AS tsquery)")}
    given["words"] = (sought.words, "words @@ websearch_to_tsquery('simple', :words)")
    if sought.team_is_sought:
        given["team_label"] = (sought.team_label, _IS_OF_TEAM)
    wanted = {name: condition for name, (value, condition) in given.items() if value is not None}
    values = {name: value for name, (value, _) in given.items() if value is not None}
    return " AND ".join(wanted.values()), values


_IS_OF_TEAM: Final = "words @@ CAST(:team_label AS tsquery)"


async def guess_words(connection: AsyncConnection, sought: Sought) -> int:
    """How many jobs the planner believes to have these words and labels, as the index is asked. Nothing is read."""
    condition, parameters = _in_words(sought)
    statement = text(f"EXPLAIN (FORMAT JSON) SELECT 1 FROM job_words WHERE {condition}")  # noqa: S608
    told = (await connection.execute(statement, parameters)).scalar_one()
    plan = msgspec.json.decode(told) if isinstance(told, str) else told
    return int(plan[0]["Plan"]["Plan Rows"])


async def list_by_words(
    connection: AsyncConnection, sought: Sought, *, most: int, limit: int
) -> Sequence[AnyRow] | None:
    """The newest that match of those that have these words and labels, as `walk` gives them; None: those are too many.

    The index may know `most`. Whose jobs those are is read of each, unless `team_is_sought`: the index is slow to tell what
    a long list and a short one have in common. Labels are also looked for in jobs whose words were not read yet, which
    `jobs` knows itself.

    Jobs are looked at in the order of their ids, until enough match. An id is made just before the time that its job is
    listed by: of jobs that were made at once the order may be another, so a few more are looked at.
    """
    in_words, parameters = _in_words(sought)
    is_ours = "true"
    if sought.team_label is not None:
        is_ours, parameters = _IS_OF_TEAM, parameters | {"team_label": sought.team_label}
    waiting = "" if sought.words is not None else f"UNION ({_WAITING} LIMIT {most})"
    statement = f"""
        WITH known AS MATERIALIZED (
            SELECT job_id, {is_ours} AS is_ours FROM job_words WHERE {in_words} LIMIT {most + 1}
        ), hits AS MATERIALIZED (
            (SELECT job_id FROM known WHERE is_ours AND (SELECT count(*) FROM known) <= {most}) {waiting}
            ORDER BY job_id DESC
        ), newest AS (
            SELECT job.created_at, job.id
            FROM hits AS hit CROSS JOIN LATERAL (
                SELECT created_at, id, {sought.everything} AS matches FROM jobs WHERE jobs.id = hit.job_id OFFSET 0
            ) AS job
            WHERE job.matches ORDER BY hit.job_id DESC LIMIT {limit + MADE_AT_ONCE}
        )
        (SELECT created_at, id, true AS matches, false AS is_edge FROM newest {ORDER} LIMIT {limit})
        UNION ALL
        SELECT NULL, NULL, NULL, NULL WHERE (SELECT count(*) FROM known) > {most}
        """  # noqa: S608 - all parts are ours
    rows = (await connection.execute(text(statement), {**sought.parameters, **parameters})).all()
    return None if rows and rows[-1].id is None else rows


MADE_AT_ONCE: Final = 50
"""Jobs that may be in another order by their ids than by their times; what one process makes in a moment is less."""


# What follows the reader's place in the log is not in `job_words` yet. That is little, unless it cannot keep up.
_WAITING: Final = """
    SELECT job_id FROM events
    WHERE sequence > coalesce((SELECT sequence FROM log_readers WHERE name = 'words'), 0) AND type = 'job.queued'
    ORDER BY sequence DESC
"""


async def find_by_id(connection: AsyncConnection, sought: Sought, job_id: str, *, limit: int) -> Sequence[AnyRow]:
    """The jobs with this id, ours or the upstream's, that match, as `walk` gives them."""
    has_words = "" if sought.words is None else f"AND {_has_words('jobs.id')}"
    statement = f"""
        SELECT created_at, id, true AS matches, false AS is_edge FROM jobs
        WHERE (id = CAST(CAST(:search AS text) AS uuid) OR upstream_id = :search)
            AND {sought.everything} {has_words} {ORDER} LIMIT {limit}
        """  # noqa: S608 - all parts are ours
    parameters = {**sought.parameters, **_typed(sought), "search": job_id}
    return (await connection.execute(text(statement), parameters)).all()


async def list_found(connection: AsyncConnection, ids: Sequence[UUID]) -> Sequence[AnyRow]:
    """These jobs, newest first: the job object and whose it is."""
    return await _LIST_FOUND.fetch(connection, {"ids": ids}) if ids else []


_LIST_FOUND: Final = Statement(
    f"SELECT {FOUND_COLUMNS} FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) {ORDER}"  # noqa: S608
)
