"""What tests of several processes on one database wait for: that one of them hears the other's nudges."""

from __future__ import annotations

from uuid import uuid4

from tests.harness import Service, eventually


async def hears(service: Service, other: Service) -> None:
    """Return when a service has heard another one's nudge, and so all that this one gave before, if it listened by then.

    A service that has just begun to listen wakes everyone once, which is no nudge, and is heard here too.
    """
    topic = f"hello:{uuid4()}"
    with service.ctx.notify.listening(topic) as heard:

        async def look() -> bool:
            other.ctx.notify.nudge([topic])
            return heard.is_set()

        await eventually(look)
