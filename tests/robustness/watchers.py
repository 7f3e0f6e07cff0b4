"""Watchers of a run, of every kind, writing down all that they are sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc

from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import span
from ..support.waiting import pause
from .clients import CALL_TIMEOUT_S, PRIVATE, Shared, Stubs
from .history import Stream, Watcher
from .recording import ending_of, event_type


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How a watcher behaves."""

    start: str = "LATEST"
    """Where it begins when it has no cursor."""
    snapshot: bool = False
    until_final: bool = False
    leaves: float = 0.0
    """How likely it breaks off after a response, to resume."""
    looks_back: bool = False
    """Whether it then resumes from any of its last cursors, and not always from the newest."""
    slow_s: float = 0.0
    """How long it takes over a response."""
    away_s: float = 0.0
    """How long it stays away before it resumes."""
    heartbeat_s: float = 0.02


class Counts:
    """What watchers met."""

    def __init__(self) -> None:
        self.opened = 0
        self.resumed = 0
        self.expired = 0
        self.drained = 0
        self.moved = 0
        """Resumes at another replica than the one that gave the cursor."""


class Watching:
    """One watcher at work."""

    def __init__(
        self,
        record: Watcher,
        habits: Habits,
        shared: Shared,
        stubs: Sequence[Stubs],
        rng: random.Random,
        counts: Counts,
    ) -> None:
        """``stubs``: of every replica. Each stream is opened at any of them.

        Only who leaves soon goes to the first: so there are moments when it serves calls and nobody watches there.
        """
        self.record = record
        self.habits = habits
        self._shared = shared
        self._stubs = stubs if habits.leaves >= RESTLESS.leaves else stubs[1:] or stubs
        self._at = self._stubs[0]
        self._rng = rng
        self._counts = counts
        self._again = False
        """Whether what comes next continues the last stream."""

    async def run(self) -> None:
        """Watch, and go on wherever it was broken off, until the run stops."""
        while not self._shared.stopping.is_set():
            stream = self._next_stream()
            if stream is None:
                await pause(0.05)
                continue
            stream.opened = Shared.now()
            self.record.streams.append(stream)
            self._counts.opened += 1
            self._counts.resumed += stream.start == "CURSOR"
            before, self._at = self._at, self._rng.choice(self._stubs)
            self._counts.moved += stream.start == "CURSOR" and self._at is not before
            await self._read(stream)
            self._after(stream)
            await pause(self._rng.uniform(0.0, max(0.05, self.habits.away_s)))

    def _next_stream(self) -> Stream | None:
        habits = self.habits
        stream = Stream(habits.start, snapshot=habits.snapshot, until_final=habits.until_final)
        # Some jobs never become final: then others are watched.
        goes_on = self._again and not (habits.until_final and self._rng.random() < 0.2)
        if goes_on:
            place = self._place()
            if place is not None:
                index, response = place
                cursor = self.record.streams[index].responses[response].cursor
                stream = replace(stream, start="CURSOR", cursor=cursor, resumed_from=place, snapshot=False)
        if habits.until_final:
            stream.job_ids = self.record.streams[-1].job_ids if goes_on else self._some_jobs()
            return stream if stream.job_ids else None
        return stream

    def _some_jobs(self) -> tuple[str, ...]:
        known = self._shared.job_ids[-60:]
        return tuple(sorted(self._rng.sample(known, k=min(len(known), self._rng.randrange(1, 3)))))

    def _place(self) -> tuple[int, int] | None:
        """A response whose cursor to resume from: the newest, or one of the last few."""
        places: list[tuple[int, int]] = []
        for index in range(len(self.record.streams) - 1, -1, -1):
            stream = self.record.streams[index]
            found = [(index, number) for number, response in enumerate(stream.responses) if response.cursor]
            places.extend(reversed(found))
            if len(places) > 8 or stream.start != "CURSOR":
                break
        if not places:
            return None
        return self._rng.choice(places[:8]) if self.habits.looks_back else places[0]

    async def _read(self, stream: Stream) -> None:
        call = self._at.jobs.WatchEvents(request_of(self.record, stream, self.habits))
        responses = aiter(call)
        try:
            while True:
                # Heartbeats come all the time: a server that is silent for so long is frozen, or gone.
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    message = await anext(responses)
                stream.responses.append(self._shared.recorder.response(message, Shared.now()))
                if self._rng.random() < self.habits.leaves or self._shared.stopping.is_set():
                    stream.code = "LEFT"
                    return
                if self.habits.slow_s:
                    await pause(self._rng.uniform(0, self.habits.slow_s))
        except StopAsyncIteration:
            stream.code = "OK"
        except TimeoutError:
            stream.code = "LEFT"
        except grpc.aio.AioRpcError as error:
            ending = ending_of(error)
            stream.code, stream.reason = ending.code, ending.reason
            stream.oldest_cursor = self._shared.recorder.note_cursor(ending.oldest_cursor)
        except asyncio.CancelledError:
            stream.code = "LEFT"
            raise
        finally:
            call.cancel()

    def _after(self, stream: Stream) -> None:
        self._counts.drained += stream.reason == "DRAINING"
        # Who is told that a cursor has expired begins again; a watch that was done or refused does too.
        self._again = stream.code in {"LEFT", "UNAVAILABLE", "CANCELLED"}
        if stream.reason == "CURSOR_EXPIRED":
            self._counts.expired += 1
            self.habits = replace(self.habits, snapshot=self.habits.start != "EARLIEST" or self.habits.snapshot)


