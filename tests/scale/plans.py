"""What PostgreSQL would do for a statement, and what of that would take the longer the more there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import Database
from tests.statements import listening

BIG: Final = re.compile(
    r"(jobs|job_words|deliveries|receipts|ledger|files|(events|attempts|steps|receipt_bodies)(_\d{8})?)\Z"
)
"""Tables that grow with the history, and their partitions."""


@dataclass
class Recorder:
    """The statements that were sent while it listened, each once, with parameters that they were sent with."""

    sent: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def listening(self, database: Database) -> Iterator[None]:
        """Note every SELECT that is sent to a database."""

        def note(_connection: Any, statement: str, parameters: tuple[Any, ...]) -> None:
            if statement.lstrip().upper().startswith(("SELECT", "WITH")):
                self.sent.setdefault(statement, parameters)

        with listening(database, note):
            yield


async def find_scans(connection: AsyncConnection, statement: str, parameters: Any) -> list[str]:
    """What in a statement's plan reads a big table from one end to the other, though nothing is too small for an index.

    In this transaction sequential scans are so dear that one is planned only where no index would do.
    """
    await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    told = (await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)).scalar_one()
    plan = json.loads(told) if isinstance(told, str) else told
    return list(_scans(plan[0]["Plan"], limited=False))


def _scans(node: dict[str, Any], *, limited: bool) -> Iterator[str]:
    """`limited`: what this node gives ends as soon as somebody has enough of it."""
    if node.get("Parent Relationship") in ("InitPlan", "SubPlan"):
        limited = False
    kind, table = node["Node Type"], node.get("Relation Name", "")
    if BIG.match(table):
        if kind == "Seq Scan":
            yield f"Seq Scan on {table}: {node.get('Filter', 'all of it')}"
        elif "Index Name" in node and "Index Cond" not in node and not (limited and "Filter" not in node):
            yield f"all of {node['Index Name']} of {table}: {node.get('Filter', 'no filter')}"
        elif node["Plan Rows"] > MOST_ROWS and not limited:
            yield f"{node['Plan Rows']} rows of {table} without an end: {node.get('Index Cond', node.get('Filter'))}"
    # What is below a limit ends with it, unless it is sorted, summed up or filtered in between.
    limited = kind == "Limit" or (limited and kind in _PASSING and "Filter" not in node)
    for child in node.get("Plans", ()):
        yield from _scans(child, limited=limited)


MOST_ROWS: Final = 2500
"""So many rows of a history of 20,000 jobs are too many to be sorted or summed up: there would be the more, the longer it
is."""

_PASSING: Final = frozenset(
    {"Append", "Merge Append", "Subquery Scan", "Result", "Nested Loop", "LockRows", "WindowAgg"}
)
