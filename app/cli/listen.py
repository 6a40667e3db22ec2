"""The command for developers: events of a running Framehook, printed and posted to a URL on this machine.

Standard output has events and nothing else, one line each; what is to be known of the session goes to standard error.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from app.cli.terminal import AsJson, run
from app.clock import timestamp
from app.deliveries.signing import make_secret
from app.errors import StartupError
from app.listen import Event, Forwarder, Outcome, Source, check_secret, open_client, read_time


def listen(
    forward: Annotated[str | None, typer.Option(help="Where to post events; without it they are only shown.")] = None,
    url: Annotated[str, typer.Option(envvar="FRAMEHOOK_URL", help="The Framehook.")] = "http://127.0.0.1:8000",
    key: Annotated[
        str, typer.Option(envvar="FRAMEHOOK_KEY", help="A key with the scope subscribe.", show_default=False)
    ] = "",
    types: Annotated[str | None, typer.Option(help="Comma-separated types of events, or patterns: job.*")] = None,
    replay_since: Annotated[
        str | None, typer.Option(help="Begin with the events from this time on (ISO 8601), not with the next one.")
    ] = None,
    secret: Annotated[
        str | None, typer.Option(help="Sign with this whsec_ secret, not with a new one.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Post events to a URL on your laptop as they happen, signed as deliveries are. No tunnel is needed.

    It needs no database, only the address and the key of a running Framehook. Ctrl-C ends it.
    """
    if not key.strip():
        raise StartupError("a key is needed: --key, or FRAMEHOOK_KEY in the environment")
    since = read_time(replay_since) if replay_since is not None else None
    signed_with = check_secret(secret) if secret is not None else make_secret()

    async def work() -> None:
        http = open_client(url, key.strip())
        source = Source(http, url.rstrip("/"), types=types, since=since, note=_note)
        forwarder = Forwarder(forward, signed_with) if forward is not None else None
        if forwarder is not None:
            _note(f"Events are posted to {forward}, signed with the secret {signed_with}")

        async def tell(event: Event, body: bytes) -> None:
            outcome = await forwarder.post(event, body) if forwarder is not None else None
            if as_json:
                print(body.decode(), flush=True)
            if outcome is not None or not as_json:
                print(_line(event, outcome), file=sys.stderr if as_json else sys.stdout, flush=True)

        try:
            async with http:
                await source.follow(tell)
        finally:
            if forwarder is not None:
                await forwarder.close()

    run(work())


def _line(event: Event, outcome: Outcome | None) -> str:
    shown = f"{timestamp(event.timestamp)}  {event.type:<14}  {event.data.id or ''}"
    if outcome is None:
        return shown
    return f"{shown}  -> {outcome.error or outcome.status} ({outcome.milliseconds} ms)"


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
