"""From a job and a command to what changes: the rules of every trigger, field by field.

``Decider.decide`` is pure but for the randomness it is given: it returns a ``Decision`` or raises a domain error, and
changes nothing. ``None`` is the answer to a server command that has been overtaken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobstate_server.domain import commands as c
from jobstate_server.domain.decision import Decision
from jobstate_server.domain.errors import (
    AttemptRequired,
    AttemptSuperseded,
    JobExists,
    JobNotFound,
    RetryNotAllowed,
    TransitionNotAllowed,
)
from jobstate_server.domain.events import (
    Cancelled,
    Claimed,
    Detail,
    Event,
    EventType,
    Failed,
    PermanentlyFailed,
    RetryDecision,
    Retrying,
    StaleDetected,
    Started,
)
from jobstate_server.domain.job import (
    Attempt,
    AttemptOutcome,
    Document,
    Job,
    JobError,
    JobState,
    saturating_add,
)
from jobstate_server.domain.job_types import JobTypes, UnnamedTypes
from jobstate_server.domain.lifecycle import Facts, Trigger, allowed_triggers, can_retry, next_state
from jobstate_server.domain.usage import report_usage, with_usage

ATTEMPT_TIMEOUT = "ATTEMPT_TIMEOUT"
"""Error code of an attempt that outlasted its timeout."""

STALE = "STALE"
"""Error code of an attempt of which nothing was heard for the type's stale threshold."""

MergeDocuments = Callable[[Document, Document], Document]
"""Merges a patch into a document, key by key, or raises InvalidField. Documents are opaque here."""


class _Change:
    """A job on its way through the steps of one command, gathering its events."""

    __slots__ = ("actor", "before", "ended", "events", "job", "now")

    def __init__(self, job: Job, command: c.Command, now: int) -> None:
        self.before = self.job = job
        self.actor = command.actor
        self.now = now
        self.events: list[Event] = []
        self.ended: Attempt | None = None

    def take(self, trigger: Trigger, asked_as: Trigger | None = None) -> JobState:
        """The state ``trigger`` leads to. Raises TransitionNotAllowed, naming what the caller asked for."""
        target = next_state(trigger, self)
        if target is None:
            why = "" if self.job.state is not JobState.PROCESSING else " and its attempt has a worker"
            raise TransitionNotAllowed(
                self.job.id,
                self.job.state.name,
                (asked_as or trigger).value,
                allowed_triggers(self),
                why if asked_as is Trigger.START else "",
            )
        return target

    def set(self, **changes: Any) -> None:
        self.job = self.job.evolve(update_time=self.now, **changes)

    def tell(self, type_: EventType, previous: JobState, detail: Detail | None = None, **flags: bool) -> None:
        self.events.append(Event(type_, self.now, self.actor, previous, self.job, detail, **flags))

    def decision(self) -> Decision:
        return Decision(self.before, self.job, tuple(self.events), self.ended)


