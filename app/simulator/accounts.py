"""Who calls: keys, the account that a key belongs to, its credits and its request rate."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.simulator.config import SimulatorConfig
from app.simulator.replies import insufficient, refusal, too_many

_MINUTE = timedelta(minutes=1)
_NAMESPACE = uuid.UUID("5d3c1f0a-6a53-4b6e-9d3f-0d1f7f2f9a11")


@dataclass(frozen=True, slots=True)
class Caller:
    """A valid key and its account."""

    key: str
    account: str


class Accounts:
    """Balances and request counts. Credits are taken at acceptance and given back when a job does not complete."""

    def __init__(self) -> None:
        self._balances: dict[str, int] = {}
        self._windows: dict[str, tuple[datetime, int]] = {}

    def identify(self, headers: Mapping[str, str], config: SimulatorConfig) -> Caller:
        """Find the caller by its key; raise 401 for a key that is missing or unknown, 403 for an inactive one."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")
        if key in config.inactive_keys:
            raise refusal(403, "API key is inactive")
        if not key or key not in config.api_keys:
            raise refusal(401, "Missing or invalid API key")
        return Caller(key, config.accounts.get(key, "main"))

    def admit(self, account: str, now: datetime, config: SimulatorConfig) -> None:
        """Count a request against the account's rate; raise 429 with the seconds until its minute is over."""
        if config.requests_per_minute is None:
            return
        since, count = self._windows.get(account, (now, 0))
        if now - since >= _MINUTE:
            since, count = now, 0
        if count >= config.requests_per_minute:
            raise too_many("Rate limit exceeded", math.ceil((since + _MINUTE - now).total_seconds()))
        self._windows[account] = since, count + 1

    def balance(self, account: str, config: SimulatorConfig) -> int:
        """How many credits an account has left, running jobs paid for."""
        return self._balances.get(account, config.credits)

    def charge(self, account: str, cost: int, config: SimulatorConfig) -> None:
        """Take a job's credits; raise 402 with the numbers where they do not suffice."""
        available = self.balance(account, config)
        if cost > available:
            raise insufficient(cost, available)
        self._balances[account] = available - cost

    def refund(self, account: str, cost: int, config: SimulatorConfig) -> None:
        """Give credits back."""
        self._balances[account] = self.balance(account, config) + cost

    def fill(self) -> None:
        """Set every balance to what the config says."""
        self._balances.clear()

    def me(self, caller: Caller, config: SimulatorConfig) -> dict[str, Any]:
        """Show the caller as `GET /v2/me` does. All keys of an account belong to its one user."""
        account = caller.account
        team: dict[str, Any] = {
            "id": _id("team", account),
            "name": f"Simulated team {account}",
            "credits": self.balance(account, config),
            "plan": "simulator",
            "customerId": None,
        }
        if config.show_cap_in_me:
            team["maxConcurrentJobs"] = config.max_concurrent_jobs
        return {
            "user": {"id": _id("user", account), "email": f"{account}@simulator.example", "role": "OWNER"},
            "team": team,
            "apiKey": {"id": _id("key", caller.key), "name": "Simulated key", "prefix": caller.key[:8]},
        }


def _id(kind: str, name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{kind}:{name}"))
