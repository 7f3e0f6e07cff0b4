"""Erase that is interrupted: by the end of the process at any point, and by a disk that is full."""

from __future__ import annotations

import asyncio
import itertools
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.store.postgres.check import check_database
from jobstate_server.store.sqlite.check import check_file
from jobstate_server.store.sqlite.path_checks import size_of

from ..support.calls import cancel, create, refusal_of, refused, span, struct
from ..support.clock import PATIENCE_S
from ..support.postgres import postgres_server
from ..support.server import RESTING, Client, Process, client_of, served, serving, serving_url
from .erasing import BYTES, LABELS, SECRET, erase, holds, stored_text, tell_everything

OURS = [f"ours-{number}" for number in range(30)]
THEIRS = [f"theirs-{number}" for number in range(30)]

THEIR_LABELS = {"customer": "12"}


async def fill(client: Client) -> None:
    """Final jobs to erase, and others between them in the log and in the file."""
    await tell_everything(client, OURS[0], SECRET)
    batch = []
    for ours, theirs in zip(OURS, THEIRS, strict=True):
        if ours != OURS[0]:
            text = struct(t=SECRET * 30)
            batch += [pb.CreateRequest(id=ours, job_type=RESTING, labels=LABELS, metadata=text)]
        batch += [pb.CreateRequest(id=theirs, job_type=RESTING, labels=THEIR_LABELS, metadata=struct(t="other" * 90))]
    await client.jobs.BatchCreate(pb.BatchCreateRequest(requests=batch))
    for job_id in OURS[1:]:
        await cancel(client, job_id, reason=SECRET, request_id=f"Zoe-{job_id}")
    filter_ = pb.JobFilter(labels=THEIR_LABELS)
    await client.jobs.CancelMany(pb.CancelManyRequest(filter=filter_, reason="other", request_id="cancel-theirs"))


async def found(client: Client, *job_ids: str) -> dict[str, pb.GetResponse]:
    """Those of these jobs that are stored, with their attempts."""
    gets = [client.jobs.Get(pb.GetRequest(id=job_id)) for job_id in job_ids]
    answers = dict(zip(job_ids, await asyncio.gather(*gets, return_exceptions=True), strict=True))
    refusals = [answer for answer in answers.values() if isinstance(answer, grpc.aio.AioRpcError)]
    assert {refusal.code() for refusal in refusals} <= {grpc.StatusCode.NOT_FOUND}
    return {job_id: answer for job_id, answer in answers.items() if isinstance(answer, pb.GetResponse)}


def problems(url: str) -> list[str]:
    """What the check of the store finds."""
    if url.startswith("sqlite"):
        return check_file(Path(url.removeprefix("sqlite:///"))).problems
    return check_database(url).problems


@asynccontextmanager
async def dying(point: str, url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, Client]]:
    """A server process that kills itself at this point of an Erase, and a client of it."""
    command = [sys.executable, "-m", "tests.integration.killed_in_erase", point, "serve", "--listen", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(
        *command, "--store", url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            greeting = (await process.stdout.readline()).decode()
        async with client_of(greeting.rpartition(" ")[2].strip()) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize(
    ("kind", "point"),
    [(kind, point) for point in ("jobs", "request ids", "events") for kind in ("sqlite", "postgres")]
    + [("sqlite", "bytes")],
)
async def test_killed_at_any_point_no_job_is_half_deleted_and_a_repeat_erases_the_rest(
    path: Path, kind: str, point: str
) -> None:
    url = postgres_server().ready_store() if kind == "postgres" else f"sqlite:///{path}"
    async with serving_url(url) as running:
        await fill(running)
        before = await found(running, *OURS, *THEIRS)
    async with dying(point, url) as (process, client):
        with pytest.raises(grpc.aio.AioRpcError):
            await erase(client, labels=LABELS)
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == -signal.SIGKILL
    if kind == "sqlite":
        assert holds(path, BYTES)

    async with serving_url(url) as running:
        left = await found(running, *OURS)
        listed = (await running.jobs.List(pb.ListRequest(labels=LABELS, page_size=100))).jobs
        assert left == {job_id: before[job_id] for job_id in left}
        assert {job.id for job in listed} == set(left)
        assert bool(left) is (point == "jobs")
        assert len(left) < len(OURS)

        done = await erase(running, labels=LABELS)

        assert done.jobs == len(left)
        assert await erase(running, labels=LABELS) == mpb.EraseResponse()
        assert await found(running, *OURS, *THEIRS) == {job_id: before[job_id] for job_id in THEIRS}
        assert not holds(path, BYTES, b"Zoe-") if kind == "sqlite" else "confidential" not in stored_text(url)
    assert problems(url) == []


def room_for_files(process: Process, size: int) -> None:
    """Let no file of this process grow beyond this size, as on a disk that is full."""
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def interrupted_at(client: Client, process: Process, wal: int, room: int) -> bool:
    """Whether Erase is refused while the WAL can grow only by so much. The WAL was this large before the first call."""
    room_for_files(process, wal + room)
    try:
        await erase(client, labels=LABELS)
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
        assert refusal.brief == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert "a part may be done" in refusal.message
        return True
    return False


async def test_on_a_full_disk_erase_is_refused_and_goes_on_when_there_is_room(path: Path) -> None:
    async with serving(path) as running:
        await fill(running)
        before = await found(running, *OURS, *THEIRS)
    wal = path.with_name(f"{path.name}-wal")
    rooms = itertools.count(step=40_000)
    stored: list[int] = []
    async with served(path) as process, client_of(process.address) as client:
        size = size_of(str(wal))
        # Jobs, request ids and events in the WAL, then the WAL in the file: each has its turn to find no room.
        while await interrupted_at(client, process, size, next(rooms)):
            left = await found(client, *OURS, *THEIRS)
            assert left == {job_id: before[job_id] for job_id in left}
            assert set(THEIRS) <= set(left)
            if not stored:
                cleanup = mpb.CleanupRequest(older_than=span(0), force=True)
                assert "a part may be done" in (await refused(client.maintenance.Cleanup(cleanup))).message
            stored.append(len(left))

        assert stored[0] == len(OURS) + len(THEIRS)
        assert stored[-1] == len(THEIRS)
        assert holds(path, BYTES, b"Zoe-") == []
        assert await found(client, *OURS, *THEIRS) == {job_id: before[job_id] for job_id in THEIRS}
        assert (await create(client, "after")).id == "after"
        assert problems(f"sqlite:///{path}") == []
    assert not list(path.parent.glob("*.aside*"))