class Decider:
    """The rules, with the policies in force."""

    def __init__(
        self,
        job_types: JobTypes,
        merge_documents: MergeDocuments,
        random: Callable[[], float],
        *,
        unnamed_types_max: int = 1_000,
    ) -> None:
        """
        Args:
            random: numbers from 0 up to 1, for the jitter of the backoff.
            unnamed_types_max: how many job types without a policy of their own may come to be; each costs rows of
                statistics for ever.
        """
        self._job_types = job_types
        self._merge = merge_documents
        self._random = random
        self.spare_until = 0
        """No attempt is failed for its silence before this: limits could not be kept for a while."""
        self.unnamed_types = UnnamedTypes(job_types, unnamed_types_max)
        self._rules: dict[type[c.Command], Callable[[Job, Any, int], Decision | None]] = {
            c.Start: self._start,
            c.UpdateProgress: self._update_progress,
            c.Complete: self._complete,
            c.Fail: self._fail,
            c.Retry: self._retry,
            c.Cancel: self._cancel,
            c.Resume: self._resume,
            c.TimeOut: self._time_out,
            c.MarkStale: self._mark_stale,
            c.RetryResting: self._retry_resting,
            c.Delete: self._delete,
        }

    def decide(self, job: Job | None, command: c.Command, now: int, ended: Attempt | None = None) -> Decision | None:
        """What ``command`` does to ``job`` (None: there is none by that id) at ``now``.

        ``ended``: for ReportUsage, the record of its attempt if that has ended.

        Raises:
            JobNotFound, JobExists, InvalidField, UnknownJobType, TransitionNotAllowed, RetryNotAllowed,
            AttemptSuperseded, AttemptRequired: the command is refused and nothing changes.
        """
        if isinstance(command, c.Create):
            return self._create(job, command, now)
        if job is None:
            if isinstance(command, c.ServerCommand):
                return None
            raise JobNotFound(command.job_id)
        if isinstance(command, c.ReportUsage):
            return report_usage(job, command, ended, now)
        return self._rules[type(command)](job, command, now)

    def check_repeat(self, job: Job, command: c.Command, attempt: int, now: int) -> None:
        """Whether a repeat of ``command`` may be answered with its job as it now is.

        A repeated Start is a worker who takes the attempt of the answer for its own: only while ``attempt``, the one
        that the first call made, is running.

        Raises:
            TransitionNotAllowed, AttemptSuperseded: as for a report that names ``attempt``.
        """
        if isinstance(command, c.Start):
            named = c.AttemptCommand(job_id=job.id, attempt=attempt)
            self._fence(job, named, Trigger.START, now)

    def _create(self, existing: Job | None, command: c.Create, now: int) -> Decision:
        if existing is not None:
            raise JobExists(command.job_id)
        self.unnamed_types.check([command.job_type])
        policy = self._job_types.policy(command.job_type)
        timeout = policy.timeout if command.timeout is None else command.timeout
        job = Job(
            id=command.job_id,
            job_type=command.job_type,
            source_id=command.source_id,
            principal=command.principal,
            metadata=self._merge(b"", command.metadata) if command.metadata else b"",
            max_retries=policy.max_retries if command.max_retries is None else command.max_retries,
            timeout=None if command.no_timeout else timeout,
            create_time=now,
            update_time=now,
            heard_time=now,
        )
        event = Event(EventType.QUEUED, now, command.actor, None, job, with_metadata=bool(job.metadata))
        return Decision(None, job, (event,))

    def _start(self, job: Job, command: c.Start, now: int) -> Decision:
        change = _Change(job, command, now)
        if job.state is JobState.PROCESSING:
            change.take(Trigger.CLAIM, asked_as=Trigger.START)
            self._claim(change, command.worker)
            return change.decision()
        state = change.take(Trigger.START)
        self._begin_attempt(change, state, now)
        self._give_to_worker(change, command.worker)
        change.tell(EventType.STARTED, job.state, Started(resumed=False, waited=max(0, now - change.job.ready_time)))
        return change.decision()

    @staticmethod
    def _begin_attempt(change: _Change, state: JobState, start_time: int) -> None:
        change.set(
            state=state,
            attempt=change.job.attempt + 1,
            claimed=False,
            worker="",
            progress=0,
            progress_message="",
            attempt_tokens=0,
            attempt_cost_nano=0,
            start_time=start_time,
            claim_time=None,
            heard_time=change.now,
            next_retry_time=None,
            attempt_deadline=None,
            due_time=None,
        )

    @staticmethod
    def _give_to_worker(change: _Change, worker: str) -> None:
        timeout = change.job.timeout
        deadline = None if timeout is None else change.now + timeout
        change.set(
            claimed=True,
            claim_time=change.now,
            worker=worker,
            heard_time=change.now,
            attempt_deadline=deadline,
            due_time=deadline,
        )

    def _claim(self, change: _Change, worker: str) -> None:
        """Give the attempt that the server resumed to a worker. All clocks run from here."""
        self._give_to_worker(change, worker)
        waited = max(0, change.now - change.job.ready_time)
        change.tell(EventType.CLAIMED, JobState.PROCESSING, Claimed(worker, waited))

    def _reporting(self, job: Job, command: c.AttemptCommand, trigger: Trigger, now: int) -> _Change:
        """A change by the worker of the running attempt, who claims it by this report if nobody has yet."""
        self._fence(job, command, trigger, now)
        change = _Change(job, command, now)
        if not job.claimed and job.state is JobState.PROCESSING:
            self._claim(change, "")
        return change

    @staticmethod
    def _fence(job: Job, command: c.AttemptCommand, trigger: Trigger, now: int) -> None:
        """Refuse a worker whose attempt is not the running one."""
        if job.state.is_final:
            raise TransitionNotAllowed(job.id, job.state.name, trigger.value, allowed_triggers(Facts(job, now)))
        if command.attempt is None:
            if job.attempt > 1:
                raise AttemptRequired(job.id, job.attempt, job.state.name)
        elif job.state is not JobState.PROCESSING or command.attempt != job.attempt:
            raise AttemptSuperseded(job.id, command.attempt, job.attempt, job.state.name)

    def _update_progress(self, job: Job, command: c.UpdateProgress, now: int) -> Decision:
        change = self._reporting(job, command, Trigger.PROGRESS, now)
        change.take(Trigger.PROGRESS)
        claimed = change.job
        if command.is_heartbeat:
            after = claimed.reported(heard_time=now)
            return Decision(job, after, tuple(change.events), is_report=claimed is job)
        changes: dict[str, Any] = with_usage(claimed, command.usage)
        if command.progress is not None:
            changes["progress"] = command.progress
        if command.message is not None:
            changes["progress_message"] = command.message
        if command.metadata:
            changes["metadata"] = self._merge(job.metadata, command.metadata)
        after = claimed.reported(update_time=now, heard_time=now, **changes)
        with_metadata = bool(command.metadata)
        event = Event(EventType.PROGRESS, now, command.actor, job.state, after, with_metadata=with_metadata)
        if claimed is job:
            # As nearly every report is: nothing was told before it.
            return Decision(job, after, (event,), None, True)
        return Decision(job, after, (*change.events, event))

    def _complete(self, job: Job, command: c.Complete, now: int) -> Decision:
        change = self._reporting(job, command, Trigger.COMPLETE, now)
        state = change.take(Trigger.COMPLETE)
        changes: dict[str, Any] = with_usage(job, command.usage)
        if command.result_count is not None:
            changes["result_count"] = command.result_count
        if command.result:
            changes["result"] = command.result
        change.set(progress=100, **changes)
        self._end_attempt(change, AttemptOutcome.COMPLETED, None)
        change.set(state=state, complete_time=now)
        change.tell(EventType.COMPLETED, job.state, with_result=bool(command.result))
        return change.decision()

    @staticmethod
    def _end_attempt(change: _Change, outcome: AttemptOutcome, error: JobError | None) -> None:
        job = change.job
        worked = 0 if job.claim_time is None else max(0, change.now - job.claim_time)
        change.ended = Attempt(
            job_id=job.id,
            number=job.attempt,
            start_time=change.now if job.start_time is None else job.start_time,
            claim_time=job.claim_time,
            end_time=change.now,
            outcome=outcome,
            worker=job.worker,
            tokens=job.attempt_tokens,
            cost_nano=job.attempt_cost_nano,
            error=error,
        )
        change.set(duration=saturating_add(job.duration, worked), attempt_deadline=None, due_time=None)

    def _fail(self, job: Job, command: c.Fail, now: int) -> Decision:
        change = self._reporting(job, command, Trigger.FAIL, now)
        usage = with_usage(job, command.usage)
        if usage:
            change.set(**usage)
        error = JobError(command.code, command.message, command.retryable, command.details, job.attempt, now)
        self._fail_attempt(change, error, command.retry_delay)
        return change.decision()

    def _fail_attempt(self, change: _Change, error: JobError, retry_delay: int | None = None) -> None:
        """The step ``fail`` and, in the same commit, the step that follows from it by itself."""
        previous = change.job.state
        state = change.take(Trigger.FAIL)
        self._end_attempt(change, AttemptOutcome.FAILED, error)
        change.set(state=state, last_error=error, retry_delay=retry_delay)
        decision = self._retry_decision(change.job, change.now)
        wait = self._delay(change.job)
        will_retry = decision is RetryDecision.WILL_RETRY
        change.tell(EventType.FAILED, previous, Failed(error, decision, change.now + wait if will_retry else None))
        if will_retry:
            self._wait_for_retry(change, wait)
        elif decision is not RetryDecision.AWAITING_RETRY_CALL:
            change.set(state=change.take(Trigger.GIVE_UP), complete_time=change.now)
            change.tell(EventType.PERMANENTLY_FAILED, state, PermanentlyFailed(decision))

    def _retry_decision(self, job: Job, now: int) -> RetryDecision:
        if can_retry(Facts(job, now)):
            if self._job_types.policy(job.job_type).auto_retry:
                return RetryDecision.WILL_RETRY
            return RetryDecision.AWAITING_RETRY_CALL
        if job.last_error is not None and job.last_error.retryable:
            return RetryDecision.LIMIT_REACHED
        return RetryDecision.NOT_RETRYABLE

    def _delay(self, job: Job) -> int:
        if job.retry_delay is not None:
            return job.retry_delay
        return self._job_types.policy(job.job_type).backoff_delay(job.retry_count, self._random())

    @staticmethod
    def _wait_for_retry(change: _Change, delay: int) -> None:
        previous = change.job.state
        state = change.take(Trigger.RETRY)
        due = change.now + delay
        change.set(
            state=state,
            retry_count=change.job.retry_count + 1,
            retry_delay=None,
            next_retry_time=due,
            due_time=due,
        )
        change.tell(EventType.RETRYING, previous, Retrying(delay, due))

    def _resume_now(self, change: _Change, trigger: Trigger) -> None:
        previous, due = change.job.state, change.job.next_retry_time
        # Not ``now``: retries resumed late, or many in one commit, stand in the order in which their waits were over.
        start_time = change.now if due is None else min(change.now, due)
        self._begin_attempt(change, change.take(trigger), start_time)
        change.tell(EventType.STARTED, previous, Started(resumed=True))

    def _retry(self, job: Job, command: c.Retry, now: int) -> Decision:
        change = _Change(job, command, now)
        if job.state is JobState.PERMANENTLY_FAILED:
            why = "limit reached" if job.last_error is not None and job.last_error.retryable else "not retryable"
            raise RetryNotAllowed(job.id, why, job.retry_count, job.max_retries)
        if job.state is not JobState.RETRYING:
            change.take(Trigger.RETRY)
            self._wait_for_retry(change, 0 if command.immediately else self._delay(job))
        if command.immediately:
            self._resume_now(change, Trigger.EXPEDITE)
        return change.decision()

    def _cancel(self, job: Job, command: c.Cancel, now: int) -> Decision:
        change = _Change(job, command, now)
        state = change.take(Trigger.CANCEL)
        if job.state is JobState.PROCESSING:
            self._end_attempt(change, AttemptOutcome.CANCELLED, None)
        change.set(
            state=state,
            cancel_reason=command.reason,
            complete_time=now,
            next_retry_time=None,
            due_time=None,
        )
        change.tell(EventType.CANCELLED, job.state, Cancelled(command.reason))
        return change.decision()

    def _resume(self, job: Job, command: c.Resume, now: int) -> Decision | None:
        overtaken = job.attempt != command.attempt or job.due_time != command.due_time
        if overtaken or next_state(Trigger.RESUME, Facts(job, now)) is None:
            return None
        change = _Change(job, command, now)
        self._resume_now(change, Trigger.RESUME)
        return change.decision()

    def _time_out(self, job: Job, command: c.TimeOut, now: int) -> Decision | None:
        overtaken = job.attempt != command.attempt or job.due_time != command.due_time
        if overtaken or job.state is not JobState.PROCESSING or command.due_time > now:
            return None
        change = _Change(job, command, now)
        seconds = f"{(job.timeout or 0) / 1_000_000:.6f}".rstrip("0").rstrip(".")
        error = JobError(
            ATTEMPT_TIMEOUT, f"the attempt outlasted its timeout of {seconds} s", True, b"", job.attempt, now
        )
        self._fail_attempt(change, error)
        return change.decision()

    def _mark_stale(self, job: Job, command: c.MarkStale, now: int) -> Decision | None:
        overtaken = job.attempt != command.attempt or job.heard_time != command.heard_time
        if overtaken or now < self.spare_until or job.state is not JobState.PROCESSING or not job.claimed:
            return None
        change = _Change(job, command, now)
        threshold = self._job_types.policy(job.job_type).stale_threshold
        change.set()
        change.tell(EventType.STALE_DETECTED, job.state, StaleDetected(job.heard_time, threshold))
        silence = (now - job.heard_time) / 1_000_000
        error = JobError(STALE, f"nothing was heard of the attempt for {silence:.0f} s", True, b"", job.attempt, now)
        self._fail_attempt(change, error)
        return change.decision()

    def _retry_resting(self, job: Job, command: c.RetryResting, now: int) -> Decision | None:
        resting = job.state is JobState.FAILED and job.attempt == command.attempt
        if not resting or self._retry_decision(job, now) is not RetryDecision.WILL_RETRY:
            return None
        change = _Change(job, command, now)
        self._wait_for_retry(change, self._delay(job))
        return change.decision()

    def _delete(self, job: Job, command: c.Delete, now: int) -> Decision | None:
        gone = job.complete_time is None or job.complete_time >= command.completed_before
        if gone or job.attempt != command.attempt or not job.state.is_final:
            return None
        remains = Job(
            id=job.id, job_type=job.job_type, source_id=job.source_id, principal=job.principal, state=job.state
        )
        event = Event(EventType.DELETED, now, command.actor, job.state, remains)
        return Decision(job, None, (event,))
