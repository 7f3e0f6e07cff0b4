"""The promises, one function each, over recorded histories. Pure: a history in, what is wrong with it out.

A validator yields once for each thing it has looked at: nothing when the promise holds there, else what is wrong. The
first seven are the promises that docs/watch.md names; the others say what else must be true after a run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import repeat

from .attempts import exclusive, innocent, retried
from .claims import claimed
from .counts import tallied
from .dispatch_promises import DISPATCH
from .history import (
    AFTER_THE_END,
    ANSWERED,
    DRAINING,
    ENDING_TYPES,
    FINAL_STATES,
    REFUSED,
    SYNCED,
    Call,
    History,
    Stream,
    delivered,
)
from .operator_promises import OPERATORS
from .relation_promises import RELATIONS
from .world import HOLDS, Superseding, World, comparable

PROBLEMS_MAX = 10
"""Problems told of one promise: the first few say what the rest are like."""


@dataclass
class Verdict:
    """How a promise fared."""

    checked: int = 0
    """How many things were looked at."""
    failures: int = 0
    problems: list[str] = field(default_factory=list)
    """The first of the failures."""


def ordered(world: World) -> Iterator[str]:
    """Within a stream sequences never go back."""
    for name, _, stream in world.streams():
        newest = 0
        for event in delivered(stream):
            yield HOLDS if event.sequence >= newest else f"{name}: {event.sequence} after {newest}"
            newest = max(newest, event.sequence)


def unique(world: World) -> Iterator[str]:
    """Nothing comes twice: not in a stream, nor again after resuming from a cursor that came with or after it."""
    for name, watcher, stream in world.streams():
        seen: set[int] = set()
        if stream.resumed_from is not None:
            earlier, last = stream.resumed_from
            for response in watcher.streams[earlier].responses[: last + 1]:
                seen.update(event.sequence for event in response.events)
        for event in delivered(stream):
            yield HOLDS if event.sequence not in seen else f"{name}: {event.sequence} came again"
            seen.add(event.sequence)


def reliable(world: World) -> Iterator[str]:
    """Between where a stream began and the furthest it was told, exactly what was asked for came, as the log has it."""
    for name, watcher, stream in world.streams():
        start, end = world.start(stream), world.end(stream)
        if start is None or end is None:
            continue
        sent = delivered(stream)
        sequences = {event.sequence for event in sent}
        expected = world.expected(watcher, stream, start, end)
        missing = [event for event in expected if event.sequence not in sequences]
        if watcher.latest_progress:
            superseding = Superseding(sent, world)
            missing = [event for event in missing if not superseding.covers(event)]
        yield from repeat(HOLDS, len(expected) - len(missing))
        for event in missing:
            yield f"{name} from {start} to {end}: {event.sequence} was never sent"
        unexpected = sequences - {event.sequence for event in expected}
        for event in sent:
            beyond = not start < event.sequence <= end
            if event.sequence in unexpected and (beyond or not world.allowed(watcher, stream, event)):
                yield f"{name} from {start} to {end}: {event.sequence} was not asked for, or is not in the log"


def atomic(world: World) -> Iterator[str]:
    """No event without its change, no change without its event: events are as in the log, and replay to the rows."""
    for name, _, stream in world.streams():
        for event in delivered(stream):
            entry = world.entries.get(event.sequence)
            same = entry is not None and event in (entry.event, entry.left) and event.version == event.sequence
            yield HOLDS if same else f"{name}: saw {event}, the log has {entry and entry.event}"
    rows, replayed = world.history.rows, world.replayed
    for job_id in sorted(rows.keys() | replayed.keys()):
        same = comparable(rows.get(job_id)) == comparable(replayed.get(job_id))
        yield HOLDS if same else f"{job_id}: the row is {rows.get(job_id)}, its events make {replayed.get(job_id)}"
    yield from _reads_are_fresh(world)


def _reads_are_fresh(world: World) -> Iterator[str]:
    """A Get sees every event that somebody had seen, and every change that was answered, before it was made."""
    marks: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for _, _, stream in world.streams():
        for response in stream.responses:
            for event in response.events:
                marks[event.job_id].append((response.at, event.version))
    for call in world.history.calls:
        if call.outcome == ANSWERED and call.changes:
            marks[call.job_id].append((call.returned, call.version))
    for call in world.history.calls:
        if call.rpc == "Get" and (call.outcome == ANSWERED or call.reason == "JOB_NOT_FOUND"):
            known = max((version for at, version in marks[call.job_id] if at < call.invoked), default=0)
            deleted = any(entry.event.type == "DELETED" for entry in world.by_job.get(call.job_id, ()))
            fresh = call.version >= known or (call.outcome == REFUSED and deleted)
            yield HOLDS if fresh else f"Get {call.job_id}: {call.version or call.reason}, but {known} was known"


def resumable(world: World) -> Iterator[str]:
    """A stream opened at a cursor gives the suffix of the log after it, whole if it was to end by itself and did."""
    for name, watcher, stream in world.streams():
        start = world.position(stream.cursor) if stream.start == "CURSOR" else None
        if start is None or stream.code in {"OUT_OF_RANGE", "FAILED_PRECONDITION"}:
            continue
        sent = delivered(stream)
        sequences = {event.sequence for event in sent}
        whole_suffix = stream.code == "OK" and not stream.follow
        end = world.head if whole_suffix else max(sequences, default=start)
        suffix = world.expected(watcher, stream, start, end)
        if watcher.latest_progress:
            superseding = Superseding(sent, world)
            suffix = [event for event in suffix if event.sequence in sequences or not superseding.covers(event)]
        wanted = [event.sequence for event in suffix]
        # What was erased since may have come, and need not.
        may_come = {event.sequence for event in sent if world.allowed(watcher, stream, event)} - set(wanted)
        got = [event.sequence for event in sent if not start < event.sequence <= end or event.sequence not in may_come]
        same = got == wanted
        yield HOLDS if same else f"{name} at {start}: {len(got)} from {got[:3]}, not {len(wanted)} from {wanted[:3]}"


def bookmarkable(world: World) -> Iterator[str]:
    """A cursor at n: everything up to n that was asked for had come before it, and nothing up to n comes after."""
    for name, watcher, stream in world.streams():
        mark = world.start(stream)
        if mark is None:
            continue
        superseding = Superseding(delivered(stream) if watcher.latest_progress else (), world)
        sequences: set[int] = set()
        for response in stream.responses:
            late = [event.sequence for event in response.events if event.sequence <= mark]
            if late:
                yield f"{name}: {late} came after a cursor at {mark}"
            sequences.update(event.sequence for event in response.events)
            position = world.position(response.cursor) if response.cursor else None
            if position is None:
                continue
            expected = world.expected(watcher, stream, mark, position)
            unsent = [e.sequence for e in expected if e.sequence not in sequences and not superseding.covers(e)]
            holds = not unsent and position >= mark
            yield HOLDS if holds else f"{name}: {response.kind} at {position} after {mark}, with {unsent[:5]} unsent"
            mark = max(mark, position)


def bounded(world: World) -> Iterator[str]:
    """A server's memory does not grow with what its watchers have yet to read."""
    first: dict[int, int] = {}
    for sample in world.history.memory:
        growth = sample.kib - first.setdefault(sample.process, sample.kib)
        holds = growth <= world.history.memory_growth_max_kib
        yield HOLDS if holds else f"process {sample.process} grew by {growth} KiB"


