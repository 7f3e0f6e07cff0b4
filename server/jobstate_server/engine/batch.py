"""One batch of commands, decided against one view of the store and written as one transaction.

Commands are decided in order and see each other. A refused command, or one whose deciding or encoding fails, leaves no
trace: its decision is made whole before anything of it enters the view.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from jobstate_server.domain.commands import (
    SERVER_ACTOR,
    BatchCreate,
    Command,
    ReportUsage,
    Request,
    Resume,
    Start,
    TimeOut,
)
from jobstate_server.domain.decide import Decider
from jobstate_server.domain.decision import Decision
from jobstate_server.domain.errors import (
    InternalError,
    InvalidField,
    JobExists,
    JobNotFound,
    JobStateError,
    Overloaded,
    RequestIdReused,
    UnknownJobType,
)
from jobstate_server.domain.job import Attempt, Job, JobState
from jobstate_server.domain.statistics import merge_tallies, tally_deltas
from jobstate_server.store.base import Transaction
from jobstate_server.store.records import ChangedJob, Changes, Loaded, NewEvent, StoredRequest
from jobstate_server.wire.events import EncodedEvent, encode_event

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What came of a command that was not refused."""

    jobs: tuple[Job, ...]
    """The job as it now is; several for a batch; none once it is deleted."""
    encoded: bytes | None = None
    """The job as its last event carries it, without its version. None when this command made no event."""
    acted: bool = True
    """False for a server command that was dropped in silence."""


Verdict = Outcome | JobStateError

REQUESTS_FULL_DELAY_S = 5.0
"""When to come back while request ids are full of young ones: room comes as they age, not as the queue drains."""

_PROGRESSED = 1
_CHANGED = 2


