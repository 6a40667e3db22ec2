"""The pages of deliveries: was the subscriber told, what did it answer, and may it be told again."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from starlette.responses import Response

from app.dashboard.listing import Listing
from app.dashboard.visits import Visit
from app.deliveries.finding import FILTERS, find_deliveries, show_found
from app.deliveries.replay import redeliver_all
from app.errors import Invalid
from app.models.deliveries import DELIVERY_STATUSES
from app.models.events import EVENT_TYPES
from app.paging import find_id, parse_id

SHOWN: Final = 50
LIST: Final = "/ops/deliveries"


async def show_deliveries(visit: Visit) -> Response:
    """A page of deliveries of all teams, by status, subscription, team, type of event and job."""
    listing = Listing.of(visit, FILTERS)
    page = await find_deliveries(visit.ctx, visit.caller, listing.asked, limit=SHOWN)
    return visit.render(
        "deliveries.html",
        deliveries=page["deliveries"],
        looked_to=page["lookedTo"],
        statuses=DELIVERY_STATUSES,
        types=EVENT_TYPES,
        **listing.links(page["nextCursor"]),
    )


async def show_delivery(visit: Visit) -> Response:
    """A delivery with every attempt."""
    delivery_id = parse_id(visit.request.path_params["delivery_id"], "Delivery")
    shown = await show_found(visit.ctx, visit.caller, delivery_id)
    return visit.render("delivery.html", delivery=shown, told=_told(shown))


async def redeliver_chosen(visit: Visit) -> Response:
    """Make the deliveries again that were ticked in the list."""
    chosen = [found for text in visit.form.get("id", []) if (found := find_id(text)) is not None]
    if not chosen:
        raise Invalid("No delivery was chosen")
    made = await redeliver_all(visit.ctx, visit.caller, chosen)
    left = len(set(chosen)) - made
    rest = f" {left} stay as they are: under way, or their subscription is disabled." if left else ""
    return visit.done(_back(visit), f"{made} {'delivery is' if made == 1 else 'deliveries are'} made again.{rest}")


def _back(visit: Visit) -> str:
    """The list as it was filtered, whatever the form says."""
    query = urlsplit(visit.value("back")).query
    return f"{LIST}?{query}" if query else LIST


def _told(delivery: dict[str, Any]) -> str:
    """Whether the subscriber was told, in a word that the page has a sentence for."""
    if delivery["status"] == "pending":
        return "now" if delivery["isLeased"] else "later" if delivery["attemptCount"] else "soon"
    return str(delivery["status"])
