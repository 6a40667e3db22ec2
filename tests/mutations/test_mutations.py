"""The tests of the kernel's rules fail when a rule is broken: a copy of the source is changed in one place and tested."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest

from tests.mutations.table import MUTATIONS, RULES, Mutation

ROOT: Final = Path(__file__).resolve().parents[2]
PARTS: Final = ("app", "migrations", "tests", "pyproject.toml", "alembic.ini")

SAY_WHAT_IS_TESTED: Final = """
import app
import tests.harness

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"tested: {app.__file__} by {tests.harness.__file__}")
"""


@dataclass(frozen=True)
class Run:
    """What came of the rules' tests: how many ran, and by their names what those said that failed or broke down."""

    exit_code: int
    output: str
    count: int
    failures: dict[str, str]
    errors: dict[str, str]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of everything that the tests need, which says at the end of a run that it is what was tested."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    (folder / "conftest.py").write_text(SAY_WHAT_IS_TESTED)
    return folder


def run_rules(copy: Path, postgres_url: str, names: str, *options: str) -> Run:
    """Run the tests of these names on the copy, on the server that this run uses too."""
    report = copy / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", names, "--junit-xml", str(report)]
    environment = os.environ | {"TEST_DATABASE_URL": postgres_url, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    ended = subprocess.run(
        [*command, *options, "tests/stories", "tests/archive", "tests/teams"],
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert f"tested: {copy / 'app' / '__init__.py'} by {copy / 'tests' / 'harness.py'}" in ended.stdout, ended.stdout
    cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 - our own subprocess has written it
    failures, errors = (
        {case.attrib["name"]: found.attrib["message"] for case in cases for found in case.iter(kind)}
        for kind in ("failure", "error")
    )
    return Run(ended.returncode, ended.stdout, len(cases), failures, errors)


def name_of(mutation: Mutation) -> str:
    return f"{mutation.rule}, {mutation.why}"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=name_of)
def test_what_is_changed_stands_in_the_source_exactly_once(mutation: Mutation) -> None:
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1


def test_every_rule_has_its_mutations() -> None:
    counts = Counter(mutation.rule for mutation in MUTATIONS)

    assert counts.keys() == RULES.keys()
    assert min(counts[rule] for rule in (1, 2, 3, 4)) >= 2


@pytest.mark.long
@pytest.mark.timeout(1000)
def test_the_source_as_it_is_keeps_every_rule(copy: Path, postgres_url: str) -> None:
    run = run_rules(copy, postgres_url, "kernel_rule")

    assert run.exit_code == 0, run.output
    assert run.count >= len(RULES)


@pytest.mark.long
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=name_of)
def test_a_broken_rule_is_noticed_by_its_tests(copy: Path, postgres_url: str, mutation: Mutation) -> None:
    broken = copy / mutation.file
    source = broken.read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1
    broken.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")

    run = run_rules(copy, postgres_url, f"kernel_rule_{mutation.rule}_", "--maxfail=1")

    print("noticed by", *(f"{name}: {message}" for name, message in run.failures.items()))
    assert run.exit_code == 1, run.output
    assert run.failures, run.output
    assert all(message.startswith(("assert ", "AssertionError")) for message in run.failures.values()), run.output
    assert not run.errors, run.output
