"""A maintenance task runs once at a time: who asks in the meantime is refused, or shares the report."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.caller import ANONYMOUS
from jobstate_server.maintenance.check_health import HealthReport
from jobstate_server.rpc.call import Call

from ..support.calls import cancel, create, refused, start
from ..support.clock import WatchedClock
from ..support.held import held
from ..support.server import Running


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("CheckStale", mpb.CheckStaleRequest()),
        ("RetryFailed", mpb.RetryFailedRequest(dry_run=True)),
        ("Cleanup", mpb.CleanupRequest()),
    ],
)
async def test_a_task_is_refused_while_it_runs_and_runs_again_afterwards(
    rpc: str, request_: Any, running: Running
) -> None:
    call = getattr(running.maintenance, rpc)
    await create(running)
    await start(running)
    task = {"CheckStale": "check-stale", "RetryFailed": "retry-failed", "Cleanup": "cleanup"}[rpc]

    async with running.server.run_locks.take(task):
        refusal = await refused(call(request_))
    await call(request_)

    assert refusal.brief == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    assert refusal.message == f"{task} is running; repeat the call when it is done"
    assert refusal.detail(error_details_pb2.RetryInfo).retry_delay.seconds == 1


async def test_of_many_forced_cleanups_at_once_one_runs_and_the_others_are_refused(
    running: Running, clock: WatchedClock
) -> None:
    await create(running)
    await cancel(running)
    clock.advance(1)
    request = mpb.CleanupRequest(force=True)
    request.older_than.CopyFrom(Duration())

    async with held(running.server):
        calls = [asyncio.ensure_future(running.maintenance.Cleanup(request)) for _ in range(50)]
        refusals = [await refused(call) for call in asyncio.as_completed(calls[1:])]
    done = await calls[0]

    assert [refusal.reason for refusal in refusals] == ["OVERLOADED"] * 49
    assert done.jobs == 1


async def test_a_scheduled_run_waits_for_the_run_that_a_caller_has_begun(running: Running, clock: WatchedClock) -> None:
    (task, *_) = running.server.schedule.tasks

    async with running.server.run_locks.take(task.name):
        scheduled = asyncio.create_task(running.server.schedule.run_claimed(task, clock.now()))
        await running.maintenance.ListTasks(mpb.ListTasksRequest())
        assert not scheduled.done()
    await scheduled

    (listed, *_) = (await running.maintenance.ListTasks(mpb.ListTasksRequest())).tasks
    assert listed.last_outcome == "0 stale"


async def test_callers_who_ask_for_health_together_share_one_report(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = running.server.tasks.check_health
    runs: list[HealthReport] = []
    called, answer = asyncio.Event(), asyncio.Event()
    run_once = check.run_once

    async def slow() -> HealthReport:
        called.set()
        await answer.wait()
        runs.append(await run_once())
        return runs[-1]

    monkeypatch.setattr(check, "run_once", slow)
    service, call = running.server.maintenance_service, Call(ANONYMOUS, 0, "")
    calls = [asyncio.create_task(service.CheckHealth(mpb.CheckHealthRequest(), call)) for _ in range(20)]
    await called.wait()
    calls[0].cancel()
    answer.set()
    first, *others = await asyncio.gather(*calls[1:])
    await service.CheckHealth(mpb.CheckHealthRequest(), call)

    assert all(report == first for report in others)
    assert len(runs) == 2, "one for the twenty, and one for who asked after it"
