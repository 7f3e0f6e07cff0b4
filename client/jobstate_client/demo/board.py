"""The board: a copy of every job, kept from nothing but the events of one watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import grpc

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import job_service_pb2_grpc as rpc
from jobstate_client.core.decoding import STATES
from jobstate_client.views.phase import Phase, phase_of

PREFIX = "processing-job."


def phase(job: job_pb2.Job) -> Phase:
    """What is happening to the job, in the words of every view."""
    return phase_of(STATES[job.state], claimed=job.claimed)


def state_name(state: job_pb2.JobState.ValueType) -> str:
    """The state as people write it: COMPLETED."""
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_")


def detail(event: event_pb2.Event) -> str:
    """What an event says beyond its kind, in a few characters."""
    job = event.job
    match event.type:
        case event_pb2.EVENT_TYPE_PROGRESS:
            return f"{job.progress} %"
        case event_pb2.EVENT_TYPE_STARTED | event_pb2.EVENT_TYPE_CLAIMED:
            return f"attempt {job.attempt}"
        case event_pb2.EVENT_TYPE_RETRYING:
            return f"in {seconds(event.retrying.delay.ToTimedelta()):g} s"
    return ""


def seconds(span: timedelta) -> float:
    """A span in seconds."""
    return span / timedelta(seconds=1)


@dataclass(slots=True)
class Overview:
    """What the watch has told so far."""

    jobs: dict[str, job_pb2.Job] = field(default_factory=dict)
    events: list[event_pb2.Event] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    """What workers have to say about a job besides, for people."""
    on_event: Callable[[event_pb2.Event], None] = lambda event: None
    began: float = field(default_factory=time.monotonic)
    watching: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the watch is in place: no event can be missed from then on."""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    async def follow(self, channel: grpc.aio.Channel) -> None:
        """Watch every event from now on; ends only by being cancelled, or with an error."""
        async for response in rpc.JobServiceStub(channel).WatchEvents(pb.WatchEventsRequest()):
            if response.kind == pb.WATCH_RESPONSE_KIND_SYNCED:
                self.watching.set()
            async with self._changed:
                for event in response.events:
                    self._take(event)
                self._changed.notify_all()

    def _take(self, event: event_pb2.Event) -> None:
        self.events.append(event)
        held = self.jobs.get(event.job.id)
        if held is None or event.job.version > held.version:
            self.jobs[event.job.id] = event.job
        self.on_event(event)

    async def until(self, job_id: str, is_so: Callable[[job_pb2.Job], bool]) -> job_pb2.Job:
        """Wait until the copy of a job is as wanted."""
        async with self._changed:
            await self._changed.wait_for(lambda: job_id in self.jobs and is_so(self.jobs[job_id]))
            return self.jobs[job_id]
