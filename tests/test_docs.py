"""The documents say what is there: every setting, command and route, nothing that does not exist, no dead link."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from app.cli import main as cli
from app.config import Settings, environment_name, load_settings
from app.dashboard.routes import PAGES
from app.main import ROUTES, create_app
from app.simulator.control import control_routes
from app.simulator.world import World
from tests.stories.quick_start.snippets import VARIABLES, first_call, one_call, read_snippets, receiver

ROOT: Final = Path(__file__).resolve().parents[1]
DECISIONS: Final = sorted((ROOT / "docs" / "decisions").glob("*.md"))
DOCUMENTS: Final = (ROOT / "README.md", ROOT / "docs" / "runbook.md", *DECISIONS)

PARTS: Final = ("**Context.**", "**Decision.**", "**Consequences.**", "**Alternatives.**")
LONGEST_DECISION: Final = 20
"""Lines: a record is to be read at a glance."""

OTHER_VARIABLES: Final = frozenset({*VARIABLES, "TEST_DATABASE_URL"})
"""Of the snippets and of the tests, not of the service."""


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def everything() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)


def spans() -> list[str]:
    """What is set in code within sentences and tables, and the lines of the shell blocks."""
    text = everything()
    blocks = read_snippets(text)
    for block in blocks:
        text = text.replace(block.code, "")
    lines = [line for block in blocks if block.language == "sh" for line in block.code.splitlines()]
    return re.findall(r"`([^`\n]+)`", text) + lines


def section(heading: str) -> str:
    """What stands under one heading of the README, down to the next one."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", readme(), re.MULTILINE | re.DOTALL)
    assert match, f"the README has no heading {heading}"
    return match[1]


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without its head."""
    rows = [line.strip("| ").split("|") for line in section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def commands() -> dict[str, set[str]]:
    """Every command by its whole name, with its options."""

    def walk(name: str, command: Any) -> Iterator[tuple[str, set[str]]]:
        for child, inner in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {child}", inner)
        if not hasattr(command, "commands"):
            names = (name for each in command.params for name in (*each.opts, *each.secondary_opts))
            yield name, {name for name in names if name.startswith("--")}

    return dict(walk("framehook", typer.main.get_command(cli.app)))


def shown_default(info: FieldInfo) -> str:
    """A setting's default as the README writes it."""
    value = info.default
    if value is None or value == ():
        return "unset"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


# Settings


def test_the_readme_has_every_setting_with_its_default_and_meaning() -> None:
    declared = [
        [f"`{environment_name(field)}`", shown_default(info), info.description]
        for field, info in Settings.model_fields.items()
    ]
    assert table("Settings") == declared


def test_the_documents_name_no_setting_that_does_not_exist() -> None:
    named = set(re.findall(r"\b(?:FRAMEHOOK|APIFRAME)_[A-Z_]+\b|\b[A-Z_]*(?:DATABASE|BASE)_URL\b", everything()))
    assert named - {environment_name(field) for field in Settings.model_fields} - OTHER_VARIABLES == set()


def test_the_variables_of_the_snippets_are_no_settings() -> None:
    assert {environment_name(field) for field in Settings.model_fields} & set(VARIABLES) == set()


# Commands


def test_the_readme_has_every_command_with_its_options() -> None:
    described = {code(name)[0]: set(code(options)) for name, options, _ in table("Commands")}
    assert described == commands()


def test_the_documents_name_no_command_that_does_not_exist() -> None:
    used = [match[1] for span in spans() if (match := re.search(r"(?:^|/|exec \S+ )(framehook [a-z].*)$", span))]
    assert len(used) > len(commands())
    known = commands()
    for words in used:
        name = max((name for name in known if f"{words} ".startswith(f"{name} ")), key=len, default=None)
        assert name, f"no such command: {words}"
        assert set(re.findall(r"--[a-z-]+", words)) <= known[name], words


def test_the_documents_name_no_make_target_that_does_not_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = [match[1] for span in spans() if (match := re.match(r"make ([a-z-]+)", span))]
    assert named
    assert set(named) - set(targets) == set()


