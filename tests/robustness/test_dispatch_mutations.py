"""Ways to break the hand-out on purpose, and the validator that catches each.

Every scenario is run twice, as the server is and with the defect put in: what goes red then shows that the promise is
held by the code and not by luck, and that its validator looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobstate_server.domain import commands as c
from jobstate_server.domain import dispatch_order
from jobstate_server.domain.durations import HOUR, MINUTE, SECOND
from jobstate_server.domain.errors import TransitionNotAllowed
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules import create as create_rules
from jobstate_server.domain.rules import release as release_rules
from jobstate_server.domain.rules.attempt import end_attempt
from jobstate_server.domain.rules.context import Draft
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.domain.rules.ready import set_beginning
from jobstate_server.domain.statistics import TallyCounter
from jobstate_server.domain.waiting import Priority, is_running
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.dispatcher import Dispatcher, Turn
from jobstate_server.engine.outcomes import Verdict
from jobstate_server.engine.parked_acquires import WaitingAcquire
from jobstate_server.store.sqlite import ready_jobs

from ..support.calls import struct
from .history import History
from .rig import Rig, complete, create, release, rigged, start
from .validators import broken

Defect = Callable[[pytest.MonkeyPatch], None]
"""Puts a defect into the server."""


def tells_all_who_wait(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits is told of a job, and not only who it was handed out to."""
    serve_repeats = Dispatcher._serve_repeats

    def serve(self: Dispatcher, batch: Batch, call: WaitingAcquire, turn: Turn) -> None:
        serve_repeats(self, batch, call, turn)
        verdict: Verdict = turn.handed[-1][1]
        turn.handed += [(other, verdict) for other in self._parked.take(call.command.job_types, 1)]

    patch.setattr(Dispatcher, "_serve_repeats", serve)


def takes_priorities_the_other_way(patch: pytest.MonkeyPatch) -> None:
    """A larger priority means later."""
    _order_by(patch, lambda ready_time, level, step: ready_time + level * step)


def goes_by_priority_alone(patch: pytest.MonkeyPatch) -> None:
    """However long a job has waited, one of higher priority goes first."""
    _order_by(patch, lambda ready_time, level, step: ready_time - level * 2**61)


def _order_by(patch: pytest.MonkeyPatch, score: Callable[[int, int, int], int]) -> None:
    patch.setattr(dispatch_order, "score", score)
    patch.setattr(ready_jobs, "score", score)


def forgets_delays(patch: pytest.MonkeyPatch) -> None:
    """A job with a delay can be handed out at once."""

    def begin_at_once(job: Job, command: c.Create, now: int) -> None:
        set_beginning(job, command, now)
        job.held = False

    patch.setattr(create_rules, "set_beginning", begin_at_once)


def forgets_what_it_gave(patch: pytest.MonkeyPatch) -> None:
    """A repeat is carried out as a call of its own."""
    patch.setattr(Batch, "_add_call", lambda self, stored: None)


def counts_releases_as_retries(patch: pytest.MonkeyPatch) -> None:
    """A release uses up a retry."""

    def ends(draft: Draft, *args: Any) -> None:
        end_attempt(draft, *args)
        draft.move().retry_count += 1

    patch.setattr(release_rules, "end_attempt", ends)


