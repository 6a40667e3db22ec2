"""Errors that carry their status. `main` renders every one of them in Apiframe's envelope, in one handler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class StartupError(Exception):
    """The service cannot start; the message is the one line that its operator reads."""


class ApiError(Exception):
    """An answer that is not a success: `{"error": text, "details"?: {field: [messages]}}` and more by `extra`."""

    status = 500
    text = "Internal error"

    def __init__(
        self,
        text: str | None = None,
        *,
        details: Mapping[str, list[str]] | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(text or self.text)
        self.body: dict[str, Any] = {"error": text or self.text, **extra}
        if details:
            self.body["details"] = dict(details)
        self.headers = dict(headers or {})


class Invalid(ApiError):
    status, text = 400, "Validation failed"


class Unauthenticated(ApiError):
    status, text = 401, "Missing or invalid API key"


class Forbidden(ApiError):
    status, text = 403, "This key may not do that"


class NotFound(ApiError):
    status, text = 404, "Not found"


class TooSlow(ApiError):
    """The rest of the body may still come, so the connection is of no use any more."""

    status, text = 408, "The rest of the request did not come"

    def __init__(self, text: str | None = None) -> None:
        super().__init__(text, headers={"Connection": "close"})


class Conflict(ApiError):
    status, text = 409, "Conflict"


class Gone(ApiError):
    status, text = 410, "Gone"


class TooLarge(ApiError):
    status, text = 413, "Request body too large"


class TooMany(ApiError):
    """A limit of the caller's team is used up for now."""

    status, text = 429, "Rate limit exceeded"

    def __init__(self, text: str | None = None, *, retry_after_seconds: int) -> None:
        super().__init__(text, headers={"Retry-After": str(retry_after_seconds)})


class BadGateway(ApiError):
    status, text = 502, "The upstream did not answer"


class Unavailable(ApiError):
    """The database is away or a queue is full: come again, with the same Idempotency-Key."""

    status, text = 503, "Temporarily unavailable"

    def __init__(self, text: str | None = None, *, retry_after_seconds: int = 1) -> None:
        super().__init__(text, headers={"Retry-After": str(retry_after_seconds)})


class OverBudget(ApiError):
    """A team's budget of this month does not reach for a job; in credits, as the upstream says it of an account."""

    status, text = 402, "Insufficient credits"

    def __init__(self, required: int, available: int) -> None:
        super().__init__(creditsRequired=required, creditsAvailable=available)


class Refused(ApiError):
    """The upstream's refusal of a submission, told to the caller verbatim."""

    def __init__(self, status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers=headers)
        self.status = status
        self.body = body
