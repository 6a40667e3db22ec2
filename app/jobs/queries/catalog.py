"""SQL of the catalog: the upstream's own document and list of models, as they were last read."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import AnyRow


async def find_document(connection: AsyncConnection, account: str, known: bytes | None) -> AnyRow | None:
    """When the document was last read, its digest, and itself as text where it is not the one with the `known` digest."""
    return (await connection.execute(_FIND_DOCUMENT, {"account": account, "known": known})).one_or_none()


_FIND_DOCUMENT: Final = text(
    """
    SELECT document_at, document_digest, CASE WHEN document_digest IS DISTINCT FROM CAST(:known AS bytea)
        THEN CAST(document AS text) END AS document
    FROM catalogs WHERE account = :account AND document_digest IS NOT NULL
    """
)


async def find_ages(connection: AsyncConnection, account: str) -> AnyRow | None:
    """When the document and the models were last read."""
    rows = await connection.execute(
        text("SELECT document_at, models_at FROM catalogs WHERE account = :account"), {"account": account}
    )
    return rows.one_or_none()


async def store_document(tx: AsyncConnection, account: str, document: str, digest: bytes, now: datetime) -> bool:
    """Keep a document that was read now; whether it differs from the one before. The same again is not written again."""
    parameters = {"account": account, "document": document, "digest": digest, "now": now}
    if (await tx.execute(_SAME_AGAIN, parameters)).rowcount:
        return False
    await tx.execute(_STORE_DOCUMENT, parameters)
    return True


_SAME_AGAIN: Final = text(
    "UPDATE catalogs SET document_at = :now WHERE account = :account AND document_digest = :digest"
)
_STORE_DOCUMENT: Final = text(
    """
    INSERT INTO catalogs (account, document, document_digest, document_at)
    VALUES (:account, CAST(:document AS jsonb), :digest, :now)
    ON CONFLICT (account) DO UPDATE
    SET document = excluded.document, document_digest = excluded.document_digest, document_at = excluded.document_at
    """
)


async def store_models(tx: AsyncConnection, account: str, models: str, now: datetime) -> None:
    """Keep the list of models that was read now."""
    await tx.execute(_STORE_MODELS, {"account": account, "models": models, "now": now})


_STORE_MODELS: Final = text(
    """
    INSERT INTO catalogs (account, models, models_at) VALUES (:account, CAST(:models AS jsonb), :now)
    ON CONFLICT (account) DO UPDATE SET models = excluded.models, models_at = excluded.models_at
    """
)