def request_of(record: Watcher, stream: Stream, habits: Habits) -> pb.WatchEventsRequest:
    """The request that opens a stream."""
    request = pb.WatchEventsRequest(
        job_ids=stream.job_ids or record.job_ids,
        job_types=record.job_types,
        source_ids=record.source_ids,
        types=[event_type(name) for name in record.types],
        labels=dict(label.split("=", 1) for label in record.labels),
        snapshot=stream.snapshot,
        until_final=stream.until_final,
        heartbeat_interval=span(habits.heartbeat_s),
        progress=pb.WATCH_PROGRESS_LATEST if record.latest_progress else pb.WATCH_PROGRESS_ALL,
    )
    if not stream.follow:
        request.follow = False
    if stream.start == "CURSOR":
        request.cursor = stream.cursor
    else:
        request.start = pb.WATCH_START_EARLIEST if stream.start == "EARLIEST" else pb.WATCH_START_LATEST
    return request


EARLIEST = Habits(start="EARLIEST")
RESTLESS = Habits(start="EARLIEST", leaves=0.1, looks_back=True)
SLOW = Habits(start="EARLIEST", slow_s=0.4)
COPY = Habits(snapshot=True, leaves=0.02)
QUIET = Habits(leaves=0.01)
PATIENT = Habits(until_final=True, leaves=0.02)

KINDS: Mapping[str, tuple[Habits, dict[str, Any]]] = {
    "everything": (EARLIEST, {}),
    "latest": (Habits(), {}),
    "restless": (RESTLESS, {}),
    "restless-type": (RESTLESS, {"job_types": ("quick",)}),
    "slow": (SLOW, {}),
    "slow-latest": (SLOW, {"latest_progress": True}),
    "absent": (Habits(start="EARLIEST", leaves=0.05, away_s=4.0), {}),
    "absent-type": (Habits(leaves=0.05, away_s=4.0), {"job_types": ("quick",)}),
    "job-type": (EARLIEST, {"job_types": ("resting", "steady")}),
    "source": (QUIET, {"source_ids": ("source-1", "source-3")}),
    "types": (QUIET, {"types": ("QUEUED", "CANCELLED", "DELETED")}),
    "rare": (Habits(start="EARLIEST", leaves=0.005), {"types": ("STALE_DETECTED",), "source_ids": ("source-2",)}),
    "jobs": (EARLIEST, {"job_ids": tuple(f"client-{client}-{job}" for client in range(4) for job in range(1, 40))}),
    "copy": (COPY, {}),
    "copy-type": (COPY, {"job_types": ("quick",)}),
    "progress": (RESTLESS, {"latest_progress": True}),
    "progress-type": (EARLIEST, {"latest_progress": True, "job_types": ("steady",)}),
    "label": (EARLIEST, {"labels": ("tenant=acme",)}),
    "labels-restless": (RESTLESS, {"labels": ("kind=single", "tenant=Zoë")}),
    "labels-latest": (SLOW, {"labels": ("tenant=",), "latest_progress": True}),
    "label-copy": (COPY, {"labels": ("tenant=acme",), "job_types": ("quick", "shared", "grouped")}),
    "private": (RESTLESS, {"source_ids": tuple(f"{PRIVATE}{number}" for number in range(100))}),
    "private-copy": (COPY, {"source_ids": tuple(f"{PRIVATE}{number}" for number in range(100))}),
    "until-final": (PATIENT, {}),
    "until-final-restless": (replace(PATIENT, leaves=0.1), {}),
    "until-final-types": (PATIENT, {"types": ("PROGRESS",)}),
}
"""Every kind of watcher, by name."""
