"""The rules of the house, checked on the source itself: layers, cycles, imports, docstrings, one writer of `Job.status`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]

LAYERS: Final = (
    ("__main__",),
    ("cli",),
    ("bench",),  # how fast all of it is; above `faults`, whose way to find its PostgreSQL it has
    ("demo", "faults", "listen"),  # the whole product in one terminal, shown, put to the test, or heard from outside
    ("serving",),  # processes around the application that `main` makes
    ("main",),
    ("front",),  # the application that `main` fills with routes
    ("workers", "reference"),  # `reference` describes the routes of `main` and knows none of their packages
    ("sandbox",),  # the simulator's results, as an upstream within the service
    ("dashboard",),  # what operators see and do: pages over everything below
    ("ops", "simulator", "relay"),
    ("webhooks",),
    ("jobs",),
    ("archive",),
    ("deliveries",),
    ("events",),
    ("teams",),
    ("http", "exports"),  # what every route needs, the caller among it: above `auth`
    ("auth", "paging"),
    ("context",),
    ("apiframe", "outbound", "objects", "loop"),  # the ways out: to the upstream, to everyone else, to the storage
    ("notify", "batch", "migrate"),  # `migrate` also makes partitions, so it stands above them
    ("partitions",),  # derived from the tables in `models`
    ("models",),
    ("db",),
    ("statements",),
    ("logs", "embedded"),  # `logs` reads settings
    ("config",),  # bad settings are a StartupError, the allowed targets among them
    ("clock", "errors", "backoff", "bucket", "joining", "lanes", "measures", "modest", "targets", "version"),
)
"""Every room of `app`, from the top to the floor. A module imports only from lower layers, and from its own room."""

LONGEST_FILE: Final = 350
LONGEST_FUNCTION: Final = 29
"""In lines, for nine functions in ten."""

DRAWERS: Final = frozenset(
    {"service", "services", "util", "utils", "core", "common", "helper", "helpers", "manager", "base", "misc"}
)

MAY_PRINT: Final = frozenset(
    {
        "app.bench.report",
        "app.bench.run",
        "app.cli.running",
        "app.cli.files",
        "app.cli.keys",
        "app.cli.jobs.acting",
        "app.cli.jobs.following",
        "app.cli.jobs.looking",
        "app.cli.jobs.submitting",
        "app.cli.listen",
        "app.cli.pruning",
        "app.cli.subscriptions",
        "app.cli.teams",
        "app.cli.terminal",
        "app.demo.run",
        "app.faults.report",
        "app.faults.run",
    }
)
DOOR: Final = "app.jobs.queries.door"
DOORKEEPER: Final = "app.jobs.observe"


@cache
def modules() -> Mapping[str, ast.Module]:
    """Every module of `app`, parsed, by its dotted name; a package goes by the name of its folder."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_bytes())
        for path in source_files()
    }


def source_files() -> list[Path]:
    return sorted((ROOT / "app").rglob("*.py"))


def room_of(module: str) -> str:
    """The part of `app` that a module is in: `jobs` for `app.jobs.api`."""
    return module.split(".")[1] if "." in module else ""


def edges(tree: ast.AST, known: Iterable[str]) -> set[str]:
    """The known modules that this code imports, wherever in it the imports stand."""
    names = set(known)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                found.add(member if member in names else node.module)
    return found & names


@cache
def graph() -> Mapping[str, set[str]]:
    return {name: edges(tree, modules()) for name, tree in modules().items()}


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that are evaluated when a module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (*child.decorator_list, child.args):
                yield from ast.walk(part)
        elif isinstance(child, ast.Lambda):
            yield from ast.walk(child.args)
        else:
            yield child
            yield from run_at_import(child)


def called(node: ast.AST) -> str:
    """The last part of a call's name, `load_settings` for `config.load_settings()`; empty for anything else."""
    if not isinstance(node, ast.Call):
        return ""
    return str(getattr(node.func, "attr", None) or getattr(node.func, "id", ""))


