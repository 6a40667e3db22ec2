"""How the dashboard writes times, durations, sizes and JSON. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from markupsafe import Markup

NONE: Final = "—"

_STEPS: Final = ((60, "s", 1), (3600, "min", 60), (86_400, "h", 3600))


def number(value: float | None) -> str:
    """A count with thin groups of three: `12,345`; a dash where there is none."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def capped(value: int, more: bool) -> str:
    """A count that stopped where it says no more: `10,000+`."""
    return number(value) + ("+" if more else "")


def duration(seconds: float | None) -> str:
    """`0.4 s`, `42 s`, `3.5 min`, `2.1 h`, `5 days`; a dash where there is none."""
    if seconds is None:
        return NONE
    if seconds < 0.001:
        return "0 s"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for limit, unit, size in _STEPS:
        if seconds < limit:
            value = seconds / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    days = seconds / 86_400
    return f"{days:.1f} days" if days < 10 else f"{days:.0f} days"


def ago(time: datetime, now: datetime) -> str:
    """How far a time is from now: `3 min ago`, `in 40 s`, `just now`."""
    seconds = (now - time).total_seconds()
    if abs(seconds) < 1:
        return "just now"
    size = _coarse(abs(seconds))
    return f"{size} ago" if seconds > 0 else f"in {size}"


def _coarse(seconds: float) -> str:
    for limit, unit, size in _STEPS:
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    days = round(seconds / 86_400)
    return f"{days} day" if days == 1 else f"{days} days"


def exact(time: datetime) -> str:
    """A time to the millisecond, in UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{time.microsecond // 1000:03d} UTC"


def when(time: datetime | str | None, now: datetime) -> Markup:
    """A relative time that tells the exact one on hover; scripts keep it right while the page is open."""
    if time is None or time == "":
        return Markup('<span class="none">{}</span>').format(NONE)
    moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.astimezone(UTC).isoformat(timespec="milliseconds"), exact(moment), ago(moment, now)
    )


def size(count: int | None) -> str:
    """`512 B`, `14 kB`, `2.3 MB`, in powers of ten; a dash where there is none."""
    if count is None:
        return NONE
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit in ("B", "kB") or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def short(value: object) -> str:
    """The end of an id, which is what tells UUIDv7 of one time apart."""
    text = str(value)
    return f"…{text[-8:]}" if len(text) > 12 else text


def pretty(value: Any) -> str:
    """JSON to read: indented, nothing escaped that need not be; as it stands where it is nested too deep for that."""
    text = msgspec.json.encode(value)
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except RecursionError:
        return text.decode()


def host(url: str | None) -> str:
    """The part of a URL that tells targets apart."""
    rest = (url or "").partition("://")[2]
    return rest.partition("/")[0] or (url or NONE)


def line(value: Any) -> str:
    """A JSON object in one line, as `name value` pairs; nothing for an empty one."""
    return ", ".join(f"{name} {_plain(each)}" for name, each in json.loads(msgspec.json.encode(value)).items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
