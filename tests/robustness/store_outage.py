"""PostgreSQL is stopped under load, and comes back: what callers are told meanwhile, and what is there afterwards.

``python -m tests.robustness.store_outage --seconds 10`` is the long form.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.durations import SECOND

from ..support.calls import span
from ..support.postgres import own_server
from ..support.waiting import pause
from .clients import CALL_TIMEOUT_S, Shared, Stubs
from .endgame import gather_final_state
from .history import ANSWERED, REFUSED, UNKNOWN, Call, History, Policy, Watcher
from .process import PATIENCE_S
from .recording import Ending, Recorder, ending_of, state_name
from .torture import MEMORY_GROWTH_MAX_KIB, Scene
from .validators import broken
from .watchers import EARLIEST, Counts, Watching

REPLICAS = 2
CALLERS = 16

ANSWERS = 10
"""Changes answered to each caller before PostgreSQL goes, and after it has come back."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

DUE = "due-meanwhile"
"""The job whose retry falls due while PostgreSQL is away, and its type."""


@dataclass
class Outage:
    """What came of it."""

    history: History
    endings: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Code and reason of the calls that were made, and ended, while PostgreSQL was away."""
    without_delay: list[Ending] = field(default_factory=list)
    """Of these, STORE_UNAVAILABLE that did not say when to come back."""
    answered: Counter[str] = field(default_factory=Counter)
    """Calls answered before, and after."""

    @property
    def told(self) -> str:
        """As text."""
        endings = ", ".join(f"{count:,} {code} {reason}" for (code, reason), count in sorted(self.endings.items()))
        unknown = sum(call.outcome == UNKNOWN for call in self.history.calls)
        return (
            f"{self.answered['before']:,} calls answered before; meanwhile {endings or 'none'};"
            f" {self.answered['after']:,} answered after; {unknown:,} of unknown outcome"
        )


class Caller:
    """Reports progress on a job of its own and reads it, at one replica, whatever it is told."""

    def __init__(self, name: str, stubs: Stubs, shared: Shared, outage: Outage) -> None:
        self.phase = "before"
        self.has_enough = asyncio.Event()
        """Enough changes were answered in this phase."""
        self._answers = 0
        self._job_id = name
        self._stubs = stubs
        self._shared = shared
        self._outage = outage

    def enter(self, phase: str) -> None:
        """Count anew. A call that began before counts for neither phase."""
        self.phase = phase
        self._answers = 0
        self.has_enough.clear()

    async def run(self) -> None:
        """Create the job and start it; then report until the run stops."""
        mark = self._shared.mark()
        await self._make("Create", pb.CreateRequest(id=self._job_id, job_type="default"), "")
        await self._make("Start", pb.StartRequest(id=self._job_id, worker=mark), mark)
        while not self._shared.stopping.is_set():
            mark = self._shared.mark()
            request = pb.UpdateProgressRequest(id=self._job_id, attempt=1, message=mark)
            await self._make("UpdateProgress", request, mark)
            await self._make("Get", pb.GetRequest(id=self._job_id), "")

    async def _make(self, rpc: str, request: Message, mark: str) -> None:
        call = Call(rpc, self._job_id, UNKNOWN, marker=mark, changes=rpc != "Get", invoked=Shared.now())
        phase = self.phase
        try:
            job: job_pb2.Job = (await getattr(self._stubs.jobs, rpc)(request, timeout=CALL_TIMEOUT_S)).job
        except grpc.aio.AioRpcError as error:
            ending = ending_of(error)
            is_open = ending.is_unknown or not ending.reason
            call.outcome = UNKNOWN if is_open else REFUSED
            call.code, call.reason = ending.code, ending.reason
            if phase == self.phase == "meanwhile":
                self._outage.endings[ending.code, ending.reason] += 1
            if ending.reason == "STORE_UNAVAILABLE" and not ending.retry_delay_s:
                self._outage.without_delay.append(ending)
            await pause(ending.retry_delay_s or 0.1)
        else:
            call.outcome, call.code, call.version, call.attempt = ANSWERED, "OK", job.version, job.attempt
            call.state = state_name(job.state)
            if phase == self.phase:
                self._outage.answered[phase] += 1
                self._answers += call.changes
                if self._answers >= ANSWERS:
                    self.has_enough.set()
        call.returned = Shared.now()
        self._shared.calls.append(call)


class Health:
    """What the replicas say of themselves."""

    def __init__(self, stubs: list[Stubs]) -> None:
        made: list[Any] = [health_pb2_grpc.HealthStub(each.channel) for each in stubs]
        self._watches = [stub.Watch for stub in made]

    async def becomes(self, wanted: int) -> None:
        """Wait until every replica says so. Each may have to wait for PostgreSQL, and for those before it."""
        async with asyncio.timeout(len(self._watches) * PATIENCE_S):
            for watch in self._watches:
                call = watch(health_pb2.HealthCheckRequest())
                async for told in call:
                    if told.status == wanted:
                        break
                call.cancel()


async def _fail_a_job(stubs: Stubs, due_in_s: float) -> None:
    """Leave a job whose retry falls due after this time."""
    await stubs.jobs.Create(pb.CreateRequest(id=DUE, job_type=DUE))
    await stubs.jobs.Start(pb.StartRequest(id=DUE))
    await stubs.jobs.Fail(pb.FailRequest(id=DUE, error=pb.FailureReport(code="X"), retry_delay=span(due_in_s)))


async def _is_resumed(stubs: Stubs) -> None:
    """Wait until the server has resumed that job."""
    request = pb.WatchEventsRequest(job_ids=[DUE], start=pb.WATCH_START_EARLIEST)
    call = stubs.jobs.WatchEvents(request)
    async with asyncio.timeout(PATIENCE_S):
        async for response in call:
            if any(event.job.attempt == 2 for event in response.events):
                break
    call.cancel()


async def run(scene: Scene, outage_s: float) -> Outage:
    """Load, no PostgreSQL for a while, load; then everything is looked at."""
    assert scene.database is not None
    recorder, rng = Recorder(), random.Random(0)
    history = History(
        store="postgres",
        # The worker says how long to wait, so it is not what the server was told of the type.
        policies={DUE: Policy(base_delay=round(outage_s / 2 * SECOND))},
        positions=recorder.positions,
        memory_growth_max_kib=MEMORY_GROWTH_MAX_KIB,
    )
    outage = Outage(history)
    try:
        await scene.start()
        shared = Shared([server.address for server in scene.servers], recorder, calls=history.calls)
        async with shared.stack, asyncio.TaskGroup() as group:
            everywhere = await shared.stubs()
            await _fail_a_job(everywhere[0], outage_s / 2)
            callers = [
                Caller(f"job-{index}", everywhere[index % len(everywhere)], shared, outage) for index in range(CALLERS)
            ]
            history.watchers.append(Watcher("everything"))
            args = (EARLIEST, shared, everywhere, rng, Counts())
            watching = group.create_task(Watching(history.watchers[0], *args).run())
            for caller in callers:
                group.create_task(caller.run())
            health = Health(everywhere)
            await _all_answered(callers)
            await scene.database.stop()
            _enter(callers, "meanwhile")
            await asyncio.gather(pause(outage_s), health.becomes(NOT_SERVING))
            # Whoever is answered from here on, and before this is told, belongs to neither.
            _enter(callers, "between")
            await scene.database.start()
            _enter(callers, "after")
            await asyncio.gather(health.becomes(SERVING), _all_answered(callers), _is_resumed(everywhere[-1]))
            shared.stopping.set()
            watching.cancel()
        await gather_final_state(scene.servers, history, recorder, rng)
    finally:
        await scene.stop()
    return outage


def _enter(callers: list[Caller], phase: str) -> None:
    for caller in callers:
        caller.enter(phase)


async def _all_answered(callers: list[Caller]) -> None:
    """Wait until each caller has had enough changes answered in this phase."""
    async with asyncio.timeout(PATIENCE_S):
        for caller in callers:
            await caller.has_enough.wait()


def main() -> int:
    """Read the command line, and take PostgreSQL away."""
    parser = argparse.ArgumentParser(description="Stop PostgreSQL under load for a while.")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with own_server() as postgres, tempfile.TemporaryDirectory(prefix="store-outage-") as name:
        outage = asyncio.run(run(Scene.of_replicas(Path(name), postgres, REPLICAS), options.seconds))
    print(outage.told)
    problems = broken(outage.history)
    print(problems or "every promise held")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
