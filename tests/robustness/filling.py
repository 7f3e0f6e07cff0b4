"""Attackers that fill each part of a server's memory to its limit and keep it full, and no more than that.

Unlike the attacks of ``attackers``, which are refused again and again, these stay just within what they are given.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from jobstate.v1 import job_service_pb2 as pb

from ..bench.drivers import headers
from ..bench.http2 import Connection, framed
from .attackers import AGAIN_S, BODY_BYTES, STREAMS, Crowd, Nothing, Unreading

_PREFIX = 5
"""Bytes before a message as gRPC frames it."""

TEXT = "m" * 60_000
"""Metadata of nearly the largest size."""


def _always(count: int, method: str, message: bytes, calls: int, kind: type[Connection] = Connection) -> Crowd:
    """So many calls at any time over each connection. The message may be the beginning of one that never comes.

    What has ended is called again, but only once a second: these are to fill the server, not to keep it busy.
    """
    is_whole = len(message) > _PREFIX and len(message) == _PREFIX + int.from_bytes(message[1:_PREFIX], "big")
    missing: dict[Connection, int] = {}
    due: dict[Connection, float] = {}

    def begin(connection: Connection) -> None:
        missing[connection] = calls
        due[connection] = 0.0
        again(connection)

    def again(connection: Connection) -> None:
        if not missing[connection] or due[connection] > time.monotonic():
            return
        due[connection] = time.monotonic() + AGAIN_S

        class Missed(Nothing):
            def ended(self, problem: str) -> None:
                missing[connection] += 1

        for _ in range(missing[connection]):
            connection.send_raw(connection.open(headers(method), Missed()), message, end=is_whole)
        missing[connection] = 0
        connection.flush()

    return Crowd(count, begin, kind, again)


def changes() -> list[Crowd]:
    """600 creations of 60 KB, while nothing can be written: 36 MB, of which the last are refused."""
    request = pb.CreateRequest(job_type="x")
    request.metadata["text"] = TEXT
    return [_always(6, "Create", framed(request.SerializeToString()), 100)]


def updates() -> list[Crowd]:
    """Batches of StreamUpdates, four MiB each, that wait for the store and then for their reader."""
    update = pb.JobUpdate(progress=pb.UpdateProgressRequest(id="none", attempt=1, message="m" * 4_000))
    batch = framed(pb.StreamUpdatesRequest(updates=[update] * 1_000).SerializeToString())

    def begin(connection: Connection) -> None:
        stream = connection.open(headers("StreamUpdates"), Nothing())
        for _ in range(8):
            connection.send_raw(stream, batch, end=False)
        connection.flush()

    return [Crowd(16, begin, Unreading)]


def answers() -> list[Crowd]:
    """Pages of a MiB that nobody reads, by five who have a quarter each."""
    return [_always(5, "List", framed(pb.ListRequest(page_size=1_000).SerializeToString()), 20, Unreading)]


def watches() -> list[Crowd]:
    """Watches of one job each, and some whose filters are as large as may be."""

    def begin(connection: Connection) -> None:
        for number in range(STREAMS):
            request = pb.WatchEventsRequest(job_ids=[f"none-{number}"])
            connection.send(connection.open(headers("WatchEvents"), Nothing()), request.SerializeToString(), end=True)
        connection.flush()

    def name_many(connection: Connection) -> None:
        for number in range(10):
            names = [f"{connection.fileno()}-{number}-{job}-{'n' * 40}" for job in range(1_000)]
            request = pb.WatchEventsRequest(job_ids=names)
            connection.send(connection.open(headers("WatchEvents"), Nothing()), request.SerializeToString(), end=True)
        connection.flush()

    return [Crowd(5, name_many), Crowd(27, begin)]


def calls() -> list[Crowd]:
    """Calls of which nothing but the headers comes."""
    return [_always(18, "Create", b"", STREAMS)]


def requests() -> list[Crowd]:
    """Requests of the largest size, one byte short."""
    body = framed(bytes(BODY_BYTES))[:-1]
    return [_always(6, "Create", body, 1), _always(6, "BatchCreate", body, 1)]


STAGES: tuple[dict[str, Callable[[], list[Crowd]]], ...] = (
    {"watches and streams": watches, "changes waiting to be written": changes},
    {"batches of StreamUpdates": updates, "answers": answers},
    {"batches in hand": requests, "calls": calls},
)
"""By the part that is filled, one stage after the other: none keeps out what comes later."""
