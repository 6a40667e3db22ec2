"""The routes of what callers bring along rather than ask for: assets and LoRAs. They make no job."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from app.simulator import assets, loras
from app.simulator.accounts import Caller
from app.simulator.bodies import is_uuid
from app.simulator.loras import COST, Lora
from app.simulator.replies import Cut, Json, invalid, refusal
from app.simulator.world import World


async def create_asset(world: World, request: Request, caller: Caller) -> Response:
    """Register a URL."""
    raw = await request.body()
    world.refuse_struck("rate_limited", "server_error")
    asset = assets.register(raw, caller.account, world.now(), world.config)
    world.assets[asset.id] = asset
    return await _tell(world, Json({"assetId": asset.id}, 201))


async def get_asset(world: World, request: Request, caller: Caller) -> Response:
    """Show an asset of the caller's account."""
    world.refuse_struck("read_rate_limited", "read_server_error")
    asset = world.assets.get(request.path_params["id"])
    if asset is None or asset.account != caller.account:
        raise refusal(404, "Asset not found")
    return Json(assets.shown(asset))


async def create_lora(world: World, request: Request, caller: Caller) -> Response:
    """Begin to train, for a few credits."""
    raw = await request.body()
    world.refuse_struck("rate_limited", "server_error", "no_credits")
    lora = loras.train(raw, request.headers.get("content-type", ""), caller.account, world.now(), world.config)
    world.accounts.charge(caller.account, COST, world.config)
    world.loras[lora.id] = lora
    return await _tell(world, Json({"id": lora.id, "status": "PENDING", "imageCount": lora.image_count}, 202))


async def list_loras(world: World, request: Request, caller: Caller) -> Response:
    """List the account's LoRAs."""
    world.refuse_struck("read_rate_limited", "read_server_error")
    page, cursor = loras.page(world.loras, caller.account, request.query_params, world.config)
    return Json({"items": [_shown(world, lora, caller) for lora in page], "nextCursor": cursor})


async def get_lora(world: World, request: Request, caller: Caller) -> Response:
    """Show a LoRA of the caller's account."""
    world.refuse_struck("read_rate_limited", "read_server_error")
    return Json(_shown(world, _found(world, request, caller), caller))


async def archive_lora(world: World, request: Request, caller: Caller) -> Response:
    """Archive a LoRA, as often as one likes."""
    world.refuse_struck("rate_limited", "server_error")
    _found(world, request, caller).archived = True
    return Response(status_code=204)


async def _tell(world: World, answer: Response) -> Response:
    """Answer, unless a fault is between us and the caller."""
    call = world.books.counts["calls"]
    if world.strikes("accept_then_hang", call) and not await world.hang(world.config.faults.hang_seconds):
        return Cut()
    if world.strikes("accept_then_cut", call):
        return Cut()
    if world.strikes("accept_then_error", call):
        return Json({"error": "Internal server error"}, world.error_status(call))
    return answer


def _found(world: World, request: Request, caller: Caller) -> Lora:
    lora_id = request.path_params["id"].lower()
    if not is_uuid(lora_id):
        raise invalid({"id": ["Invalid uuid"]})
    lora = world.loras.get(lora_id)
    if lora is None or lora.account != caller.account:
        raise refusal(404, "LoRA not found")
    return lora


def _shown(world: World, lora: Lora, caller: Caller) -> dict[str, object]:
    me = world.accounts.me(caller, world.config)
    return loras.shown(lora, (me["user"]["id"], me["team"]["id"]), world.now(), world.config)
