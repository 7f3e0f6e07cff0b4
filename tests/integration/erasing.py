"""What the tests of Erase share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb

from ..support.calls import acquire, complete, create, fail, release, report, retry, span, start, struct
from ..support.server import RESTING, Client, rows

SECRET = "Zoë-confidential"
"""What is erased. No part of the program has it."""

BYTES = SECRET.encode()

LABELS = {"Zoe-confidential": SECRET}
"""A label with it, in its key and in its value."""


async def erase(client: Client, **wanted: Any) -> mpb.EraseResponse:
    return await client.maintenance.Erase(mpb.EraseRequest(**wanted))


async def tell_everything(client: Client, job_id: str, text: str, source_id: str = SECRET) -> None:
    """A job with this text wherever a caller can put one. It is released, fails, is retried and completed."""
    request_id = "Zoe-confidential-" + job_id
    long = (text * (8_000 // len(text) + 1))[:8_000]
    await create(
        client,
        job_id,
        RESTING,
        source_id=source_id,
        labels=dict.fromkeys(LABELS, text[:30]),
        metadata=struct(**{text: long[:6_000], "list": [text, {text: 1}]}),
        unique_key=text[:100],
        lane=text[:100],
        request_id=request_id + "-create",
    )
    (job,) = await acquire(client, RESTING, worker=text[:100], request_id=request_id + "-acquire")
    assert job.id == job_id
    await report(client, job_id, attempt=1, progress=5, message=long[:1_000], metadata=struct(more=long))
    await release(client, job_id, attempt=1, reason=text[:200], hold_lane=span(60))
    await start(client, job_id, worker=text[:100])
    error = pb.FailureReport(code="E", message=long[:2_000], details=struct(**{text[:100]: long[:4_000]}))
    await fail(client, job_id, attempt=2, error=error, request_id=request_id + "-fail")
    await retry(client, job_id, immediately=True)
    await start(client, job_id, worker=text[:100])
    await complete(client, job_id, attempt=3, result=struct(**{text: long}), result_count=3)


def stored_text(url: str) -> str:
    """All rows of all tables, as text."""
    if url.startswith("sqlite:///"):
        return repr(rows(Path(url.removeprefix("sqlite:///"))))
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
        found = [connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(name))) for (name,) in tables]
        return repr([some.fetchall() for some in found])


def holds(path: Path, *texts: bytes) -> list[str]:
    """Which files of a store hold one of these texts."""
    files = [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")]
    return [file.name for file in files if any(text in file.read_bytes() for text in texts)]
