"""What a page is given and how it answers: who looks, the form that was sent, the template, headers that keep others out.

A page is a coroutine of one Visit. Whoever is not signed in is sent to do that; what goes wrong is told as a page.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlencode

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.auth import Caller
from app.context import Context
from app.dashboard import words
from app.dashboard.sessions import Session, check_csrf, check_origin, find_session
from app.db import OUTAGES, is_outage
from app.errors import ApiError, Invalid, Unauthenticated, Unavailable
from app.http import context, read_body
from app.version import version

log = structlog.get_logger()

LARGEST_FORM: Final = 256 * 1024
NOTICE: Final = "framehook_notice"
NOTICE_SECONDS: Final = 60
STATIC: Final = Path(__file__).parent / "static"
HOME: Final = "/ops"
SIGN_IN: Final = "/ops/sign-in"

_OWN: Final = "'self'"
_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

Page = Callable[["Visit"], Awaitable[Response]]
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True)
class Visit:
    """One request of somebody who is signed in."""

    request: Request
    session: Session
    form: Mapping[str, list[str]] = field(default_factory=dict)  # of an action

    @property
    def ctx(self) -> Context:
        """The context that the application was started with."""
        return context(self.request)

    @property
    def caller(self) -> Caller:
        """Whose key it is; it has the scope `ops`."""
        return self.session.caller

    @property
    def is_admin(self) -> bool:
        """Whether it may change teams and keys."""
        return "admin" in self.caller.scopes

    def value(self, name: str, default: str = "") -> str:
        """One field of the form."""
        return self.form.get(name, [default])[0].strip()

    def render(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """A page."""
        return render(self.request, template, status=status, visit=self, **values)

    def done(self, path: str, notice: str) -> Response:
        """The answer to an action: on to a page, which tells once what was done."""
        answer = RedirectResponse(path, status_code=303, headers=dict(_HEADERS))
        answer.set_cookie(NOTICE, quote(notice[:500]), max_age=NOTICE_SECONDS, path=HOME, httponly=True, samesite="lax")
        return answer


def visiting(page: Page) -> Handler:
    """The handler of a page for whoever is signed in; an action (a POST) only where its form is from a page of theirs."""

    async def handle(request: Request) -> Response:
        request.state.began = time.perf_counter()
        try:
            visit = Visit(request, await find_session(request))
            if request.method == "POST":
                check_origin(request)
                visit.form = await read_form(request)
                check_csrf(visit.session, visit.value("csrf"))
            return await page(visit)
        except Unauthenticated:
            return _to_sign_in(request)
        except ApiError as error:
            return render_error(request, error)
        except OUTAGES as error:
            return render_error(request, _outage(request, error))

    return handle


def open_to_all(page: Handler) -> Handler:
    """The handler of a page for whoever comes."""

    async def handle(request: Request) -> Response:
        try:
            return await page(request)
        except ApiError as error:
            return render_error(request, error)
        except OUTAGES as error:
            return render_error(request, _outage(request, error))

    return handle


def render(
    request: Request, template: str, *, status: int = 200, visit: Visit | None = None, **values: Any
) -> Response:
    """A page, with what every template may use: `now`, `when`, the notice of the action before, who looks."""
    notice = request.cookies.get(NOTICE)
    now = context(request).now()
    body = (
        _templates()
        .get_template(template)
        .render(
            values
            | {
                "request": request,
                "path": request.url.path,
                "query": request.query_params,
                "visit": visit,
                "now": now,
                "when": partial(words.when, now=now),
                "notice": unquote(notice) if notice else None,
                "demo": getattr(request.app.state, "demo", None),
            }
        )
    )
    headers = {**_HEADERS, "Content-Security-Policy": _policy(request)}
    if began := getattr(request.state, "began", None):
        headers["Server-Timing"] = f"page;dur={(time.perf_counter() - began) * 1000:.1f}"
    answer = HTMLResponse(body, status_code=status, headers=headers)
    if notice and status < 400:
        answer.delete_cookie(NOTICE, path=HOME)
    return answer


def render_error(request: Request, error: ApiError) -> Response:
    """What went wrong, as a page, with its status."""
    answer = render(request, "error.html", status=error.status, error=error.body)
    for name, value in error.headers.items():
        answer.headers[name] = value
    return answer


async def read_form(request: Request) -> dict[str, list[str]]:
    """A form's fields. Raises Invalid, TooLarge."""
    raw = await read_body(request, largest=LARGEST_FORM)
    try:
        fields = parse_qs(raw.decode(), keep_blank_values=True, max_num_fields=2000)
    except ValueError:
        raise Invalid("This form cannot be read") from None
    if any("\0" in value for values in fields.values() for value in values):
        raise Invalid("A form must not contain NUL characters")
    return fields


def secure(request: Request) -> bool:
    """Whether cookies may be for https only: where the browser came by it."""
    return (
        request.url.scheme == "https" or context(request).settings.base_url == f"https://{request.headers.get('host')}"
    )


def _to_sign_in(request: Request) -> Response:
    """To the page to sign in, and from there back to where somebody wanted to go."""
    wanted = request.url.path if request.method == "GET" else HOME
    if request.method == "GET" and request.url.query:
        wanted += f"?{request.url.query}"
    query = "" if wanted == HOME else f"?{urlencode({'next': wanted})}"
    return RedirectResponse(f"{SIGN_IN}{query}", status_code=303, headers=dict(_HEADERS))


def _outage(request: Request, error: Exception) -> Unavailable:
    if not is_outage(error):
        raise error
    log.warning("database.unavailable", route=request.scope["route"].path, error=str(error)[:200])
    return Unavailable("The database is unavailable")


def _policy(request: Request) -> str:
    """Nothing from elsewhere, and no script or style within a page. Kept files may lead on to the bucket they are in."""
    media = f"{_OWN} https:" if context(request).settings.archive_serve == "redirect" else _OWN
    return (
        f"default-src 'none'; script-src {_OWN}; style-src {_OWN}; connect-src {_OWN}; img-src {media}; media-src {media};"
        f" form-action {_OWN}; base-uri 'none'; frame-ancestors 'none'"
    )


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number,
        "duration": words.duration,
        "size": words.size,
        "short": words.short,
        "pretty": words.pretty,
        "line": words.line,
        "host": words.host,
    }
    environment.globals |= {"capped": words.capped, "static": static_url, "version": version()}
    return environment


@cache
def static_url(name: str) -> str:
    """Where a static file is; its address changes with it, so that browsers may keep it for ever."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/ops/static/{name}?v={digest}"
