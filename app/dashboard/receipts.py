"""The pages of webhooks as they came: whether they come at all, whether they are believed, and what they said."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.responses import Response

from app.dashboard.listing import Listing
from app.dashboard.visits import Visit
from app.paging import parse_id
from app.webhooks import finding

SHOWN: Final = 50

LONGEST_SHOWN: Final = 256 * 1024
"""Of a raw body so many bytes are shown."""


async def show_receipts(visit: Visit) -> Response:
    """A page of webhooks, by signature, whether they were applied, outcome and job."""
    listing = Listing.of(visit, finding.FILTERS)
    page = await finding.find_receipts(visit.ctx, visit.caller, listing.asked, limit=SHOWN)
    return visit.render(
        "receipts.html",
        receipts=page["receipts"],
        looked_to=page["lookedTo"],
        latest=await finding.find_latest(visit.ctx, visit.caller),
        signatures=finding.SIGNATURES,
        outcomes=finding.OUTCOMES,
        poll_only=visit.ctx.settings.poll_only,
        **listing.links(page["nextCursor"]),
    )


async def show_receipt(visit: Visit) -> Response:
    """A webhook with its headers and its raw body."""
    receipt_id = parse_id(visit.request.path_params["receipt_id"], "Webhook")
    shown = await finding.show_receipt(visit.ctx, visit.caller, receipt_id)
    body: bytes | None = shown.pop("body")
    return visit.render(
        "receipt.html",
        receipt=shown,
        size=None if body is None else len(body),
        is_json=body is not None and len(body) <= LONGEST_SHOWN and _is_json(body),
        body=None if body is None else _read(body),
        retention_days=visit.ctx.settings.receipts_days,
    )


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _read(body: bytes) -> Any:
    """What there is to show: decoded JSON, or else the beginning as text."""
    if len(body) <= LONGEST_SHOWN and _is_json(body):
        return msgspec.json.decode(body)
    return body[:LONGEST_SHOWN].decode(errors="replace")
