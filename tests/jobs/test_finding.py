"""Finding jobs: every filter, alone and with others, finds what the same filter in Python finds, each job once, however
little one page may look at."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec
import pytest
from sqlalchemy import text

from app.clock import first_id
from app.db import Database
from app.errors import Invalid
from app.jobs import finding
from app.jobs.filters import JobFilter
from app.jobs.finding import count_jobs, find_jobs, list_ids, quote_label
from app.jobs.indexing import index_words
from app.jobs.queries import finding as queries
from app.jobs.queries.words import insert_words
from app.simulator.server import RunningSimulator
from tests.harness import FLUX, Service, eventually

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
STATUSES: Final = ("QUEUED", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED")
MODELS: Final = ("flux", "kling-2.6", "suno")
OPERATIONS: Final = ("images/generate", "videos/edit")
CODES: Final = ("upstream_failed", "submission_unknown")
WORDS: Final = ("red", "castle", "storm", "Zebra", "héron")
METADATA: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"shot": "12"},
    {"shot": 12, "it's": "a\\b'c"},
    {"shot": "1", "ok": True},
)
ODD: Final = (
    "'",
    "\\",
    "\\'",
    "a b",
    "=",
    "&|!():*<->",
    '"',
    "\n\t",
    "ü" * 600,
    "x" * 3000,
    "",
    "\u2028",
    "🦩",
    "%_",
    "'' \\\\",
)
JOBS: Final = 300


@dataclass(frozen=True)
class History:
    """Some hundred jobs of three teams, one of them a test team, and what a filter in Python knows of them."""

    db: Database
    jobs: list[dict[str, Any]]
    teams: dict[str, UUID]
    keys: list[UUID]

    def matching(self, asked: JobFilter, team_id: UUID | None, key_id: UUID | None) -> list[UUID]:
        """What must be found, newest first."""
        found = [job for job in self.jobs if self._matches(job, asked, team_id, key_id)]
        return [job["id"] for job in sorted(found, key=lambda job: (job["created_at"], job["id"].bytes), reverse=True)]

    def _matches(self, job: dict[str, Any], asked: JobFilter, team_id: UUID | None, key_id: UUID | None) -> bool:
        held = {key: _as_text(value) for key, value in job["metadata"].items()}
        words = set(job["input"]["prompt"].lower().split())
        return all(
            (
                job["team_id"] == team_id if team_id else job["team_id"] != self.teams["test"],
                key_id in (None, job["key_id"]),
                not asked.status or job["status"] in asked.status,
                asked.model in (None, job["model"]),
                asked.operation in (None, job["operation"]),
                asked.error_code in (None, job["error_code"]),
                not asked.overdue or (job["overdue_at"] is not None and job["overdue_at"] <= NOW),
                asked.created_after is None or job["created_at"] >= asked.created_after,
                asked.created_before is None or job["created_at"] < asked.created_before,
                all(held.get(key) == value for key, value in asked.metadata.items()),
                asked.words is None or set(asked.words.lower().split()) <= words,
                asked.search in (None, str(job["id"]), job["upstream_id"]),
            )
        )


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def random_job(dice: random.Random, number: int, teams: dict[str, UUID], keys: list[UUID]) -> dict[str, Any]:
    key = dice.randrange(len(keys))
    status = dice.choice(STATUSES)
    is_open = status in ("QUEUED", "PROCESSING")
    created_at = NOW - timedelta(minutes=number // 3)  # some at the same time
    return {
        "id": UUID(int=first_id(created_at).int | dice.getrandbits(62)),
        "team_id": list(teams.values())[key // 2],
        "key_id": keys[key],
        "created_at": created_at,
        "operation": dice.choice(OPERATIONS),
        "model": dice.choice(MODELS),
        "input": {"prompt": " ".join(dice.sample(WORDS, dice.randint(1, 3)))},
        "metadata": dice.choice(METADATA),
        "status": status,
        "error_code": dice.choice(CODES) if status == "FAILED" else None,
        "completed_at": None if is_open else NOW,
        "upstream_id": str(UUID(int=dice.getrandbits(128))),
        "overdue_at": NOW + timedelta(minutes=dice.randint(-9, 9)) if is_open and dice.random() < 0.5 else None,
    }


@pytest.fixture
async def history(database_url: str) -> AsyncIterator[History]:
    dice = random.Random(20260301)
    database = Database(database_url, pool_size=2)
    teams = {name: uuid4() for name in ("red", "blue", "test")}
    keys = [uuid4() for _ in range(6)]
    jobs = [random_job(dice, number, teams, keys) for number in range(JOBS)]
    async with database.transaction() as tx:
        for name, team_id in teams.items():
            test_of = teams["red"] if name == "test" else None
            statement = "INSERT INTO teams (id, name, created_at, test_of) VALUES (:id, :name, :now, :test_of)"
            await tx.execute(text(statement), {"id": team_id, "name": name, "now": NOW, "test_of": test_of})
        for number, key_id in enumerate(keys):
            statement = """INSERT INTO api_keys (id, team_id, name, key_hash, prefix, scopes, created_at)
                VALUES (:id, :team_id, '', uuid_send(:id), '', '{}', :now)"""
            await tx.execute(text(statement), {"id": key_id, "team_id": list(teams.values())[number // 2], "now": NOW})
        await tx.execute(INSERT_JOBS, [_as_row(job) for job in jobs])
        await insert_words(tx, [job["id"] for job in jobs])
    try:
        yield History(database, jobs, teams, keys)
    finally:
        await database.close()


INSERT_JOBS: Final = text(
    """
    INSERT INTO jobs (id, team_id, key_id, created_at, updated_at, operation, model, input, metadata, status, error_code,
        completed_at, upstream_account, upstream_id, wire_body, overdue_at)
    VALUES (:id, :team_id, :key_id, :created_at, :created_at, :operation, :model, CAST(:input AS jsonb),
        CAST(:metadata AS jsonb), :status, :error_code, :completed_at, 'upstream', :upstream_id, '', :overdue_at)
    """
)


def _as_row(job: dict[str, Any]) -> dict[str, Any]:
    return job | {name: msgspec.json.encode(job[name]).decode() for name in ("input", "metadata")}


def random_filter(dice: random.Random, history: History) -> JobFilter:
    """One condition, or some of them."""
    job = dice.choice(history.jobs)
    choices: dict[str, Any] = {
        "status": tuple(dice.sample(STATUSES, dice.randint(1, 4))),
        "model": dice.choice((*MODELS, "absent")),
        "operation": dice.choice((*OPERATIONS, "absent")),
        "error_code": dice.choice((*CODES, "absent")),
        "overdue": True,
        "created_after": NOW - timedelta(minutes=dice.randint(0, 120)),
        "created_before": NOW - timedelta(minutes=dice.randint(0, 120)),
        "metadata": dice.choice(({"shot": "12"}, {"it's": "a\\b'c"}, {"ok": "true", "shot": "1"}, {"none": ""})),
        "words": dice.choice(("red", "ZEBRA castle", "héron", "absent")),
        "search": str(dice.choice((job["id"], job["upstream_id"], uuid4()))),
    }
    weights = {"search": 1, "overdue": 2, "error_code": 2}
    names = dice.choices(list(choices), weights=[weights.get(name, 4) for name in choices], k=dice.choice((1, 1, 2, 3)))
    return JobFilter(**{name: choices[name] for name in names})


async def walk_through(history: History, asked: JobFilter, **scope: Any) -> list[UUID]:
    """What all pages show, one after the other."""
    ids: list[UUID] = []
    for _ in range(2 * JOBS):
        async with history.db.reading() as connection:
            found = await find_jobs(connection, asked, now=NOW, **scope)
        assert len(found.rows) <= asked.limit
        assert found.looked_back_to is None or found.cursor is not None
        assert found.cursor is None or found.looked_back_to is not None or len(found.rows) == asked.limit
        ids += [row.id for row in found.rows]
        if found.cursor is None:
            return ids
        asked = replace(asked, cursor=found.cursor)
    pytest.fail(f"there is no end to {asked}")


@pytest.mark.parametrize(
    ("few", "common", "merged"),
    [(finding.FEW, finding.COMMON, 64), (60, finding.COMMON, 64), (finding.FEW, 0, 64), (0, finding.COMMON, 1)],
    ids=["words", "some words", "walk", "a walk each"],
)
async def test_every_filter_finds_what_the_same_filter_in_python_finds(
    history: History, monkeypatch: pytest.MonkeyPatch, few: int, common: int, merged: int
) -> None:
    """Page by page, each once; with budgets that a page does not reach, and with ones that cut it short."""
    monkeypatch.setattr(finding, "FEW", few)
    monkeypatch.setattr(finding, "COMMON", common)
    monkeypatch.setattr(queries, "MOST_MERGED", merged)
    dice = random.Random(7)
    for _ in range(40):
        asked = replace(random_filter(dice, history), limit=dice.choice((1, 7, 100)))
        team_id = dice.choice((None, history.teams["red"], history.teams["test"]))
        key_id = dice.choice((None, None, dice.choice(history.keys)))
        scope = {"team_id": team_id, "key_id": key_id, "budget": dice.choice((3, 40, finding.BUDGET))}

        expected = history.matching(asked, team_id, key_id)
        assert await walk_through(history, asked, **scope) == expected, (asked, scope)


async def test_jobs_that_were_made_at_once_are_listed_in_their_order_whatever_their_ids(history: History) -> None:
    """Of ten each, the first by its time is the last by its id."""
    async with history.db.transaction() as tx:
        for place in range(0, JOBS, 10):
            jobs = history.jobs[place : place + 10]
            for job, time in zip(jobs, [job["created_at"] for job in reversed(jobs)], strict=True):
                job["created_at"] = time
                await tx.execute(
                    text("UPDATE jobs SET created_at = :time WHERE id = :id"), {"time": time, "id": job["id"]}
                )

    asked = JobFilter(words="castle", limit=1)
    assert await walk_through(history, asked, team_id=None, key_id=None) == history.matching(asked, None, None)


async def test_jobs_are_counted_and_listed_up_to_a_limit(history: History) -> None:
    failed, now = JobFilter(status=("FAILED", "QUEUED")), NOW + timedelta(seconds=1)
    everything = history.matching(failed, None, None)
    before = NOW - timedelta(minutes=30)
    older = history.matching(replace(failed, created_before=before), None, None)
    async with history.db.reading() as connection:
        counts = [await count_jobs(connection, failed, team_id=None, now=now, limit=limit) for limit in (5, 1000)]
        all_ids, end = await list_ids(connection, failed, team_id=None, now=now, created_before=now, limit=1000)
        some, cursor = await list_ids(connection, failed, team_id=None, now=now, created_before=before, limit=7)
        rest = replace(failed, cursor=cursor)
        others, _ = await list_ids(connection, rest, team_id=None, now=now, created_before=before, limit=1000)

    assert counts == [(5, True), (len(everything), False)]
    assert (all_ids, end) == (everything, None)
    assert some + others == older
    assert len(some) == 7


async def test_labels_mean_what_they_say_whatever_stands_in_them(history: History) -> None:
    """Each odd text as a key and as a value: the job that has it is found by it, and no other."""
    made = []
    for number, odd in enumerate(ODD):
        dice = random.Random(number)
        job = random_job(dice, 0, history.teams, history.keys[:1])
        made.append(job | {"metadata": {"odd": odd, odd[:60]: "key"}, "operation": "images/generate"})
    async with history.db.transaction() as tx:
        await tx.execute(INSERT_JOBS, [_as_row(job) for job in made])
        await insert_words(tx, [job["id"] for job in made])
    async with history.db.reading() as connection:
        for job, odd in zip(made, ODD, strict=True):
            for metadata in ({"odd": odd}, {odd[:60]: "key"}):
                asked = JobFilter.parse(JobFilter(metadata=metadata).as_query())
                found = await find_jobs(connection, asked, team_id=job["team_id"], key_id=None, now=NOW)
                assert [row.id for row in found.rows] == [job["id"]], metadata
            literal = await connection.execute(
                text("SELECT CAST(:query AS tsquery)"), {"query": quote_label(f"k {odd}")}
            )
            assert literal.scalar_one() is not None


async def test_words_are_those_of_every_text_and_of_nobodys_labels(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service: Service = await serve(simulator, loops=False)
    body = {"model": "midjourney", "prompt": "A castle, by the SEA"}
    castle = await service.caller.accepted(body | {"metadata": {"shot": "sea"}}, Prefer="respond-async")
    storm = await service.caller.accepted(FLUX, Prefer="respond-async")

    async def ids(**query: str) -> list[str]:
        answer = await service.caller.http.get("/v2/jobs", params=query)
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["jobs"]]

    assert await ids(q="castle") == []
    assert await ids(**{"metadata.shot": "sea"}) == [castle]  # what jobs know themselves is found at once
    while await index_words(service.ctx):
        pass
    assert await ids(q="castle") == await ids(q="Castle sea -storm") == await ids(q='"the sea"') == [castle]
    assert await ids(q='"sea the"') == await ids(q="operation=images/generate") == await ids(q="shot") == []
    assert await ids(q="storm OR castle") == [storm, castle]
    assert await ids(q=castle.upper()) == [castle]
    assert await ids(q="castle", status="FAILED,CANCELLED") == []
    assert await ids(q="castle", status="QUEUED,FAILED", operation="images/generate") == [castle]
    (words,) = await service.rows("SELECT words FROM job_words WHERE job_id = :id", id=castle)
    async with service.ctx.db.transaction() as tx:
        assert await insert_words(tx, [UUID(castle), UUID(storm)]) == 0
    assert await service.rows("SELECT words FROM job_words WHERE job_id = :id", id=castle) == [words]


async def test_new_jobs_are_found_by_their_words_before_long(service: Service) -> None:
    job_id = await service.caller.accepted(FLUX | {"prompt": "an unheard-of thing"})

    async def look() -> list[str]:
        answer = await service.caller.http.get("/v2/jobs", params={"q": "thing"})
        return [job["id"] for job in answer.json()["jobs"]]

    assert await eventually(look) == [job_id]


def test_a_filter_reads_its_own_query() -> None:
    time = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    every = JobFilter(
        status=("PROCESSING", "FAILED"),
        model="m",
        operation="o",
        team="t",
        error_code="e",
        overdue=True,
        created_after=time,
        created_before=time.replace(microsecond=0),
        metadata={"a.b": "c=d", "": "x"},
        words="red castle",
        search=str(uuid4()),
        whole_team=True,
        include_models=True,
    )
    for asked in (
        every,
        JobFilter(),
        JobFilter(whole_team=True),
        JobFilter(team="t"),
        JobFilter(team="t", whole_team=True),
    ):
        assert JobFilter.parse(asked.as_query()) == asked


def test_a_filter_tells_all_that_is_wrong_with_it_at_once() -> None:
    wrong = {
        "status": "DONE",
        "createdAfter": "x",
        "limit": "0",
        "search": "x",
        "overdue": "1",
        "q": "\0",
        "model": "\0",
    }
    with pytest.raises(Invalid) as caught:
        JobFilter.parse(wrong | {f"metadata.{n}": "" for n in range(11)})
    assert set(caught.value.body["details"]) == {*wrong, "metadata"}
