"""A promise about Release over recorded histories: it changes nothing but whose turn it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from .history import LogEntry, Policy
from .world import HOLDS, World, microseconds, span

DEFAULT = Policy()


def released(world: World) -> Iterator[str]:
    """P10: a Release never changes retry_count or backoff, at any place in the sequence, and keeps the job's place.

    Retries wait as their type says by the number of retries alone, and releases are as many as are allowed.
    """
    for entries in world.by_job.values():
        for before, entry in pairwise(entries):
            if entry.event.type == "RELEASED":
                yield _wrong_release(world, before, entry)
            elif entry.event.type == "RETRYING":
                yield _wrong_backoff(world, entry)
            elif before.event.type == "RELEASED" and not span(before.detail.get("delay", "0s")):
                yield _wrong_return(before, entry)


def _wrong_release(world: World, before: LogEntry, entry: LogEntry) -> str:
    due = entry.time + span(entry.detail.get("delay", "0s"))
    kept = all(before.job.get(name) == entry.job.get(name) for name in ("retry_count", "last_error"))
    told = entry.event.state == "RETRYING" and microseconds(entry.job["next_retry_time"]) == due
    count = entry.attempt - entry.job.get("retry_count", 0)
    allowed = count <= world.history.releases_max
    return HOLDS if kept and told and allowed else f"{entry}: a release after {before}"


def _wrong_return(before: LogEntry, entry: LogEntry) -> str:
    same = all(before.job.get(name) == entry.job.get(name) for name in ("ready_time", "retry_count", "priority"))
    together = entry.event.sequence == before.event.sequence + 1 and entry.event.type == "STARTED"
    holds = same and together and entry.attempt == before.attempt + 1
    return HOLDS if holds else f"{entry}: should have its old place, as in {before}"


def _wrong_backoff(world: World, entry: LogEntry) -> str:
    policy = world.history.policies.get(entry.event.job_type, DEFAULT)
    delay = span(entry.detail.get("delay", "0s"))
    wanted = min(policy.max_delay, policy.base_delay << max(0, entry.job.get("retry_count", 0) - 1))
    by_hand = entry.actor != "server" and not delay
    holds = by_hand or wanted <= delay <= wanted * (1 + policy.jitter)
    return HOLDS if holds else f"{entry} waits for {delay} µs, not for {wanted} µs"
