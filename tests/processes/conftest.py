"""Fixtures of process tests: commands are started by `launch`, and at the end of the test nothing of them is left."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.processes.harness import KEY, Ended, Forks, Program, as_environment, python

USED: Final = {"database_url", "empty_database_url", "simulator"}


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """Have commands heed Ctrl-C, as a terminal's own do.

    A shell that runs the tests in its background has had the signal ignored for all of them, and a command that is started
    so leaves it ignored.
    """
    was_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if was_ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if was_ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that commands run in, without an `.env`; relative paths begin here."""
    path = tmp_path / "here"
    path.mkdir()
    return path


@pytest.fixture
def start(folder: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Program]]:
    """Start a program in the folder. At the end of the test it is ended; a survivor or a leaked secret fails the test."""
    # What it uses is there before it, and so outlives it: without a database a service takes long to end.
    for used in USED & set(request.fixturenames):
        request.getfixturevalue(used)
    started: list[Program] = []

    def begin(command: Sequence[str], settings: Mapping[str, Any]) -> Program:
        started.append(Program(folder, command, as_environment(settings)))
        return started[-1]

    yield begin
    left = [name for program in reversed(started) for name in program.clean_up()]
    assert left == []
    for program in started:
        assert KEY not in program.said
        assert not re.search(r"/webhooks/apiframe/[0-9a-f-]{36}/[\w-]{20,}", program.said + program.printed)


@pytest.fixture
def launch(start: Callable[..., Program]) -> Callable[..., Program]:
    """Start a command: `launch("serve", "--workers", "2", **settings)`."""
    return lambda *arguments, **settings: start(python("-m", "app", *arguments), settings)


@pytest.fixture(scope="session")
def forks(_ctrl_c_is_heard: None) -> Iterator[Forks]:
    """What `run` runs commands by; it takes a while to start, and lasts."""
    forking = Forks()
    yield forking
    forking.close()


@pytest.fixture
def run(forks: Forks, folder: Path) -> Callable[..., list[Ended]]:
    """Run commands side by side to their ends: `run(("keys list", settings), ("doctor --json", settings))`."""
    return lambda *commands: forks.run(
        folder, [(shlex.split(command), as_environment(settings)) for command, settings in commands]
    )
