"""The calls of Acquire that wait until a job is ready.

The committer's thread parks a call that found nothing, and takes it out again when a later batch makes a job of its
types ready. Because one thread does both, no job can become ready unseen in between. The event loop only withdraws
calls: their time is up, their caller has gone, the server is stopping. A lock decides who was first.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable
from itertools import count, islice

from jobstate_server.domain.commands import Acquire
from jobstate_server.domain.errors import JobStateError
from jobstate_server.domain.job import Job
from jobstate_server.engine.outcomes import Outcome, Verdict


class WaitingAcquire:
    """A call of Acquire, from its arrival to its answer."""

    __slots__ = ("command", "future", "number", "withdrawn")

    def __init__(self, command: Acquire, future: asyncio.Future[Outcome], withdrawn: Verdict | None = None) -> None:
        self.command = command
        self.future = future
        self.number = 0
        """The order of arrival among the calls that wait. 0 until the call has been parked."""
        self.withdrawn = withdrawn
        """What to answer when there is still nothing. None while the call waits."""

    def finish(self, verdict: Verdict) -> tuple[Job, ...]:
        """Answer the call. Returns the jobs that cannot be delivered because nobody waits for the answer any more.

        With a request id they are kept for the repeat.
        """
        jobs = verdict.jobs if isinstance(verdict, Outcome) else ()
        if self.future.done():
            return jobs if self.command.request is None else ()
        has_nothing = isinstance(verdict, Outcome) and not jobs
        answer = self.withdrawn if has_nothing and self.withdrawn is not None else verdict
        if isinstance(answer, JobStateError):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)
        return ()


class ParkedAcquires:
    """The waiting calls of a server, by job type, first come first served. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._by_type: dict[str, OrderedDict[int, WaitingAcquire]] = {}
        self._by_request: dict[tuple[str, str], dict[int, WaitingAcquire]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, job_type: object) -> bool:
        """Whether a call waits for jobs of this type."""
        return job_type in self._by_type

    def waiting(self, job_type: str) -> int:
        """How many calls wait for jobs of this type."""
        return len(self._by_type.get(job_type, ()))

    @property
    def job_types(self) -> list[str]:
        """The types that calls wait for."""
        with self._lock:
            return list(self._by_type)

    def wanted(self, limit: int) -> dict[tuple[str, ...], int]:
        """How many jobs the waiting calls want, up to ``limit`` of each combination of types."""
        wanted: dict[tuple[str, ...], int] = {}
        with self._lock:
            calls = {call.number: call for calls in self._by_type.values() for call in calls.values()}
        for call in calls.values():
            types = call.command.job_types
            wanted[types] = min(limit, wanted.get(types, 0) + call.command.max_jobs)
        return wanted

    def wanted_of(self, job_type: str, limit: int) -> int:
        """How many jobs the calls that wait for this type want, up to ``limit``."""
        count = 0
        with self._lock:
            for call in self._by_type.get(job_type, {}).values():
                count += call.command.max_jobs
                if count >= limit:
                    return limit
        return count

    def park(self, call: WaitingAcquire) -> bool:
        """Let the call wait, behind those that came before it. False if it has been withdrawn."""
        with self._lock:
            if call.withdrawn is not None or call.future.done():
                return False
            call.number = call.number or next(self._numbers)
            self._count += 1
            for name in call.command.job_types:
                _insert(self._by_type.setdefault(name, OrderedDict()), call)
            request = call.command.request
            if request is not None:
                self._by_request.setdefault(request.key, {})[call.number] = call
            return True

    def unpark(self, call: WaitingAcquire) -> None:
        """Undo ``park``: the batch that parked the call was not kept."""
        with self._lock:
            if self._is_waiting(call):
                self._remove(call)
            call.number = 0

    def _is_waiting(self, call: WaitingAcquire) -> bool:
        return call.number in self._by_type.get(call.command.job_types[0], ())

    def take(self, job_types: Collection[str], limit: int) -> list[WaitingAcquire]:
        """Take out at most ``limit`` calls that want jobs of these types, in the order of arrival."""
        taken: list[WaitingAcquire] = []
        with self._lock:
            while len(taken) < limit:
                queues = [self._by_type[name] for name in job_types if name in self._by_type]
                if not queues:
                    break
                first = min((next(iter(calls.values())) for calls in queues), key=lambda call: call.number)
                self._remove(first)
                taken.append(first)
        return taken

    def request_keys(self, limit: int) -> list[tuple[str, str]]:
        """The request ids of calls that wait: at most so many, the first that came."""
        with self._lock:
            return list(islice(self._by_request, limit))

    def take_repeats(self, key: tuple[str, str]) -> list[WaitingAcquire]:
        """Take out the calls with this request id: repeats of a call that has got its jobs."""
        with self._lock:
            calls = list(self._by_request.get(key, {}).values())
            for call in calls:
                self._remove(call)
            return calls

    def put_back(self, calls: Iterable[WaitingAcquire]) -> list[WaitingAcquire]:
        """Let these calls, which were taken out, wait again in their old places. Returns those withdrawn meanwhile."""
        in_order = sorted(calls, key=lambda call: call.number, reverse=True)
        return [call for call in in_order if not self.park(call)]

    def _remove(self, call: WaitingAcquire) -> None:
        self._count -= 1
        for name in call.command.job_types:
            calls = self._by_type[name]
            del calls[call.number]
            if not calls:
                del self._by_type[name]
        if call.command.request is not None:
            key = call.command.request.key
            repeats = self._by_request[key]
            del repeats[call.number]
            if not repeats:
                del self._by_request[key]

    def withdraw(self, call: WaitingAcquire, answer: Verdict) -> bool:
        """Let the call wait no longer. True if it was waiting.

        Otherwise a batch has it: it gets what that batch has for it, or else ``answer``.
        """
        with self._lock:
            call.withdrawn = answer
            if not self._is_waiting(call):
                return False
            self._remove(call)
            return True

    def withdraw_all(self, answer: JobStateError) -> list[WaitingAcquire]:
        """Let no call wait any longer. Returns those that were waiting."""
        with self._lock:
            calls = {call.number: call for calls in self._by_type.values() for call in calls.values()}
            for call in calls.values():
                call.withdrawn = answer
                self._remove(call)
            return [calls[number] for number in sorted(calls)]


def _insert(calls: OrderedDict[int, WaitingAcquire], call: WaitingAcquire) -> None:
    """Insert a call in its place. A new one comes last, and one that was taken out is usually the first."""
    last = next(reversed(calls), 0)
    calls[call.number] = call
    if call.number < last:
        calls.move_to_end(call.number, last=False)
        if list(islice(calls, 2)) != sorted(islice(calls, 2)):
            for number in sorted(calls):
                calls.move_to_end(number)
