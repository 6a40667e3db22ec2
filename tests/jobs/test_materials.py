"""Another team's LoRA cannot be worked with, and cannot be told from one that does not exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from tests.harness import Caller, Service, refused


def with_lora(lora_id: str) -> dict[str, Any]:
    return {"model": "flux-lora", "prompt": "a portrait", "fluxLoraParams": {"loraId": lora_id}}


async def own(service: Service, caller: Caller) -> str:
    """A LoRA of the caller's team, as the relay notes it."""
    lora_id = str(uuid4())
    async with service.ctx.db.transaction() as tx:
        await tx.exec_driver_sql(
            "INSERT INTO belongings SELECT $1, 'lora', $2, team_id, id, now() FROM api_keys WHERE id = $3",
            (service.ctx.account, lora_id, caller.key_id),
        )
    return lora_id


async def test_a_teams_own_lora_is_worked_with_and_another_teams_is_not(
    serve: Callable[..., Any], simulator: Any
) -> None:
    service = await serve(simulator, validation="off")
    other = await service.new_caller("other")
    lora_id = await own(service, service.caller)
    assert (await service.caller.submit(with_lora(lora_id))).status_code != 404
    for written in (lora_id, lora_id.upper()):
        body = refused(await other.submit(with_lora(written)), 400)
        assert body["details"] == {"fluxLoraParams.loraId": ["LoRA not found"]}
    (row,) = await service.rows(
        "SELECT count(*) AS n FROM jobs j JOIN teams t ON t.id = team_id WHERE t.name = 'other'"
    )
    assert row.n == 0


async def test_a_lora_that_was_not_made_through_here_is_left_to_the_upstream(
    serve: Callable[..., Any], simulator: Any
) -> None:
    service = await serve(simulator, validation="off", loops=False)
    answer = await service.caller.submit(with_lora(str(uuid4())), Prefer="respond-async")
    assert answer.status_code == 202
