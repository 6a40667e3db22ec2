"""Shell commands to copy from a page. Pure: whatever a prompt holds, a shell takes it as the one word that it is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

KEY: str = "$FRAMEHOOK_KEY"
"""In place of a key, which no page knows."""


def submission(base_url: str, operation: str, body: Mapping[str, Any]) -> str:
    """The command that submits this body, for a POSIX shell with a key in its environment."""
    text = json.dumps(body, ensure_ascii=False)
    return " \\\n  ".join(
        (
            f"curl {shlex.quote(f'{base_url}/v2/{operation}')}",
            f'-H "X-API-Key: {KEY}"',
            "-H 'Content-Type: application/json'",
            f"--data-raw {shlex.quote(text)}",
        )
    )
