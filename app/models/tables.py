"""All tables together, for migrations and for whatever goes through every one of them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

from app.models import deliveries, events, files, jobs, ledger, ops, teams, upstream, webhooks
from app.models.schema import Base

PAGES: Final = (teams, jobs, webhooks, events, deliveries, files, ledger, upstream, ops)
"""Their import is what declares the tables."""

METADATA: Final[MetaData] = Base.metadata
