"""The rows of the table, by the names that ``--rows`` takes, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable

from ..bench import Bench
from ..samples import Finding
from .clients import clients
from .disturbed import cleanup, retries, snapshot
from .groups import groups
from .growth import growth, pages, start
from .hand_outs import backlog, hand_outs, release, urgent
from .lanes import lanes
from .needs import chain, fan_out_of_needs
from .neighbours import noisy_neighbour
from .replica_hand_outs import held_snapshot, replica_hand_out_latency, replica_hand_outs, replica_limit
from .replicas import raw_updates, replica_latency, replicas
from .streams import batch_create, disk, stream_lifecycles, stream_progress
from .unary import get, lifecycles, unary
from .waiting import delays, hand_out_latency, parked_workers, unique_keys
from .watches import fan_out, idle_watchers, watch_latency

Row = Callable[[Bench], list[Finding]]
"""Measures, and says what it found. Raises when what was answered is not what the store holds."""

ROWS: dict[str, Row] = {
    "unary": unary,
    "cleanup": cleanup,
    "snapshot": snapshot,
    "retries": retries,
    "lifecycles": lifecycles,
    "get": get,
    "stream-progress": stream_progress,
    "stream-lifecycles": stream_lifecycles,
    "hand-outs": hand_outs,
    "hand-out-latency": hand_out_latency,
    "parked-workers": parked_workers,
    "backlog": backlog,
    "urgent": urgent,
    "lanes": lanes,
    "noisy-neighbour": noisy_neighbour,
    "delays": delays,
    "chain": chain,
    "fan-out-of-needs": fan_out_of_needs,
    "groups": groups,
    "release": release,
    "unique-keys": unique_keys,
    "batch-create": batch_create,
    "fan-out": fan_out,
    "watch-latency": watch_latency,
    "idle-watchers": idle_watchers,
    "clients": clients,
    "growth": growth,
    "pages": pages,
    "disk": disk,
    "start": start,
    "replicas": replicas,
    "raw-updates": raw_updates,
    "replica-latency": replica_latency,
    "replica-hand-outs": replica_hand_outs,
    "replica-hand-out-latency": replica_hand_out_latency,
    "held-snapshot": held_snapshot,
    "replica-limit": replica_limit,
}
