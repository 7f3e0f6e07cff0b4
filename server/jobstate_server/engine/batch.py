"""One batch of commands, decided against one view of the store and written in one transaction.

Commands are decided in order, and each sees the changes of those before it. A command that is refused, or fails while
it is decided or encoded, changes nothing: its plan is complete before any of it is applied to the view.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from functools import partial

from jobstate_server.domain.batch_view import EarlierCall
from jobstate_server.domain.bulk import BulkProgress, BulkStep, SkipReason, reason_of
from jobstate_server.domain.commands import Command, Request
from jobstate_server.domain.errors import InternalError, JobStateError
from jobstate_server.domain.events import EventType
from jobstate_server.domain.job import Attempt, FinishedJob, Job
from jobstate_server.domain.plan import Change, Deletion, Plan, TypePause
from jobstate_server.domain.reads import Due, Finished, Named, Reads
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.domain.statistics import TallyCounter
from jobstate_server.domain.waiting import UniqueKey, has_unique_key, is_ready
from jobstate_server.engine.earlier_calls import EarlierCalls
from jobstate_server.engine.handing_out import HandingOut
from jobstate_server.engine.lane_changes import add_lane_changes
from jobstate_server.engine.outcomes import (
    BulkOutcome,
    DeletedOutcome,
    DueOutcome,
    Outcome,
    PauseOutcome,
    SliceOutcome,
    Verdict,
)
from jobstate_server.engine.relations import BatchRelations, ReadGroups, no_groups
from jobstate_server.store.base import Transaction
from jobstate_server.store.errors import StoreError
from jobstate_server.store.records import ChangedJob, Changes, Loaded, NewEvent, StoredRequest
from jobstate_server.wire.events import EncodedEvent, encode_deletion, encode_event

log = logging.getLogger(__name__)

_EXISTING = (True,)
_new_event = partial(tuple.__new__, NewEvent)
_changed_job = partial(tuple.__new__, ChangedJob)
"""A NewEvent and a ChangedJob of the values of all their fields, made in a third of the time."""


class Batch:
    """The view of one transaction. ``domain.batch_view.View`` documents the methods that the rules use."""

    def __init__(
        self,
        decider: Decider,
        now: int,
        loaded: Loaded,
        requests_room: int,
        wanted_types: Container[str] = frozenset(),
        read_groups: ReadGroups = no_groups,
    ) -> None:
        """
        Args:
            requests_room: how many more request ids may be stored.
            wanted_types: the job types that somebody asks for. Of these, jobs that become ready are remembered.
            read_groups: as in ``Transaction.groups``.
        """
        self.now = now
        self.jobs: dict[str, Job] = dict(loaded.jobs)
        self._decider = decider
        self.stored = loaded.jobs
        """The jobs as they were when the batch began, but those that were created in it."""
        self._due = loaded.due
        self._finished = loaded.finished
        self._attempts = dict(loaded.attempts)
        self._amended: set[tuple[str, int]] = set()
        self._deleted: dict[str, FinishedJob] = {}
        """Stored jobs that were deleted, by id. Another may have been created with the id since."""
        self._rows: dict[str, ChangedJob] = {}
        """The jobs to write, by id."""
        self._calls = EarlierCalls(loaded.requests, requests_room, self.jobs, self._rows)
        self._moved: set[str] = set()
        """The ids of those in which more changed than reports can change."""
        self._superseded: list[ChangedJob] = []
        """Rows in whose place a later command has put another, or none. Outcomes have their jobs."""
        self._changes = Changes()
        self._tallies = TallyCounter()
        self._verdicts: list[Verdict] = []
        self.handing_out = HandingOut(decider.context.job_types, wanted_types, self.jobs, now)
        self._pauses: list[PauseOutcome] = []
        self._unique = dict(loaded.unique)
        self.relations = BatchRelations(loaded, self.jobs, read_groups)
        self._instants = dict(loaded.instants)
        self._group_due: int | None = None
        self.has_stopped_members = False
        """Whether members of stopping groups were cancelled that stood in the way of others."""
        self._has_more = False
        self._slices: list[SliceOutcome] = []
        """The outcomes of the server's own work, which need to report what it took."""

    def decide(self, *commands: Command) -> None:
        """Decide these commands, and apply the changes of each to the view or store its refusal."""
        self._verdicts += map(self.answer, commands)

    def decide_one(self, command: Command) -> Verdict:
        """Decide one command, like ``decide``. Returns its verdict."""
        verdict = self.answer(command)
        self._verdicts.append(verdict)
        return verdict

    def pass_over(self) -> None:
        """Do nothing for the next command: nobody waits for it any more."""
        self._verdicts.append(Outcome(()))

    def answer(self, command: Command) -> Verdict:
        """Decide a command that is not one of the batch, and apply its changes to the view."""
        try:
            decided = self._decider.decide(command, self)
            if decided is None:
                return Outcome((), acted=False)
            if isinstance(decided, Plan):
                return self._carry_out(decided)
            if decided.after.group_depth:
                return self._carry_out(Plan((decided,)))
            encoded = list(map(encode_event, decided.events))
            self._apply(decided, encoded)
            existing = _EXISTING if decided.is_existing else ()
            return Outcome((decided.after,), encoded[-1].job if encoded else None, existing=existing)
        except JobStateError as refusal:
            # Without the traceback, whose frames have this batch and all its commands. They would refer to each other,
            # and megabytes would stay in memory until the next full garbage collection.
            return refusal.with_traceback(None)
        except StoreError:
            # Groups are read while commands are decided. What the store cannot do concerns the whole transaction.
            raise
        except Exception:
            call_id = secrets.token_hex(8)
            reads = Reads()
            command.add_reads(reads)
            log.exception(
                "a command failed while it was decided",
                extra={"job": " ".join(reads.job_ids), "command": type(command).__name__, "call_id": call_id},
            )
            return InternalError(call_id)

    def _carry_out(self, plan: Plan) -> Outcome:
        if plan.deletion is not None:
            return self._delete(plan.deletion)
        if plan.pause is not None:
            return self._pause(plan.pause)
        if plan.bulk is not None:
            return self._go_on(plan.bulk)
        encoded = [list(map(encode_event, self.relations.told(change))) for change in plan.changes]
        for change, events in zip(plan.changes, encoded, strict=True):
            self._apply(change, events)
        self.relations.carry_out(plan, self._first_event)
        self._has_more |= plan.has_more
        if plan.commands is not None:
            return self._decide_following(plan.commands)
        self.has_stopped_members |= plan.has_stopped
        if plan.instant is not None:
            self._changes.instants.append(plan.instant)
            self._instants[plan.instant.task] = plan.instant.due
        answered = plan.changes[: plan.answered]
        jobs = tuple([change.after for change in answered])
        if plan.request is not None:
            acquired = tuple((job.id, job.attempt) for job in jobs)
            # A replica whose transaction began later may have created a job after this one's time.
            time = max([self.now, *(job.create_time for job in jobs)])
            self._add_call(StoredRequest(plan.request, "", time, acquired=acquired))
        existing = [change.is_existing for change in answered]
        encoded_first = encoded[0][-1].job if encoded and encoded[0] else None
        groups = {job.id: self.relations.group(job) for job in jobs if job.group_depth}
        return Outcome(jobs, encoded_first, existing=tuple(existing) if any(existing) else (), groups=groups or None)

    def _decide_following(self, commands: Sequence[Command]) -> Outcome:
        events_before, self._has_more = len(self._changes.events), False
        verdicts = [self.answer(command) for command in commands]
        served = sum(isinstance(verdict, Outcome) and verdict.acted for verdict in verdicts)
        outcome = DueOutcome((), served=served, failed=len(verdicts) - served, has_more=self._has_more)
        outcome.events = len(self._changes.events) - events_before
        self._slices.append(outcome)
        return outcome

    def _go_on(self, step: BulkStep) -> Outcome:
        """Begin a bulk run, or change its next jobs."""
        progress, events_before, changed, skipped = step.progress, len(self._changes.events), [], Counter[int]()
        for command in step.commands:
            before = self.jobs[command.job_id]
            verdict = self.answer(command)
            if isinstance(verdict, JobStateError):
                skipped[reason_of(verdict)] += 1
            elif verdict.existing:
                skipped[SkipReason.UNIQUE_KEY] += 1
            elif verdict.encoded is None and self.jobs[command.job_id] is before:
                skipped[SkipReason.STATE] += 1
            else:
                changed.append(command.job_id)
        if step.is_new:
            self._add_call(StoredRequest(step.request, "", self.now, bulk=progress))
        elif step.acts and progress is not None:
            progress = progress.plus(len(changed), skipped)
            self._calls.move_bulk(step.request, progress, self._changes, self.now)
        outcome = BulkOutcome((), acted=step.acts, progress=progress, changed=changed)
        outcome.events = len(self._changes.events) - events_before
        self._slices.append(outcome)
        return outcome

    def _delete(self, deletion: Deletion) -> Outcome:
        """Delete jobs. No step after the encoding can fail."""
        jobs, time = deletion.jobs, deletion.time
        payloads = encode_deletion(deletion)
        deleted = int(EventType.DELETED)
        self._changes.events.extend(
            NewEvent(
                time, job.id, job.job_type, "" if deletion.erases else job.source_id, job.principal, deleted, payload
            )
            for job, payload in zip(jobs, payloads, strict=True)
        )
        for job in jobs:
            self._forget(job)
        self._tallies.delete(jobs)
        outcome = DeletedOutcome(
            (), deleted=jobs, found=deletion.found, last=deletion.last, left=deletion.left, events=len(jobs)
        )
        self._slices.append(outcome)
        return outcome

    def _pause(self, pause: TypePause) -> Outcome:
        self.handing_out.paused(pause.job_type, pause.lane, paused=pause.paused)
        self._changes.pauses.append(pause)
        counts = self.handing_out.counted(pause.job_type, pause.lane)
        # How many events of the transaction come before it.
        head = len(self._changes.events)
        outcome = PauseOutcome((), ready=counts.ready, running=counts.running, head=head)
        self._pauses.append(outcome)
        return outcome

    def due(self, selection: Due) -> Sequence[str]:
        return self._due.get(selection, ())

    def finished(self, selection: Finished | Named) -> Sequence[FinishedJob]:
        found = self._finished.get(selection, ())
        return [job for job in found if job.id not in self._deleted] if self._deleted else found

    def earlier_call(self, request: Request) -> EarlierCall | None:
        return self._calls.call(request)

    def earlier_acquire(self, request: Request) -> Sequence[Job] | None:
        return self._calls.acquire(request)

    def bulk_progress(self, request: Request) -> BulkProgress | None:
        return self._calls.bulk(request)

    def latest_instant(self, task: str) -> int | None:
        return self._instants.get(task)

    def check_request_room(self, count: int) -> None:
        self._calls.check_room(count)

    def knows(self, key: tuple[str, str]) -> bool:
        """Whether a call with this request id was carried out."""
        return self._calls.knows(key)

    def add(self, loaded: Loaded) -> None:
        """Add what was loaded since. What this batch has changed stays as it is."""
        for job_id, job in loaded.jobs.items():
            if job_id not in self.jobs and job_id not in self._deleted:
                self.jobs[job_id] = self.stored[job_id] = job
        self._calls.learn(loaded.requests)

    def offer(self, job: Job) -> None:
        """Add a job that the store found ready. It is handed out only if it is still ready."""
        if job.id in self._deleted:
            return
        if job.id not in self._rows:
            self.jobs[job.id] = self.stored[job.id] = job
        if is_ready(self.jobs[job.id]):
            self.handing_out.add(self.jobs[job.id])

    def ready_jobs(self, job_types: Iterable[str]) -> Iterable[Job]:
        return self.handing_out.in_order(job_types)

    def unique_holder(self, key: UniqueKey) -> Job | None:
        job = self.jobs.get(self._unique.get(key, ""))
        return job if job is not None and has_unique_key(job) else None

    def _first_event(self, job_id: str) -> int | None:
        """The index of the event that reports the creation of this job. None unless this batch has created it."""
        row = self._rows.get(job_id)
        return None if row is None else row.first_event

    def ended_attempt(self, job_id: str, number: int) -> Attempt | None:
        for attempt in self._changes.attempts:
            if (attempt.job_id, attempt.number) == (job_id, number):
                return attempt
        return self._attempts.get((job_id, number))

    def _apply(self, change: Change, encoded: Sequence[EncodedEvent]) -> None:
        """Apply a change to the view, with its encoded events. No step of this can fail."""
        job = change.after
        if job is not change.before:
            events, names = self._changes.events, (job.id, job.job_type, job.source_id, job.principal)
            for event in encoded:
                events.append(_new_event((event.time, *names, event.type, event.payload)))
            self._keep(job, change, len(encoded))
            if job.group_id is not None or job.needs_count or job.group_depth:
                self.relations.note(change)
            self._tallies.add(change)
            if not change.is_report and self.handing_out.must_note(job):
                self.handing_out.note(change.before, job)
            if change.hold is not None:
                self.handing_out.hold(job, *change.hold)
        if change.ended is not None:
            self._changes.attempts.append(change.ended)
        if change.amended is not None:
            self._amend(change.amended)
        if change.request is not None:
            self._remember(change.request, job, change)

    def _keep(self, job: Job, change: Change, count: int) -> None:
        """The job was created or changed. The latest ``count`` events report it."""
        job_id = job.id
        self.jobs[job_id] = job
        first_event = last_event = None
        row = self._rows.get(job_id)
        if row is not None:
            self._superseded.append(row)
            _, last_event, first_event, stored = row
        elif change.before is None:
            first_event, stored = len(self._changes.events) - count, None
            self._decider.unnamed_types.add(job.job_type)
            if job.unique_key is not None:
                self._unique[job.principal, job.job_type, job.unique_key] = job_id
        else:
            stored = self.stored[job_id]
        if count:
            last_event = len(self._changes.events) - 1
        if not change.is_report:
            self._moved.add(job_id)
        self._rows[job_id] = _changed_job((job, last_event, first_event, stored))

    def _forget(self, job: FinishedJob) -> None:
        """The job, which was stored, is deleted."""
        self._deleted[job.id] = job
        if self.jobs.pop(job.id, None) is not None:
            row = self._rows.pop(job.id, None)
            if row is not None:
                self._superseded.append(row)
                self._moved.discard(job.id)
            # Another job may get the id.
            for key in [key for key in self._attempts if key[0] == job.id]:
                del self._attempts[key]
                self._amended.discard(key)

    def _remember(self, request: Request, job: Job, change: Change) -> None:
        """Store a request id, so that a repeat of its call is recognised."""
        was_claimed = change.before is not None and change.before.claimed
        attempt = job.attempt if job.claimed and not was_claimed else 0
        created, sequence = self._first_event(job.id), job.create_sequence
        existing = change.is_existing
        self._add_call(StoredRequest(request, job.id, self.now, attempt, sequence, created, is_existing=existing))

    def _add_call(self, stored: StoredRequest) -> None:
        self._calls.add(stored)
        self._changes.requests.append(stored)

    def _amend(self, attempt: Attempt) -> None:
        """Change the usage of an attempt that has ended, in this batch or before."""
        key = attempt.job_id, attempt.number
        ended = self._changes.attempts
        for index, known in enumerate(ended):
            if (known.job_id, known.number) == key:
                ended[index] = attempt
                return
        self._attempts[key] = attempt
        self._amended.add(key)

    def write(self, transaction: Transaction, *, is_last: bool) -> tuple[int, list[NewEvent]]:
        """Write all changes. Returns the sequence of the first event, and the events.

        ``is_last``: whether this is the last statement of the transaction.
        """
        changes = self._changes
        add_lane_changes(self.handing_out, changes, self.now)
        goes_on = {pause.job_type for pause in changes.pauses if not pause.paused}
        changes.ready_types = sorted({*self.handing_out.ready_types(), *self.handing_out.freed, *goes_on})
        changes.deleted = list(self._deleted.values())
        changes.tallies = self._tallies.tallies()
        changes.amended = [self._attempts[key] for key in self._amended]
        for job_id, row in self._rows.items():
            if row.first_event is not None:
                changes.inserted.append(row)
            elif job_id in self._moved:
                changes.updated.append(row)
            else:
                changes.progressed.append(row)
        self.relations.add_to(changes, self._rows)
        others = changes.requests or changes.moved_bulk_runs or changes.pauses or changes.lanes
        if not (self._rows or self._deleted or others or changes.has_relations):
            return 0, []
        write = transaction.finish if is_last else transaction.write
        first = write(changes)
        if changes.groups:
            self._group_due = transaction.group_due
        return first, changes.events

    def earliest_due(self) -> int | None:
        """The earliest due time among the jobs and groups this batch wrote."""
        due = [time for row in self._rows.values() if (time := row.job.due_time) is not None]
        if self._group_due is not None:
            due.append(self._group_due)
        return min(due, default=None)

    def verdicts(self, first_sequence: int, next_due: int | None = None) -> list[Verdict]:
        """The verdict for each command, in order, with the versions that the jobs have now.

        Args:
            next_due: when the next job in the store is due, if the batch served due jobs.
        """
        # The store has set the versions of all others.
        for job, last_event, *_ in self._superseded:
            if last_event is not None:
                job.numbered(first_sequence + last_event)
        for pause in self._pauses:
            pause.head += first_sequence - 1
        for outcome in self._slices:
            outcome.others = len(self._verdicts) - 1
            if isinstance(outcome, DueOutcome):
                outcome.next_due, outcome.now = next_due, self.now
        return self._verdicts

    def share_time(self, spent: int, working: int) -> None:
        """Tell the server's own work its part of the microseconds that the transaction took, by its events.

        ``working``: of ``spent``, without the time to read and to commit.
        """
        for outcome in self._slices:
            outcome.take_share(spent, working, len(self._changes.events))
