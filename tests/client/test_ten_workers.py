"""Ten workers that watch one server do each of 1,000 attempts once."""

from __future__ import annotations

import asyncio
import collections
import sqlite3
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest

from jobstate_client import AsyncClient, Client, EventType, NewJob, Run, State

from .processes import child, server_process
from .support import PATIENCE_S

WORKERS = 10
ATTEMPTS = 1_000
QUARTER = ATTEMPTS // 4

WAIT_S = 2.0
"""Between a failure and its retry: some fall due while the workers are at work."""

COMPLETED, FAILED = 1, 2
"""Outcomes of attempts, as the store keeps them."""

COMPLETED_EVENT = 5
"""The type of a ``.completed`` event, likewise."""

WORKER = """
import signal, sys
from jobstate_client import Client

def work(run):
    run.progress(50)
    print(f"{run.id} {run.attempt}\\n", end="", flush=True)

with Client(sys.argv[1]) as client:
    worker = client.worker(work, job_types=["default", "resting"], worker=sys.argv[2], concurrency=2)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    print("ready", flush=True)
    worker.run()
"""


class Done(NamedTuple):
    """What a worker says that it did."""

    job_id: str
    attempt: int
    worker: str


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def address(store: Path) -> Iterator[str]:
    with server_process(store) as (_, address):
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def named(kind: str, job_type: str = "default") -> list[NewJob]:
    return [NewJob(job_type, id=f"{kind}-{number}") for number in range(QUARTER)]


def prepare(client: Client) -> None:
    """Jobs that are there before the workers come: new ones, failed ones that rest, and ones that wait."""
    client.create_many([*named("early"), *named("resting", "resting"), *named("waiting")])

    def fail(job_id: str) -> None:
        client.fail(client.start(job_id, worker="nobody"), retry_delay=WAIT_S)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(fail, [new.id for kind in ("resting", "waiting") for new in named(kind)]))


def fill(client: Client) -> None:
    """What comes while they are at work: more new jobs, and the retries of those that rested."""
    client.create_many(named("later"))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda new: client.retry(new.id, immediately=True), named("resting")))


def wait_for_all(client: Client) -> None:
    with client.watch(start="earliest", types=[EventType.COMPLETED], patience=PATIENCE_S) as watch:
        for _ in range(ATTEMPTS):
            next(watch)


def assert_each_attempt_was_done_once(store: Path, client: Client, told: Iterable[Done]) -> None:
    done = list(told)
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT id, number, attempt.worker, outcome FROM attempt JOIN job USING (create_sequence)"
        ).fetchall()
        (events,) = connection.execute("SELECT count(*) FROM event WHERE type = ?", (COMPLETED_EVENT,)).fetchone()
    kept = sorted(Done(*row[:3]) for row in rows if row[3] == COMPLETED)
    claimed = collections.Counter(
        (event.job.id, event.job.attempt, event.job.worker)
        for event in client.watch(types=[EventType.STARTED, EventType.CLAIMED], start="earliest", follow=False)
        if event.job.claimed and event.job.worker != "nobody"
    )

    assert len(kept) == events == ATTEMPTS
    assert sorted(done) == kept, "what the workers say that they did is what the store holds, and nothing twice"
    assert claimed == collections.Counter(kept), "each attempt was claimed once, by who did it"
    assert len(rows) == ATTEMPTS + 2 * QUARTER
    assert {row[2] for row in rows if row[3] == FAILED} == {"nobody"}
    assert len({each.worker for each in kept}) > 1
    assert {job.state for job in client.list(page_size=1_000)} == {State.COMPLETED}


def test_ten_worker_processes_do_each_of_1000_attempts_once(store: Path, address: str, client: Client) -> None:
    names = [f"worker-{number}" for number in range(WORKERS)]
    prepare(client)
    with ExitStack() as stack:
        workers = [stack.enter_context(child("-c", WORKER, address, name)) for name in names]
        assert {worker.hear() for worker in workers} == {"ready"}
        fill(client)
        wait_for_all(client)
        said = [worker.end().split("\n")[:-1] for worker in workers]
        assert {worker.process.returncode for worker in workers} == {0}

    done = [(*line.split(), name) for name, lines in zip(names, said, strict=True) for line in lines]
    assert_each_attempt_was_done_once(store, client, (Done(job_id, int(number), name) for job_id, number, name in done))


async def test_ten_asyncio_workers_do_each_of_1000_attempts_once(store: Path, address: str, client: Client) -> None:
    done: list[Done] = []

    async def work(run: Run) -> None:
        done.append(Done(run.id, run.attempt, run.job.worker))
        await asyncio.sleep(0)
        run.progress(50)

    await asyncio.to_thread(prepare, client)
    async with AsyncClient(address) as async_client, asyncio.timeout(PATIENCE_S):
        workers = [
            async_client.worker(work, job_types=["default", "resting"], worker=f"worker-{number}", concurrency=2)
            for number in range(WORKERS)
        ]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        await asyncio.to_thread(fill, client)
        await asyncio.to_thread(wait_for_all, client)
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)

    await asyncio.to_thread(assert_each_attempt_was_done_once, store, client, done)
