"""Many callers at once: exactly one wins, one bad command harms no other, and many changes share one commit."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.commands import Command, JobCommand
from jobstate_server.domain.plan import Change, Plan
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.engine.write_queue import BATCH_ROWS_MAX

from ..support.calls import (
    Refusal,
    complete,
    create,
    fail,
    get,
    history,
    names,
    refusal_of,
    refused,
    report,
    retry,
    start,
)
from ..support.clock import PATIENCE_S
from ..support.held import held
from ..support.server import Client, Running, client_of, serving

SECRET = "the row says hunter2"


async def outcome_of_start(client: Client, worker: str) -> job_pb2.Job | Refusal:
    """The job, or how the Start was refused."""
    answers = await asyncio.gather(start(client, worker=worker), return_exceptions=True)
    if isinstance(answers[0], job_pb2.Job):
        return answers[0]
    return refusal_of(answers[0])  # type: ignore[arg-type]


async def race(running: Running) -> list[job_pb2.Job | Refusal]:
    """Two clients, with a connection each, race 200 Starts."""
    async with client_of(running.server.address) as one, client_of(running.server.address) as other:
        clients = {"one": one, "other": other}
        starts = [
            outcome_of_start(client, f"{name}-{number}") for number in range(100) for name, client in clients.items()
        ]
        return await asyncio.gather(*starts)


async def test_of_200_racing_starts_one_wins_and_199_are_refused(running: Running) -> None:
    await create(running)

    outcomes = await race(running)

    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, job_pb2.Job)]
    losers = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert len(losers) == 199
    assert {loser.brief for loser in losers} == {("FAILED_PRECONDITION", "TRANSITION_NOT_ALLOWED")}
    assert await get(running) == winner
    assert names(await history(running)) == ["queued", "started"]


async def test_of_200_racing_claims_one_wins_and_199_are_refused(running: Running) -> None:
    await create(running)
    await start(running)
    await fail(running)
    await retry(running, immediately=True)

    outcomes = await race(running)

    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, job_pb2.Job)]
    assert await get(running) == winner
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, Refusal)] == ["TRANSITION_NOT_ALLOWED"] * 199
    assert names(await history(running))[-1] == "claimed"


async def running_jobs(running: Running, *job_ids: str) -> None:
    """Create these and start them."""
    items = [pb.CreateRequest(id=job_id, job_type="default") for job_id in job_ids]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
    await asyncio.gather(*(start(running, job_id) for job_id in job_ids))


GOOD = [f"good-{number:03}" for number in range(200)]


async def complete_all_in_one_batch(running: Running) -> list[Any]:
    """Complete the poisoned job amid 200 good ones, so that all are given to the committer at once."""
    job_ids = [*GOOD[:100], "poisoned", *GOOD[100:]]
    async with AsyncExitStack() as stack:
        # One connection has 100 calls under way at the most.
        clients = [await stack.enter_async_context(client_of(running.server.address)) for _ in range(3)]
        hold = await stack.enter_async_context(held(running.server))
        calls = [asyncio.ensure_future(complete(clients[index % 3], job_id)) for index, job_id in enumerate(job_ids)]
        await hold.has(len(job_ids))
        hold.release()
        return await asyncio.gather(*calls, return_exceptions=True)


def assert_it_alone_was_refused(answers: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """200 are OK, and what was wrong with the other is in the log alone."""
    refusal = refusal_of(answers.pop(100))
    assert refusal.brief == ("INTERNAL", "INTERNAL")
    assert "hunter2" not in f"{refusal}"
    assert {answer.state for answer in answers} == {job_pb2.JOB_STATE_COMPLETED}
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.__dict__["call_id"] == refusal.metadata["call_id"]
    assert record.exc_info is not None
    assert SECRET in str(record.exc_info[1])


async def assert_200_are_durable(path: Path) -> None:
    """Opened again, the store has them, and the poisoned job as it was."""
    async with serving(path) as running:
        states = [(await get(running, job_id)).state for job_id in GOOD]
        poisoned = await get(running, "poisoned")
        events = await history(running, "poisoned")

    assert set(states) == {job_pb2.JOB_STATE_COMPLETED}
    assert poisoned.state == job_pb2.JOB_STATE_PROCESSING
    assert names(events) == ["queued", "started"]


async def test_a_command_whose_row_the_store_refuses_is_refused_alone_among_200(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path) as running:
        await running_jobs(running, "poisoned", *GOOD)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(
                "CREATE TRIGGER poison BEFORE UPDATE ON job WHEN NEW.id = 'poisoned'"
                f" BEGIN SELECT RAISE(ABORT, '{SECRET}'); END"
            )
        answers = await complete_all_in_one_batch(running)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TRIGGER poison")

    assert_it_alone_was_refused(answers, caplog)
    await assert_200_are_durable(path)


async def test_a_command_that_cannot_be_decided_is_refused_alone_among_200(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = Decider.decide

    def decide_or_fail(decider: Decider, command: Command, view: View) -> Change | Plan | None:
        if isinstance(command, JobCommand) and command.job_id == "poisoned":
            raise RuntimeError(SECRET)
        return decide(decider, command, view)

    async with serving(path) as running:
        await running_jobs(running, "poisoned", *GOOD)
        monkeypatch.setattr(Decider, "decide", decide_or_fail)
        before = running.server.committer.counters.commits
        answers = await complete_all_in_one_batch(running)
        commits = running.server.committer.counters.commits - before
        monkeypatch.undo()

    assert_it_alone_was_refused(answers, caplog)
    assert commits == 1
    await assert_200_are_durable(path)


async def test_commands_on_one_job_in_one_batch_see_each_other(running: Running) -> None:
    await create(running)
    async with held(running.server) as hold:
        calls = [asyncio.ensure_future(start(running))]
        await hold.has(1)
        calls.append(asyncio.ensure_future(report(running, progress=40)))
        await hold.has(2)
        calls.append(asyncio.ensure_future(complete(running)))
        await hold.has(3)
        late = asyncio.ensure_future(refused(report(running, progress=50)))
        await hold.has(4)
        hold.release()
        answers = await asyncio.gather(*calls)

    assert [answer.version for answer in answers] == [2, 3, 4]
    assert (await late).reason == "TRANSITION_NOT_ALLOWED"
    assert names(await history(running)) == ["queued", "started", "progress", "completed"]


async def test_calls_that_come_during_a_commit_share_the_next_one_however_many_came_before(running: Running) -> None:
    await create(running)
    await start(running)
    await asyncio.gather(*(report(running, progress=number % 101) for number in range(BATCH_ROWS_MAX)))
    before = running.server.committer.counters.commits

    async with held(running.server) as hold:
        calls = []
        for number in range(1, 4):
            calls.append(asyncio.ensure_future(report(running, progress=number)))
            await hold.has(number)
        hold.release()
        await asyncio.gather(*calls)

    assert running.server.committer.counters.commits == before + 1


async def test_1000_concurrent_reports_commit_in_far_fewer_than_1000_transactions(running: Running) -> None:
    await create(running)
    await start(running)
    before = await running.maintenance.CheckHealth(mpb.CheckHealthRequest())

    answers = await asyncio.gather(*(report(running, progress=number % 101) for number in range(1_000)))

    after = await running.maintenance.CheckHealth(mpb.CheckHealthRequest())
    counters = running.server.committer.counters
    assert (after.commits, after.commands) == (counters.commits, counters.commands)
    assert after.commands - before.commands == 1_000
    # On a busy machine fewer arrive together.
    assert 2 <= after.commits - before.commits <= 250
    assert len({answer.version for answer in answers}) == 1_000
    last = max(answers, key=lambda job: job.version)
    assert (await get(running)).progress == last.progress


async def test_a_call_cancelled_while_it_waits_is_dropped(running: Running) -> None:
    await create(running)
    async with held(running.server) as hold:
        call = running.jobs.Start(pb.StartRequest(id="job", request_id="request-1"))
        await hold.has(1)
        call.cancel()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait(hold.submitted)
        hold.release()

    assert hold.submitted[0].cancelled()
    assert (await get(running)).state == job_pb2.JOB_STATE_QUEUED
    assert names(await history(running)) == ["queued"]
    assert running.server.committer.backlog == 0
    assert (await start(running, worker="other", request_id="request-1")).worker == "other"


async def test_a_call_cancelled_while_it_is_committed_is_done_whole(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(running)
    decide = Decider.decide
    began, gate = threading.Event(), threading.Event()

    def decide_slowly(decider: Decider, command: Command, view: View) -> Change | Plan | None:
        began.set()
        assert gate.wait(PATIENCE_S)
        return decide(decider, command, view)

    async with held(running.server) as hold:
        monkeypatch.setattr(Decider, "decide", decide_slowly)
        call = running.jobs.Start(pb.StartRequest(id="job", worker="gone", request_id="request-1"))
        await hold.has(1)
        hold.release()
        assert await asyncio.to_thread(began.wait, PATIENCE_S)
        call.cancel()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait(hold.submitted)
        gate.set()

    assert (await start(running, worker="gone", request_id="request-1")).state == job_pb2.JOB_STATE_PROCESSING
    assert names(await history(running)) == ["queued", "started"]
