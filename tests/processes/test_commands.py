"""Keys and the doctor, as an operator and as a script see them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.simulator.server import RunningSimulator
from tests.harness import FLUX, SIMULATOR_KEY
from tests.processes.harness import (
    Ended,
    Program,
    client,
    counters,
    eventually,
    free_port,
    in_front_of,
    query,
    reachable,
    read,
    ready,
    status_of,
    submit,
)


def test_keys_are_made_listed_and_revoked_within_a_second(
    launch: Callable[..., Program],
    run: Callable[..., list[Ended]],
    simulator: RunningSimulator,
    database_url: str,
) -> None:
    database = {"DATABASE_URL": database_url}
    service = launch("serve", **in_front_of(simulator, database_url))
    for_people, for_scripts, refused = run(
        ("keys create --team '[/]writers' --name 'a [b]'", database),
        ("keys create --team designers --scopes read,submit,read --expires-days 3 --json", database),
        ("keys create --team designers --scopes fly", database),
    )
    assert (for_people.exit_code, for_scripts.exit_code, refused.exit_code) == (0, 0, 1)
    (shown,) = re.findall(r"fh_live_[\w-]{40,}", for_people.printed)
    assert "Team [/]writers, scopes submit, read." in for_people.printed
    made = json.loads(for_scripts.printed)
    assert set(made) == {"id", "key", "team", "scopes"}
    assert (made["team"], made["scopes"]) == ("designers", ["submit", "read"])

    url = ready(service)
    assert status_of(f"{url}/v2/jobs", headers={"X-API-Key": shown}) == 200
    with ThreadPoolExecutor(1) as thread:
        good_until = thread.submit(last_good_request, url, made["key"])
        listed, of_one_team, table = run(
            ("keys list --json", database),
            ("keys list --json --team designers", database),
            ("keys list", database),
        )
        (revoked,) = run((f"keys revoke {made['id']}", database))
        revoked_by = time.time()
        assert revoked.printed == f"Revoked {made['id']}.\n"
        assert good_until.result(30) - revoked_by < 1.5
    assert status_of(f"{url}/v2/jobs", headers={"X-API-Key": shown}) == 200

    assert [row["team"] for row in json.loads(listed.printed)] == ["[/]writers", "admin", "designers"]
    (row,) = json.loads(of_one_team.printed)
    assert (row["id"], row["prefix"]) == (made["id"], made["key"][:14])
    assert all(word in table.printed for word in (made["id"], "[/]writers", "a [b]"))
    assert not any(key in one.printed for key in (shown, made["key"]) for one in (listed, of_one_team, table))


def last_good_request(url: str, key: str) -> float:
    """Ask until the key is refused; return when the last request that was answered began, in seconds since the epoch."""
    with client(url, key) as caller:
        asked_at = good_until = time.time()
        while (status := caller.get("/v2/jobs").status_code) == 200:
            good_until = asked_at
            time.sleep(0.05)
            asked_at = time.time()
    assert status == 401
    return good_until


def test_dispatch_is_paused_and_resumed_and_acceptance_goes_on(
    launch: Callable[..., Program],
    run: Callable[..., list[Ended]],
    simulator: RunningSimulator,
    database_url: str,
) -> None:
    environment = {"DATABASE_URL": database_url, "APIFRAME_BASE_URL": simulator.url}
    service = launch("serve", **in_front_of(simulator, database_url))
    with client(ready(service)) as caller:
        (paused, unknown) = run(("pause", environment), ("pause --team nobody", environment))
        assert (paused.exit_code, unknown.exit_code) == (0, 1)
        assert unknown.said == "framehook: there is no team nobody\n"
        job_id = submit(caller)
        assert counters(simulator)["submissions"] == 0

        (resumed,) = run(("resume", environment))

        assert resumed.exit_code == 0
        assert read(caller, job_id, wait=30)["status"] == "COMPLETED"


def test_what_is_past_its_time_is_said_and_then_gone(run: Callable[..., list[Ended]], database_url: str) -> None:
    database = {"DATABASE_URL": database_url, "audit_days": 4}
    query(
        database_url,
        "CREATE TABLE attempts_20250101 (LIKE attempts INCLUDING ALL)",
        "ALTER TABLE attempts ATTACH PARTITION attempts_20250101 FOR VALUES FROM ('2025-01-01Z') TO ('2025-01-02Z')",
        "INSERT INTO audit_log (id, at, actor, action, subject, data)"
        " VALUES ('0190d3f0-0000-7000-8000-000000000000', '2024-07-21Z', 'cli', 'key.created', 'x', '{}')",
        "SELECT 1",
    )
    foreseen, for_people = run(("prune --dry-run --json", database), ("prune --dry-run", database))
    (done,) = run(("prune --json", database))
    (nothing,) = run(("prune", database))

    (day,) = json.loads(foreseen.printed)["partitions"]
    assert (day["name"], day["table"], day["day"]) == ("attempts_20250101", "attempts", "2025-01-01")
    assert day["bytes"] > 0
    assert json.loads(foreseen.printed)["rows"]["audit_entries"] == {"count": 1, "more": False}
    assert re.search(r"^This would go:\n.*\nattempts_20250101 +\? +0\.\d\naudit entries +1 *\n", for_people.printed)
    assert json.loads(done.printed) == json.loads(foreseen.printed) | {"dryRun": False}
    assert [(one.exit_code, one.said) for one in (foreseen, for_people, done, nothing)] == [(0, "")] * 4
    assert nothing.printed == "Nothing is past its time.\n"


def test_a_job_is_shown_with_all_that_happened_to_it(
    launch: Callable[..., Program],
    run: Callable[..., list[Ended]],
    simulator: RunningSimulator,
    database_url: str,
) -> None:
    """By its id in either world, to people and to scripts, whatever the team is called; the service need not run."""
    database = reachable(simulator, database_url)
    url = ready(launch("serve", **database))
    (made,) = run(("keys create --team '[/]writers' --name 'a [b]' --json", database))
    with client(url, json.loads(made.printed)["key"]) as caller:
        job_id = caller.post("/v2/images/generate", json=FLUX).json()["jobId"]
        assert caller.get(f"/v2/jobs/{job_id}?wait=20").json()["status"] == "COMPLETED"
        eventually(lambda: read(caller, job_id)["files"])
        trace = caller.get(f"/v1/jobs/{job_id}/trace").json()
    (upstream_id,) = query(database_url, f"SELECT upstream_id FROM jobs WHERE id = '{job_id}'")

    for_people, for_scripts, by_upstream_id, unknown, nonsense = run(
        (f"jobs show {job_id}", database),
        (f"jobs show {job_id} --json", database),
        (f"jobs show {upstream_id} --json", database),
        ("jobs show 01987c5e-7a2b-7c3d-8e4f-5a6b7c8d9e0f", database),
        ("jobs show x", database),
    )

    assert json.loads(for_scripts.printed) == json.loads(by_upstream_id.printed) == trace
    assert re.search(r"^team +\[/\]writers$", for_people.printed, re.MULTILINE)
    lines = for_people.printed.splitlines()
    table = lines[next(number for number, line in enumerate(lines) if line.startswith("time")) + 1 :]
    assert len(table) >= len(trace["steps"])
    assert re.search(r"\+0\.000 +submitted +a \[b\] +operation images/generate, model flux", table[0])
    assert [(one.exit_code, one.said) for one in (unknown, nonsense)] == [(1, "framehook: Job not found\n")] * 2


def test_the_doctor_says_what_is_wrong_and_what_is_only_worth_knowing(
    launch: Callable[..., Program],
    run: Callable[..., list[Ended]],
    simulator: RunningSimulator,
    database_url: str,
    empty_database_url: str,
    folder: Path,
) -> None:
    settings = reachable(simulator, database_url, APIFRAME_API_KEY=SIMULATOR_KEY)
    ready(launch("serve", **settings))
    away = f"postgresql://someone@127.0.0.1:{free_port()}/framehook"
    ended = run(
        ("doctor --json", settings),
        ("doctor --json", settings | {"APIFRAME_API_KEY": "afk_of_nobody"}),
        ("doctor --json", settings | {"DATABASE_URL": away}),
        ("doctor --json", settings | {"PUBLIC_BASE_URL": None}),
        ("doctor --json", settings | {"DATABASE_URL": empty_database_url}),
        ("doctor --json", settings | {"DATABASE_URL": None}),
        ("doctor --json", settings | {"archive_url": "off"}),
        ("doctor --json", settings | {"archive_url": "file:///dev/null/archive"}),
        ("doctor", settings | {"DATABASE_URL": away}),
    )
    well, bad_key, no_database, poll_only, unmigrated, embedded, off, no_storage = (verdicts(one) for one in ended[:8])
    all_is_well = dict.fromkeys(["database", "migrations", "partitions", "upstream", "way back", "archive"], "ok")

    assert [one.exit_code for one in ended] == [0, 1, 1, 0, 1, 0, 0, 1, 1]
    assert "Traceback" not in "".join(one.said for one in ended)

    def all_but(check: str) -> dict[str, str]:
        return {name: verdict for name, verdict in all_is_well.items() if name != check}

    assert well == all_is_well
    assert bad_key == all_is_well | {"upstream": "failed"}
    assert no_database == {"database": "failed", "upstream": "ok", "way back": "ok", "archive": "ok"}
    assert poll_only == all_but("way back") | {"webhooks": "warning"}
    assert unmigrated == all_but("partitions") | {"migrations": "failed"}
    # An embedded database that was never used is brought up by its first use.
    assert embedded == all_but("partitions")
    assert off == all_is_well | {"archive": "warning"}
    assert no_storage == all_is_well | {"archive": "failed"}
    assert not [path for path in (folder / ".framehook" / "files").rglob("*") if path.is_file()]
    assert re.search(r"^database +failed +cannot be reached: ", ended[8].printed, re.MULTILINE)


def verdicts(ended: Ended) -> dict[str, str]:
    """What a doctor found, by what it checked."""
    return {finding["check"]: finding["verdict"] for finding in json.loads(ended.printed)}