def test_the_documents_name_no_compose_service_that_does_not_exist() -> None:
    compose = YAML(typ="safe", pure=True).load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    named = [match[1] for span in spans() if (match := re.match(r"docker compose (?:up|exec) ([a-z][a-z-]*)", span))]
    assert named
    assert set(named) - set(compose["services"]) == set()


# Routes


def test_the_readme_has_every_route() -> None:
    app = create_app(load_settings(_env_file=None))
    generated = {("GET", str(app.docs_url)), ("GET", str(app.openapi_url))}
    described = {(method, code(path)[0]) for method, path, _, _ in table("Routes")}
    assert described == generated | {(method, path) for method, path, _ in ROUTES}


def test_the_documents_name_no_route_that_does_not_exist() -> None:
    known = {path for _, path, _ in ROUTES} | {path for path, _ in PAGES} | {"/docs", "/openapi.json"}
    known |= {route.path for route in control_routes(World())}
    shapes = {re.sub(r"\{\w+\}", "{}", path) for path in known}
    named = [match[1] for span in spans() if (match := re.match(r"(?:[A-Z]+ )?(/[^\s?]+)", span))]
    assert named
    unknown = {path for path in named if not any(fits(re.sub(r"\{\w+\}", "{}", path), shape) for shape in shapes)}
    assert unknown == set()


def fits(path: str, shape: str) -> bool:
    """Whether a path is a route, or the beginning of some that ends with a slash."""
    return path == shape or (path.endswith("/") and shape.startswith(path))


# Links and files


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", link)]
    files = [link for link in links if not link.startswith("#")]
    assert [link for link in files if not (document.parent / link).exists()] == []
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(links) - set(files) - anchors == set()


def test_the_documents_name_no_source_file_that_does_not_exist() -> None:
    named = set(re.findall(r"`((?:app|deploy|docs|migrations|tests)/[\w/.]+)`", everything()))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_promise_is_shown_by_tests() -> None:
    rows = table("What is promised")
    assert rows
    assert [promise for promise, tests in rows if not re.search(r"\]\(tests/[\w/]+(\.py)?\)", tests)] == []


# Snippets


@pytest.mark.parametrize("language", ["bash", "python", "javascript"])
def test_the_first_call_is_in_the_readme_and_reads_its_variables(language: str) -> None:
    snippet = first_call(language)
    assert [name for name in VARIABLES if name not in snippet] == []


def test_every_snippet_in_a_programming_language_is_one_that_a_test_runs() -> None:
    languages = ("bash", "python", "javascript", "go")
    run = "\n".join((one_call(), *map(first_call, languages[:3]), *map(receiver, languages[1:])))
    assert [one for one in read_snippets(readme()) if one.language in languages and one.code not in run] == []


def test_a_hash_in_a_block_is_no_heading() -> None:
    text = "# One\n\n```sh\n# no heading\nls\n```\n\n## Two\n\n```\nplain\n```\n\n```python\n1\n```\n"
    found = [(one.heading, one.language, one.code) for one in read_snippets(text)]
    assert found == [("One", "sh", "# no heading\nls\n"), ("Two", "", "plain\n"), ("Two", "python", "1\n")]


# Decisions


def test_decisions_are_numbered_without_gaps() -> None:
    assert [path.name[:5] for path in DECISIONS] == [f"{number:04}-" for number in range(1, len(DECISIONS) + 1)]


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.name)
def test_a_decision_has_its_four_parts_in_a_few_lines_and_is_listed(decision: Path) -> None:
    text = decision.read_text(encoding="utf-8")
    title = text.splitlines()[0]
    assert title.startswith(f"# {decision.name[:4]}. ")
    assert re.findall(r"^\*\*\w+\.\*\*", text, re.MULTILINE) == list(PARTS)
    assert len(text.splitlines()) <= LONGEST_DECISION
    listed = f"- [{decision.name[:4]}](docs/decisions/{decision.name}): {title.split('. ', 1)[1]}"
    assert listed in readme().splitlines()
