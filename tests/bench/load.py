"""The load generator's process, and the handle that the benchmark holds of it.

It is a process of its own so that its work is not on the benchmark's hands, and several can be had: one publishes while
another watches. It does what it is told over a pipe, and keeps its watches alive in between.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import Any, Self, TypeVar

from jobstate.v1 import job_service_pb2 as pb

from . import drivers
from .drivers import Tally
from .http2 import Broken
from .limited import limited_workers
from .messages import Request
from .parked import ParkedWorkers, hand_out_race, paced
from .processes import cpu_seconds
from .samples import Sample
from .watching import Watchers, race, read_to_end
from .workers import Plan, Worked, calling_workers, stream_workers

T = TypeVar("T")


class Refused(Exception):
    """A server did not answer well what it was to answer well: the sample is worth nothing."""


class _Worker:
    """What the process can be told to do."""

    def __init__(self) -> None:
        self.watchers: Watchers | ParkedWorkers | None = None

    def calls(self, *arguments: Any, **options: Any) -> Tally:
        return drivers.calls(*arguments, **options)

    def batches(self, address: str, streams: Sequence[Sequence[bytes]], under_way: int) -> Tally:
        tally, answers = drivers.batches(address, streams, under_way=under_way)
        for answer in answers:
            for outcome in pb.StreamUpdatesResponse.FromString(answer).outcomes:
                if outcome.HasField("refusal"):
                    tally.refuse(f"{outcome.id}: {outcome.refusal.message}")
                else:
                    tally.answered += 1
        return tally

    def race(self, *arguments: Any) -> tuple[Tally, list[float]]:
        return race(*arguments)

    def watch(self, address: str, requests: Sequence[bytes], connections: int) -> None:
        self.watchers = Watchers(address, requests, connections)

    def stream_workers(self, address: str, plan: Plan, **options: int) -> Worked:
        return stream_workers(address, plan, **options)

    def calling_workers(self, address: str, plan: Plan, **options: int) -> Worked:
        return calling_workers(address, plan, **options)

    def hand_out_race(self, address: str, job_ids: Sequence[str]) -> tuple[Tally, list[float]]:
        return hand_out_race(address, job_ids)

    def limited_workers(self, address: str, jobs: int, **options: float) -> Tally:
        return limited_workers(address, jobs, **options)

    def paced(self, address: str, requests: Sequence[Request], per_second: float) -> Tally:
        return paced(address, requests, per_second)

    def park(self, address: str, count: int) -> None:
        self.watchers = ParkedWorkers(address, count)

    def read_to_end(self, address: str, request: bytes) -> tuple[int, float, float]:
        return read_to_end(address, request)

    def close_watches(self) -> None:
        if self.watchers is not None:
            self.watchers.close()
        self.watchers = None

    def of_watches(self, name: str, *arguments: Any) -> Any:
        assert self.watchers is not None
        return getattr(self.watchers, name)(*arguments)


def _work(pipe: Pipe) -> None:
    worker = _Worker()
    poller = None
    while True:
        watchers = worker.watchers
        if watchers is not None and not pipe.poll():
            if poller is not watchers.poller:
                poller = watchers.poller
                poller.also(pipe.fileno())
            # Somebody has to answer the server's pings while nothing is asked of us.
            with suppress(Broken):
                poller.run(pipe.poll, 3600.0)
                continue
            worker.close_watches()
        try:
            name, arguments, options = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((None, getattr(worker, name)(*arguments, **options)))
        except Exception as error:
            pipe.send((f"{type(error).__name__}: {error}", None))


class Load:
    """A load process."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(5)
        self._process.kill()

    def begin(self, name: str, *arguments: Any, **options: Any) -> None:
        """Tell it to do something; ``result`` waits for what came of it."""
        self._pipe.send((name, arguments, options))

    def result(self) -> Any:
        """What came of what was begun.

        Raises:
            Refused: it failed.
        """
        problem, value = self._pipe.recv()
        if problem is not None:
            raise Refused(problem)
        return value

    def ask(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Tell it to do something and wait."""
        self.begin(name, *arguments, **options)
        return self.result()

    def cpu(self) -> float:
        """Processor time it has taken, in seconds."""
        assert self._process.pid is not None
        return cpu_seconds(self._process.pid)

    def calls(
        self,
        address: str,
        chains: Sequence[Sequence[Request]],
        *,
        connections: int = 4,
        in_flight: int = 64,
        seconds: float | None = None,
    ) -> Sample:
        """Unary calls; one operation is one call."""
        options = {"connections": connections, "in_flight": in_flight, "seconds": seconds}
        return sample(self.ask("calls", address, chains, **options))

    def batches(self, address: str, streams: Sequence[Sequence[bytes]], under_way: int = 4) -> Sample:
        """StreamUpdates; one operation is one update."""
        return sample(self.ask("batches", address, streams, under_way))


def sample(tally: Tally) -> Sample:
    """The sample in a tally. Raises Refused when anything was not answered well."""
    if tally.refused:
        raise Refused(f"{tally.refused} were not answered well, among them: {'; '.join(tally.problems)}")
    return Sample(tally.answered, tally.seconds, 0.0, tally.cpu, tally.began, tally.took)
