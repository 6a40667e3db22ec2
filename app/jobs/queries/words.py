"""SQL of what a job is found by that no index of `jobs` knows: the words of its texts, and labels, in one tsvector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

LONGEST_LABEL: Final = 500
"""In characters. A lexeme may have 2,046 bytes: what is cut off here is compared in `jobs`."""

LONGEST_TEXT: Final = 10_000
"""In characters: of what is longer, the beginning is read."""

TEXT_FIELDS: Final = ("prompt", "lyrics", "title", "negative_prompt", "tags", "style", "text", "description")
"""Of the input, or of an object in it."""

WORDS_OF: Final = f"""
    to_tsvector('simple', (
        SELECT coalesce(string_agg(left(found #>> '{{}}', {LONGEST_TEXT}), E'\\n'), '')
        FROM jsonb_path_query(input, '$.**{{0 to 1}} ? (@.type() == "object").keyvalue()
            ? ({" || ".join(f'@.key == "{field}"' for field in TEXT_FIELDS)}).value') AS found
    )) || array_to_tsvector(
        ARRAY[left('operation=' || operation, {LONGEST_LABEL}), 'team=' || team_id] || ARRAY(
            SELECT left('metadata ' || key || '=' || value, {LONGEST_LABEL})
            FROM jsonb_each_text(coalesce(metadata, '{{}}')) WHERE value IS NOT NULL
        )
    )"""  # noqa: S608 - the parts are ours
"""The words of a row of `jobs`. Labels cannot be met by anybody's words: those hold neither a space nor an equals sign."""

_INDEX: Final = text(
    f"""
    INSERT INTO job_words (job_id, words)
    SELECT id, {WORDS_OF}
    FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))
    ON CONFLICT (job_id) DO NOTHING
    """  # noqa: S608 - the only part put in is a constant of ours
)


async def insert_words(tx: AsyncConnection, job_ids: Sequence[UUID]) -> int:
    """Keep the words of these jobs, and return of how many; those that are there already stay."""
    return (await tx.execute(_INDEX, {"ids": job_ids})).rowcount
