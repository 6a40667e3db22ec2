"""`framehook faults`: everything is killed under load, and what callers, database and upstream say agrees."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes.harness import Program, eventually, postgres_is_gone, python

ELSEWHERE = {
    "DATABASE_URL": "postgresql://someone@127.0.0.1:1/framehook",
    "APIFRAME_BASE_URL": "https://api.apiframe.example",
    "PUBLIC_BASE_URL": "https://framehook.example",
    "loops": False,
}
"""What the environment says of a database or an upstream, which is left aside."""

INTERRUPT_A_START = """
import os, signal, subprocess, sys
from app.cli import main as cli

class Interrupted(subprocess.Popen):
    def __init__(self, command, **how):
        super().__init__(command, **how)
        if "serve" in command:
            os.kill(os.getpid(), signal.SIGINT)

subprocess.Popen = Interrupted
sys.argv = ["framehook", "faults", "--jobs", "10", "--kills", "0", "--processes", "1"]
cli.main()
"""
"""A fault run that Ctrl-C hits when a service has begun to run and nobody has noted yet which process it is."""


def check(numbers: dict[str, Any], *, jobs: int, kills: int) -> None:
    """Whether a run did what it was to do, and found nothing."""
    assert set(numbers["must_be_zero"].values()) == {0}, numbers
    assert numbers["wrong"] is False
    assert numbers["submitted"] == numbers["acknowledged"] == jobs
    assert numbers["completed"] + numbers["failed"] + numbers["cancelled"] == jobs
    assert sum(numbers["kills_by_kind"].values()) == kills
    assert set(numbers["kills_by_kind"]) == {"service", "worker", "postmaster", "everything"}
    assert numbers["submissions_repeated_by_callers"] >= 1
    assert numbers["webhooks_acknowledged"] >= jobs / 2
    assert numbers["deliveries"] > numbers["events"] >= 3 * jobs


@pytest.mark.timeout(420)
def test_a_short_run_loses_nothing_and_leaves_nothing(launch: Callable[..., Program], folder: Path) -> None:
    data = folder / "run"
    command = ("faults", "--jobs", "100", "--kills", "4", "--processes", "1", "--seed", "1", "--json")
    run = launch(*command, "--data-dir", str(data), **ELSEWHERE)
    assert run.wait(400) == 0, run.said + run.printed
    numbers = json.loads(run.printed)
    check(numbers, jobs=100, kills=4)
    assert "Traceback" not in run.said
    assert re.search(r"kill 4 of 4: \S+, at \d+ acknowledged", run.said)
    assert run.leaves_nothing()
    assert postgres_is_gone(data / "data")
    assert numbers["evidence"] == str(data)
    assert json.loads((data / "report.json").read_text())["must_be_zero"] == numbers["must_be_zero"]


def has_begun_its_database(_: Program, outside: Path) -> bool:
    return any(outside.glob("*/data/cluster*/base"))  # `cluster.new` while initdb runs, which is soon over


def is_under_load(run: Program, _: Path) -> bool:
    return "acknowledged" in run.printed


@pytest.mark.parametrize("moment", [has_begun_its_database, is_under_load])
def test_ctrl_c_ends_everything_and_removes_the_folder(
    launch: Callable[..., Program], moment: Callable[[Program, Path], bool]
) -> None:
    with tempfile.TemporaryDirectory() as outside:  # short enough for the path of a socket
        run = launch("faults", "--jobs", "2000", "--kills", "3", "--processes", "1", TMPDIR=outside)
        eventually(lambda: moment(run, Path(outside)) or not run.running)
        (made,) = Path(outside).iterdir()
        assert not postgres_is_gone(made / "data")
        run.ctrl_c()
        assert run.wait(60) == 130, run.printed + run.said
        assert "Traceback" not in run.said
        assert run.leaves_nothing()
        assert list(Path(outside).iterdir()) == []


def test_ctrl_c_in_the_middle_of_a_start_loses_no_process(start: Callable[..., Program]) -> None:
    with tempfile.TemporaryDirectory() as outside:
        run = start(python("-c", INTERRUPT_A_START), {"TMPDIR": outside})
        assert run.wait(60) == 130, run.printed + run.said
        assert run.leaves_nothing()
        assert list(Path(outside).iterdir()) == []


def test_a_folder_that_holds_something_is_refused(launch: Callable[..., Program], folder: Path) -> None:
    (folder / "theirs").write_text("precious")
    run = launch("faults", "--data-dir", str(folder))
    assert run.exit_code == 1
    assert "is not empty" in run.said
    assert (folder / "theirs").read_text() == "precious"


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_long_run_loses_nothing(launch: Callable[..., Program], folder: Path, seed: int) -> None:
    data = folder / "run"
    run = launch("faults", "--seed", str(seed), "--json", "--data-dir", str(data))
    assert run.wait(1400) == 0, run.said[-3000:] + run.printed
    numbers = json.loads(run.printed)
    check(numbers, jobs=5000, kills=24)
    assert min(numbers["failed"], numbers["cancelled"], numbers["submissions_repeated_upstream"]) >= 20
    assert run.leaves_nothing()
    assert postgres_is_gone(data / "data")
