"""One wide line per unit of work, as text on a terminal and JSON elsewhere. No token or key is ever part of a line."""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from structlog.processors import format_exc_info
from structlog.typing import EventDict

from app.config import Settings

_WEBHOOK_PATH = re.compile(r"(/webhooks/apiframe/)[^\s\"]+")
_SEALED = re.compile(r"([?&](ticket|signature)=)[^&\s\"]*")


def configure(settings: Settings) -> None:
    """Send our lines and those of the libraries below to standard error, in one format."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [_complete]
    renderer: Any = (
        _to_json
        if as_json
        else structlog.dev.ConsoleRenderer(pad_event_to=24, exception_formatter=structlog.dev.plain_traceback)
    )
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.INFO))
    for noisy in ("httpx", "httpcore", "asyncio", "alembic.runtime.migration"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _complete(logger: Any, method: str, line: EventDict) -> EventDict:
    """Add to a line its level and the time, and an error as text."""
    line["level"] = method
    line["at"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return format_exc_info(logger, method, line) if "exc_info" in line else line


def _to_json(_logger: Any, _method: str, line: EventDict) -> str:
    """The standard library's encoder takes as long for a line as a delivery's signature and body together."""
    return msgspec.json.encode(line, enc_hook=repr).decode()


class HideTokens(logging.Filter):
    """Keep what uvicorn's access log must not tell: the path of a webhook, the ticket of a stream, the seal of a link."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_hide(arg) if isinstance(arg, str) else arg for arg in record.args)
        return True


def _hide(words: str) -> str:
    return _SEALED.sub(r"\1{\2}", _WEBHOOK_PATH.sub(r"\1{job_id}/{token}", words))


def hide_tokens() -> None:
    """Install the filter; harmless when uvicorn's access log is off."""
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(present, HideTokens) for present in access.filters):
        access.addFilter(HideTokens())
