"""The overview: what is stuck is said in words, figures are those of the tallies, and everything leads on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from sqlalchemy import text

from app.apiframe.signature import fingerprint
from app.dashboard.troubles import list_troubles
from app.ops.standing import Standing
from app.ops.status import Keeping, KeyHealth, Load, Telling
from app.ops.watching import LoopSeen, ProcessSeen
from app.simulator.server import RunningSimulator
from tests.dashboard.operators import Operator, sign_in
from tests.harness import FLUX, SIMULATOR_KEY, Service, eventually, tell

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
AGO = NOW - timedelta(minutes=5)

LOAD: dict[str, Any] = {
    "waiting": 0, "more_waiting": False, "oldest_waiting_seconds": None, "in_flight": 0, "ambiguous": 0, "overdue": 0,
    "more_overdue": False,
}  # fmt: skip
TELLING: dict[str, Any] = {
    "pending": 0, "more_pending": False, "oldest_due_seconds": None, "undelivered": 0, "more_undelivered": False,
    "disabled_subscriptions": 0,
}  # fmt: skip
KEEPING: dict[str, Any] = {
    "pending": 0, "more_pending": False, "oldest_pending_seconds": None, "late": 0, "failed": 0, "more_failed": False,
}  # fmt: skip


def key(state: str, reason: str | None = None, held_until: datetime | None = None) -> KeyHealth:
    return KeyHealth(fingerprint="a1b2", state=state, held_until=held_until, reason=reason, failure_count=1)  # type: ignore[arg-type]


def process(*loops: LoopSeen) -> ProcessSeen:
    row: Any = None  # what there is to tell of it besides
    return ProcessSeen(row, loops)


def loop(name: str, seconds_ago: float, error: str | None = None) -> LoopSeen:
    return LoopSeen(
        name=name,
        every_seconds=5,
        seconds_ago=seconds_ago,
        turn_seconds=0.1,
        error=error,
        error_seconds_ago=None if error is None else seconds_ago,
    )


def standing(**changes: Any) -> Standing:
    """All is well, but for these changes."""
    well: dict[str, Any] = {
        "load": Load(**LOAD), "telling": Telling(**TELLING), "keeping": Keeping(**KEEPING), "keys": [key("ready")],
        "cap": 10, "cap_lowered_to": None, "paused_at": None, "trouble": None, "paused_teams": [], "poll_only": False,
        "processes": [process(loop("dispatch", 2))],
    }  # fmt: skip
    return Standing(**well | changes)


def test_where_all_is_well_nothing_is_said() -> None:
    assert list_troubles(standing(), NOW) == []


@pytest.mark.parametrize(
    ("changes", "words", "url", "tone"),
    [
        ({"paused_at": AGO}, "an operator paused dispatch 5 min ago", "/ops/upstream", "fault"),
        (
            {"keys": [key("held", "the key is refused", NOW + timedelta(seconds=40))]},
            "under the key a1b2 for 40 s more: the key is refused.",
            "/ops/upstream",
            "fault",
        ),
        ({"keys": [key("probing", "no credits")]}, "One job goes first", "/ops/upstream", "warning"),
        ({"paused_teams": ["design"]}, "Nothing is sent for the team design:", "/ops/teams", "warning"),
        ({"paused_teams": list("abcdef")}, "the teams a, b, c, d and 2 more:", "/ops/teams", "warning"),
        ({"cap_lowered_to": 3}, "refused more than 3 jobs at once", "/ops/upstream", "warning"),
        (
            {"trouble": ("webhook signatures do not verify", AGO)},
            "Webhook signatures do not verify (5 min ago)",
            "/ops/receipts",
            "warning",
        ),
        ({"poll_only": True}, "Poll-only", "/ops/upstream", "warning"),
        (
            {"load": Load(**LOAD | {"waiting": 3, "oldest_waiting_seconds": 7200.0, "in_flight": 10})},
            "3 jobs wait to be sent, the oldest for 2.0 h, and all 10 slots at Apiframe are taken.",
            "/ops/jobs?status=QUEUED",
            "warning",
        ),
        ({"load": Load(**LOAD | {"overdue": 1})}, "1 job takes longer", "/ops/jobs?overdue=true", "warning"),
        (
            {"load": Load(**LOAD | {"overdue": 10_000, "more_overdue": True})},
            "10,000+ jobs take longer",
            "/ops/jobs?overdue=true",
            "warning",
        ),
        (
            {"telling": Telling(**TELLING | {"undelivered": 2})},
            "2 deliveries were given up",
            "/ops/deliveries?status=undelivered",
            "warning",
        ),
        (
            {"telling": Telling(**TELLING | {"oldest_due_seconds": 600.0})},
            "the oldest is due for 10 min",
            "/ops/deliveries?status=pending",
            "warning",
        ),
        (
            {"telling": Telling(**TELLING | {"disabled_subscriptions": 1})},
            "1 subscription is disabled",
            "/ops/subscriptions",
            "warning",
        ),
        ({"keeping": Keeping(**KEEPING | {"late": 3})}, "3 result files are not kept yet", "/ops/jobs", "fault"),
        ({"processes": [process()]}, "No process runs loops", "#processes", "fault"),
        (
            {"processes": [process(loop("archive", 1, "StorageFailed: it is away"))]},
            "The loop archive failed in its last turn: StorageFailed: it is away",
            "#processes",
            "warning",
        ),
        (
            {"processes": [process(loop("dispatch", 400))]},
            "The loop dispatch has had no turn for 6.7 min",
            "#processes",
            "fault",
        ),
    ],
)
def test_what_is_stuck_is_said_with_its_reason_and_the_page_to_look_at(
    changes: dict[str, Any], words: str, url: str, tone: str
) -> None:
    (trouble,) = list_troubles(standing(**changes), NOW)
    assert words in trouble.text
    assert trouble.url.startswith(url)
    assert trouble.tone == tone


def test_what_holds_work_up_comes_first_and_a_loop_is_late_only_where_it_is_everywhere() -> None:
    found = list_troubles(standing(poll_only=True, paused_at=AGO), NOW)
    assert [trouble.tone for trouble in found] == ["fault", "warning"]
    late, fresh = loop("tally", 400), loop("tally", 1)
    assert list_troubles(standing(processes=[process(late), process(fresh)]), NOW) == []


def words_of(html: str) -> str:
    """What a reader sees."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


