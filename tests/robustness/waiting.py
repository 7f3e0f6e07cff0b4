"""Promises about waiting over recorded histories: nothing begins too early, and nobody waits beside work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .history import ANSWERED, Acquiring, LogEntry
from .openings import Opening, open_spans
from .relations import asked
from .world import HOLDS, World, claims, is_ready, microseconds, span

SERVER = "server"

BELL_S = 1.0
"""Within this a replica finds what another has made ready, though no notification came."""

SLACK_S = 4.0
"""For that, on a machine where everything runs at once."""


def not_early(world: World) -> Iterator[str]:
    """P8: nothing begins before its ready_time, and what was begun does not expire.

    A delay is as long as it was asked for, a retry waits until its next_retry_time, and only a caller ends it earlier.
    """
    for entries in world.by_job.values():
        before: LogEntry | None = None
        for entry in entries:
            yield _too_early(entry, before)
            before = entry


def _too_early(entry: LogEntry, before: LogEntry | None) -> str:
    job, type_ = entry.job, entry.event.type
    if type_ == "QUEUED":
        told, created = asked(entry), microseconds(job["create_time"])
        wanted = int(told.get("not_before_us", created + int(told.get("delay_us", 0))))
        return HOLDS if microseconds(job["ready_time"]) == wanted else f"{entry} was not to begin before {wanted}"
    if before is None:
        return f"{entry} is the first of its job"
    if claims(entry):
        is_held = not is_ready(before) and not before.job.get("claimed")
        too_early = is_held or microseconds(job["ready_time"]) > entry.time
        return f"{entry}: it was not ready after {before}" if too_early else HOLDS
    if type_ == "READY" and entry.actor == SERVER:
        early = microseconds(job["ready_time"]) > entry.time
        earlier = microseconds(job["ready_time"]) < microseconds(before.job["ready_time"])
        # Who waits for needs as well is ready with the last of them.
        has_needs = "needs" in before.job.get("metadata", {})
        kept = not earlier if has_needs else job["ready_time"] == before.job["ready_time"]
        return HOLDS if kept and not early else f"{entry}: made ready too early"
    if type_ == "STARTED" and entry.actor == SERVER and before.event.state == "RETRYING":
        early = microseconds(before.job["next_retry_time"]) > entry.time
        return f"{entry} was resumed too early, after {before}" if early else HOLDS
    if type_ == "CANCELLED" and job.get("cancel_cause") == "CANCEL_CAUSE_EXPIRED":
        limit = microseconds(job["ready_time"]) + span(job.get("start_within", "0s"))
        fair = before.event.state == "QUEUED" and "start_within" in job and entry.time >= limit
        return HOLDS if fair else f"{entry} had not expired after {before}"
    return HOLDS


def conserved(world: World) -> Iterator[str]:
    """P11: who waits for work does not wait beside it, where no limit, hold or pause is in the way.

    With one server nobody goes away with nothing while anything was ready. With replicas, in the calm after the last
    fault, nothing stays ready beside a call that waits for longer than a notification that is lost costs.
    """
    openings = list(open_spans(world))
    if world.history.store != "postgres":
        for call in world.history.acquires:
            if call.outcome == ANSWERED and call.tries == 1 and call.wait_s and not call.answers[-1].jobs:
                left = _left_ready(world, openings, call)
                yield f"{call} got nothing, while {left.job} could be handed out after {left.since}" if left else HOLDS
    elif world.history.calm is not None:
        yield from _conserved_in_calm(world, openings, *world.history.calm)


def _left_ready(world: World, openings: Sequence[Opening], call: Acquiring) -> Opening | None:
    """A job that could be handed out from before the wait ended until the answer.

    The server counts the wait from when it has read the call. Before that, others may be handed the job.
    """
    ended = call.invoked + call.wait_s
    for opening in openings:
        was_open = opening.job.event.job_type in call.job_types and world.known_by[opening.since.event.sequence] < ended
        if was_open and (opening.until is None or world.not_before[opening.until.event.sequence] > call.returned):
            return opening
    return None


def _conserved_in_calm(world: World, openings: Sequence[Opening], since: float, until: float) -> Iterator[str]:
    waiting = [call for call in world.history.acquires if call.wait_s and call.tries == 1]
    for opening in openings:
        known = world.known_by[opening.since.event.sequence]
        limit = known + BELL_S + SLACK_S
        if not since <= known or limit > until:
            continue
        still = opening.until is None or world.not_before[opening.until.event.sequence] > limit
        job_type = opening.job.event.job_type
        beside = [
            call
            for call in waiting
            if still and job_type in call.job_types and call.invoked <= known and call.returned >= limit
        ]
        yield f"{opening.job} could be handed out after {opening.since} beside {beside[0]}" if beside else HOLDS
