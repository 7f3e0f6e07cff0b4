"""One sample of jobstate's own Python client: create jobs while its worker does them, then ask the server for them.

Usage: python jobstate_work.py ADDRESS JOBS REPORTS CONCURRENCY AT_ONCE. AT_ONCE is how many jobs one call creates; with
1, 64 calls are under way. A tenth as many jobs go before, untimed. Prints a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid

from jobstate_client import AsyncClient, NewJob, Run

IN_FLIGHT = 64
PERCENTAGES = (25, 50, 75)
WITHIN_S = 300
JOB_TYPE = f"bench-{uuid.uuid4().hex[:12]}"
METADATA = {f"key-{number}": "v" * 12 for number in range(8)}
READ_BACK = 50


class Work:
    """The handler, and how many jobs it has been through."""

    def __init__(self, client: AsyncClient, reports: int) -> None:
        self._client = client
        self._reports = reports
        self.ids: list[str] = []
        self._expected = 0
        self._all_ran = asyncio.Event()

    async def __call__(self, run: Run) -> dict[str, int]:
        for percent in PERCENTAGES[: self._reports]:
            # Each as a call of its own: of the reports of a run that wait to be sent only the newest would be.
            await self._client.progress(run.job, percent, "half way there")
        self.ids.append(run.id)
        if len(self.ids) >= self._expected:
            self._all_ran.set()
        return {"result_count": 12}

    def expect(self, count: int) -> asyncio.Event:
        """What is set when so many jobs have run in all."""
        self._expected = count
        self._all_ran.clear()
        return self._all_ran


async def _create(client: AsyncClient, count: int, at_once: int) -> None:
    """Give the jobs away, so many in a call."""
    if at_once > 1:
        for first in range(0, count, at_once):
            number = min(at_once, count - first)
            await client.create_many(NewJob(JOB_TYPE, metadata=METADATA) for _ in range(number))
        return
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await client.create(NewJob(JOB_TYPE, metadata=METADATA))

    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))


async def _completed(client: AsyncClient) -> int:
    stats = (await client.stats([JOB_TYPE])).job_types.get(JOB_TYPE)
    return 0 if stats is None else stats.completed - stats.retries


async def _sample(client: AsyncClient, work: Work, count: int, at_once: int) -> float:
    """Have so many jobs done, and return how many seconds that took."""
    target = await _completed(client) + count
    all_ran = work.expect(target)
    began = time.monotonic()
    async with asyncio.timeout(WITHIN_S):
        await _create(client, count, at_once)
        await all_ran.wait()
        # The last of them are being reported.
        while await _completed(client) < target:
            pass
    return time.monotonic() - began


async def main(address: str, jobs: int, reports: int, concurrency: int, at_once: int) -> None:
    """Take the sample."""
    async with AsyncClient(address) as client:
        work = Work(client, reports)
        worker = client.worker(work, job_types=[JOB_TYPE], concurrency=concurrency, worker="bench")
        running = asyncio.create_task(worker.run())
        before = jobs // 10 + 1
        await _sample(client, work, before, at_once)
        seconds = await _sample(client, work, jobs, at_once)
        stored = await _completed(client) - before
        for job_id in work.ids[-READ_BACK:]:
            job = await client.get(job_id)
            stored -= job.result != {"result_count": 12} or job.attempt != 1
        worker.stop()
        await running
    print(json.dumps({"jobs": len(work.ids) - before, "seconds": seconds, "stored": stored, "failed": 0}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
