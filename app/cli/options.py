"""Options that several commands share, written down once, as the fields of a dataclass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which Framehook a command speaks to, and as whom."""

    url: Annotated[
        str | None,
        typer.Option(envvar="FRAMEHOOK_URL", help="A running Framehook; without it, the database of the settings."),
    ] = None
    key: Annotated[
        str,
        typer.Option(envvar="FRAMEHOOK_KEY", help="The key to act with; on the database none is an admin."),
    ] = ""


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Have Typer take the fields of the dataclasses among a command's parameters as options of that command."""
    parameters = inspect.signature(command, eval_str=True).parameters
    groups: dict[str, Any] = {
        name: each.annotation for name, each in parameters.items() if is_dataclass(each.annotation)
    }

    @functools.wraps(command)
    def called(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    flat = [
        option.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, each in parameters.items()
        for option in (_options(groups[name]) if name in groups else (each,))
    ]
    called.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]  # what `inspect` documents
    return called


def _options(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
        )
