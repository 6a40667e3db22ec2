"""What a submission works with and the upstream keeps for teams: what is another team's is not to be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.auth import Caller
from app.context import Context
from app.jobs.queries import acceptance

LORA_FIELD: Final = "loraId"


async def find_foreign(ctx: Context, caller: Caller, fields: Mapping[str, Any]) -> dict[str, list[str]]:
    """Which LoRAs that a submission names are another team's, by JSON path; said as of those that do not exist.

    One of which nobody knows whose it is, since it was not made through here, may be used by all.
    """
    named = dict(_loras(fields))
    if not named:
        return {}
    async with ctx.db.reading() as connection:
        foreign = await acceptance.list_foreign_loras(connection, ctx.account, caller.team_id, set(named.values()))
    return {path: ["LoRA not found"] for path, lora_id in named.items() if lora_id in foreign}


def _loras(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The LoRAs in a submission's params, by their paths: no model has them deeper."""
    for name, params in fields.items():
        if isinstance(params, dict) and isinstance(lora_id := params.get(LORA_FIELD), str):
            yield f"{name}.{LORA_FIELD}", lora_id.lower()
