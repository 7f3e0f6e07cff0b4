"""What holds for the workers in the examples of every language.

A language's test module inherits the facts, and has the fixture ``programs``. The work of an example lasts as long as
the job's metadata say (``seconds``), and meets the status of an imagined service (``status``). For each attempt that
has ended a worker prints ``<id>: <how>``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from threading import Timer

import pytest

from jobstate_client import Client, EventType, Job, State

from .facts import Programs
from .proxies import proxy
from .support import InteropServer, Probe

TYPE = "clean_transcript"

AWAY_S = 8.0
"""How long a server is away while work ends: longer than gRPC repeats a call by itself."""

LONG = {"seconds": 3_600}
"""The metadata of work that does not end while a test runs."""


def wait_until_claimed(client: Client, job: Job) -> None:
    """Return once a worker has the job."""
    with client.watch(job_ids=[job], start="earliest") as watch:
        next(event for event in watch if event.type is EventType.STARTED)


@contextmanager
def leasing(directory: Path, lease: str) -> Iterator[InteropServer]:
    """A server that leases the attempts of the type for so long."""
    config = directory / "jobstate.toml"
    config.write_text(f"[job_types.{TYPE}]\nlease = {json.dumps(lease)}\n", "utf-8")
    server = InteropServer(directory, JOBSTATE_CONFIG=str(config))
    try:
        yield server
    finally:
        server.close()


class WorkerFacts:
    """The facts. While a test runs no heartbeat is sent but the first: later only the watch tells of a cancellation."""

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[InteropServer]:
        with leasing(tmp_path, "1h") as server:
            yield server

    def test_a_worker_completes_fails_and_releases(
        self, server: InteropServer, client: Client, programs: Programs
    ) -> None:
        with Probe([*programs.worker, server.address]) as worker:
            good = client.create(TYPE)
            assert worker.line() == f"{good.id}: completed"
            busy = client.create(TYPE, metadata={"status": 429}, lane="busy")
            assert worker.line() == f"{busy.id}: released"
            bad = client.create(TYPE, metadata={"status": 500}, max_retries=0)
            assert worker.line() == f"{bad.id}: failed"

        good, busy, bad = (client.get(job) for job in (good, busy, bad))
        assert (good.state, good.result) == (State.COMPLETED, {"text": "…"})
        assert (busy.state, busy.retry_count) == (State.RETRYING, 0)
        (lane,) = [each for each in client.lanes(TYPE) if each.lane == "busy"]
        assert lane.held_until_time == busy.next_retry_time
        assert bad.state == State.PERMANENTLY_FAILED
        assert bad.last_error is not None
        assert "the service is broken" in bad.last_error.message

    def test_a_worker_that_is_stopped_gives_its_job_back(
        self, server: InteropServer, client: Client, programs: Programs
    ) -> None:
        job = client.create(TYPE, metadata=LONG)
        with Probe([*programs.worker, server.address]) as worker:
            wait_until_claimed(client, job)
            worker.send(SIGTERM)

            assert worker.rest(programs.stopped) == [f"{job.id}: released"]
        job = client.get(job)
        assert (job.state, job.attempt, job.claimed, job.retry_count) == (State.PROCESSING, 2, False, 0)

    def test_a_worker_drops_a_job_that_is_cancelled(
        self, server: InteropServer, client: Client, programs: Programs
    ) -> None:
        job = client.create(TYPE, metadata=LONG)
        with Probe([*programs.worker, server.address]) as worker:
            wait_until_claimed(client, job)
            client.cancel(job)

            assert worker.line() == f"{job.id}: over"

    def test_a_worker_goes_on_when_the_server_restarts(
        self, server: InteropServer, client: Client, programs: Programs
    ) -> None:
        with Probe([*programs.worker, server.address]) as worker:
            for _ in range(2):
                job = client.create(TYPE)
                assert worker.line() == f"{job.id}: completed"
                server.restart()
            job = client.create(TYPE)

            assert worker.line() == f"{job.id}: completed"

    def test_a_worker_behind_a_proxy_reports_the_end_of_its_work_when_the_server_is_back(
        self, server: InteropServer, client: Client, programs: Programs, tmp_path: Path
    ) -> None:
        """Meanwhile the proxy answers each call at once, with a 502."""
        with proxy("nginx", server.address, tmp_path) as address, Probe([*programs.worker, address]) as worker:
            job = client.create(TYPE, metadata={"seconds": 1})
            wait_until_claimed(client, job)
            server.end()
            back = Timer(AWAY_S, server.start)
            back.start()
            try:
                assert worker.line() == f"{job.id}: completed"
            finally:
                back.join()
            assert client.get(job).attempt == 1


class LeaseFacts:
    """Facts of a server whose leases are as short as they can be."""

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[InteropServer]:
        with leasing(tmp_path, "5s") as server:
            yield server

    def test_a_worker_keeps_its_lease(self, server: InteropServer, client: Client, programs: Programs) -> None:
        """The work lasts longer than the lease."""
        job = client.create(TYPE, metadata={"seconds": 7})
        with Probe([*programs.worker, server.address]) as worker:
            assert worker.line() == f"{job.id}: completed"
        assert client.get(job).attempt == 1
