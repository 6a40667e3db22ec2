"""Commands of API keys."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from app.cli.terminal import ADMIN, AsJson, day, out, plain, read_settings, run
from app.config import Settings
from app.context import open_context
from app.errors import StartupError
from app.models.teams import SCOPES
from app.paging import parse_id
from app.teams import issuing
from app.teams import keys as team_keys
from app.teams.asking import DEFAULT_GRACE_SECONDS, LONGEST_GRACE_SECONDS, NewKeyRequest

keys = typer.Typer(name="keys", help="Make, list, rotate and revoke API keys.", no_args_is_help=True)


KeyId = Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")]


@keys.command("create")
def create_key(
    team: Annotated[str, typer.Option(help="The team it belongs to; made if it is new.")],
    scopes: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(SCOPES)}.")] = "submit,read",
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    expires_days: Annotated[int | None, typer.Option(min=1, max=36500, help="Days it is good for.")] = None,
    test: Annotated[bool, typer.Option("--test", help="A test key: no model is reached, and nothing is paid.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is shown now and never again."""

    async def work(settings: Settings) -> team_keys.NewKey:
        async with open_context(settings) as ctx, ctx.db.transaction() as tx:
            expires_at = ctx.now() + timedelta(days=expires_days) if expires_days else None
            return await issuing.issue(tx, ADMIN.actor, NewKeyRequest(team, wanted, name, expires_at, test), ctx.now())

    try:
        wanted = team_keys.check_scopes([scope.strip() for scope in scopes.split(",") if scope.strip()])
    except ValueError as error:
        raise StartupError(str(error)) from None
    if not team.strip():
        raise StartupError("--team must not be empty")
    try:
        made = run(work(read_settings()))
    except ValueError as error:
        raise StartupError(str(error)) from None
    if as_json:
        print(json.dumps({"id": str(made.id), "key": made.key, "team": made.team, "scopes": list(made.scopes)}))
    else:
        out.print(made.key, style="bold", markup=False, soft_wrap=True)
        out.print(
            f"Team {made.team}, scopes {', '.join(made.scopes)}. Keep it: it is not shown again.",
            markup=False,
            soft_wrap=True,
        )


@keys.command("list")
def list_keys(
    team: Annotated[str | None, typer.Option(help="Only this team's.")] = None, as_json: AsJson = False
) -> None:
    """List the keys of all teams, revoked ones too."""

    async def work(settings: Settings) -> list[dict[str, Any]]:
        async with open_context(settings) as ctx, ctx.db.transaction() as tx:
            return [dict(row._mapping) for row in await team_keys.list_keys(tx, team)]

    rows = run(work(read_settings()))
    if as_json:
        print(json.dumps(rows, default=plain, indent=2))
        return
    whole = Column("id", no_wrap=True)  # it is what `keys revoke` is given
    others = (Column(name, overflow="fold") for name in ("team", "name", "key", "scopes", "created", "used", "state"))
    table = Table(whole, *others, box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            str(row["id"]),
            escape(row["team"]),
            escape(row["name"]),
            f"{row['prefix']}…",
            ",".join(row["scopes"]),
            day(row["created_at"]),
            day(row["last_used_at"]),
            "revoked" if row["revoked_at"] else f"until {day(row['expires_at'])}" if row["expires_at"] else "valid",
        )
    out.print(table)


@keys.command("rotate")
def rotate_key(
    key_id: KeyId,
    grace_seconds: Annotated[
        int, typer.Option(min=0, max=LONGEST_GRACE_SECONDS, help="For how long the key before is good.")
    ] = DEFAULT_GRACE_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Make a key that takes this one's place. It is shown now and never again; the one before ends after a grace."""

    async def work(settings: Settings) -> dict[str, Any]:
        async with open_context(settings) as ctx:
            return await issuing.rotate(ctx, ADMIN, parse_id(key_id, "Key"), grace_seconds=grace_seconds)

    rotated = run(work(read_settings()))
    if as_json:
        print(json.dumps(rotated, default=plain))
        return
    out.print(rotated["key"], style="bold", markup=False, soft_wrap=True)
    out.print(f"Keep it: it is not shown again. {key_id} is good until {rotated['previousExpiresAt']}.", markup=False)


@keys.command("revoke")
def revoke_key(key_id: KeyId) -> None:
    """Revoke a key; every process refuses it within a second."""

    async def work(settings: Settings) -> None:
        async with open_context(settings) as ctx:
            await issuing.revoke(ctx, ADMIN, parse_id(key_id, "Key"))

    run(work(read_settings()))
    out.print(f"Revoked {key_id}.")
