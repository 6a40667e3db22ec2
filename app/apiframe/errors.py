"""What may come of an upstream call other than an answer: a definite refusal, or nothing that one could rely on."""

from __future__ import annotations

from typing import Any


class Unclear(Exception):
    """No answer, a 5xx, or an answer that makes no sense: the upstream may or may not have done what was asked."""

    def __init__(self, reason: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class Unreached(Unclear):
    """Nothing was sent: there was no connection to be had."""


class Refusal(Exception):
    """A definite 4xx: nothing was accepted. `body` is the upstream's JSON, or an envelope made of its text."""

    def __init__(
        self, status: int, body: dict[str, Any], *, retry_after_seconds: float | None, request_id: str | None
    ) -> None:
        super().__init__(f"{status} {body.get('error', '')}".strip())
        self.status = status
        self.body = body
        self.retry_after_seconds = retry_after_seconds
        self.request_id = request_id

    @property
    def text(self) -> str:
        """The upstream's own words."""
        error = self.body.get("error")
        return error if isinstance(error, str) else f"Refused with {self.status}"
