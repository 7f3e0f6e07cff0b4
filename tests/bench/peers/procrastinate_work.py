"""One sample of Procrastinate, in its own environment: the task, its worker, and the client that defers and waits.

Usage: python procrastinate_work.py schema | worker CONCURRENCY | client JOBS. The client prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import procrastinate

DEFERRED_AT_ONCE = 1_000

TABLE = "CREATE TABLE bench_progress (job_id bigint PRIMARY KEY, percent int NOT NULL, message text NOT NULL)"
REPORT = (
    "INSERT INTO bench_progress VALUES (%(job_id)s, %(percent)s, 'half way there')"
    " ON CONFLICT (job_id) DO UPDATE SET percent = excluded.percent, message = excluded.message"
)
DONE = "SELECT count(*) AS count FROM procrastinate_jobs WHERE status = 'succeeded'"

connector: Any = procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_POSTGRES"], min_size=4, max_size=20)
app: Any = procrastinate.App(connector=connector)


async def work(context: Any, metadata: dict[str, str]) -> None:
    """Three reports into a table of one's own: Procrastinate has no progress."""
    del metadata
    for percent in (25, 50, 75):
        await connector.execute_query_async(REPORT, job_id=context.job.id, percent=percent)


task: Any = app.task(name="work", pass_context=True)(work)


async def _client(count: int) -> None:
    metadata = {f"key-{number}": "v" * 12 for number in range(8)}
    before = (await connector.execute_query_one_async(DONE))["count"]
    began = time.monotonic()
    for first in range(0, count, DEFERRED_AT_ONCE):
        some = min(DEFERRED_AT_ONCE, count - first)
        await task.batch_defer_async(*[{"metadata": metadata}] * some)
    done = 0
    while done < count and time.monotonic() < began + 300:
        await _pause()
        done = (await connector.execute_query_one_async(DONE))["count"] - before
    seconds = time.monotonic() - began
    reported = await connector.execute_query_one_async(
        "SELECT count(*) AS count FROM procrastinate_jobs JOIN bench_progress ON job_id = id"
        " WHERE status = 'succeeded' AND percent = 75"
    )
    readable = reported["count"] - before
    print(json.dumps({"jobs": done, "seconds": seconds, "readable": readable, "failed": 0}))


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
            await app.run_worker_async(concurrency=int(numbers[0]), fetch_job_polling_interval=0.1)
        else:
            await _client(int(numbers[0]))


if __name__ == "__main__":
    asyncio.run(main())
