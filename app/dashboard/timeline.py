"""How the steps of a job's trace read: a few words for each, its colour, and what is folded below it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.dashboard import words
from app.ops.closely import Closeup
from app.paging import find_id

Step = Mapping[str, Any]
Lines = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One line of the timeline. `folded` is a label and a text; `link` a label and one of our pages."""

    at: str
    after_seconds: float
    mark: str
    tone: str
    title: str
    who: str
    notes: Lines
    folded: tuple[str, str] | None = None
    link: tuple[str, str] | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a kind of step comes to."""

    mark: str
    tone: str
    title: str
    notes: Lines = ()


_SENT: Final = {
    "accepted": ("good", "Sent, and accepted upstream"),
    "respell": ("idle", "Sent again at once: the upstream spells the webhook field otherwise"),
    "tell": ("bad", "Refused by the upstream"),
    "end": ("bad", "Refused by the upstream"),
    "wait": ("warn", "Sent without a clear answer"),
    "wait for credits": ("warn", "Not accepted: the upstream account is out of credits"),
    "pause": ("bad", "Not accepted: the upstream refuses our key"),
    "not ours": ("idle", "An answer that came after its lease had ended"),
}

_TONES: Final = {"COMPLETED": "good", "FAILED": "bad", "CANCELLED": "idle", "PROCESSING": "busy", "QUEUED": "idle"}

_WHO: Final = {
    "submit": "by the answer to the submission",
    "webhook": "by webhook",
    "poll": "by asking",
    "framehook": "Framehook",
    "cli": "command line",
    "callback": "callback",
}

_ACTIONS: Final = {"retry": "Tried again", "cancel": "Cancelled", "refresh": "Asked after by hand"}


def lay_out(seen: Closeup) -> list[Moment]:
    """The timeline of a job, oldest first."""
    return [_moment(seen, step, number) for number, step in enumerate(seen.steps)]


def _moment(seen: Closeup, step: Step, number: int) -> Moment:
    reading = _READERS.get(step["what"], _read_other)(step)
    return Moment(
        at=step["at"],
        after_seconds=step["afterSeconds"],
        mark=reading.mark,
        tone=reading.tone,
        title=reading.title,
        who=_who(step),
        notes=reading.notes,
        folded=_folded(seen, step),
        link=_link(step),
        key=f"{step['what']} {step['at']} {step.get('receiptId') or step.get('deliveryId') or number}",
    )


def _read_submission(step: Step) -> _Reading:
    priority = (f"priority {step['priority']}",) if step["priority"] else ()
    return _Reading("submitted", "idle", "Submitted", (step["operation"], *priority))


def _read_dispatch(step: Step) -> _Reading:
    tone, title = _SENT.get(step.get("verdict", ""), ("idle", f"Sent: {step.get('verdict')}"))
    return _Reading("dispatch", tone, title, _notes(step, "attempt", "httpStatus", "seconds", "said"))


def _read_webhook(step: Step) -> _Reading:
    tone = {"valid": "idle", "absent": "warn"}.get(step["signature"], "bad")
    signature = {"valid": "signature valid", "absent": "not signed"}.get(step["signature"], "signature wrong")
    return _Reading("webhook", tone, f"Webhook “{step.get('event') or '?'}”", (signature, step["outcome"]))


def _read_poll(step: Step) -> _Reading:
    return _Reading(
        "poll", "warn", "The upstream was asked, and does not know it", _notes(step, "said", "missingCount")
    )


def _read_transition(step: Step) -> _Reading:
    before, after = step.get("from"), step["to"]
    if before == after:
        return _Reading("transition", "idle", "The upstream's id became known", _notes(step, "upstreamId"))
    return _Reading("transition", _TONES.get(after, "idle"), f"{before} → {after}", _notes(step, "errorCode"))


def _read_action(step: Step) -> _Reading:
    return _Reading("action", "busy", _ACTIONS.get(step["action"], str(step["action"])))


def _read_archive(step: Step) -> _Reading:
    if step["status"] == "stored":
        about = f"File kept: {step.get('contentType')}, {words.size(step.get('bytes'))}"
        return _Reading("archive", "good", about, _notes(step, "reason", "seconds"))
    tone, title = ("bad", "File could not be kept") if step["status"] == "failed" else ("warn", "File not kept yet")
    return _Reading("archive", tone, title, _notes(step, "reason", "attempt", "seconds"))


def _read_attempt(step: Step) -> _Reading:
    status, error = step.get("httpStatus"), step.get("error")
    good = error is None and status is not None and status < 300
    came = f"HTTP {status}" if status is not None else "no answer"
    title = f"{'Told' if good else 'Not told'} of {step['event']}: {came}"
    return _Reading("attempt", "good" if good else "bad", title, _notes(step, "attempt", "error", "seconds"))


def _read_delivery(step: Step) -> _Reading:
    how = "Given up telling" if step["status"] == "undelivered" else "Not worth telling any more"
    tone = "bad" if step["status"] == "undelivered" else "idle"
    return _Reading("delivery", tone, f"{how}: {step['event']}", _notes(step, "reason"))


def _read_other(step: Step) -> _Reading:
    return _Reading("other", "idle", str(step["what"]))


_READERS: Final[Mapping[str, Callable[[Step], _Reading]]] = {
    "submitted": _read_submission,
    "dispatch": _read_dispatch,
    "webhook": _read_webhook,
    "poll": _read_poll,
    "transition": _read_transition,
    "action": _read_action,
    "archive": _read_archive,
    "attempt": _read_attempt,
    "delivery": _read_delivery,
}

_WORDED: Final[Mapping[str, Callable[[Any], str]]] = {
    "attempt": lambda value: f"attempt {value}" if value > 1 else "",
    "httpStatus": lambda value: f"HTTP {value}",
    "seconds": lambda value: f"took {words.duration(value)}",
    "missingCount": lambda value: f"{value} times in a row",
    "upstreamId": lambda value: f"upstream id {value}",
}


def _notes(step: Step, *names: str) -> Lines:
    """Those details that say anything, in words."""
    told = ((name, step.get(name)) for name in names)
    return tuple(filter(None, (_WORDED.get(name, str)(value) for name, value in told if value is not None)))


def _who(step: Step) -> str:
    by = step["by"]
    if step["what"] in ("dispatch", "webhook", "poll"):
        return ""
    if step["byName"]:
        return f"key {step['byName']}"
    if step["what"] in ("attempt", "delivery") and by != "callback":
        return f"subscription {words.short(by)}"
    return _WHO.get(by) or f"key {words.short(by)}"


def _folded(seen: Closeup, step: Step) -> tuple[str, str] | None:
    if step["what"] == "webhook":
        kept = seen.bodies.get(str(step["receiptId"]))
        return None if kept is None else _cut("Raw body", kept.body, kept.byte_count)
    if step["what"] == "attempt":
        answer = seen.answers.get((str(step["deliveryId"]), step["at"]))
        return _cut("Answer", answer.body, len(answer.body)) if answer is not None and answer.body else None
    return None


def _cut(label: str, body: bytes, byte_count: int) -> tuple[str, str]:
    beginning = f", the first {words.size(len(body))} of {words.size(byte_count)}" if byte_count > len(body) else ""
    return f"{label}{beginning}", bytes(body).decode(errors="replace")


def _link(step: Step) -> tuple[str, str] | None:
    job = find_id(step.get("job")) if step["what"] == "action" else None
    return None if job is None else ("the new job", f"/ops/jobs/{job}")
