"""The routes that make no job, at Apiframe's own paths."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote, urlencode
from uuid import UUID

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.apiframe.client import Passing
from app.auth import Caller
from app.context import Context
from app.errors import ApiError, Invalid, NotFound
from app.http import caller, context, json_response
from app.paging import find_id
from app.relay import me
from app.relay.belongings import Kind, is_own, record
from app.relay.loras import list_own_loras
from app.relay.passing import Whole, ask, pass_through, passing_of

log = structlog.get_logger()

Result = TypeVar("Result")

FRAMING: Final = 64 * 1024
"""What a form may add to its files."""

LARGEST_UPLOAD: Final = 50 * 1024 * 1024 + FRAMING
LARGEST_PICTURES: Final = 100 * 1024 * 1024 + FRAMING
LARGEST_ASSET: Final = 64 * 1024
LONGEST_QUERY: Final = 4096


async def list_models(request: Request) -> Response:
    """List Apiframe's models, with what they can do and cost. No key is needed.

    `modality` is `image`, `video` or `music`.
    """
    return await pass_through(request, None, passing_of(request, _with_query(request, "/v2/models")))


async def create_upload(request: Request) -> Response:
    """Upload a file for an hour or two: a form with one part named `file`, of at most 50 MB (pictures and sounds 25 MB).

    The `url` in the answer can be used in any field of a submission that takes a picture, film or sound. The file goes to
    Apiframe while it comes, once: where the answer is a 502, upload it again.
    """
    who = await caller(request, "submit")
    return await pass_through(request, who, passing_of(request, "/v2/uploads", largest=LARGEST_UPLOAD))


async def create_asset(request: Request) -> Response:
    """Register a URL with a provider that wants this before a submission names it: `url`, and `type` (image, video, audio).

    The `assetId` in the answer is your team's.
    """
    who = await caller(request, "submit")
    return await _create(request, who, "asset", "assetId", "/v2/assets/create", largest=LARGEST_ASSET)


async def get_asset(request: Request) -> Response:
    """Read one of your team's assets, or with the scope `ops` any team's, in its provider's own words."""
    who = await caller(request, "read", "ops")
    asset_id = request.path_params["asset_id"]
    await _must_be_own(context(request), who, "asset", asset_id, "Asset not found")
    return await pass_through(request, who, passing_of(request, f"/v2/assets/{quote(asset_id, safe='')}"))


async def create_lora(request: Request) -> Response:
    """Train a LoRA for `flux-lora`: a form with 15 to 30 parts named `images` (100 MB in all), `name` and more.

    Its `webhookUrl` is called by Apiframe itself. The form goes to Apiframe while it comes, once, and is neither queued nor
    repeated: after a 502 it is not known whether training began, and was paid for; whoever has the scope `ops` can see.
    """
    who = await caller(request, "submit")
    return await _create(request, who, "lora", "id", "/v2/loras", largest=LARGEST_PICTURES)


async def list_loras(request: Request) -> Response:
    """List your team's LoRAs, newest first, or with the scope `ops` those of the whole account.

    `limit` is 1 to 100; `cursor` takes the `nextCursor` of the page before; `includeArchived=true` adds those that were
    deleted. A page may be short, or empty, and yet have a `nextCursor`: the list goes on until that is null.
    """
    who = await caller(request, "read", "ops")
    if who.sees_all:
        return await pass_through(request, who, passing_of(request, _with_query(request, "/v2/loras")))
    return await list_own_loras(request, who)


async def get_lora(request: Request) -> Response:
    """Read one of your team's LoRAs, or with the scope `ops` any team's."""
    who = await caller(request, "read", "ops")
    lora_id = _lora_id(request)
    await _must_be_own(context(request), who, "lora", lora_id, "LoRA not found")
    return await pass_through(request, who, passing_of(request, f"/v2/loras/{lora_id}"))


async def delete_lora(request: Request) -> Response:
    """Archive one of your team's LoRAs; 204, as often as you ask. With `includeArchived` it is still listed."""
    who = await caller(request, "submit")
    lora_id = _lora_id(request)
    if not await is_own(context(request), who, "lora", lora_id):
        raise NotFound("LoRA not found")
    return await pass_through(request, who, passing_of(request, f"/v2/loras/{lora_id}"))


async def get_me(request: Request) -> Response:
    """Tell whose key this is, in Apiframe's shape: the key, its team, and a user that stands for the key.

    `team.credits` is what is left of the team's monthly budget, or of the company's account where the team has none.
    """
    who = await caller(request, "read", "submit", "subscribe", "ops")
    credits_left = cast(me.UpstreamCredits, request.app.state.credits)
    return json_response(await me.describe(context(request), who, credits_left))


async def _create(request: Request, who: Caller, kind: Kind, field: str, path: str, *, largest: int) -> Response:
    """Have the upstream make something, and write down whose it is before its maker hears of it."""
    ctx = context(request)
    passing = passing_of(request, path, largest=largest)
    return (await _undisturbed(ctx, _make(ctx, request, who, passing, kind, field))).response()


async def _make(ctx: Context, request: Request, who: Caller, passing: Passing, kind: Kind, field: str) -> Whole:
    answer = await ask(request, who, passing)
    if 200 <= answer.status < 300:
        upstream_id = _id_in(answer, field)
        if upstream_id is None:
            log.error("belonging.unnamed", kind=kind, team_id=str(who.team_id), answer=repr(answer.content[:200]))
        else:
            await record(ctx, who, kind, upstream_id.lower() if kind == "lora" else upstream_id)
    return answer


async def _undisturbed(ctx: Context, work: Coroutine[Any, Any, Result]) -> Result:
    """Do something to its end whoever leaves; what is wrong with the request is raised here."""

    async def settle() -> Result | ApiError | ClientDisconnect:
        try:
            return await work
        except (ApiError, ClientDisconnect) as error:
            return error

    outcome = await asyncio.shield(ctx.start(settle()))
    if isinstance(outcome, ApiError | ClientDisconnect):
        raise outcome
    return outcome


async def _must_be_own(ctx: Context, who: Caller, kind: Kind, upstream_id: str, words: str) -> None:
    """Raise NotFound, in the upstream's words, for what is another team's or cannot be anything's id."""
    if upstream_id in (".", "..") or not (who.sees_all or await is_own(ctx, who, kind, upstream_id)):
        raise NotFound(words)


def _lora_id(request: Request) -> str:
    """The id in the path. Raises Invalid, as the upstream has it, for a text that is none."""
    lora_id: UUID | None = find_id(request.path_params["lora_id"])
    if lora_id is None:
        raise Invalid(details={"id": ["Invalid uuid"]})
    return str(lora_id)


def _id_in(answer: Whole, field: str) -> str | None:
    try:
        found = msgspec.json.decode(answer.content, type=dict[str, Any]).get(field)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, str) and found else None


def _with_query(request: Request, path: str) -> str:
    """A path with the caller's own query, written anew."""
    query = urlencode(request.query_params.multi_items())
    if len(query) > LONGEST_QUERY:
        raise Invalid("The query is too long")
    return f"{path}?{query}" if query else path
