"""Replicas on one PostgreSQL: against one server on SQLite, against each other, and against PostgreSQL alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from jobstate_server.store.postgres.binary_arrays import Kind, array, register

from ...support.postgres import own_server
from .. import messages
from ..bench import Bench
from ..processes import JobServer, Postgres, Replicas, stopping
from ..samples import Finding, Sample, percentile, ratios, spread
from ..workloads import BATCH, Calls, StreamProgress, compared

_MOST = 3
_UPDATE = (
    b"UPDATE job SET progress = new.progress, progress_message = new.message, update_time = new.time,"
    b" heard_time = new.time"
    b" FROM unnest(%(ids)s::text[], %(progress)s::int8[], %(messages)s::text[], %(times)s::int8[])"
    b" AS new(id, progress, message, time) WHERE job.id = new.id"
)
_ADVANCE = b"UPDATE log SET head = head + %(count)s RETURNING head"
_EVENTS = (
    b"INSERT INTO event SELECT head - %(count)s + new.number, new.time, new.id, 'bench', '', '', 5, new.payload"
    b" FROM log, unnest(%(times)s::int8[], %(ids)s::text[], %(payloads)s::bytea[])"
    b" WITH ORDINALITY AS new(time, id, payload, number)"
)


class RawUpdates:
    """Batches of progress reports written by nothing but PostgreSQL, over one connection."""

    def __init__(self, database: Postgres, job_ids: list[str], batches: int) -> None:
        self._database = database
        self._batches = []
        for number in range(batches):
            start = number * BATCH % max(1, len(job_ids) - BATCH + 1)
            ids = job_ids[start : start + BATCH]
            self._batches.append(
                {
                    "count": len(ids),
                    "ids": array(Kind.TEXT, ids),
                    "progress": array(Kind.INT8, [50] * len(ids)),
                    "messages": array(Kind.TEXT, ["fifteen letters"] * len(ids)),
                    "times": array(Kind.INT8, [number] * len(ids)),
                    "payloads": array(Kind.BYTEA, [messages.one_payload()] * len(ids)),
                }
            )

    def rows_only(self) -> Sample:
        """Only the jobs."""
        return self._timed(events=False)

    def with_events(self) -> Sample:
        """The jobs, and an event for each, numbered by the row of the log, as a server writes them."""
        return self._timed(events=True)

    def _timed(self, *, events: bool) -> Sample:
        with psycopg.connect(self._database.url, autocommit=True) as connection:
            register(connection)
            for setting in (b"enable_seqscan", b"enable_hashjoin", b"enable_mergejoin"):
                connection.execute(b"SET " + setting + b" = off")
            began, done = time.monotonic(), 0
            for batch in self._batches:
                with connection.pipeline():
                    connection.execute(b"BEGIN")
                    if events:
                        connection.execute(_ADVANCE, batch, prepare=True)
                        connection.execute(_EVENTS, batch, prepare=True)
                    updated = connection.execute(_UPDATE, batch, prepare=True)
                    connection.execute(b"COMMIT")
                done += updated.rowcount
            seconds = time.monotonic() - began
            assert done == sum(int(str(batch["count"])) for batch in self._batches)
        return Sample(done, seconds, 1e-9)


@contextmanager
def groups_of_replicas(bench: Bench, *counts: int, **settings: str) -> Iterator[list[Replicas]]:
    """For each count so many servers, on a database of their own. ``settings``: variables of their environment."""
    with own_server() as server:
        log = bench.folder / bench.name("replicas")
        groups = [Replicas(Postgres(server.new_store(), log.with_suffix(".log")), count, settings) for count in counts]
        with stopping(*groups):
            yield groups


def replicas(bench: Bench) -> list[Finding]:
    """One, two and three replicas, as calls and over streams."""
    findings: list[Finding] = []
    with bench.servers(0) as (alone,), groups_of_replicas(bench, 1, 2, _MOST) as groups:
        servers: list[JobServer] = [alone, *groups]
        names = ["one server on SQLite", "one replica", "two replicas", "three replicas"]
        jobs = [bench.live_jobs(server) for server in servers]
        calls = [Calls(bench, job_ids, messages.progress_call) for job_ids in jobs]
        streams = [StreamProgress(bench, job_ids) for job_ids in jobs]
        for what, loads, two in (
            ("UpdateProgress, 64 in flight", calls, 1.5),
            ("StreamUpdates, progress", streams, 1.7),
        ):
            unit = loads[0].unit
            measures: list[Callable[[], Sample]] = [
                lambda load=load, server=server: load.run(server)  # type: ignore[misc]
                for load, server in zip(loads, servers, strict=True)
            ]
            samples = bench.alternate(*measures)
            for index, base, limit in ((1, 0, None), (2, 1, two), (3, 1, None)):
                findings += compared(
                    f"PostgreSQL, {names[index]}: {what}",
                    unit,
                    samples[index],
                    samples[base],
                    reach="" if limit is None else f"≥ {limit:g} × one",
                    limit=limit,
                    note=f"against {names[base]}; servers, PostgreSQL and the load share this machine's cores",
                )[:1]
    return findings


def raw_updates(bench: Bench) -> list[Finding]:
    """StreamUpdates on PostgreSQL against batched UPDATEs and nothing else."""
    with groups_of_replicas(bench, 1) as (server,):
        job_ids = bench.live_jobs(server)
        assert isinstance(server.database, Postgres)
        other = Postgres(server.database.url, server.database.log)
        raw = RawUpdates(other, job_ids, 4 * bench.sizes.stream_batches)
        stream = StreamProgress(bench, job_ids)
        ours, rows, events = bench.alternate(lambda: stream.run(server), raw.rows_only, raw.with_events)
        note = "one connection, 100 rows per durable transaction, prebuilt; the server's store, the same jobs"
        return [
            compared(what, "updates", ours, theirs, reach=reach, limit=limit, note=f"{against}; {note}")[0]
            for what, theirs, reach, limit, against in (
                ("PostgreSQL: StreamUpdates against batched UPDATEs", rows, "", None, "`UPDATE … unnest` alone"),
                (
                    "… that also append the events",
                    events,
                    "≥ 0.5 ×",
                    0.5,
                    "with the log's row and the events, as a server must",
                ),
            )
        ]


def replica_latency(bench: Bench) -> list[Finding]:
    """How soon a watcher on another replica hears of a change."""
    heard, answered = [], []
    with groups_of_replicas(bench, 2) as (pair,):
        chains = [messages.progress_call(bench.live_jobs(pair, 1)[0])] * bench.sizes.races
        for _ in range(bench.runs):
            tally, spans = bench.load.ask("race", pair.address, chains, messages.watch_everything())
            alone, _ = bench.load.ask("race", pair.servers[0].address, chains, None)
            assert tally.refused + alone.refused == 0, tally.problems + alone.problems
            heard.append(percentile(spans, 0.5))
            answered.append(percentile(alone.took, 0.5))
    return [
        Finding(
            "PostgreSQL: commit → watcher on another replica, idle: p50",
            "",
            ratios(heard, answered),
            ours=spread(heard, " ms", 1e3),
            theirs=spread(answered, " ms", 1e3),
            note="against the round trip of the same call with nobody watching",
        )
    ]