def durable(world: World) -> Iterator[str]:
    """Every answered change is there: the log has, at the version answered, an event of that job with that outcome."""
    answered: dict[int, Call] = {}
    for call in world.history.calls:
        if call.outcome != ANSWERED:
            continue
        if call.version:
            entry = world.entries.get(call.version)
            there = entry is not None and (entry.event.job_id, entry.event.state, entry.attempt) == (
                call.job_id,
                call.state,
                call.attempt,
            )
            yield HOLDS if there else f"{call}: the log has {entry}"
        if call.changes and call.tries == 1 and call.version:
            other = answered.setdefault(call.version, call)
            yield HOLDS if other is call else f"one event for two answers: {call} and {other}"
        if call.job_ids:
            lost = [job_id for job_id in call.job_ids if job_id not in world.by_job]
            yield HOLDS if not lost else f"{call}: the log does not have {lost[:5]}"


_FOLLOWS = {
    ("STALE_DETECTED", ""): "FAILED",
    ("FAILED", "WILL_RETRY"): "RETRYING",
    ("FAILED", "NOT_RETRYABLE"): "PERMANENTLY_FAILED",
    ("FAILED", "LIMIT_REACHED"): "PERMANENTLY_FAILED",
}
"""What an event is directly followed by, having been written in the same commit."""


