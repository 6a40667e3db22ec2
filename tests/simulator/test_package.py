"""The package as a whole: it is a reading of its own."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "app" / "simulator"


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_the_simulator_imports_nothing_of_the_service_but_its_errors() -> None:
    found = {name for path in PACKAGE.glob("*.py") for name in imports(path) if name.split(".")[0] == "app"}
    assert {name for name in found if not name.startswith("app.simulator")} == {"app.errors"}
