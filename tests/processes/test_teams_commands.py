"""Teams and the rotation of keys, as an operator and as a script see them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from app.simulator.server import RunningSimulator
from tests.processes.harness import Ended, Program, in_front_of, query, ready, status_of

Launch = Callable[..., Program]
Run = Callable[..., list[Ended]]


def test_teams_are_made_limited_and_listed(
    launch: Launch, run: Run, simulator: RunningSimulator, database_url: str
) -> None:
    database = {"DATABASE_URL": database_url}
    ready(launch("serve", **in_front_of(simulator, database_url)))
    limits = "--queued-limit 1500 --in-flight-limit 3 --allowed-models 'flux-*, ideogram' --archived-modalities image"
    (made,) = run(("teams create '[/]writers' --json", database))
    again, limited = run(("teams create '[/]writers'", database), (f"teams set '[/]writers' {limits}", database))
    (freed,) = run(("teams set '[/]writers' --queued-limit none --allowed-models none", database))
    listed, table = run(("teams list --json", database), ("teams list", database))

    assert json.loads(made.printed)["name"] == "[/]writers"
    assert (again.exit_code, again.said) == (1, "framehook: There is a team of this name\n")
    assert [row.split() for row in limited.printed.splitlines()[:4]] == [
        ["Team", "[/]writers:"],
        ["requestsPerMinute", "no", "limit"],
        ["queuedLimit", "1,500"],
        ["inFlightLimit", "3"],
    ]
    assert "flux-*, ideogram" in limited.printed
    assert freed.exit_code == 0
    (row,) = (team for team in json.loads(listed.printed) if team["name"] == "[/]writers")
    assert (row["queuedLimit"], row["inFlightLimit"], row["allowedModels"]) == (None, 3, None)
    assert row["archivedModalities"] == ["image"]
    assert "[/]writers" in table.printed
    actors = query(database_url, "SELECT DISTINCT actor FROM audit_log")
    assert actors == ["cli"]
    assert query(database_url, "SELECT action FROM audit_log ORDER BY id") == ["team.created", *["team.changed"] * 2]


def test_what_a_team_cannot_be_told_is_one_line(
    launch: Launch, run: Run, simulator: RunningSimulator, database_url: str
) -> None:
    database = {"DATABASE_URL": database_url}
    ready(launch("serve", **in_front_of(simulator, database_url)))
    ended = run(
        ("teams set nobody --queued-limit 5", database),
        ("teams set admin", database),
        ("teams set admin --queued-limit many --archived-modalities pictures", database),
        ("teams create '*'", database),
        ("keys rotate x", database),
        ("keys revoke x", database),
    )

    assert [one.exit_code for one in ended] == [1] * 6
    assert [one.said.count("\n") for one in ended] == [1] * 6
    words = ("no team nobody", "nothing to set", "queuedLimit: Expected", "name: Expected", "not found", "not found")
    assert [word for word, one in zip(words, ended, strict=True) if word not in one.said] == []
    assert "archivedModalities: Expected" in ended[2].said


def test_a_key_is_rotated_and_the_last_admin_key_stays(
    launch: Launch, run: Run, simulator: RunningSimulator, database_url: str
) -> None:
    database = {"DATABASE_URL": database_url}
    url = ready(launch("serve", **in_front_of(simulator, database_url)))
    (made,) = run(("keys create --team painters --json", database))
    old = json.loads(made.printed)
    (admin,) = query(database_url, "SELECT id FROM api_keys WHERE 'admin' = ANY(scopes)")

    for_scripts, last = run(
        (f"keys rotate {old['id']} --grace-seconds 0 --json", database), (f"keys revoke {admin}", database)
    )
    new = json.loads(for_scripts.printed)
    (for_people,) = run((f"keys rotate {new['id']}", database))

    (newest,) = re.findall(r"fh_live_[\w-]{40,}", for_people.printed)
    keys = [old["key"], new["key"], newest]
    assert [status_of(f"{url}/v2/jobs", headers={"X-API-Key": key}) for key in keys] == [401, 200, 200]
    assert (last.exit_code, "admin key" in last.said) == (1, True)