def whole(world: World) -> Iterator[str]:
    """Nothing is half there: the log is gapless, each job's events are a walk, and what belongs together is."""
    sequences = world.sequences
    yield HOLDS if sequences == list(range(1, len(sequences) + 1)) else "the log has gaps, or does not begin at 1"
    state: dict[str, str] = {}
    for entry in world.history.log:
        event = entry.event
        before = state.get(event.job_id, "")
        yield HOLDS if entry.previous == before else f"{entry}: the job was {before or 'not there'}"
        ended = before in FINAL_STATES
        yield HOLDS if not ended or event.type in AFTER_THE_END else f"{entry}: the job was {before} already"
        state[event.job_id] = "" if event.type == "DELETED" else event.state
        follows = _FOLLOWS.get((event.type, entry.decision))
        if follows is not None:
            after = world.entries.get(event.sequence + 1)
            together = after is not None and (after.event.job_id, after.event.type) == (event.job_id, follows)
            yield HOLDS if together else f"{entry} was to be followed by {follows}, not by {after}"
    for call in world.history.calls:
        if call.job_ids:
            created = [world.by_job[job_id][0].event.sequence for job_id in call.job_ids if job_id in world.by_job]
            # A group begins at once, and a job that can never begin ends at once: these have more than one event.
            between = {world.entries[n].event.job_id for n in range(created[0], created[-1] + 1)} if created else set()
            together = not created or (created == sorted(created) and between == set(call.job_ids))
            yield HOLDS if together else f"{call}: created at {created}"


def forward(world: World) -> Iterator[str]:
    """Time never goes back: from one event of a job to the next, and in the whole log where one server writes it."""
    newest: dict[str, int] = defaultdict(int)
    for entry in world.history.log:
        scope = entry.event.job_id if world.history.store == "postgres" else ""
        before = newest[scope]
        yield HOLDS if entry.time >= before else f"{entry.event}: {before - entry.time} µs before the event before it"
        newest[scope] = max(before, entry.time)


def once(world: World) -> Iterator[str]:
    """A call is made once however often it is repeated, and a refused one not at all; a Start has its own attempt."""
    marks = Counter(entry.marker for entry in world.history.log if entry.marker)
    made = {entry.marker: entry.attempt for entry in world.history.log if entry.marker}
    tries: dict[str, int] = defaultdict(int)
    for call in world.history.calls:
        tries[call.marker] += call.tries
    for call in world.history.calls:
        if not call.marker:
            continue
        allowed = {ANSWERED: (1,), REFUSED: (0,)}.get(call.outcome, (0, 1))
        if call.outcome == REFUSED and tries[call.marker] > 1:
            # It was done by an earlier try. A later one was refused because cleanup had removed the job, or, of a
            # Start, because its attempt was over. Or it was refused, and a later one was not.
            allowed = (0, 1)
        yield HOLDS if marks[call.marker] in allowed else f"{call}: made {marks[call.marker]} times"
        if call.rpc == "Start" and call.outcome == ANSWERED:
            own = made.get(call.marker)
            yield HOLDS if call.attempt == own else f"{call}: its own attempt is {own}"


def consistent(world: World) -> Iterator[str]:
    """Who takes a snapshot and then events, keeping of each job what has the greatest version, has the right copy."""
    for name, watcher, stream in world.streams():
        end = world.end(stream)
        if not stream.snapshot or end is None or watcher.types or watcher.latest_progress:
            continue
        copy = _copy_of(stream)
        for job_id, entries in world.by_job.items():
            if not watcher.wants(entries[0].event, stream):
                continue
            known = [entry.event for entry in entries if entry.event.sequence <= end]
            had = copy.get(job_id, (0, ""))
            right = (known[-1].version, known[-1].state) if known else (0, "")
            # A page may be newer than the cursor it comes before; and what was deleted before its page was read, or
            # before the watch began, leaves no trace in it.
            newer = had[0] > end and any((e.event.version, e.event.state) == had for e in entries)
            gone = not had[0] and any(entry.event.type == "DELETED" for entry in entries)
            # What was erased before it was read, nobody who asks by source or label is told any more.
            later = [entry for entry in entries if had[0] < entry.event.sequence <= end]
            untold = bool(had[0]) and all(entry.left is not None for entry in later)
            holds = had == right or newer or gone or untold
            yield HOLDS if holds else f"{name}: {job_id} at {end} is {right}, the copy has {had}"


def _copy_of(stream: Stream) -> dict[str, tuple[int, str]]:
    """Version and state of each job as a watcher keeps them; of a deleted job the event that deleted it."""
    copy: dict[str, tuple[int, str]] = {}
    for response in stream.responses:
        pages = [(job.id, job.version, job.state) for job in response.jobs]
        events = [(event.job_id, event.version, event.state) for event in response.events]
        for job_id, version, state in pages + events:
            if version > copy.get(job_id, (0, ""))[0]:
                copy[job_id] = (version, state)
    return copy


