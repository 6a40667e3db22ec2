"""The pages around a session: to sign in, to sign out, and the list of who is signed in."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.dashboard import sessions
from app.dashboard.visits import HOME, SIGN_IN, Visit, read_form, render, secure
from app.errors import ApiError, Forbidden, TooMany, Unauthenticated
from app.paging import parse_id


async def show_sign_in(request: Request) -> Response:
    """A field for a key."""
    return render(request, "sign_in.html", wanted=_wanted(request.query_params.get("next")), fault=None)


async def sign_in(request: Request) -> Response:
    """Exchange a key for a cookie."""
    sessions.check_origin(request)
    form = await read_form(request)
    wanted = _wanted(form.get("next", [""])[0])
    try:
        token = await sessions.sign_in(request, form.get("key", [""])[0])
    except (Unauthenticated, Forbidden, TooMany) as error:
        return _refuse(request, error, wanted)
    answer = RedirectResponse(wanted, status_code=303, headers={"Cache-Control": "no-store"})
    answer.set_cookie(
        sessions.COOKIE,
        token,
        max_age=int(sessions.LONGEST.total_seconds()),
        path=HOME,
        httponly=True,
        samesite="lax",
        secure=secure(request),
    )
    return answer


async def sign_out(visit: Visit) -> Response:
    """End one's own session."""
    await sessions.end_session(visit.ctx, visit.caller, visit.session.id)
    answer = RedirectResponse(
        f"{SIGN_IN}?{urlencode({'out': 1})}", status_code=303, headers={"Cache-Control": "no-store"}
    )
    answer.delete_cookie(sessions.COOKIE, path=HOME, httponly=True, samesite="lax", secure=secure(visit.request))
    return answer


async def show_sessions(visit: Visit) -> Response:
    """Who is signed in, from where, and since when."""
    return visit.render("sessions.html", sessions=await sessions.show_sessions(visit.ctx))


async def end_session(visit: Visit) -> Response:
    """End a session: of one's own key, or as an admin anybody's."""
    session_id = parse_id(visit.request.path_params["session_id"], "Session")
    if session_id == visit.session.id:
        return await sign_out(visit)
    found = [each for each in await sessions.show_sessions(visit.ctx) if each.id == session_id]
    if found and found[0].key_id != visit.caller.key_id:
        visit.caller.must("admin")
    await sessions.end_session(visit.ctx, visit.caller, session_id)
    return visit.done("/ops/sessions", "The session is over.")


def _refuse(request: Request, error: ApiError, wanted: str) -> Response:
    answer = render(request, "sign_in.html", status=error.status, wanted=wanted, fault=error.body["error"])
    for name, value in error.headers.items():
        answer.headers[name] = value
    return answer


def _wanted(path: str | None) -> str:
    """Where to go after signing in: a page of ours, whatever a link says."""
    return path if path and path.startswith(f"{HOME}/") and "\\" not in path and path.isprintable() else HOME
