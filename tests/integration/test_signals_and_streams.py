"""The process ends in order whatever signal asks for it, and never waits for who reads what it prints."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
import resource
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobstate.v1 import job_pb2
from jobstate_server import logs, process
from jobstate_server.app import CannotServe

from ..support.calls import create, get, health_of
from ..support.clock import PATIENCE_S
from ..support.ports import ReservedPort
from ..support.server import client_of, served, serving

COMMAND = (sys.executable, "-m", "jobstate_server", "serve", "--listen", "127.0.0.1:0", "--store")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
async def test_a_signal_that_asks_to_stop_does_so_in_order_however_often_it_comes(
    path: Path, number: signal.Signals
) -> None:
    async with served(path) as process, client_of(process.address) as client:
        await create(client)
        for _ in range(50):
            with contextlib.suppress(ProcessLookupError):
                process.process.send_signal(number)
            await asyncio.sleep(0)
        code = await process.end(number) if process.process.returncode is None else process.process.returncode
        log = process.stderr.read_text()

    assert code == 0
    assert log.count(" stopping ") == log.count(" stopped ") == 1


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
async def test_a_signal_that_means_nothing_here_is_told_and_changes_nothing(path: Path, number: signal.Signals) -> None:
    async with served(path) as process, client_of(process.address) as client:
        process.process.send_signal(number)
        assert (await create(client)).state == job_pb2.JOB_STATE_QUEUED
        assert await process.end() == 0
        assert f"signal ignored signal={number.name}" in process.stderr.read_text()


def test_a_signal_before_the_server_serves_ends_it_in_order(tmp_path: Path) -> None:
    settings = tmp_path / "jobstate.toml"
    os.mkfifo(settings)
    server = subprocess.Popen([*COMMAND, f"sqlite:///{tmp_path}/jobs.db", "--config", settings], stderr=subprocess.PIPE)
    try:
        # Opened once the server has opened it, which then waits for what we write.
        with settings.open("w"):
            server.terminate()
            _, errors = server.communicate(timeout=PATIENCE_S)
    finally:
        server.kill()

    assert (server.returncode, errors) == (0, b"")
    assert list(tmp_path.iterdir()) == [settings]


def full_pipe() -> tuple[int, int]:
    """A pipe that nobody reads, and that holds no byte more: its two ends."""
    reading, writing = os.pipe()
    flags = fcntl.fcntl(writing, fcntl.F_GETFL)
    fcntl.fcntl(writing, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4_096)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x")
    fcntl.fcntl(writing, fcntl.F_SETFL, flags)
    return reading, writing


@pytest.mark.parametrize("style", ["text", "json"])
async def test_a_log_that_nobody_reads_holds_up_nothing_and_ends_with_the_process(path: Path, style: str) -> None:
    reading, writing = full_pipe()
    flags = ("--log-level", "debug", "--log-format", style)
    server = await asyncio.create_subprocess_exec(
        *COMMAND, f"sqlite:///{path}", *flags, stdout=subprocess.PIPE, stderr=writing
    )
    os.close(writing)
    try:
        assert server.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            address = (await server.stdout.readline()).decode().rpartition(" ")[2].strip()
            async with client_of(address) as client:
                for number in range(20):
                    # Each is a line of the log.
                    server.send_signal(signal.SIGHUP)
                    await create(client, f"job-{number}")
                assert await health_of(client, "") == health_pb2.HealthCheckResponse.SERVING
            server.send_signal(signal.SIGTERM)
            assert await server.wait() == 0
    finally:
        if server.returncode is None:
            server.kill()
        os.close(reading)
    async with serving(path) as running:
        assert (await get(running, "job-19")).state == job_pb2.JOB_STATE_QUEUED


@pytest.mark.parametrize("stream", ["closed", "/dev/full"])
def test_streams_that_cannot_be_written_do_not_end_the_server_and_are_not_taken_for_its_store(
    path: Path, stream: str
) -> None:
    target = "-" if stream == "closed" else stream
    # The shell says where it serves: nobody else can, with every stream closed.
    port = ReservedPort()
    script = f'exec "$0" "$@" <&- >&{target} 2>&{target}' if target == "-" else f'exec "$0" "$@" >{target} 2>{target}'
    command = [*COMMAND[:4], "--listen", port.address, "--store", f"sqlite:///{path}"]
    server = subprocess.Popen(["/bin/sh", "-c", script, *command])
    try:
        with grpc.insecure_channel(port.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=PATIENCE_S)
        server.terminate()
        assert server.wait(PATIENCE_S) == 0
    finally:
        server.kill()
        server.wait()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# What the system allows.


def with_files(soft: int, hard: int) -> subprocess.CompletedProcess[str]:
    """A start with these limits of open files."""
    return subprocess.run(
        [*COMMAND, "sqlite:///nowhere/jobs.db"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_too_few_open_files_refuse_the_start_with_a_sentence() -> None:
    refused = with_files(24, 24)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "jobstate-server: the system allows 24 open files, and at least 256 are needed: raise the hard limit"
        " (ulimit -Hn, or LimitNOFILE of the unit)\n"
    )


def test_the_limit_of_open_files_is_raised_to_the_hard_one_and_told_where_that_is_low() -> None:
    low, enough = with_files(64, 1_000), with_files(64, 5_000)

    assert "the limit of open files is low, and each client connection takes one limit=1000" in low.stderr
    assert "the limit of open files" not in enough.stderr
    for refused in (low, enough):
        # It got as far as the store: 64 would have been too few to begin.
        assert "there is no directory" in refused.stderr


def test_no_room_for_threads_refuses_the_start_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def grudging(thread: threading.Thread) -> None:
        if len(started) == 5:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", grudging)
    with pytest.raises(CannotServe, match="no more than 5 threads, and 32 are needed"):
        process.check_threads()

    assert not any(thread.is_alive() for thread in started)


# The writer of the log.


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for end in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(end)


def unread_bytes(reading: int) -> int:
    """How many bytes are in a pipe."""
    (count,) = struct.unpack("i", fcntl.ioctl(reading, termios.FIONREAD, bytes(4)))
    return int(count)


def test_lines_that_nobody_reads_are_dropped_counted_and_told(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = logs.Writer(writing, lambda dropped: f"{dropped} were lost")
    line = "x" * 1_023
    sent = 2 * logs.BYTES_MAX // 1_024

    # It waits for the reader before anything is dropped. Else it could tell of the first lines while others are sent.
    capacity = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    for _ in range(capacity // 1_024 + 1):
        writer.put(line)
    while unread_bytes(reading) < capacity:
        writer.flush(0.01)
    for _ in range(sent):
        writer.put(line)
    assert not writer.flush(0)
    with open(reading, encoding="utf-8", closefd=False) as lines:
        told = next(read for read in iter(lines.readline, "") if read != line + "\n")
        dropped = int(told.partition(" ")[0])
        assert 0 < dropped <= sent // 2
        assert told == f"{dropped} were lost\n"
        writer.put("after")
        assert "after\n" in iter(lines.readline, "")
    assert writer.flush(PATIENCE_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_whose_thread_has_died_gets_another_with_the_next_line_and_tells_the_loss(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = pipe
    writer = logs.Writer(writing, lambda dropped: f"{dropped} were lost")
    first = writer._thread

    def die(_chunk: bytes) -> bool:
        monkeypatch.undo()
        raise SystemExit

    monkeypatch.setattr(writer, "_write", die)
    writer.put("lost with it")
    first.join(PATIENCE_S)
    assert not first.is_alive()
    writer.put("after")

    with open(reading, encoding="utf-8", closefd=False) as lines:
        assert [lines.readline(), lines.readline()] == ["1 were lost\n", "after\n"]
    assert writer.flush(PATIENCE_S)


def test_a_reader_that_has_gone_costs_nothing(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(reading)
    writer = logs.Writer(writing, lambda dropped: f"{dropped} were lost")

    for _ in range(1_000):
        writer.put("nobody hears this")

    assert writer.flush(PATIENCE_S)


def test_a_log_that_nobody_reads_or_that_cannot_be_written_is_a_problem_until_it_is_written(
    pipe: tuple[int, int],
) -> None:
    reading, writing = pipe
    writer = logs.Writer(writing, lambda dropped: f"{dropped} were lost")
    writer.put("read")
    assert writer.flush(PATIENCE_S)
    for _ in range(10):
        writer.turn()
    assert writer.problem is None

    for _ in range(200):
        writer.put("x" * 1_023)
    found: list[str | None] = []
    while len(found) < 10 or found[-1] is None:
        writer.turn()
        found.append(writer.problem)
    assert "nobody reads it" in (found[-1] or "")
    with open(reading, "rb", closefd=False) as lines:
        for _ in range(201):
            lines.readline()
    assert writer.flush(PATIENCE_S)
    writer.turn()
    assert writer.problem is None

    os.close(reading)
    writer.put("nobody hears this")
    assert writer.flush(PATIENCE_S)
    assert writer.problem == "the log cannot be written: Broken pipe"


def test_a_pipe_that_somebody_made_non_blocking_loses_no_line(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    writer = logs.Writer(writing, lambda dropped: f"{dropped} were lost")
    wanted = [f"{number:01000}" for number in range(500)]

    for line in wanted:
        writer.put(line)
    with open(reading, encoding="utf-8", closefd=False) as lines:
        assert [lines.readline().strip() for _ in wanted] == wanted


def test_an_overlong_line_is_cut_and_half_a_character_is_no_error(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = logs.Writer(writing, str)

    writer.put("\ud800")
    writer.put("y" * 10 * logs.LINE_BYTES_MAX)
    with open(reading, "rb", closefd=False) as lines:
        assert lines.readline() == b"\\ud800\n"
        assert len(lines.readline()) < logs.LINE_BYTES_MAX + 20


async def test_times_are_rfc_3339_in_utc_and_a_value_cannot_be_taken_for_another_line(path: Path) -> None:
    odd = path.parent / "a b\nERROR forged=1"
    odd.mkdir()
    for style in ("text", "json"):
        log = path.with_suffix(f".{style}")
        arguments = ("--log-format", style)
        async with served(odd / f"{style}.db", *arguments, stderr=log, env={"TZ": "Asia/Kolkata"}) as process:
            assert await process.end() == 0
        lines = log.read_text().splitlines()
        assert len(lines) == 3
        if style == "json":
            assert all(TIME.fullmatch(json.loads(line)["time"]) for line in lines)
        else:
            assert all(TIME.match(line) for line in lines)
            assert r"store=\"sqlite:///" not in lines[0]
            assert r"a b\nERROR forged=1" in lines[0]


def test_a_line_that_cannot_be_made_is_told_as_such(capfd: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError("no words")

    handler = logs._Handler(logs._TextFormatter("%(asctime)s %(levelname)-7s %(message)s"))
    record = logging.makeLogRecord({"name": "somewhere", "levelname": "INFO", "msg": Broken()})
    handler.handle(record)

    assert handler.writer.flush(PATIENCE_S)
    told = capfd.readouterr().err
    assert told.endswith("a log line could not be formatted cause=ValueError logger=somewhere\n")


def test_a_caller_who_left_before_the_answer_is_no_news_of_grpcs() -> None:
    record = logging.makeLogRecord({"name": "grpc._cython.cygrpc", "levelno": logging.ERROR})

    record.msg, record.args = "ExecuteBatchError raised in core by servicer method [%s]", ("List",)
    assert not logs.is_worth_logging(record)
    record.msg, record.args = "Unexpected [%s] raised by servicer method [%s]", ("ValueError", "List")
    assert logs.is_worth_logging(record)