def texts(tree: ast.AST) -> Iterator[str]:
    """Every string literal; what an f-string puts in is left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def writes_status(sql: str) -> bool:
    """Whether a statement changes the status of jobs that exist; a comparison in a WHERE clause is none."""
    changes_jobs = re.search(r"\b(UPDATE(\s+ONLY)?|INSERT\s+INTO)\s+jobs\b", sql, re.IGNORECASE)
    one = re.search(r'(\bSET|,)\s*"?status"?\s*=', sql, re.IGNORECASE)
    several = re.search(r"\bSET\s*\([^)]*\bstatus\b", sql, re.IGNORECASE)
    return bool(changes_jobs and (one or several))


# Layers and cycles


def test_every_room_has_its_layer_and_every_layer_its_rooms() -> None:
    assert sorted(room for layer in LAYERS for room in layer) == sorted({room_of(name) for name in modules()} - {""})


def test_modules_import_only_downward_and_never_sideways() -> None:
    height = {room: -number for number, layer in enumerate(LAYERS) for room in layer}
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if room_of(name) != room_of(other) and not height[room_of(other)] < height[room_of(name)]
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_simulator_shares_nothing_with_the_service_but_its_errors() -> None:
    foreign = {
        f"{name} imports {other}"
        for name, others in graph().items()
        if room_of(name) == "simulator"
        for other in others
        if room_of(other) != "simulator" and other != "app.errors"
    }
    assert foreign == set()


# Imports


def test_imports_stand_at_the_top_of_a_module_and_nowhere_else() -> None:
    hidden = [
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and node not in tree.body
    ]
    assert hidden == []


def test_no_module_is_imported_by_a_string() -> None:
    dynamic = [
        name
        for name, tree in modules().items()
        if any(called(node) in ("import_module", "__import__") for node in ast.walk(tree))
    ]
    assert dynamic == []


def test_no_import_is_relative() -> None:
    relative = [
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_no_module_reads_settings_when_it_is_imported() -> None:
    eager = [
        name
        for name, tree in modules().items()
        if any(called(node) in ("load_settings", "Settings") for node in run_at_import(tree))
    ]
    assert eager == []


# Modules


def test_every_module_says_what_it_is_for() -> None:
    assert [name for name, tree in modules().items() if not ast.get_docstring(tree)] == []


def test_a_package_re_exports_nothing() -> None:
    packages = {path.parent for path in source_files() if path.name == "__init__.py"}
    named = {".".join(folder.relative_to(ROOT).parts) for folder in packages}
    assert [name for name in sorted(named) if len(modules()[name].body) != 1] == []


def test_the_map_of_the_house_names_every_room() -> None:
    rows = re.findall(r"^    (\w+(?: \w+)*)", ast.get_docstring(modules()["app"]) or "", re.MULTILINE)
    named = {room for row in rows for room in row.split()}
    assert {room_of(name) for name in modules()} - named - {"", "__main__"} == set()


def test_no_module_is_a_drawer() -> None:
    assert [name for name in modules() if DRAWERS & set(name.split("."))] == []


def test_only_the_commands_print() -> None:
    loud = {name for name, tree in modules().items() if any(called(node) == "print" for node in ast.walk(tree))}
    assert loud - MAY_PRINT == set()


# One writer


def test_only_the_door_writes_the_status_of_jobs() -> None:
    writers = {name for name, tree in modules().items() if any(writes_status(sql) for sql in texts(tree))}
    assert writers == {DOOR}


def test_only_the_doorkeeper_opens_the_door() -> None:
    callers = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if "update_observed" in (getattr(node, "attr", None), getattr(node, "id", None), getattr(node, "name", None))
    }
    assert callers == {DOOR, DOORKEEPER}


def test_jobs_are_never_changed_through_the_declared_table() -> None:
    imported = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "app.models.jobs"
        if any(alias.name == "Job" for alias in node.names)
    }
    assert imported == set()


# Yardsticks


def test_files_are_short() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in source_files()
    }
    longest = sorted(lengths.items(), key=lambda entry: entry[1], reverse=True)[:5]
    print("longest files:", longest)
    assert [entry for entry in longest if entry[1] > LONGEST_FILE] == []


def test_nine_functions_in_ten_are_short() -> None:
    lengths = sorted(
        (
            ((node.end_lineno or node.lineno) - node.lineno + 1, f"{name}.{node.name}")
            for name, tree in modules().items()
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ),
        reverse=True,
    )
    print("longest functions:", lengths[:5])
    assert lengths[len(lengths) // 10][0] <= LONGEST_FUNCTION, lengths[: len(lengths) // 10]


# The checks themselves


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE jobs SET status = 'FAILED' WHERE id = :id",
        "update jobs\n set progress = 1,\n status=seen.status",
        "WITH gone AS (UPDATE jobs SET (error, status) = ('x', 'FAILED') RETURNING id) SELECT 1",
        "INSERT INTO jobs (id) VALUES (:id) ON CONFLICT (id) DO UPDATE SET status = excluded.status",
    ],
)
def test_a_statement_that_writes_the_status_is_seen(sql: str) -> None:
    assert writes_status(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM jobs WHERE status = 'QUEUED'",
        "UPDATE jobs SET poll_at = :now WHERE status = 'QUEUED' AND error IS NULL",
        "UPDATE jobs SET upstream_status = 1, progress = 2",
        "INSERT INTO jobs (id, status) SELECT id, 'QUEUED' FROM new",
    ],
)
def test_a_statement_that_only_reads_the_status_is_let_through(sql: str) -> None:
    assert not writes_status(sql)


def test_an_import_is_seen_by_whatever_form_it_has() -> None:
    code = "import app.db\nfrom app import clock\nfrom app.jobs import api as jobs\nfrom app.errors import NotFound"
    known = ("app", "app.db", "app.clock", "app.jobs", "app.jobs.api", "app.errors")
    assert edges(ast.parse(code), known) == {"app.db", "app.clock", "app.jobs.api", "app.errors"}


def test_a_call_counts_as_made_at_import_unless_it_is_in_a_function() -> None:
    eager = ("a = f()", "class A:\n    b = f()", "def g(x=f()): ...", "@f()\ndef g(): ...", "if True:\n    f()")
    lazy = ("def g(): f()", "a = lambda: f()", "class A:\n    def g(self): return f()")
    assert [code for code in eager if not any(called(node) == "f" for node in run_at_import(ast.parse(code)))] == []
    assert [code for code in lazy if any(called(node) == "f" for node in run_at_import(ast.parse(code)))] == []
