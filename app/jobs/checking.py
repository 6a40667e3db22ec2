"""Judge a submission before it costs anything: by the upstream's own document, or by what is known without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from app.apiframe import catalog
from app.apiframe.operations import discriminator
from app.context import Context
from app.jobs.documents import current_rules, rules_of_today

log = structlog.get_logger()


async def find_faults(ctx: Context, operation: str, body: Mapping[str, Any]) -> catalog.Faults:
    """What is wrong with the fields that go upstream, by JSON path, as far as FRAMEHOOK_VALIDATION has it matter.

    A model that the document lacks may be newer than it, so that the document is asked for once more before it counts.
    """
    mode, essential = ctx.settings.validation, catalog.essential_faults(operation, body)
    if mode == "off" or "model" in essential:
        return essential
    rules = await current_rules(ctx)
    if rules is not None and rules.lacks(operation, body):
        rules = await rules_of_today(ctx)
    faults = catalog.faults(operation, body, rules)
    if mode == "enforce" or faults == essential:
        return faults
    chosen = body.get(discriminator(operation))
    log.warning("submission.would_be_refused", operation=operation, variant=str(chosen)[:200], details=faults)
    return essential
