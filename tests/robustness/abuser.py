"""An abuser of a run: one attack after another on servers whose other clients are honest, until it is ended.

``python -m tests.robustness.abuser SEED HOST:PORT...`` prints the name of each attack as it begins. It changes no job.
"""

from __future__ import annotations

import os
import random
import struct
import sys

from jobstate.v1 import job_service_pb2 as pb

from ..bench.drivers import headers
from ..bench.http2 import Connection, framed, header_block
from .attackers import BODY_BYTES, Begin, Crowd, Nothing, Unreading, attack

ATTACK_S = 1.0
STREAMS = 50


def _flood(connection: Connection) -> None:
    """Calls, each followed by another as soon as it is answered."""

    class Again(Nothing):
        def ended(self, problem: str) -> None:
            connection.send(connection.open(headers("Get"), Again()), body, end=True)

    body = pb.GetRequest(id="client-1-1").SerializeToString()
    for _ in range(STREAMS):
        connection.send(connection.open(headers("Get"), Again()), body, end=True)
    connection.flush()


def _reset(connection: Connection) -> None:
    """Calls that are reset at once."""
    for _ in range(4 * STREAMS):
        stream = connection.open(headers("List"), Nothing())
        connection.send(stream, b"", end=True)
        connection._out += b"\0\0\4\3\0" + struct.pack(">II", stream, 8)
    connection.flush()


def _calls(block: bytes, body: bytes, streams: int = STREAMS) -> Begin:
    def begin(connection: Connection) -> None:
        for _ in range(streams):
            connection.send(connection.open(block, Nothing()), body, end=True)
        connection.flush()

    return begin


def _send_half(connection: Connection) -> None:
    """Requests of which the last byte never comes."""
    body = framed(bytes(1024 * 1024))[:-1]
    for _ in range(5):
        connection.send_raw(connection.open(headers("BatchCreate"), Nothing()), body, end=False)
    connection.flush()


def _leave_updates_unread(connection: Connection) -> None:
    update = pb.JobUpdate(progress=pb.UpdateProgressRequest(id="none", attempt=1))
    batch = pb.StreamUpdatesRequest(updates=[update] * 200).SerializeToString()
    stream = connection.open(headers("StreamUpdates"), Nothing())
    for _ in range(20):
        connection.send(stream, batch, end=False)
    connection.flush()


_TOO_MANY = pb.BatchCreateRequest(requests=[pb.CreateRequest(job_type="quick")] * 1_001).SerializeToString()

ATTACKS: dict[str, tuple[Begin, type[Connection]]] = {
    "flood": (_flood, Connection),
    "resets": (_reset, Connection),
    "unread pages": (_calls(headers("List"), pb.ListRequest(page_size=100).SerializeToString()), Unreading),
    "unread watches": (_calls(headers("WatchEvents"), b""), Unreading),
    "unread updates": (_leave_updates_unread, Unreading),
    "unread health": (_calls(header_block("/grpc.health.v1.Health/Watch"), b""), Unreading),
    "half-sent requests": (_send_half, Connection),
    "batches of too many": (_calls(headers("BatchCreate"), _TOO_MANY, 10), Connection),
    "batches too large": (_calls(headers("BatchCreate"), bytes(BODY_BYTES + 1), 1), Connection),
}


def main() -> None:
    """Attack until ended."""
    os.nice(10)
    seed, *addresses = sys.argv[1:]
    rng = random.Random(seed)
    while True:
        name = rng.choice(list(ATTACKS))
        print(name, flush=True)
        begin, kind = ATTACKS[name]
        attack(rng.choice(addresses), [Crowd(1, begin, kind)] * rng.randrange(1, 4), 0.0, ATTACK_S)


if __name__ == "__main__":
    main()
