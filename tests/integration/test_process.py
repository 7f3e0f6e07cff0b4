"""The server as a process: it says where it serves, stops when told to, and finds everything again."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server import cli
from jobstate_server.domain.durations import SECOND

from ..support.calls import (
    Refusal,
    cancel,
    complete,
    create,
    fail,
    get,
    health_of,
    history,
    refusal_of,
    refused,
    report,
    retry,
    settled,
    start,
    struct,
    watching_live,
)
from ..support.clock import PATIENCE_S, WatchedClock
from ..support.held import held
from ..support.server import Running, client_of, rows, served, serving, stored_job_ids

ROOT = Path(__file__).resolve().parents[2]

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

SERVICES = ("", "jobstate.v1.JobService", "jobstate.v1.DispatchService", "jobstate.v1.MaintenanceService")


def test_lifecycle_prints_the_diagram_of_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lifecycle"]) == 0

    page = (ROOT / "docs" / "lifecycle.md").read_text()
    (diagram,) = [block.partition("```")[0] for block in page.split("```mermaid\n")[1:]]
    assert capsys.readouterr().out == diagram


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_in_order(path: Path, number: signal.Signals) -> None:
    async with served(path) as process, client_of(process.address) as client:
        await create(client)
        async with watching_live(client) as watch:
            ending = asyncio.ensure_future(process.end(number))
            assert (await watch.response()).kind == pb.WATCH_RESPONSE_KIND_DRAINING
            with pytest.raises(grpc.aio.AioRpcError):
                await watch.response()
            code = await ending
        log = process.stderr.read_text()

    assert code == 0
    assert "Traceback" not in log
    assert "stopped" in log
    async with serving(path) as running:
        assert (await get(running)).state == job_pb2.JOB_STATE_QUEUED


async def test_what_was_answered_before_and_while_the_server_stopped_is_durable(path: Path) -> None:
    async with served(path) as process, client_of(process.address) as client:
        first = asyncio.Event()
        answered: list[str] = []
        refusals: set[grpc.StatusCode] = set()

        async def create_many(worker: int) -> None:
            for number in range(10_000):
                try:
                    job = await create(client, f"job-{worker}-{number}")
                except grpc.aio.AioRpcError as error:
                    refusals.add(error.code())
                    return
                answered.append(job.id)
                if len(answered) == 100:
                    first.set()

        workers = [asyncio.ensure_future(create_many(worker)) for worker in range(16)]
        async with asyncio.timeout(PATIENCE_S):
            await first.wait()
        code = await process.end()
        await asyncio.gather(*workers)

    assert code == 0
    stored = stored_job_ids(path)
    assert len(answered) >= 100
    assert refusals <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert refusals <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert set(answered) <= stored


async def test_a_killed_server_lost_nothing_that_it_answered(path: Path) -> None:
    async with served(path) as process, client_of(process.address) as client:
        created = await create(client, metadata=struct(a=1))
        started = await start(client)
        await process.end(signal.SIGKILL)

    async with serving(path) as running:
        job = await get(running)
        assert (job.version, job.state) == (started.version, job_pb2.JOB_STATE_PROCESSING)
        assert dict(job.metadata) == {"a": 1}
        assert [event.sequence for event in await history(running)] == [created.version, started.version]


async def test_the_log_goes_to_stderr_as_json_when_asked_and_stdout_has_one_line(path: Path) -> None:
    async with served(path, "--log-format", "json") as process:
        assert await process.end() == 0
        lines = [json.loads(line) for line in process.stderr.read_text().splitlines()]
        assert process.process.stdout is not None
        rest = await process.process.stdout.read()

    assert rest == b""
    assert [line["event"] for line in lines] == ["serving", "stopping", "stopped"]
    assert lines[0]["address"] == process.address
    assert {line["level"] for line in lines} == {"INFO"}


async def exit_of(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process of the server that ends by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "jobstate_server", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_second_process_on_the_same_file_or_port_is_refused_and_disturbs_nothing(
    path: Path, tmp_path: Path
) -> None:
    async with served(path) as process, client_of(process.address) as client:
        file, port = await asyncio.gather(
            exit_of("serve", "--listen", "127.0.0.1:0", "--store", f"sqlite:///{path}"),
            exit_of("serve", "--listen", process.address, "--store", f"sqlite:///{tmp_path}/other.db"),
        )
        assert (await create(client)).state == job_pb2.JOB_STATE_QUEUED

    assert file[:2] == port[:2] == (1, "")
    assert file[2] == (f"jobstate-server: another jobstate-server is using {path}; one SQLite file serves one server\n")
    assert port[2] == (
        f"jobstate-server: cannot listen on {process.address}: Address already in use; choose another with --listen\n"
    )


async def test_a_wrong_setting_ends_the_process_with_one_sentence(tmp_path: Path) -> None:
    code, out, err = await exit_of("serve", "--config", str(tmp_path), env={"JOBSTATE_LOG_LEVEL": "debug"})

    assert (code, out) == (1, "")
    assert err == f"jobstate-server: cannot read {tmp_path}: Is a directory\n"


async def test_a_call_that_is_wrong_ends_with_2_and_tells_how_it_is_right() -> None:
    code, out, err = await exit_of("serve", "--lisen", "x")

    assert (code, out) == (2, "")
    assert "usage: jobstate-server" in err


async def test_a_server_whose_streams_were_closed_serves_and_writes_into_no_other_file(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = shlex.join([sys.executable, "-m", "jobstate_server", "serve", "--listen", address])
    shell = f"exec {command} --store sqlite:///{path} <&- >&- 2>&-"
    process = await asyncio.create_subprocess_exec("sh", "-c", shell)
    async with client_of(address) as client:
        await client.jobs.Create(pb.CreateRequest(id="job", job_type="default"), wait_for_ready=True)
        held = {number: os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)}
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            code = await process.wait()

    assert set(held.values()) == {os.devnull}
    assert code == 0
    assert rows(path)["job"]


# Restart.


async def test_a_restart_finds_everything_as_it_was(path: Path, clock: WatchedClock) -> None:
    async def everything(running: Running) -> list[Any]:
        jobs = (await running.jobs.List(pb.ListRequest())).jobs
        return [
            [await running.jobs.Get(pb.GetRequest(id=job.id, include_attempts=True)) for job in jobs],
            await history(running),
            await running.jobs.GetStats(pb.GetStatsRequest()),
            await running.maintenance.ListTasks(mpb.ListTasksRequest()),
        ]

    async with serving(path, clock) as running:
        await create(running, "done", "clean_transcript", source_id="talk", metadata=struct(a=[1, {"b": None}]))
        await start(running, "done", worker="w")
        clock.advance(SECOND)
        await report(running, "done", progress=30, message="on it", usage=job_pb2.Usage(tokens=5, cost=0.1))
        await fail(running, "done", error=pb.FailureReport(code="X", message="broke", details=struct(c=1)))
        await retry(running, "done", immediately=True)
        await start(running, "done")
        await complete(running, "done", attempt=2, result=struct(ok=True), result_count=3)
        for job_id in ("cancelled", "running", "waiting", "queued"):
            await create(running, job_id, max_retries=1, request_id=f"request-{job_id}")
        await cancel(running, "cancelled", reason="enough")
        await start(running, "running")
        await start(running, "waiting")
        await fail(running, "waiting")
        (task, *_) = running.server.schedule.tasks
        await running.server.schedule.run_claimed(task, clock.now())
        before = await everything(running)

    async with serving(path, clock) as running:
        await settled(running)
        after = await everything(running)
        repeated = await create(running, "waiting", max_retries=1, request_id="request-waiting")

    assert after == before
    assert repeated.state == job_pb2.JOB_STATE_RETRYING


# A full disk.


def page_limit(running: Running, spare: int | None) -> None:
    """Leave room for this many more pages in the file, or for as many as it wants. The committer must be idle."""
    store: Any = running.server.store
    connection: sqlite3.Connection = store._database.connection()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    limit = 2**30 if spare is None else pages + spare
    connection.execute(f"PRAGMA max_page_count = {limit}")


async def fill(running: Running) -> tuple[list[job_pb2.Job], Refusal]:
    """Create jobs until the disk is full."""
    answered: list[job_pb2.Job] = []
    while True:
        try:
            answered.append(await create(running, f"job-{len(answered)}", metadata=struct(blob="x" * 5_000)))
        except grpc.aio.AioRpcError as error:
            return answered, refusal_of(error)


async def health_becomes(running: Running, service: str, state: int) -> None:
    """Wait until the health service says so."""
    call = running.health.Watch(health_pb2.HealthCheckRequest(service=service))
    async with asyncio.timeout(PATIENCE_S):
        async for answer in call:
            if answer.status == state:
                break
    call.cancel()


async def test_a_full_disk_refuses_what_it_cannot_keep_and_loses_nothing(running: Running) -> None:
    page_limit(running, spare=8)

    answered, refusal = await fill(running)

    assert refusal.brief == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    assert refusal.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    assert refusal.message == "the store cannot be written at the moment; nothing was changed"
    assert answered
    assert [await get(running, job.id) for job in answered] == answered
    assert (await refused(get(running, f"job-{len(answered)}"))).reason == "JOB_NOT_FOUND"


async def test_while_the_disk_is_full_the_server_is_not_serving_and_recovers_by_itself(
    running: Running, clock: WatchedClock
) -> None:
    page_limit(running, spare=8)
    answered, _ = await fill(running)
    for service in SERVICES:
        await health_becomes(running, service, NOT_SERVING)
    assert await health_of(running, "jobs") == SERVING
    report = await running.maintenance.CheckHealth(mpb.CheckHealthRequest())
    assert list(report.problems) == ["the store cannot be written: database or disk is full"]

    for _ in range(3):
        await clock.armed(2 * SECOND)
        clock.advance(2 * SECOND)
        await clock.armed(2 * SECOND)
        await running.maintenance.CheckStale(mpb.CheckStaleRequest())
        assert [await health_of(running, service) for service in SERVICES] == [NOT_SERVING] * len(SERVICES)
        refusal = await refused(create(running, "more", metadata=struct(blob="x" * 50_000)))
        assert refusal.reason == "STORE_UNAVAILABLE"

    page_limit(running, spare=None)
    clock.advance(2 * SECOND)
    for service in SERVICES:
        await health_becomes(running, service, SERVING)
    assert (await create(running, "after")).state == job_pb2.JOB_STATE_QUEUED
    assert [await get(running, job.id) for job in answered] == answered
    assert len(await history(running)) == len(answered) + 1


async def test_while_the_disk_is_full_due_work_waits_and_is_then_done(running: Running, clock: WatchedClock) -> None:
    await create(running)
    await start(running)
    await fail(running)
    page_limit(running, spare=0)
    await fill(running)
    async with watching_live(running) as watch:
        clock.advance(5 * SECOND)
        page_limit(running, spare=None)
        clock.advance(5 * SECOND)
        (started,) = await watch.events(1)

    assert started.started.resumed


async def test_in_a_batch_that_does_not_fit_every_call_is_refused_or_kept_whole(running: Running) -> None:
    page_limit(running, spare=4)
    async with held(running.server) as hold:
        calls = [
            asyncio.ensure_future(create(running, f"job-{number}", metadata=struct(blob="x" * 5_000)))
            for number in range(50)
        ]
        await hold.has(50)
        hold.release()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    page_limit(running, spare=None)

    kept = {answer.id for answer in answers if isinstance(answer, job_pb2.Job)}
    refusals = [refusal_of(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert {refusal.reason for refusal in refusals} == {"STORE_UNAVAILABLE"}
    assert {job.id for job in (await running.jobs.List(pb.ListRequest())).jobs} == kept


async def test_a_stopped_server_leaves_the_file_whole(path: Path) -> None:
    async with serving(path) as running:
        await create(running)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT id FROM job").fetchall() == [("job",)]
