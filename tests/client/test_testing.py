"""``jobstate_client.testing`` gives other tests a real server."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

import pytest

from jobstate_client import Client, NewJob, State, Unreachable
from jobstate_client import testing as module
from jobstate_client.testing import JobstateServer, serving

pytest_plugins = ["jobstate_client.testing"]


def test_the_fixture_is_found_by_naming_the_plugin(jobstate_server: JobstateServer) -> None:
    assert jobstate_server.client().create("default").state is State.QUEUED


def test_time_passes_by_advance_and_what_is_due_has_happened(jobstate_server: JobstateServer) -> None:
    client, before = jobstate_server.client(), jobstate_server.now
    jobs = client.create_many(NewJob("clean_transcript") for _ in range(300))
    for job in jobs:
        client.start(job.id)
    jobstate_server.advance(60.0)
    timed_out = {job.state for job in client.list()}
    jobstate_server.advance(timedelta(seconds=1))

    assert timed_out == {State.RETRYING}
    assert {(job.state, job.attempt) for job in client.list()} == {(State.PROCESSING, 2)}
    assert jobstate_server.now - before == timedelta(seconds=61)


def test_all_that_is_due_has_happened_however_many_commits_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobstate_server.engine.due_timer.DUE_MAX", 7)
    with serving() as server:
        client = server.client()
        for job in client.create_many(NewJob("clean_transcript") for _ in range(100)):
            client.start(job.id)
        server.advance(60.0)

        assert {job.state for job in client.list()} == {State.RETRYING}


def test_a_restart_keeps_jobs_and_address(jobstate_server: JobstateServer) -> None:
    address = jobstate_server.address
    client = jobstate_server.client()
    client.create("default", id="first")
    jobstate_server.stop()
    jobstate_server.stop()
    with pytest.raises(Unreachable):
        client.get("first", timeout=5.0)
    jobstate_server.start()
    jobstate_server.restart()

    assert jobstate_server.address == address
    assert jobstate_server.client(wait_for_ready=True).get("first").id == "first"


def test_a_server_can_have_settings_and_the_machines_time() -> None:
    with serving(manual_time=False, strict_job_types=True, job_types={"mine": {"max_retries": 1}}) as server:
        client = server.client()

        assert client.job_types().strict
        assert client.create("mine").max_retries == 1
        with pytest.raises(RuntimeError, match="manual_time"):
            server.advance(1.0)


async def test_there_is_an_asyncio_client_too(jobstate_server: JobstateServer) -> None:
    async with jobstate_server.async_client() as client:
        assert (await client.create("default")).state is State.QUEUED


def test_settings_that_cannot_work_are_refused_and_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no_such_setting"):
        JobstateServer(tmp_path, no_such_setting=1)


def test_the_example_of_its_docstring_works(jobstate_server: JobstateServer) -> None:
    lines = (module.__doc__ or "").split("\n\n")[1:3]
    example = "\n".join(line.removeprefix("    ") for part in lines for line in part.splitlines())
    names: dict[str, object] = {}
    exec(example, names)  # noqa: S102

    names["test_a_failed_job_is_retried"](jobstate_server)  # type: ignore[operator]
    assert isinstance(jobstate_server.client(), Client)


def test_nobody_else_is_given_the_port_of_a_server_that_is_stopped(jobstate_server: JobstateServer) -> None:
    port = int(jobstate_server.address.rpartition(":")[2])
    jobstate_server.stop()
    with socket.socket() as other, socket.socket() as caller:
        # What the kernel looks for when it chooses a port for a connection, or for whoever asks for any.
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with pytest.raises(ConnectionRefusedError):
            caller.connect(("127.0.0.1", port))

    jobstate_server.start()
    assert jobstate_server.client(wait_for_ready=True).create("default").state is State.QUEUED
