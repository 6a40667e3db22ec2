"""What cannot work says so in one line before anything runs; what can, starts from nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.config import load_settings
from app.errors import StartupError
from app.migrate import newest_revision
from app.simulator.server import RunningSimulator
from tests.processes.harness import (
    FLUX,
    KEY,
    SUBMIT,
    Ended,
    Program,
    client,
    eventually,
    free_port,
    in_front_of,
    query,
    read,
    ready,
    submit,
)

PASSWORD = "hunter2-is-nobodys-business"
REMOTE = "https://api.apiframe.example"
LOCAL = {"APIFRAME_BASE_URL": "http://127.0.0.1:1", "port": 0}


@dataclass(frozen=True)
class Start:
    """A start that must fail, and what its one line must say."""

    command: str
    settings: dict[str, Any]
    says: str


def stranger_at(url: str) -> str:
    """The same server, as a role that it does not know."""
    scheme, _, rest = url.partition("//")
    return f"{scheme}//no_such_role:{PASSWORD}@{rest.rpartition('@')[2]}"


def assert_all_fail(run: Callable[..., list[Ended]], starts: list[Start]) -> None:
    """Each ends with 1, prints nothing, and says one line that begins with our name."""
    for start, ended in zip(starts, run(*((start.command, start.settings) for start in starts)), strict=True):
        assert ended.exit_code == 1, ended.said
        assert ended.said.startswith("framehook: "), ended.said
        assert start.says in ended.said
        assert ended.said.count("\n") == 1, ended.said
        assert PASSWORD not in ended.said
        assert ended.printed == ""


def test_what_cannot_work_says_why_in_one_line_and_changes_nothing(
    run: Callable[..., list[Ended]], folder: Path, postgres_url: str, empty_database_url: str
) -> None:
    (folder / "file").touch()
    here = LOCAL | {"DATABASE_URL": empty_database_url}
    nobody = f"127.0.0.1:{free_port()}/framehook"
    away = LOCAL | {"DATABASE_URL": f"postgresql://someone:{PASSWORD}@{nobody}"}
    mysql = LOCAL | {"DATABASE_URL": f"mysql://root:{PASSWORD}@{nobody}"}
    stranger = LOCAL | {"DATABASE_URL": stranger_at(postgres_url)}
    in_a_file, remote = LOCAL | {"data_dir": "file"}, here | {"APIFRAME_BASE_URL": REMOTE}
    not_numbers = here | {"port": "eighty", "inline_seconds": "soon"}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        taken = f"cannot listen on 127.0.0.1:{port}: Address already in use"
        starts = [
            Start("serve", here | {"port": port}, f"{taken}\n"),
            Start("serve --workers 2", in_a_file | {"port": port}, taken),
            Start("serve", in_a_file, f"cannot write to the data folder {folder / 'file'}: Not a directory"),
            Start("serve", away, f"cannot use the database at {nobody}: "),
            Start("serve", mysql, "DATABASE_URL must be a postgresql:// address, not mysql://"),
            Start("serve", stranger, "no_such_role"),
            Start("serve", remote, f"APIFRAME_API_KEY is not set, and {REMOTE} is not a simulator on this machine"),
            Start("serve --migrate", not_numbers, "bad settings: FRAMEHOOK_PORT: Input should be a valid integer"),
            Start("worker", away, f"cannot use the database at {nobody}: "),
            Start("worker", remote, "APIFRAME_API_KEY is not set"),
            Start("migrate", away, "the database cannot be used: "),
            Start("migrate", in_a_file, "cannot write to the data folder"),
            Start("keys create --team a", away, "the database cannot be used: "),
            Start("keys create --team a --scopes fly", here, "unknown scope fly"),
            Start("keys list", here, "the database cannot be used: it lacks this version's tables: framehook migrate"),
            Start("keys revoke mine", here, "Key not found"),
            Start(f"simulate --port {port}", {}, taken),
            Start("demo --once", not_numbers, "; FRAMEHOOK_INLINE_SECONDS: Input should be a valid"),
        ]
        assert_all_fail(run, starts)
    assert query(empty_database_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [0]


def test_a_command_that_may_not_log_in_says_so_in_one_line(run: Callable[..., list[Ended]], postgres_url: str) -> None:
    starts = [
        Start("keys list", {"DATABASE_URL": stranger_at(postgres_url)}, "no_such_role"),
        Start("migrate", {"DATABASE_URL": "postgresql://someone@127.0.0.1:port/framehook"}, "DATABASE_URL"),
    ]
    assert_all_fail(run, starts)


def test_an_address_with_a_port_that_is_none_is_a_bad_setting() -> None:
    with pytest.raises(StartupError, match="APIFRAME_BASE_URL"):
        load_settings(_env_file=None, apiframe_base_url="http://127.0.0.1:port")


def test_a_database_that_was_never_migrated_is_said_by_readiness_and_costs_503s(
    launch: Callable[..., Program], simulator: RunningSimulator, empty_database_url: str
) -> None:
    settings = in_front_of(simulator, empty_database_url)
    first = launch("serve", **settings)
    with client(first.url) as caller:
        assert caller.get("/healthz").json() == {"status": "ok"}
        answer = caller.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["missing"][0].startswith("migrations: the database is at nothing")
        for turned_away in (caller.post(SUBMIT, json=FLUX), caller.get("/v2/jobs"), caller.get("/v2/jobs/nonsense")):
            assert turned_away.status_code == 503
            assert int(turned_away.headers["Retry-After"]) >= 1
            assert turned_away.json() == {"error": "The database is unavailable"}
    assert {line["event"] for line in first.log if line["level"] == "error"} <= {"loop.failed"}

    second = launch("serve", "--migrate", **settings | {"bootstrap_admin_key": f"{KEY}_2"})
    with client(ready(second), f"{KEY}_2") as caller:
        assert read(caller, submit(caller), wait=15)["status"] == "COMPLETED"
    # Whoever was there before goes on by itself, and makes up for what it could not do at its start.
    with client(first.url) as caller:
        eventually(lambda: caller.get("/v2/jobs").status_code == 200)
        assert read(caller, submit(caller), wait=15)["status"] == "COMPLETED"


def test_three_migrations_at_once_take_turns(run: Callable[..., list[Ended]], empty_database_url: str) -> None:
    ended = run(*[("migrate", {"DATABASE_URL": empty_database_url})] * 3)
    assert not any(one.exit_code for one in ended), "\n".join(one.said[-3000:] for one in ended)
    assert ended == [Ended(0, f"The database is at revision {newest_revision()}.\n", "")] * 3
    assert query(empty_database_url, "SELECT version_num FROM alembic_version") == [newest_revision()]
