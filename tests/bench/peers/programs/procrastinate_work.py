"""One sample of Procrastinate, in its own environment: the task, its worker, and the client that defers and waits.

Usage: python procrastinate_work.py schema | worker CONCURRENCY REPORTS | client JOBS REPORTS AT_ONCE, and the database
in BENCH_POSTGRES. AT_ONCE is how many jobs one call defers; with 1, 64 calls are under way. The client prints a line of
JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import procrastinate

IN_FLIGHT = 64
PERCENTAGES = (25, 50, 75)
WITHIN_S = 300

TABLE = "CREATE TABLE bench_progress (job_id bigint PRIMARY KEY, percent int NOT NULL, message text NOT NULL)"
REPORT = (
    "INSERT INTO bench_progress VALUES (%(job_id)s, %(percent)s, 'half way there')"
    " ON CONFLICT (job_id) DO UPDATE SET percent = excluded.percent, message = excluded.message"
)
DONE = "SELECT count(*) AS count FROM procrastinate_jobs WHERE status = 'succeeded'"
ONCE = DONE + " AND attempts = 1"
STORED = (
    "SELECT count(*) AS count FROM procrastinate_jobs JOIN bench_progress ON job_id = id"
    " WHERE status = 'succeeded' AND attempts = 1 AND percent = 75"
)

connector: Any = procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_POSTGRES"], min_size=4, max_size=20)
app: Any = procrastinate.App(connector=connector)


async def work(context: Any, metadata: dict[str, str]) -> None:
    """Reports into a table of one's own: Procrastinate has no progress."""
    del metadata
    for percent in PERCENTAGES[: context.additional_context["reports"]]:
        await connector.execute_query_async(REPORT, job_id=context.job.id, percent=percent)


task: Any = app.task(name="work", pass_context=True)(work)


async def _defer(count: int, at_once: int) -> None:
    """Give the jobs away, so many in a call."""
    metadata = {f"key-{number}": "v" * 12 for number in range(8)}
    if at_once > 1:
        for first in range(0, count, at_once):
            await task.batch_defer_async(*[{"metadata": metadata}] * min(at_once, count - first))
        return
    numbers = iter(range(count))

    async def caller() -> None:
        for _ in numbers:
            await task.defer_async(metadata=metadata)

    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))


async def _client(count: int, reports: int, at_once: int) -> None:
    before = (await connector.execute_query_one_async(DONE))["count"]
    began = time.monotonic()
    await _defer(count, at_once)
    done = 0
    while done < count and time.monotonic() < began + WITHIN_S:
        await _pause()
        done = (await connector.execute_query_one_async(DONE))["count"] - before
    seconds = time.monotonic() - began
    (stored,) = (await connector.execute_query_one_async(STORED if reports else ONCE)).values()
    print(json.dumps({"jobs": done, "seconds": seconds, "stored": stored - before, "failed": 0}))


async def _pause() -> None:
    """A fiftieth of a second, so that asking does not cost the worker much."""
    waiting = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.02, waiting.set_result, None)
    await waiting


async def main() -> None:
    """Do what the command line says."""
    what, *numbers = sys.argv[1:]
    async with app.open_async():
        if what == "schema":
            await app.schema_manager.apply_schema_async()
            await connector.execute_query_async(TABLE)
        elif what == "worker":
            concurrency, reports = map(int, numbers)
            context = {"reports": reports}
            await app.run_worker_async(
                concurrency=concurrency, fetch_job_polling_interval=0.1, additional_context=context
            )
        else:
            await _client(*map(int, numbers))


if __name__ == "__main__":
    asyncio.run(main())
