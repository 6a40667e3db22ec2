"""What was seen, accepted, sent and acknowledged. Kept for tests to check a client against; nothing here decides."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Send:
    """One webhook as it was sent. `answer_status` is None where no answer came; then `error` says why."""

    job_id: str
    event: str
    url: str
    headers: dict[str, str]
    body: str
    attempt: int
    sent_at: str
    seconds: float
    answer_status: int | None
    error: str | None

    @property
    def acknowledged(self) -> bool:
        """Whether the receiver answered 2xx."""
        return self.answer_status is not None and 200 <= self.answer_status < 300


@dataclass(frozen=True, slots=True)
class Call:
    """One submission as it came, accepted or not: two of one idempotency key can be compared."""

    idempotency_key: str | None
    api_key: str
    body: str


class Books:
    """Counters since the start or the last reset, and the newest submissions and webhooks."""

    def __init__(self, kept: int) -> None:
        self.counts: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.calls: deque[Call] = deque(maxlen=kept)
        self.sends: deque[Send] = deque(maxlen=kept)

    def count_running(self, running: int) -> None:
        """Remember the most jobs that ever ran at once."""
        self.counts["max_in_flight_seen"] = max(self.counts["max_in_flight_seen"], running)

    def keep(self, send: Send) -> None:
        """Write down a webhook that was sent."""
        self.sends.append(send)
        self.counts["webhooks_sent"] += 1
        self.counts["webhooks_acknowledged"] += send.acknowledged

    def counters(self, in_flight_now: int) -> dict[str, Any]:
        """Show every counter. Names that were never counted are zero."""
        names = (
            "submissions accepted replays lists polls webhooks_sent webhooks_acknowledged webhooks_dropped"
            " hanging_now max_in_flight_seen"
        )
        return {
            **{name: self.counts[name] for name in names.split()},
            "in_flight_now": in_flight_now,
            "refused": dict(self.refused),
            "requests": dict(self.requests),
            "faults": dict(self.faults),
        }

    def submissions(self) -> list[dict[str, Any]]:
        """Show the submissions as they came, oldest first."""
        return [asdict(call) for call in self.calls]

    def webhooks(self) -> list[dict[str, Any]]:
        """Show the webhooks sent, oldest first."""
        return [asdict(send) for send in self.sends]
