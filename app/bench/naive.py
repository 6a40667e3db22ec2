"""The same two routes, written the usual way: pydantic bodies, an ORM session and a commit for each request.

It is compared with and nothing else: it keeps no promise but its commit. Run as `python -m app.bench.naive`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy import ForeignKey, MetaData, UniqueConstraint, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7

from app.apiframe.signature import WEBHOOK_PATH, token_is_ours
from app.bench.payloads import signed
from app.bench.servers import Serving, free_port, serving
from app.bench.stage import UPSTREAM_KEY, Stage
from app.serving import listen, server_config

POOL: Final = 10
"""Connections, as many as the product's own default."""


class Base(DeclarativeBase):
    """Tables in a schema of their own."""

    metadata = MetaData(schema="naive")
    type_annotation_map = {dict[str, Any]: JSONB}  # noqa: RUF012 - the way SQLAlchemy is told


class ApiKey(Base):
    """Who may submit."""

    __tablename__ = "api_keys"
    id: Mapped[int] = mapped_column(primary_key=True)
    key_hash: Mapped[bytes] = mapped_column(unique=True)


class Job(Base):
    """A generation."""

    __tablename__ = "jobs"
    __table_args__ = (UniqueConstraint("api_key_id", "idempotency_key"),)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    api_key_id: Mapped[int]
    idempotency_key: Mapped[str | None]
    status: Mapped[str]
    upstream_id: Mapped[str | None]
    input: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None]
    credit_cost: Mapped[int | None]


class Receipt(Base):
    """A webhook as it came."""

    __tablename__ = "receipts"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey(Job.id), index=True)
    body: Mapped[bytes]


class Event(Base):
    """What subscribers may read."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey(Job.id), index=True)
    type: Mapped[str]
    data: Mapped[dict[str, Any]]


class Delivery(Base):
    """The duty to tell of one."""

    __tablename__ = "deliveries"
    id: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey(Event.id), index=True)
    status: Mapped[str] = mapped_column(default="pending")


class Submission(BaseModel):
    """A submission's body."""

    model: str
    prompt: str
    fluxParams: dict[str, Any] | None = None  # noqa: N815 - the upstream's own spelling
    metadata: dict[str, Any] | None = None


class Webhook(BaseModel):
    """A webhook's body."""

    event: str
    jobId: str  # noqa: N815 - the upstream's own spelling
    status: str
    progress: int | None = None
    result: dict[str, Any] | None = None
    creditCost: int | None = None  # noqa: N815 - the upstream's own spelling
    completedAt: datetime | None = None  # noqa: N815 - the upstream's own spelling


async def session(request: Request) -> AsyncIterator[AsyncSession]:
    """A session for one request."""
    async with request.app.state.sessions() as opened:
        yield opened


Session = Annotated[AsyncSession, Depends(session)]


async def caller(db: Session, x_api_key: Annotated[str, Header()]) -> ApiKey:
    """Whose key it is."""
    digest = hashlib.sha256(x_api_key.encode()).digest()
    found = (await db.execute(select(ApiKey).where(ApiKey.key_hash == digest))).scalar_one_or_none()
    if found is None:
        raise HTTPException(401, "no such key")
    return found


async def submit(
    db: Session,
    key: Annotated[ApiKey, Depends(caller)],
    body: Submission,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> dict[str, str]:
    """Keep a submission under its key."""
    known = select(Job).where(Job.api_key_id == key.id, Job.idempotency_key == idempotency_key)
    job = (await db.execute(known)).scalar_one_or_none()
    if job is None:
        job = Job(api_key_id=key.id, idempotency_key=idempotency_key, status="QUEUED", input=body.model_dump())
        db.add(job)
        await db.commit()
    return {"jobId": str(job.id), "status": job.status}


async def receive(
    request: Request,
    db: Session,
    job_id: UUID,
    token: str,
    body: Webhook,
    x_webhook_signature: Annotated[str, Header()],
) -> dict[str, bool]:
    """Take a webhook in: check it, complete the job, keep the event and its delivery."""
    raw = await request.body()
    if not token_is_ours(token, [request.app.state.secret], job_id):
        raise HTTPException(404, "no such job")
    if not hmac.compare_digest(x_webhook_signature, signed(raw, UPSTREAM_KEY)):
        raise HTTPException(401, "wrong signature")
    job = await db.get(Job, job_id, with_for_update=True)
    if job is None or job.upstream_id != body.jobId:
        raise HTTPException(404, "no such job")
    if job.status == "PROCESSING":
        job.status, job.result, job.credit_cost = body.status, body.result, body.creditCost
        event = Event(job_id=job.id, type="job.completed", data=body.model_dump(mode="json"))
        db.add_all([event, Receipt(job_id=job.id, body=raw)])
        await db.flush()
        db.add(Delivery(event_id=event.id))
    await db.commit()
    return {"received": True}


async def healthz() -> dict[str, str]:
    """That it answers."""
    return {"status": "ok"}


def create_app(database_url: str, secret: bytes) -> FastAPI:
    """The application, on a pool as large as the product's."""
    app = FastAPI()
    engine = create_async_engine(database_url, pool_size=POOL, max_overflow=0)
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    app.state.secret = secret
    app.add_api_route("/healthz", healthz)
    app.add_api_route("/v2/images/generate", submit, methods=["POST"], status_code=202)
    app.add_api_route(WEBHOOK_PATH, receive, methods=["POST"])
    return app


@asynccontextmanager
async def serving_naive(stage: Stage) -> AsyncIterator[Serving]:
    """Serve it in a process of its own, as the product is served."""
    port = free_port()
    told = {"port": port, "secret": stage.secret.hex(), "database_url": stage.sqlalchemy_url}
    arguments = ["-m", "app.bench.naive", json.dumps(told)]
    async with serving(stage, "naive", arguments, {}, port, ready="/healthz") as found:
        yield found


def main() -> None:
    """Serve until SIGTERM."""
    told = json.loads(sys.argv[1])
    app = create_app(told["database_url"], bytes.fromhex(told["secret"]))
    with listen("127.0.0.1", told["port"]) as listening:
        uvicorn.Server(server_config(app)).run(sockets=[listening])


if __name__ == "__main__":
    main()
