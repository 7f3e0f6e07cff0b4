"""Promises that only a process of its own can show: what a slow watcher costs, and how a server stops."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from jobstate.v1 import job_service_pb2 as pb

from . import slow_reader
from .clients import Stubs
from .history import ANSWERED, DRAINING, REFUSED, SYNCED, UNKNOWN, Call, History, Stream, Watcher
from .process import ServerProcess
from .recording import Recorder, ending_of, state_name
from .validators import broken
from .watchers import Habits, request_of

EVENTS = 10_000
WATCHERS = 500
CALLS = 64
GRACE_S = 5.0
EXIT_S = GRACE_S + 1.0 + 4.0
"""Grace and a second are promised; the rest is for a machine that others use too."""

SOME_FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"job_types": ("steady",)},
    {"source_ids": ("source-1",)},
    {"types": ("PROGRESS",)},
    {"job_ids": ("job-1", "job-2")},
)


async def test_a_slow_watcher_costs_fixed_memory_and_receives_everything(tmp_path: Path) -> None:
    outcome = await slow_reader.run(tmp_path, EVENTS, every_s=0.05, small=True)

    print(outcome.told)
    assert outcome.received_meanwhile < outcome.written / 2
    assert outcome.received == outcome.written
    assert broken(outcome.history, slow_reader.HELD) == {}


class Crowd:
    """Watchers and callers at a server that is about to stop."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.watchers: list[Watcher] = []
        self.calls: list[Call] = []
        self._synced = 0
        self._answered: set[int] = set()
        self.ready = asyncio.Event()

    async def watch(self, stubs: Stubs, watcher: Watcher, stream: Stream) -> None:
        """Read a stream until it ends."""
        watcher.streams.append(stream)
        try:
            async for message in stubs.jobs.WatchEvents(request_of(watcher, stream, Habits(heartbeat_s=30))):
                stream.responses.append(self.recorder.response(message, 0.0))
                self._synced += stream.responses[-1].kind == SYNCED
                self._look()
            stream.code = "OK"
        except grpc.aio.AioRpcError as error:
            ending = ending_of(error)
            stream.code, stream.reason = ending.code, ending.reason

    async def report(self, stubs: Stubs, index: int) -> None:
        """Report progress without a pause until the server will not have it."""
        job_id = f"job-{index}"
        count = 0
        while not self.calls or self.calls[-1].job_id != job_id or self.calls[-1].outcome == ANSWERED:
            count += 1
            call = Call("UpdateProgress", job_id, UNKNOWN, marker=f"mark-{index}-{count}")
            try:
                job = (
                    await stubs.jobs.UpdateProgress(pb.UpdateProgressRequest(id=job_id, attempt=1, message=call.marker))
                ).job
                call.outcome, call.version, call.attempt = ANSWERED, job.version, job.attempt
                call.state = state_name(job.state)
                self._answered.add(index)
                self._look()
            except grpc.aio.AioRpcError as error:
                ending = ending_of(error)
                call.outcome = REFUSED if ending.reason else UNKNOWN
                call.code, call.reason = ending.code, ending.reason
            self.calls.append(call)
            if call.outcome != ANSWERED:
                return

    def _look(self) -> None:
        if self._synced >= WATCHERS and len(self._answered) == CALLS:
            self.ready.set()


async def prepare(stubs: Stubs) -> None:
    """Jobs for the callers."""
    for index in range(CALLS):
        await stubs.jobs.Create(pb.CreateRequest(id=f"job-{index}", job_type="steady", source_id=f"source-{index % 5}"))
        await stubs.jobs.Start(pb.StartRequest(id=f"job-{index}"))


@pytest.mark.timeout(180)
async def test_sigterm_drains_500_watchers_and_keeps_every_answer_of_64_callers(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, small=False, grace=GRACE_S)
    recorder = Recorder()
    crowd = Crowd(recorder)
    try:
        await server.start()
        channels = [Stubs(server.address) for _ in range(10)]
        await prepare(channels[0])
        async with asyncio.TaskGroup() as group:
            for index in range(WATCHERS):
                crowd.watchers.append(Watcher(f"watcher-{index}", **SOME_FILTERS[index % len(SOME_FILTERS)]))
                group.create_task(crowd.watch(channels[index % 10], crowd.watchers[-1], Stream("LATEST")))
            for index in range(CALLS):
                group.create_task(crowd.report(channels[index % 10], index))
            async with asyncio.timeout(60):
                await crowd.ready.wait()
            server.signal(signal.SIGTERM)
            exit_code = await server.ended(EXIT_S)
        await server.start()
        channels.append(Stubs(server.address))
        for watcher in crowd.watchers:
            last = len(watcher.streams[0].responses) - 1
            cursor = watcher.streams[0].responses[last].cursor
            await crowd.watch(channels[-1], watcher, Stream("CURSOR", cursor, (0, last), follow=False))
        for stubs in channels:
            await stubs.channel.close()
    finally:
        await server.stop()
    log, horizon = recorder.log(server.store)
    history = History(
        calls=crowd.calls, watchers=crowd.watchers, log=log, horizon=horizon, positions=recorder.positions
    )

    assert exit_code == 0
    assert {watcher.streams[0].reason for watcher in crowd.watchers} == {"DRAINING"}
    assert {watcher.streams[0].responses[-1].kind for watcher in crowd.watchers} == {DRAINING}
    assert {watcher.streams[1].code for watcher in crowd.watchers} == {"OK"}
    problems = broken(history)
    problems.pop("atomic", None)
    assert problems == {}
    assert not server.complaints
