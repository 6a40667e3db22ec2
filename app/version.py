"""This installation's version, as packages and subscribers are told of it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version


def version() -> str:
    """This installation's version; a checkout that was never installed has none."""
    try:
        return installed_version("framehook")
    except PackageNotFoundError:
        return "0.0.0"