class Batch:
    """The view of one transaction."""

    def __init__(self, decider: Decider, now: int, loaded: Loaded, requests_room: int) -> None:
        """``requests_room``: how many more request ids may be stored."""
        self.now = now
        self._requests_room = requests_room
        self._decider = decider
        self._jobs: dict[str, Job] = dict(loaded.jobs)
        self._jobs.update((job.id, job) for job in loaded.due)
        self._stored = frozenset(self._jobs)
        self._requests = dict(loaded.requests)
        self._attempts = loaded.attempts
        self._amended: set[tuple[str, int]] = set()
        self._touched: dict[str, int] = {}
        self._deleted: list[str] = []
        self._last_event: dict[str, int] = {}
        self._first_event: dict[str, int] = {}
        """By id of the jobs made here: the index of the event that tells of it."""
        self._changes = Changes()
        self._verdicts: list[Verdict] = []
        self._unnumbered: list[tuple[Job, int]] = []
        """The jobs of the outcomes, each with the index of the event that gives it its version."""

    def decide(self, command: Command) -> None:
        """Decide one command and take its changes into the view, or note its refusal."""
        try:
            self._verdicts.append(self._decide(command))
        except JobStateError as refusal:
            self._verdicts.append(refusal)
        except Exception:
            call_id = secrets.token_hex(8)
            log.exception(
                "a command failed while it was decided",
                extra={"job": command.job_id, "command": type(command).__name__, "call_id": call_id},
            )
            self._verdicts.append(InternalError(call_id))

    def decide_due(self, due: Sequence[Job]) -> None:
        """Decide what has fallen due by itself. Its verdicts come after those of the commands."""
        for job in due:
            current = self._jobs.get(job.id)
            # A command of this batch may have moved the job on; what is then due, if anything, rings again.
            if current is not None and current.due_time == job.due_time and job.due_time is not None:
                kind = Resume if job.state is JobState.RETRYING else TimeOut
                self.decide(kind(job_id=job.id, actor=SERVER_ACTOR, attempt=job.attempt, due_time=job.due_time))

    def _decide(self, command: Command) -> Outcome:
        if isinstance(command, BatchCreate):
            return self._decide_many(command)
        if command.request is not None:
            repeated = self._repeated(command.request)
            if repeated is not None:
                return self._answer_repeat(command, repeated)
            self._check_room(1)
        job = self._jobs.get(command.job_id)
        # Clocks of replicas differ by a hair; the times of one job never go back.
        now = self.now if job is None or job.update_time <= self.now else job.update_time
        ended = self._ended_attempt(command) if isinstance(command, ReportUsage) else None
        decision = self._decider.decide(job, command, now, ended)
        if decision is None:
            return Outcome((), acted=False)
        encoded = [encode_event(event) for event in decision.events]
        self._absorb(command, decision, encoded)
        if decision.job is None:
            return Outcome(())
        return self._outcome((decision.job,), encoded[-1].job if encoded else None)

    def _outcome(self, jobs: tuple[Job, ...], encoded: bytes | None = None) -> Outcome:
        """What came of a command, whose jobs get their version once the events are numbered."""
        for job in jobs:
            last_event = self._last_event.get(job.id)
            if last_event is not None:
                self._unnumbered.append((job, last_event))
        return Outcome(jobs, encoded)

    def _decide_many(self, batch: BatchCreate) -> Outcome:
        """All of them or none: nothing enters the view before everything has been decided and encoded."""
        repeats = [None if create.request is None else self._repeated(create.request) for create in batch.creates]
        if any(repeats):
            return self._answer_repeated_batch(repeats)
        self._check_room(sum(create.request is not None for create in batch.creates))
        _refuse_doubles(batch)
        decided: list[tuple[Command, Decision, list[EncodedEvent]]] = []
        for index, create in enumerate(batch.creates):
            try:
                decision = self._decider.decide(self._jobs.get(create.job_id), create, self.now)
            except InvalidField as refusal:
                raise refusal.within(f"requests[{index}]") from refusal
            assert decision is not None
            decided.append((create, decision, [encode_event(event) for event in decision.events]))
        try:
            self._decider.unnamed_types.check(create.job_type for create in batch.creates)
        except UnknownJobType as refusal:
            index = [create.job_type for create in batch.creates].index(refusal.job_type)
            raise refusal.within(f"requests[{index}]") from refusal
        for part in decided:
            self._absorb(*part)
        return self._outcome(tuple(self._jobs[create.job_id] for create in batch.creates))

    def _answer_repeated_batch(self, repeats: Sequence[StoredRequest | None]) -> Outcome:
        jobs = []
        for repeated in repeats:
            if repeated is None:
                # Some of these calls were made before and some were not: this is another batch than that one.
                raise RequestIdReused(next(stored.request.request_id for stored in repeats if stored is not None))
            jobs.append(self._job_of(repeated))
        return self._outcome(tuple(jobs))

    def _repeated(self, request: Request) -> StoredRequest | None:
        """The earlier call that this one repeats. Raises RequestIdReused when the id was used for something else."""
        stored = self._requests.get(request.key)
        if stored is not None and stored.request != request:
            raise RequestIdReused(request.request_id)
        return stored

    def _check_room(self, count: int) -> None:
        """Refuse a call whose request id could not be kept: repeated, it would be done twice."""
        if count > self._requests_room:
            raise Overloaded(
                "as many request ids as request_ids_max allows were used within the last hour; repeat the call later,"
                " or without request_id",
                REQUESTS_FULL_DELAY_S,
            )

    def _answer_repeat(self, command: Command, repeated: StoredRequest) -> Outcome:
        job = self._job_of(repeated)
        self._decider.check_repeat(job, command, repeated.attempt, self.now)
        return self._outcome((job,))

    def _job_of(self, repeated: StoredRequest) -> Job:
        """The job that an earlier call concerned, as it now is; never a later one of the same id."""
        job_id = repeated.job_ids[0]
        job = self._jobs.get(job_id)
        if job is None or not self._is_older(job, repeated):
            raise JobNotFound.deleted(job_id)
        return job

    def _is_older(self, job: Job, repeated: StoredRequest) -> bool:
        """Whether the job was there when the call was made."""
        first_event = self._first_event.get(job.id)
        if first_event is not None or repeated.created_event is not None:
            return first_event == repeated.created_event
        if repeated.create_sequence is None:
            return job.create_time <= repeated.time
        return job.create_sequence == repeated.create_sequence

    def _absorb(self, command: Command, decision: Decision, encoded: Sequence[EncodedEvent]) -> None:
        """Take a finished decision into the view. Nothing here can fail half way."""
        job_id = command.job_id
        changes = self._changes
        if decision.before is None:
            self._first_event[job_id] = len(changes.events)
        for event, (payload, _) in zip(decision.events, encoded, strict=True):
            self._last_event[job_id] = len(changes.events)
            job = event.job
            changes.events.append(
                NewEvent(event.time, job_id, job.job_type, job.source_id, job.principal, int(event.type), payload)
            )
        if decision.job is None:
            del self._jobs[job_id]
            self._touched.pop(job_id, None)
            self._last_event.pop(job_id, None)
            self._first_event.pop(job_id, None)
            if job_id in self._stored:
                self._deleted.append(job_id)
        else:
            self._jobs[job_id] = decision.job
            if not decision.is_report:
                self._touched[job_id] = _CHANGED
            elif job_id not in self._touched:
                self._touched[job_id] = _PROGRESSED
            if decision.before is None:
                self._decider.unnamed_types.add(decision.job.job_type)
        if decision.ended is not None:
            changes.attempts.append(decision.ended)
        if decision.amended is not None:
            self._amend(decision.amended)
        if command.request is not None:
            self._remember(command, command.request, decision)
        if deltas := tally_deltas(decision):
            merge_tallies(changes.tallies, deltas)

    def _remember(self, command: Command, request: Request, decision: Decision) -> None:
        job = decision.job or decision.before
        assert job is not None
        attempt = job.attempt if isinstance(command, Start) else 0
        created_event = self._first_event.get(job.id)
        stored = StoredRequest(request, (job.id,), self.now, attempt, job.create_sequence, created_event)
        self._requests[request.key] = stored
        self._requests_room -= 1
        self._changes.requests.append(stored)

    def _ended_attempt(self, command: ReportUsage) -> Attempt | None:
        """The record of the attempt that the command names, as this batch has it by now."""
        for attempt in self._changes.attempts:
            if (attempt.job_id, attempt.number) == (command.job_id, command.attempt):
                return attempt
        return self._attempts.get((command.job_id, command.attempt))

    def _amend(self, attempt: Attempt) -> None:
        """Keep the usage of an attempt that has ended, in this batch or before."""
        key = attempt.job_id, attempt.number
        ended = self._changes.attempts
        for index, known in enumerate(ended):
            if (known.job_id, known.number) == key:
                ended[index] = attempt
                return
        self._attempts[key] = attempt
        self._amended.add(key)

    def write(self, transaction: Transaction, *, is_last: bool) -> tuple[int, list[NewEvent]]:
        """Write everything that changed. Returns the sequence of the first event, and the events.

        ``is_last``: nothing else is done in this transaction.
        """
        changes = self._changes
        deleted = set(self._deleted)
        changes.deleted = self._deleted
        changes.amended = [self._attempts[key] for key in self._amended]
        for job_id, kind in self._touched.items():
            row = ChangedJob(self._jobs[job_id], self._last_event.get(job_id), self._first_event.get(job_id))
            if job_id not in self._stored or job_id in deleted:
                changes.inserted.append(row)
            elif kind == _PROGRESSED:
                changes.progressed.append(row)
            else:
                changes.updated.append(row)
        if not (self._touched or deleted):
            return 0, []
        write = transaction.finish if is_last else transaction.write
        return write(changes), changes.events

    def earliest_due(self) -> int | None:
        """The earliest due time among the jobs this batch wrote."""
        due = [time for job_id in self._touched if (time := self._jobs[job_id].due_time) is not None]
        return min(due, default=None)

    def verdicts(self, first_sequence: int) -> list[Verdict]:
        """What came of each command, in order, with the versions their jobs now have."""
        for job, last_event in self._unnumbered:
            job.numbered(first_sequence + last_event)
        return self._verdicts


def _refuse_doubles(batch: BatchCreate) -> None:
    """Refuse a batch that names an id or a request id twice."""
    ids: set[str] = set()
    keys: set[tuple[str, str]] = set()
    for create in batch.creates:
        if create.job_id in ids:
            raise JobExists(create.job_id)
        ids.add(create.job_id)
        if create.request is not None:
            if create.request.key in keys:
                raise RequestIdReused(create.request.request_id)
            keys.add(create.request.key)