def until_final(world: World) -> Iterator[str]:
    """Such a stream ends OK when all its jobs are final, not before, and after everything up to there was sent."""
    for name, watcher, stream in world.streams():
        if not stream.until_final or stream.code != "OK":
            continue
        start = world.start(stream) or 0
        # Who does not ask for the events that end jobs is not told how far the stream has come when it ends.
        sees_ends = not watcher.types or set(watcher.types) >= ENDING_TYPES
        end = (world.end(stream) or 0) if sees_ends else world.head
        sent = {event.sequence for event in delivered(stream)}
        for job_id in stream.job_ids or watcher.job_ids:
            known = [entry.event for entry in world.by_job.get(job_id, ()) if entry.event.sequence <= end]
            final = [e.sequence for e in known if e.type in ENDING_TYPES and e.state in FINAL_STATES]
            # Beside a cursor a job that there is not counts as final: it may have been deleted.
            unknown = not known and stream.start == "CURSOR"
            yield HOLDS if final or unknown else f"{name} ended at {end}: {job_id} was not final"
            if final:
                due = [e.sequence for e in world.expected(watcher, stream, start, final[0]) if e.job_id == job_id]
                unsent = [sequence for sequence in due if sequence not in sent]
                yield HOLDS if not unsent else f"{name} ended before {unsent[:5]} were sent"


_LEGAL_ENDS = {
    ("OK", ""),
    ("LEFT", ""),
    ("UNAVAILABLE", ""),
    ("UNAVAILABLE", "DRAINING"),
    # gRPC's own word for a call that reached a stopping server before the server could look at it.
    ("CANCELLED", ""),
    ("OUT_OF_RANGE", "CURSOR_EXPIRED"),
    ("NOT_FOUND", "JOB_NOT_FOUND"),
}
_LEGAL_WITHOUT_STORE = ("UNAVAILABLE", "STORE_UNAVAILABLE")


def told(world: World) -> Iterator[str]:
    """Streams and calls end as documented.

    SYNCED comes once, OK only where it was asked for, DRAINING last and with a cursor; a cursor expires only when it
    has, and with a way on; calls are refused for documented reasons.
    """
    for name, _, stream in world.streams():
        yield HOLDS if _is_well_told(world, stream) else f"{name}: {_brief(stream)}"
    for call in world.history.calls:
        documented = call.outcome != REFUSED or (call.reason and call.code not in {"UNKNOWN", "INTERNAL"})
        yield HOLDS if documented else f"{call}"


def _is_well_told(world: World, stream: Stream) -> bool:
    kinds = [response.kind for response in stream.responses]
    end = stream.code, stream.reason
    is_legal = end in _LEGAL_ENDS or (end == _LEGAL_WITHOUT_STORE and world.history.store == "postgres")
    if kinds.count(SYNCED) > 1 or not is_legal:
        return False
    if DRAINING in kinds[:-1] or (stream.reason == "DRAINING" and stream.responses and kinds[-1] != DRAINING):
        return False
    if DRAINING in kinds and stream.code not in {"UNAVAILABLE", "LEFT"}:
        return False
    if DRAINING in kinds and SYNCED in kinds and not stream.responses[-1].cursor:
        return False
    if stream.code == "OK":
        return SYNCED in kinds and (stream.until_final or not stream.follow)
    if stream.reason == "CURSOR_EXPIRED":
        began = world.end(stream) or world.position(stream.cursor) or 0
        return bool(stream.oldest_cursor) and began < world.history.horizon
    return stream.reason != "JOB_NOT_FOUND" or stream.until_final


def _brief(stream: Stream) -> str:
    kinds = Counter(response.kind for response in stream.responses)
    return f"from {stream.start} {stream.cursor}: {dict(kinds)}, then {stream.code} {stream.reason}"


VALIDATORS: dict[str, Callable[[World], Iterator[str]]] = {
    "ordered": ordered,
    "unique": unique,
    "reliable": reliable,
    "atomic": atomic,
    "resumable": resumable,
    "bookmarkable": bookmarkable,
    "bounded": bounded,
    "durable": durable,
    "whole": whole,
    "forward": forward,
    "once": once,
    "tallied": tallied,
    "consistent": consistent,
    "until_final": until_final,
    "told": told,
    "claimed": claimed,
    "retried": retried,
    "exclusive": exclusive,
    "innocent": innocent,
    **DISPATCH,
    **RELATIONS,
    **OPERATORS,
}


def validate(history: History, names: Collection[str] = VALIDATORS.keys()) -> dict[str, Verdict]:
    """Every promise, or those named, and how it fared."""
    world = World(history)
    verdicts = {}
    for name in names:
        verdict = verdicts[name] = Verdict()
        for problem in VALIDATORS[name](world):
            verdict.checked += 1
            if problem:
                verdict.failures += 1
                verdict.problems.extend([problem] if len(verdict.problems) < PROBLEMS_MAX else ())
    return verdicts


def broken(history: History, names: Collection[str] = VALIDATORS.keys()) -> dict[str, list[str]]:
    """The promises that this history breaks, and how."""
    return {name: verdict.problems for name, verdict in validate(history, names).items() if verdict.failures}
