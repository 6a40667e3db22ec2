"""What OpenAPI says of a route: the words of its handler, and the shapes of its traffic."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Final

from starlette.responses import Response

from app.reference import events, files, jobs, operations, relayed, subscriptions, teams, usage
from app.reference.shapes import Route, answer, failure

_PAGES: Final = (jobs, relayed, files, events, subscriptions, teams, usage, operations)


def describe(method: str, path: str, handler: Callable[..., Any]) -> dict[str, Any]:
    """FastAPI's arguments for a route: a summary and a description from the docstring, and the shapes of its traffic."""
    words = inspect.getdoc(handler) or ""
    summary, rest = (*re.split(r"\.\s+", words, maxsplit=1), "")[:2]
    public = path in ("/healthz", "/readyz", "/metrics") or path.startswith(("/webhooks/", "/sandbox/"))
    errors = {} if path == "/healthz" else _ERRORS | ({} if public else _KEYED)
    answers = _ANSWERS.get((method, path), {"200": answer("Done", {"type": "object"})})
    extra = {
        "security": [] if public else [{"ApiKey": []}, {"Bearer": []}],
        "parameters": [*_path_parameters(path), *_PARAMETERS.get((method, path), [])],
        "responses": answers | errors,
        **({"requestBody": _BODIES[(method, path)]} if (method, path) in _BODIES else {}),
    }
    return {
        "summary": summary.strip().rstrip("."),
        "description": rest.strip() or summary,
        "tags": [_TAGS.get((method, path), operations.TAG)],
        "openapi_extra": extra,
        "response_model": None,
        "response_class": Response,  # of no type, because what an answer is made of is said above
        "status_code": int(next(iter(answers))),
    }


SECURITY_SCHEMES: Final = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


SCHEMAS: Final[dict[str, Any]] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {"type": "string"},
            "details": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
        },
    },
    **{name: schema for page in _PAGES for name, schema in page.SCHEMAS.items()},
}

_KEYED: Final = {
    "401": failure("No valid key"),
    "429": failure("A limit of your team is used up: see Retry-After"),
}
_ERRORS: Final = {"400": failure("Something in the request is wrong"), "503": failure("Not now: see Retry-After")}

_ANSWERS: Final[dict[Route, Any]] = {route: shape for page in _PAGES for route, shape in page.ANSWERS.items()}
_BODIES: Final[dict[Route, Any]] = {route: shape for page in _PAGES for route, shape in page.BODIES.items()}
_PARAMETERS: Final[dict[Route, Any]] = {route: shape for page in _PAGES for route, shape in page.PARAMETERS.items()}
_TAGS: Final[dict[Route, str]] = {route: page.TAG for page in _PAGES for route in page.ANSWERS}