async def test_the_page_tells_what_was_done_and_leads_on(
    service: Service, operator: Operator, simulator: RunningSimulator
) -> None:
    assert "No job has failed" in words_of(await operator.read("/ops"))
    await tell(simulator, "faults", next=["fail", "none"])
    failed = await service.caller.accepted(FLUX)
    await service.caller.accepted(FLUX | {"model": "flux-2-max"})
    ended = "SELECT sum(completed + failed) AS jobs FROM tallies WHERE span = 'day'"
    await eventually(lambda: service.rows(ended), lambda rows: rows[0].jobs == 2)
    await eventually(lambda: service.rows("SELECT 1 FROM processes WHERE role = 'serve'"))
    html = await operator.read("/ops?window=1h")
    seen = words_of(html)
    assert "Success 50.0 %" in seen
    assert "Nothing is stuck." in seen
    assert "Submitted 2 Completed 1 Failed 1" in seen
    for link in (
        *("/ops/jobs?status=FAILED", "/ops/jobs?overdue=true", "/ops/jobs?status=QUEUED", f"/ops/jobs/{failed}"),
        *("/ops/deliveries?status=undelivered", "/ops/jobs?model=flux-2-max", "/ops/jobs?team=tests", "?window=30d"),
    ):
        assert f'href="{link}"' in html, link
    assert 'id="overview" data-live="job.*" data-every="10"' in html
    assert 'role="img" aria-label="Jobs over time, last hour: 2 submitted, 1 completed, 1 failed, 0 cancelled."' in html
    assert (await service.job(failed)).error in seen
    assert '<a href="?window=1h" aria-current="true"' in html
    assert '<a href="?window=24h" aria-current="true"' in await operator.read("/ops?window=nonsense")
    assert "style=" not in html


async def test_what_is_wrong_with_the_service_stands_on_the_page(
    serve: Callable[..., Any], simulator: RunningSimulator
) -> None:
    service: Service = await serve(simulator, loops=False, public_base_url=None)
    await service.caller.accepted(FLUX, Prefer="respond-async")
    loops = json.dumps({"deliver": {"every": 5, "ago": 500, "seconds": 0.1, "error": "OSError: no", "errorAgo": 500}})
    async with service.ctx.db.transaction() as tx:
        for statement in (
            """
            INSERT INTO upstream_accounts (id, paused_at, trouble, trouble_at, updated_at)
            VALUES (:account, now(), 'webhook signatures do not verify', now(), now())
            ON CONFLICT (id) DO UPDATE
            SET paused_at = now(), trouble = excluded.trouble, trouble_at = now()
            """,
            """
            INSERT INTO upstream_keys (account, fingerprint, held_until, hold_reason, must_probe, updated_at)
            VALUES (:account, :key, now() + interval '1 minute', 'Apiframe is away', true, now())
            """,
            "UPDATE teams SET paused_at = now() WHERE name = 'tests'",
            "UPDATE jobs SET overdue_at = now() - interval '1 minute'",
            """
            INSERT INTO processes (id, host, pid, role, version, started_at, seen_at, loops)
            VALUES (gen_random_uuid(), 'a-host', 4242, 'worker', '1', now(), now(), CAST(:loops AS jsonb))
            """,
        ):
            await tx.execute(
                text(statement), {"account": service.ctx.account, "key": fingerprint(SIMULATOR_KEY), "loops": loops}
            )
    async with AsyncExitStack() as stack:
        operator = await sign_in(stack, service)
        seen = words_of(await operator.read("/ops"))
    for words in (
        "an operator paused dispatch",
        "Apiframe is away.",
        "Nothing is sent for the team tests",
        "Webhook signatures do not verify",
        "Poll-only",
        "1 job takes longer",
        "The loop deliver has had no turn",
        "a-host 4242",
        "deliver failed",
        "Queued 1",
    ):
        assert words in seen, words
