"""What process tests drive Framehook with: real commands in an environment made from scratch, and proof of what is left."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
import httpx
import psutil

import app
from app.db import Database, plain_url
from app.simulator.server import RunningSimulator
from app.teams.keys import create_key
from tests.harness import NO_TLS

Seen = TypeVar("Seen")

REPOSITORY = Path(app.__file__).parents[1]
KEY = "fh_live_admin_key_of_the_process_tests"
FLUX = {"model": "flux-1.1-pro-ultra", "prompt": "a lighthouse in a storm"}
SUBMIT = "/v2/images/generate"
MARK = "PROCESS_TEST_MARK"

FORKS = """
import json, os, sys
from app.cli import main as cli

while order := sys.stdin.readline():
    children = {}
    for number, (arguments, folder, environment) in enumerate(json.loads(order)):
        child = os.fork()
        if child == 0:
            os.chdir(folder)
            os.environ.clear()
            os.environ |= environment
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for name, descriptor in (("out", 1), ("err", 2)):
                os.dup2(os.open(f"{number}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
            sys.argv = ["framehook", *arguments]
            cli.main()
            sys.exit(0)
        children[child] = number
    codes = {}
    while children:
        child, status = os.wait()
        codes[children.pop(child)] = os.waitstatus_to_exitcode(status)
    print(json.dumps([codes[number] for number in sorted(codes)]), flush=True)
"""
"""Most of a command's time is its imports, so commands that run to their ends are forks of one process that did these."""

FORKS_SECONDS = 100


def environment_in(folder: Path, mark: str) -> dict[str, str]:
    """What every command finds in its environment, whatever the tests were started with."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(REPOSITORY),
        "FRAMEHOOK_LOG_FORMAT": "json",
        MARK: mark,
    }


class Forks:
    """Runs commands side by side, each in a fork of a process that has imported everything."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, folder: Path, commands: Sequence[tuple[Sequence[str], Mapping[str, str]]]) -> list[Ended]:
        """Run them to their ends in a folder; nothing that they started may be left then."""
        mark = uuid4().hex
        order = [(command, str(folder), environment_in(folder, mark) | dict(given)) for command, given in commands]
        try:
            codes = self._ask(json.dumps(order))
        except BaseException:  # a test that is broken off too: what is still to be answered is not the next one's
            self.close()
            raise
        assert not [process for process in psutil.process_iter() if _bears(process, mark)]
        return [
            Ended(code, *((folder / f"{number}.{name}").read_text() for name in ("out", "err")))
            for number, code in enumerate(codes)
        ]

    def _ask(self, order: str) -> list[int]:
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin
        assert self._process.stdout
        print(order, file=self._process.stdin, flush=True)
        answered, _, _ = select.select([self._process.stdout], [], [], FORKS_SECONDS)
        assert answered, f"not all commands ended within {FORKS_SECONDS} s"
        return list(json.loads(self._process.stdout.readline()))

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            python("-c", FORKS),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
            text=True,
            start_new_session=True,
        )

    def close(self) -> None:
        """End it, and whatever it has started."""
        if self._process is None:
            return
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._process = None


class Program:
    """A command of ours, the leader of its own session, with everything it says in two files."""

    def __init__(self, folder: Path, command: Sequence[str], settings: dict[str, str]) -> None:
        self.mark = uuid4().hex
        self._out, self._err = (folder / f"{self.mark}.{name}" for name in ("out", "err"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=environment_in(folder, self.mark) | settings,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def printed(self) -> str:
        """Its standard output so far."""
        return self._out.read_text(errors="replace")

    @property
    def said(self) -> str:
        """Its standard error so far."""
        return self._err.read_text(errors="replace")

    @property
    def log(self) -> list[dict[str, Any]]:
        """The whole lines that it has logged so far."""
        lines = self.said.split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def logged(self, event: str, *, seconds: float = 90) -> dict[str, Any]:
        """Wait for a line of the log; fail at once when the process is gone without it."""

        def look() -> dict[str, Any] | None:
            alive = self.running
            found = next((line for line in self.log if line["event"] == event), None)
            assert found or alive, f"it ended with {self._process.returncode}: {self.said}"
            return found

        line = eventually(look, seconds=seconds)
        assert line is not None
        return line

    @property
    def url(self) -> str:
        """Where it listens, as its log says."""
        return str(self.logged("service.listening")["url"])

    @property
    def exit_code(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self.wait()

    def wait(self, seconds: float = 90) -> int:
        """The same, within so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {seconds} s: {self.said}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone, as a supervisor does."""
        os.kill(self.pid, number)

    def ctrl_c(self) -> None:
        """Interrupt the whole group, as a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def kill_all(self) -> None:
        """Kill the process and its workers at one blow; an embedded PostgreSQL has a group of its own and stays."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def stop(self, seconds: float = 90) -> int:
        """Ask it to end, and return its exit code."""
        if self.running:
            self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def leaves_nothing(self) -> bool:
        """Whether all of it is gone; multiprocessing's own helper takes a moment to notice that it is alone."""
        return bool(eventually(lambda: not self.survivors(), seconds=60))

    def survivors(self) -> list[psutil.Process]:
        """It and what it has started, as far as they live: they all inherited the mark, an embedded PostgreSQL too."""
        return [process for process in psutil.process_iter() if _bears(process, self.mark)]

    def clean_up(self) -> list[str]:
        """End it and all that it started; return what should have been gone with it."""
        if self.running:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(90)
        # multiprocessing's own helper ends by itself, a moment after it is alone.
        left = {
            process: command
            for process in self.survivors()
            if (command := command_of(process)) and "multiprocessing.resource_tracker" not in command
        }
        for process in left:
            # SIGINT is PostgreSQL's fast shutdown; what does not heed it is killed.
            process.send_signal(signal.SIGINT)
        for process in psutil.wait_procs(left, timeout=5)[1]:
            process.kill()
        if self._process.poll() is None:
            self._process.wait(5)
        return list(left.values())


@dataclass(frozen=True)
class Ended:
    """A command that has run to its end."""

    exit_code: int
    printed: str
    said: str


def python(*arguments: str) -> list[str]:
    """The interpreter that runs the tests, with these arguments."""
    return [sys.executable, *arguments]


def as_environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings by field name as environment variables; the four usual names are written in capitals."""
    return {
        name if name.isupper() else f"FRAMEHOOK_{name.upper()}": str(value)
        for name, value in settings.items()
        if value is not None
    }


def in_front_of(simulator: RunningSimulator, database_url: str | None = None, **settings: Any) -> dict[str, Any]:
    """Settings of a service that reacts fast and knows the tests' key. Without `PUBLIC_BASE_URL` it is poll-only."""
    return {
        "DATABASE_URL": database_url,
        "APIFRAME_BASE_URL": simulator.url,
        "bootstrap_admin_key": KEY,
        "sweep_seconds": 0.5,
        "reconcile_after_seconds": 0.2,
        "port": 0,
    } | settings


def reachable(simulator: RunningSimulator, database_url: str | None = None, **settings: Any) -> dict[str, Any]:
    """The same on a port that was free just now, with webhooks coming back to it."""
    port = free_port()
    webhooks = {"port": port, "PUBLIC_BASE_URL": f"http://127.0.0.1:{port}", "reconcile_after_seconds": None}
    return in_front_of(simulator, database_url) | webhooks | settings


def client(url: str, key: str = KEY, *, timeout: float = 30) -> httpx.Client:
    """A team's client, for threads too: none of them closes as idle what another has just begun to write to."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None)
    headers = {"X-API-Key": key}
    return httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=timeout, verify=NO_TLS, limits=limits)


def submit(caller: httpx.Client, prompt: str = FLUX["prompt"], **headers: str) -> str:
    """Submit a generation that is to be accepted; return its id."""
    answer = caller.post(SUBMIT, json=FLUX | {"prompt": prompt}, headers=named(headers))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["jobId"])


def named(headers: dict[str, str]) -> dict[str, str]:
    """Header names are written with underscores."""
    return {name.replace("_", "-"): value for name, value in headers.items()}


def read(caller: httpx.Client, job_id: str, *, wait: float = 0) -> dict[str, Any]:
    """The job object."""
    answer = caller.get(f"/v2/jobs/{job_id}", params={"wait": wait}, timeout=wait + 30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ready(program: Program) -> str:
    """Wait until the service is ready; return its address."""
    url = program.url
    eventually(lambda: status_of(f"{url}/readyz") == 200)
    return url


def status_of(url: str, **request: Any) -> int | None:
    """The status that a GET is answered with, None where there is no answer."""
    with suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False, timeout=30, verify=NO_TLS, **request).status_code
    return None


def counters(simulator: RunningSimulator) -> dict[str, Any]:
    """The simulator's counters."""
    return dict(simulator.ask("books?part=counters")["counters"])


def upstream_jobs(simulator: RunningSimulator) -> list[dict[str, Any]]:
    """The jobs that the simulator accepted, with the bodies as they arrived."""
    return list(simulator.ask("books?part=jobs")["jobs"])


def prompts(simulator: RunningSimulator) -> list[str]:
    """The prompts of all jobs that the simulator accepted: one doubly paid would be there twice."""
    return [json.loads(job["body"])["prompt"] for job in upstream_jobs(simulator)]


def eventually(look: Callable[[], Seen], *, seconds: float = 90) -> Seen:
    """Look again until what is seen is true, and return it; fail with what was seen last when the time is over."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < end, f"not within {seconds} s: {seen!r}"
        time.sleep(0.02)


def query(url: str, *statements: str) -> list[Any]:
    """What the last statement says, one value a row."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(plain_url(url))
        try:
            answers = [await connection.fetch(statement) for statement in statements]
        finally:
            await connection.close()
        return [row[0] for row in answers[-1]]

    return asyncio.run(ask())


def make_key(url: str, team: str, *scopes: str) -> str:
    """A key of its own for a team, made in the database."""

    async def make() -> str:
        database = Database(url, pool_size=2)
        try:
            async with database.transaction() as tx:
                return (await create_key(tx, team=team, scopes=scopes, now=datetime.now(UTC))).key
        finally:
            await database.close()

    return asyncio.run(make())


def postgres_is_gone(home: Path) -> bool:
    """Whether no process of an embedded PostgreSQL lives: each of them inherits this lock, and the kernel frees it."""
    with (home / "server.lock").open() as lock, suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def kill_postmaster(home: Path) -> None:
    """Kill an embedded PostgreSQL at its root; its other processes notice and leave."""
    postmaster = psutil.Process(int((home / "cluster" / "postmaster.pid").read_text().split("\n")[0]))
    postmaster.kill()
    psutil.wait_procs([postmaster], timeout=10)


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """Have a process stand still for so long."""
    os.kill(process.pid, signal.SIGSTOP)
    try:
        eventually(lambda: process.status() == psutil.STATUS_STOPPED)
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody gets by chance: it stays bound here, which keeps no server from listening on it."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        os.dup(bound.fileno())  # open until the tests end
        return int(bound.getsockname()[1])


def command_of(process: psutil.Process) -> str:
    """What it runs; nothing where it has ended by now."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def _bears(process: psutil.Process, mark: str) -> bool:
    with suppress(psutil.Error, OSError):
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark
    return False
