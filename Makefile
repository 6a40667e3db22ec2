# Everything here needs only make and Python 3.11 or newer with its venv module. `make` alone lists the targets.
# PYTHON=... names the interpreter, and then no other is looked for.
# ARGS="..." is passed on by demo, faults, test, test-long and lock.

PYTHON ?=
WORKERS ?= 3
ARGS ?=
UV_VERSION := 0.13.9

# Scripts are run by their modules, because their first lines would not survive a moved checkout.
IN_VENV := .venv/bin/python -m

.DEFAULT_GOAL := help
.PHONY: help setup demo faults test test-long check format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv and install the pinned packages; nothing to do takes no time
	@eval "$$SHELL_FUNCTIONS"; setup

demo: setup ## start everything on this machine and run a job through it
	@$(IN_VENV) app demo $(ARGS)

faults: setup ## kill everything under load and count what is lost; ARGS="--jobs 500 --kills 6" shortens it
	@$(IN_VENV) app faults $(ARGS)

test: check ## check, then run every test that is not long; ARGS="tests/jobs -k late" narrows it
	$(IN_VENV) pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal -m "not long" $(ARGS)

test-long: setup ## run the tests that take minutes
	$(IN_VENV) pytest -m long --timeout 1800 $(ARGS)

check: setup ## formatting, lint and types
	$(IN_VENV) ruff format --check .
	$(IN_VENV) ruff check .
	$(IN_VENV) mypy app tests

format: setup ## rewrite the code as `make check` wants it
	$(IN_VENV) ruff check --fix-only .
	$(IN_VENV) ruff format .

lock: ## remake the lock files from pyproject.toml; ARGS=--upgrade takes newer versions
	@eval "$$SHELL_FUNCTIONS"; lock $(ARGS)

clean: ## remove .venv, caches and builds; the data in .framehook stays
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

define shell_functions
set -eu

fail() {
    printf 'make: %s\n' "$*" >&2
    exit 1
}

# Set $python to the first candidate that is new enough and can make virtual environments.
find_python() {
    if [ -n "$CHOSEN_PYTHON" ]; then
        set -- "$CHOSEN_PYTHON"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11
    fi
    without_venv=
    for candidate; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
                python=$candidate
                return
            fi
            without_venv=${without_venv:-$candidate}
        fi
    done
    if [ -n "$without_venv" ]; then
        fail "$without_venv cannot make virtual environments (Debian and Ubuntu: apt install python3-venv)"
    fi
    version=$("$1" -c 'import sys; print("Python %d.%d" % sys.version_info[:2])' 2>/dev/null) || version=missing
    fail "Python 3.11 or newer is needed, and $1 is $version (PYTHON=... names another)"
}

# What decides whether the packages in .venv are the right ones. The folder is part of it: the editable install names it.
wanted_packages() {
    pwd -P
    cat requirements.lock
}

is_chosen_python() {
    full_version='import sys; print(sys.version)'
    [ -z "$CHOSEN_PYTHON" ] || [ "$("$CHOSEN_PYTHON" -c "$full_version" 2>&1)" = "$($1 -c "$full_version")" ]
}

install() {
    PIP_USER=0 .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps "$@"
}

# Each note of what was installed is written after the fact, so that whatever an interruption left is made anew.
setup() {
    if ! { .venv/bin/python -c '' 2>/dev/null && is_chosen_python .venv/bin/python &&
        wanted_packages | cmp -s - .venv/installed-packages; }; then
        find_python
        echo "Installing the packages of requirements.lock into .venv (about a minute, once) ..."
        "$python" -m venv --clear .venv
        install --require-hashes -r requirements.lock
        wanted_packages >.venv/installed-packages
    fi
    if ! cmp -s pyproject.toml .venv/installed-project; then
        echo "Installing this project into .venv ..."
        install --no-build-isolation --editable .
        cp pyproject.toml .venv/installed-project
    fi
}

lock() {
    find_python
    workshop=$(mktemp -d)
    trap 'rm -rf "$workshop"' EXIT
    echo "Resolving with uv in a throw-away environment ..."
    "$python" -m venv "$workshop"
    "$workshop/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    compile() {
        "$workshop/bin/python" -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
            --custom-compile-command "make lock" "$@"
    }
    compile pyproject.toml --extra embedded --group dev --output-file requirements.lock "$@"
    compile pyproject.toml --constraints requirements.lock --output-file requirements-image.lock "$@"
    compile --group build --constraints requirements.lock --output-file requirements-build.lock "$@"
    echo "Remade requirements.lock, requirements-image.lock and requirements-build.lock."
}
endef

setup lock: export SHELL_FUNCTIONS = $(value shell_functions)
setup lock: export CHOSEN_PYTHON := $(PYTHON)
setup lock: export UV_VERSION := $(UV_VERSION)