def loses_the_wake_up(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits is not told of what becomes ready."""
    patch.setattr(Dispatcher, "serve", lambda *_: None)


def keeps_jobs_for_workers(patch: pytest.MonkeyPatch) -> None:
    """What waits for its turn cannot be begun by hand."""
    change = Decider.change

    def changes(self: Decider, job: Job | None, command: c.JobCommand, now: int) -> Change | None:
        if job is not None and isinstance(command, c.Start) and job.state is JobState.QUEUED:
            raise TransitionNotAllowed(job.id, job.state.name, Trigger.START.value, ())
        return change(self, job, command, now)

    patch.setattr(Decider, "change", changes)


def miscounts_what_runs(patch: pytest.MonkeyPatch) -> None:
    """A hand-out is not counted."""
    add = TallyCounter.add

    def adds(self: TallyCounter, counted: Change) -> None:
        if not is_running(counted.after):
            add(self, counted)

    patch.setattr(TallyCounter, "add", adds)


async def has_two_who_wait_for_one_job(rig: Rig) -> None:
    """Two wait, one job comes."""
    calls = [asyncio.create_task(rig.acquire(worker, wait=MINUTE)) for worker in ("one", "other")]
    await rig.waiting(2)
    await rig.call(create("job"))
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    rig.clock.advance(MINUTE)
    await asyncio.gather(*calls)


async def has_an_urgent_job_after_another(rig: Rig) -> None:
    """The urgent one comes a minute later, and goes first."""
    await rig.call(create("normal"))
    rig.clock.advance(MINUTE)
    await rig.call(create("urgent", level=Priority.URGENT))
    for worker in ("one", "other"):
        await rig.acquire(worker)


async def has_an_urgent_job_after_one_that_has_waited(rig: Rig) -> None:
    """The urgent one comes hours later, and goes last."""
    await rig.call(create("low", level=Priority.LOW))
    rig.clock.advance(3 * HOUR)
    await rig.call(create("urgent", level=Priority.URGENT))
    for worker in ("one", "other"):
        await rig.acquire(worker)


async def is_asked_for_a_delayed_job(rig: Rig) -> None:
    """There is nothing but a job whose delay is not over."""
    told = struct(delay_us=MINUTE).SerializeToString()
    await rig.call(create("job", delay=MINUTE, metadata=told))
    await rig.acquire("worker")


async def is_asked_again(rig: Rig) -> None:
    """A call is repeated, because its answer was lost."""
    for job_id in ("first", "second"):
        await rig.call(create(job_id))
    for _ in range(2):
        await rig.acquire("worker", request_id="request-1")


async def gets_a_job_back(rig: Rig) -> None:
    """A worker releases what it got, and another finishes it."""
    await rig.call(create("job"))
    await rig.acquire("one")
    await rig.call(release("job", 1))
    await rig.acquire("other")
    await rig.call(c.Complete(job_id="job", attempt=2))


async def is_waited_at(rig: Rig) -> None:
    """A call waits while a job comes, until its time is up."""
    waiting = asyncio.create_task(rig.acquire("worker", wait=10 * SECOND))
    await rig.waiting(1)
    await rig.call(create("job"))
    for _ in range(10):
        rig.clock.advance(SECOND)
        await asyncio.sleep(0)
    await waiting


async def has_a_worker_of_each_kind(rig: Rig) -> None:
    """One job is begun by hand, and another is asked for."""
    for job_id in ("by-hand", "asked-for"):
        await rig.call(create(job_id))
    with suppress(TransitionNotAllowed):
        await rig.call(start("by-hand"))
        await rig.call(complete("by-hand"))
    await rig.acquire("worker")


@dataclass(frozen=True)
class DispatchMutation:
    """A defect, what brings it out, and who catches it."""

    name: str
    scenario: Callable[[Rig], Awaitable[None]]
    defect: Defect
    caught_by: set[str]


MUTATIONS = [
    DispatchMutation(
        "P1: tell all who wait of one job",
        has_two_who_wait_for_one_job,
        tells_all_who_wait,
        {"handed_once", "repeatable"},
    ),
    DispatchMutation(
        "P2: take priorities the other way",
        has_an_urgent_job_after_another,
        takes_priorities_the_other_way,
        {"in_turn"},
    ),
    DispatchMutation(
        "P3: go by priority alone",
        has_an_urgent_job_after_one_that_has_waited,
        goes_by_priority_alone,
        {"in_turn", "aged"},
    ),
    DispatchMutation("P8: forget delays", is_asked_for_a_delayed_job, forgets_delays, {"not_early", "in_turn"}),
    DispatchMutation("P9: forget what it gave to a call", is_asked_again, forgets_what_it_gave, {"repeatable"}),
    DispatchMutation("P10: count releases as retries", gets_a_job_back, counts_releases_as_retries, {"released"}),
    DispatchMutation("P11: lose the wake-up", is_waited_at, loses_the_wake_up, {"conserved"}),
    DispatchMutation("P19: keep jobs for workers", has_a_worker_of_each_kind, keeps_jobs_for_workers, {"by_hand"}),
    DispatchMutation("P20: miscount what runs", gets_a_job_back, miscounts_what_runs, {"tallied"}),
]

OF_EACH = pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])


async def history_of(path: Path, mutation: DispatchMutation) -> History:
    """What a scenario leaves, as a server started again on the same file finds it."""
    async with rigged(path) as rig:
        await mutation.scenario(rig)
    return rig.history()


@OF_EACH
async def test_the_server_as_it_is_keeps_every_promise_of_dispatch_when_it(
    mutation: DispatchMutation, tmp_path: Path
) -> None:
    assert broken(await history_of(tmp_path / "jobs.db", mutation)) == {}


@OF_EACH
async def test_validators_of_dispatch_catch_a_server_made_to(
    mutation: DispatchMutation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation.defect(monkeypatch)

    assert set(broken(await history_of(tmp_path / "jobs.db", mutation))) == mutation.caught_by
