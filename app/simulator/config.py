"""Every knob of the simulator and how a part of them is changed. Values are checked here, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import msgspec
from msgspec import Meta

from app.simulator.faults import FaultPlan, Seconds, scripted

Record = TypeVar("Record", "SimulatorConfig", FaultPlan)
Count = Annotated[int, Meta(ge=0)]
Percent = Annotated[int, Meta(ge=1, le=99)]


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    """How the simulated Apiframe behaves when nothing goes wrong, and in `faults` what does."""

    # Who may call. All keys belong to the account `main` unless `accounts` (key to account name) says otherwise.
    api_keys: tuple[str, ...] = ("afk_simulator_key_for_tests",)
    inactive_keys: tuple[str, ...] = ()
    accounts: dict[str, str] = field(default_factory=dict)
    requests_per_minute: Count | None = None

    # How jobs run. `jitter` is a share of the latency, thrown from the seed. With `hold`, jobs wait for `/sim/jobs`.
    seed: int = 0
    queue_seconds: Seconds = 0.5
    generate_seconds: Seconds = 3.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2
    progress_steps: tuple[Percent, ...] = (25, 50, 75)
    hold: bool = False

    # What they cost. `costs` (model to credits) overrules `cost`; `credits` is each account's balance.
    credits: Count = 1_000_000
    cost: Count = 10
    costs: dict[str, int] = field(default_factory=dict)
    max_concurrent_jobs: Count = 10
    enforce_cap: bool = True
    show_cap_in_me: bool = True

    # Which spelling of the webhook field the closed bodies know, and how a refusal names the one they do not.
    webhook_field: Literal["webhookUrl", "webhook_url", "both", "none"] = "webhookUrl"
    webhook_events_known: bool = True
    unknown_key_style: Literal["field", "zod", "zod3"] = "field"
    document: Literal["served", "absent"] = "served"

    # How webhooks are signed and sent. The secret is SHA-256 of the API key: its 32 bytes or their hex text.
    signature_secret: Literal["digest", "hex"] = "digest"
    signature_prefix: bool = True
    webhook_timeout_seconds: Seconds = 10.0
    webhook_retries: Count = 3
    webhook_backoff_seconds: Seconds = 0.2

    # How long things are remembered, on the virtual clock. `bytes` compares a repeated body as sent, `json` as meant.
    idempotency_ttl_seconds: Seconds = 86_400.0
    idempotency_compares: Literal["bytes", "json"] = "bytes"
    file_ttl_seconds: Seconds = 86_400.0
    upload_ttl_seconds: Seconds = 3_600.0

    # How many submissions and webhooks the books show, the newest, as of the start or a reset. Counters count all.
    books_kept: Count = 50_000

    # Where result files are found. None: at the address that the submission was sent to.
    public_base_url: str | None = None
    faults: FaultPlan = field(default_factory=FaultPlan)


def amended(record: Record, changes: Mapping[str, Any]) -> Record:
    """Give a copy with some fields changed; raise ValueError, naming the field, where one is unknown or its value unfit."""
    hints = _hints(type(record))
    values = {}
    for name, value in changes.items():
        if name not in hints:
            raise ValueError(f"{name}: there is no such field; known are {', '.join(sorted(hints))}")
        values[name] = _fitting(name, value, hints[name])
    for entry in values.get("next", ()):
        scripted(entry)
    return replace(record, **values)


def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: hints[each.name] for each in fields(kind)}


def _fitting(name: str, value: Any, hint: Any) -> Any:
    if hint is FaultPlan:
        return amended(FaultPlan(), value)
    # `true` is a natural way to write a fault's certainty.
    number = float(value) if isinstance(value, bool) and hint is not bool else value
    try:
        return msgspec.convert(number, hint)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from None
