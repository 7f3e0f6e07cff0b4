"""UpdateProgress while the server has something else to do: a cleanup, a snapshot, retries that fall due together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as maintenance
from jobstate.v1 import maintenance_service_pb2_grpc

from .. import messages
from ..bench import Bench, Untrue, wait
from ..load import Load
from ..processes import JobServer, Target
from ..samples import Finding, Sample, ratios, spread

_P99 = 0.99
_BULK_LIMIT = 3.0
_SNAPSHOT_LIMIT = 5.0
_THROUGHPUT_MIN = 0.75
_RESUMED_WITHIN_S = 8.0
_FAILED_A_SECOND = 1_500
"""Fewer than can be made to fail in a second, so that all have failed before the first is due."""


def reported(bench: Bench, target: Target, job_ids: list[str], seconds: float) -> Sample:
    """Reports for some time. Commands of the server's own are under way too, so the log's reports are the witness."""
    chains = [messages.progress_call(job_id) for job_id in job_ids]
    before = target.counters().head if isinstance(target, JobServer) else 0
    sample = bench.load.calls(target.address, chains, seconds=seconds)
    if isinstance(target, JobServer):
        kept = target.count("SELECT count(*) FROM event WHERE sequence > ? AND type = 4", before)
        if kept != sample.ops:
            raise Untrue(f"{sample.ops} reports were answered, the log holds {kept}")
        bench.witnessed += kept
    return sample


def _finding(what: str, mine: list[float], others: list[float], limit: float, note: str) -> Finding:
    return Finding(
        f"UpdateProgress during {what}: p99",
        f"≤ {limit:g} × echo",
        ratios(mine, others),
        limit,
        at_least=False,
        ours=spread(mine, " ms", 1e3),
        theirs=spread(others, " ms", 1e3),
        note=note,
    )


class _Cleaning:
    """A Cleanup of everything final, in the background, that can be broken off: it has then deleted what it got to."""

    def __init__(self, server: JobServer) -> None:
        self._channel = grpc.insecure_channel(server.address)
        stub = maintenance_service_pb2_grpc.MaintenanceServiceStub(self._channel)
        request = maintenance.CleanupRequest(force=True)
        request.older_than.FromSeconds(0)
        self.began = time.monotonic()
        self._call = stub.Cleanup.future(request)
        self._over = threading.Event()
        self.ended = float("inf")
        self._call.add_done_callback(self._end)

    def _end(self, _call: object) -> None:
        self.ended = time.monotonic()
        self._over.set()

    def wait(self, timeout: float) -> bool:
        """Whether it ended by itself within this time."""
        return self._over.wait(timeout)

    def break_off(self) -> None:
        self._call.cancel()
        self._over.wait(10)
        self._channel.close()


def cleanup(bench: Bench) -> list[Finding]:
    """A cleanup of everything stored, under load; then what is left of it without load."""
    count, seconds = bench.sizes.stored[-1], bench.sizes.window_s
    mine, others, deleted, calm, busy, calm_p99 = [], [], [], [], [], []
    final = "SELECT count(*) FROM job WHERE state = 3"
    with bench.server_and_echo(count) as (server, echo):
        job_ids = bench.live_jobs(server)
        head = server.counters().head
        for _ in range(bench.runs):
            others.append(reported(bench, echo, job_ids, seconds).took_at(_P99))
            undisturbed = reported(bench, server, job_ids, seconds)
            calm.append(undisturbed.rate)
            calm_p99.append(undisturbed.took_at(_P99))
            left, cleaning = server.count(final), _Cleaning(server)
            sample = reported(bench, server, job_ids, seconds)
            until = min(time.monotonic(), cleaning.ended)
            cleaning.break_off()
            if not left:
                break
            mine.append(sample.took_at(_P99, (cleaning.began, until)))
            busy.append(sample.rate)
            deleted.append((left - server.count(final)) / (until - cleaning.began))
        left, cleaning = server.count(final), _Cleaning(server)
        if not cleaning.wait(900) or server.count(final):
            raise Untrue("the cleanup did not end, or left jobs behind")
        alone = left / (cleaning.ended - cleaning.began)
        gone = server.count("SELECT count(*) FROM event WHERE sequence > ? AND type = 11", head)
        if gone != count:
            raise Untrue(f"{count} jobs are gone, but the log tells of {gone}")
    note = f"rounds of {seconds:g} s of one cleanup; p99 when none runs: {spread(calm_p99, ' ms', 1e3)}"
    rate = f"{spread(deleted, ' jobs/s')} under load" + (f", {alone:,.0f} without" if left else "")
    return [
        _finding(f"cleanup of {count:,} jobs", mine, others[: len(mine)], _BULK_LIMIT, note),
        Finding("jobs deleted per second by cleanup", "", deleted, unit=" /s", ours=rate),
        Finding(
            "UpdateProgress during cleanup: throughput",
            f"≥ {_THROUGHPUT_MIN:g} of undisturbed",
            ratios(busy, calm[: len(busy)]),
            _THROUGHPUT_MIN,
            ours=spread(busy, " calls/s"),
            theirs=spread(calm, " calls/s"),
            note="against the same server when no cleanup runs",
        ),
    ]


def snapshot(bench: Bench) -> list[Finding]:
    """A snapshot of everything stored, under load."""
    count, seconds = bench.sizes.stored[-1], bench.sizes.window_s
    mine, others, pace = [], [], []
    request = pb.WatchEventsRequest(snapshot=True, follow=False).SerializeToString()
    with bench.server_and_echo(count) as (server, echo), Load() as reader:
        job_ids = bench.live_jobs(server)
        for _ in range(bench.runs):
            others.append(reported(bench, echo, job_ids, seconds).took_at(_P99))
            reader.begin("read_to_end", server.address, request)
            sample = reported(bench, server, job_ids, seconds)
            jobs, began, ended = reader.result()
            if jobs != count + len(job_ids):
                raise Untrue(f"the snapshot held {jobs} jobs, the store {count + len(job_ids)}")
            mine.append(sample.took_at(_P99, (began, ended)))
            pace.append(jobs / (ended - began))
    note = f"{spread(pace, ' jobs/s')} in the snapshot; both cores are taken, its reader and the load share one"
    return [_finding(f"a snapshot of {count:,} jobs", mine, others, _SNAPSHOT_LIMIT, note)]


class _Failing:
    """Makes jobs fail so that all their retries fall due at one moment."""

    def __init__(self, bench: Bench, server: JobServer) -> None:
        self._bench = bench
        self._server = server
        self._attempt = 0
        self._job_ids = bench.live_jobs(server, bench.sizes.retries)

    def fall_due_at(self, moment: float) -> None:
        """Fail every job now, to be retried at this moment of the monotonic clock."""
        self._attempt += 1
        for start in range(0, len(self._job_ids), 5_000):
            left = moment - time.monotonic()
            updates = [self._update(job_id, left) for job_id in self._job_ids[start : start + 5_000]]
            bodies = [messages.batch(begin, updates[begin : begin + 500]) for begin in range(0, len(updates), 500)]
            self._bench.load.batches(self._server.address, [bodies])

    def _update(self, job_id: str, left: float) -> pb.JobUpdate:
        request = pb.FailRequest(id=job_id, attempt=self._attempt)
        request.error.message = "to be retried"
        request.retry_delay.FromMicroseconds(int(left * 1e6))
        return pb.JobUpdate(fail=request)

    def resumed_within(self, head: int) -> tuple[float, float]:
        """The first and the last moment of retries after a place in the log, by the monotonic clock."""
        offset = time.time() - time.monotonic()
        query = "SELECT {}(time) FROM event WHERE sequence > ? AND type = 2"
        first, last = (self._server.count(query.format(which), head) / 1e6 - offset for which in ("min", "max"))
        resumed = self._server.count("SELECT count(*) FROM event WHERE sequence > ? AND type = 2", head)
        if resumed != len(self._job_ids):
            raise Untrue(f"{len(self._job_ids)} retries fell due, {resumed} jobs were resumed")
        return first, last


def retries(bench: Bench) -> list[Finding]:
    """Many retries that fall due at once, under load."""
    count, seconds = bench.sizes.retries, bench.sizes.window_s
    mine, others, took = [], [], []
    with bench.server_and_echo() as (server, echo):
        job_ids, failing = bench.live_jobs(server), _Failing(bench, server)
        for _ in range(bench.runs):
            others.append(reported(bench, echo, job_ids, seconds).took_at(_P99))
            moment = time.monotonic() + count / _FAILED_A_SECOND + 2.0
            failing.fall_due_at(moment)
            head = server.counters().head
            wait(moment - 0.3 - time.monotonic())
            sample = reported(bench, server, job_ids, max(seconds, count / 5_000))
            _until(lambda: not server.count("SELECT count(*) FROM job WHERE state = 5"))
            first, last = failing.resumed_within(head)
            mine.append(sample.took_at(_P99, (first, last)))
            took.append(last - first)
    return [
        _finding(
            f"{count:,} retries falling due", mine, others, _BULK_LIMIT, "p99 of the calls until all were resumed"
        ),
        Finding(
            f"{count:,} retries falling due: all resumed within",
            f"≤ {_RESUMED_WITHIN_S:g} s",
            took,
            _RESUMED_WITHIN_S,
            at_least=False,
            unit=" s",
            ours=spread(took, " s"),
            note="while UpdateProgress is called",
        ),
    ]


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        if time.monotonic() > deadline:
            raise Untrue("retries are overdue after two minutes")
        wait(0.2)
