"""Random commands, from callers and from the server, against a small model of the lifecycle written here by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jobstate_server.domain import commands as c
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import JobStateError
from jobstate_server.domain.events import Claimed, Event, Started
from jobstate_server.domain.job import Attempt, Job, Usage
from jobstate_server.domain.plan import Change, Plan
from jobstate_server.domain.statistics import Measure, TallyCounter

from .support import TOO_LARGE, a_decider, finished

FINAL = ("COMPLETED", "PERMANENTLY_FAILED", "CANCELLED")

POLICIES: dict[str, tuple[int, int | None, int, int, bool]] = {
    "clean_transcript": (3, 60, 1, 30, True),
    "manual": (3, None, 1, 30, False),
    "unheard_of": (3, None, 1, 60, True),
}
"""What the model knows of a type: max_retries, timeout, base_delay, max_delay in seconds, auto_retry."""


class RefusedByModelError(Exception):
    """The model's refusal, named like the reason it expects."""


class DroppedByModelError(Exception):
    """The model finds that a decision of the server has been overtaken."""


@dataclass
class Model:
    """A job as the design has it, in plain words. Each method is one command and returns the names of its events."""

    job_type: str
    max_retries: int
    timeout: int | None
    now: int
    state: str = "QUEUED"
    attempt: int = 0
    claimed: bool = False
    retries: int = 0
    retryable: bool = True
    retry_delay: int | None = None
    retry_time: int | None = None
    due: int | None = None
    created: int = 0
    started: int = 0
    claimed_at: int | None = None
    waits: tuple[int, ...] = ()
    """How long each attempt that was claimed had waited."""
    heard_time: int = 0
    completed: int | None = None
    progress: int = 0
    message: str = ""
    metadata: bytes = b""
    tokens: int = 0
    attempt_tokens: int = 0
    duration: int = 0

    def seen(self) -> dict[str, Any]:
        """What of the real job must be the same."""
        return {
            "job_type": self.job_type,
            "max_retries": self.max_retries,
            "timeout": self.timeout,
            "state": self.state,
            "attempt": self.attempt,
            "claimed": self.claimed,
            "claim_time": self.claimed_at,
            "retry_count": self.retries,
            "next_retry_time": self.retry_time,
            "due_time": self.due,
            "heard_time": self.heard_time,
            "complete_time": self.completed,
            "progress": self.progress,
            "progress_message": self.message,
            "metadata": self.metadata,
            "estimated_tokens": self.tokens,
            "duration": self.duration,
        }

    def start(self, command: c.Start) -> list[str]:
        if self.state == "QUEUED":
            self.begin()
            self.claim()
            return ["STARTED"]
        if self.state == "PROCESSING" and not self.claimed:
            self.claim()
            return ["CLAIMED"]
        raise RefusedByModelError("TRANSITION_NOT_ALLOWED")

    def begin(self) -> None:
        """A new attempt. It stands where its wait was over, or where it was cut short."""
        over = self.now if self.retry_time is None else min(self.now, self.retry_time)
        self.started = over
        self.state, self.claimed, self.claimed_at = "PROCESSING", False, None
        self.attempt += 1
        self.progress, self.message, self.attempt_tokens = 0, "", 0
        self.heard_time = self.now
        self.retry_time = self.due = None

    def claim(self) -> None:
        self.waits += (self.now - (self.created if self.attempt == 1 else self.started),)
        self.claimed, self.claimed_at, self.heard_time = True, self.now, self.now
        self.due = None if self.timeout is None else self.now + self.timeout

    def report(self, command: c.AttemptCommand) -> list[str]:
        """Any report of a worker: it claims the attempt if nobody has."""
        self.pass_fence(command)
        if self.claimed:
            return []
        self.claim()
        return ["CLAIMED"]

    def pass_fence(self, command: c.AttemptCommand) -> None:
        if self.state in FINAL:
            raise RefusedByModelError("TRANSITION_NOT_ALLOWED")
        if command.attempt is None and self.attempt > 1:
            raise RefusedByModelError("ATTEMPT_REQUIRED")
        running = self.attempt if self.state == "PROCESSING" else None
        if command.attempt is not None and command.attempt != running:
            raise RefusedByModelError("ATTEMPT_SUPERSEDED")
        if running is None:
            raise RefusedByModelError("TRANSITION_NOT_ALLOWED")

    def use(self, command: c.AttemptCommand) -> None:
        more = max(0, (command.usage.tokens or 0) - self.attempt_tokens)
        self.attempt_tokens += more
        self.tokens += more

    def update_progress(self, command: c.UpdateProgress) -> list[str]:
        told = self.report(command)
        if command.metadata == TOO_LARGE:
            raise RefusedByModelError("INVALID_FIELD")
        self.heard_time = self.now
        self.use(command)
        self.progress = self.progress if command.progress is None else command.progress
        self.message = self.message if command.message is None else command.message
        self.metadata += command.metadata
        silent = command.progress is None and command.message is None and not command.metadata
        return told if silent and command.usage.tokens is None else [*told, "PROGRESS"]

    def end_attempt(self, state: str) -> None:
        self.state, self.due = state, None
        self.duration += 0 if self.claimed_at is None else self.now - self.claimed_at

    def complete(self, command: c.Complete) -> list[str]:
        told = self.report(command)
        self.use(command)
        self.end_attempt("COMPLETED")
        self.progress, self.completed = 100, self.now
        return [*told, "COMPLETED"]

    def fail(self, command: c.Fail) -> list[str]:
        told = self.report(command)
        self.use(command)
        return [*told, *self.go_wrong(command.retryable, command.retry_delay)]

    def go_wrong(self, retryable: bool, retry_delay: int | None) -> list[str]:
        self.end_attempt("FAILED")
        self.retryable, self.retry_delay = retryable, retry_delay
        if not retryable or self.retries >= self.max_retries:
            self.state, self.completed = "PERMANENTLY_FAILED", self.now
            return ["FAILED", "PERMANENTLY_FAILED"]
        if not POLICIES[self.job_type][4]:
            return ["FAILED"]
        return ["FAILED", *self.wait()]

    def wait(self, delay: int | None = None) -> list[str]:
        _, _, base, most, _ = POLICIES[self.job_type]
        if delay is None:
            delay = min(most, base * 2**self.retries) * SECOND if self.retry_delay is None else self.retry_delay
        self.state, self.retry_delay = "RETRYING", None
        self.retries += 1
        self.retry_time = self.due = self.now + delay
        return ["RETRYING"]

    def retry(self, command: c.Retry) -> list[str]:
        if self.state == "PERMANENTLY_FAILED":
            raise RefusedByModelError("RETRY_NOT_ALLOWED")
        if self.state not in ("FAILED", "RETRYING"):
            raise RefusedByModelError("TRANSITION_NOT_ALLOWED")
        told = self.wait(0 if command.immediately else None) if self.state == "FAILED" else []
        if command.immediately:
            self.begin()
            told.append("STARTED")
        return told

    def cancel(self, command: c.Cancel) -> list[str]:
        if self.state in FINAL:
            raise RefusedByModelError("TRANSITION_NOT_ALLOWED")
        if self.state == "PROCESSING":
            self.end_attempt("CANCELLED")
        self.state, self.completed = "CANCELLED", self.now
        self.retry_time = self.due = None
        return ["CANCELLED"]

    def resume(self, command: c.Resume) -> list[str]:
        self.still(self.state == "RETRYING" and self.due == command.due_time and command.due_time <= self.now)
        self.still(self.attempt == command.attempt)
        self.begin()
        return ["STARTED"]

    def time_out(self, command: c.TimeOut) -> list[str]:
        self.still(self.state == "PROCESSING" and self.due == command.due_time and command.due_time <= self.now)
        self.still(self.attempt == command.attempt)
        return self.go_wrong(True, None)

    def mark_stale(self, command: c.MarkStale) -> list[str]:
        self.still(self.state == "PROCESSING" and self.claimed and self.heard_time == command.heard_time)
        self.still(self.attempt == command.attempt)
        return ["STALE_DETECTED", *self.go_wrong(True, None)]

    def retry_resting(self, command: c.RetryResting) -> list[str]:
        self.still(self.state == "FAILED" and self.attempt == command.attempt and POLICIES[self.job_type][4])
        return self.wait()

    def still(self, unchanged: bool) -> None:
        if not unchanged:
            raise DroppedByModelError


def waits_of(events: list[Event]) -> list[int]:
    """What the events tell of how long attempts waited for those who claimed them."""
    details = [event.detail for event in events if isinstance(event.detail, Started | Claimed)]
    return [detail.waited for detail in details if detail.waited is not None]


job_ids = st.sampled_from(["a", "b", "c"])
job_types = st.sampled_from(sorted(POLICIES))
spans = st.sampled_from([1, SECOND, 7 * SECOND, 60 * SECOND])
usages = st.builds(Usage, tokens=st.none() | st.integers(0, 50))
naming = st.sampled_from(["current", "current", "current", "none", "previous", "next"])


class Jobs(RuleBasedStateMachine):
    """Three ids, each of which may be created, lived, deleted and created again."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000 * SECOND
        self.decider = a_decider()
        self.jobs: dict[str, Job] = {}
        self.models: dict[str, Model] = {}
        self.events: dict[str, list[Event]] = {}
        self.log: list[Event] = []
        """The events of all jobs, those of deleted ones too."""
        self.ended: dict[str, list[Attempt]] = {}
        self.counter = TallyCounter()
        self.seen: dict[str, Job] = {}
        """What the server saw of each job when it last looked: what it decides on, however old."""

    def attempt(self, job_id: str, name: str) -> int | None:
        current = self.jobs[job_id].attempt if job_id in self.jobs else 1
        return {"current": current, "none": None, "previous": max(0, current - 1), "next": current + 1}[name]

    def send(self, command: c.JobCommand, model_does: Callable[[Model], list[str]]) -> None:
        """Do it to both, and compare what came of it."""
        job_id = command.job_id
        model = replace(self.models[job_id], now=self.now) if job_id in self.models else None
        expected: list[str] | str
        try:
            if model is None:
                expected = "dropped" if isinstance(command, c.ServerCommand) else "JOB_NOT_FOUND"
            else:
                expected = model_does(model)
        except RefusedByModelError as refusal:
            expected = str(refusal)
        except DroppedByModelError:
            expected = "dropped"
        decision, outcome = self.ask(command)
        assert outcome == expected
        if decision is not None and model is not None:
            self.models[job_id] = model
            self.keep(job_id, decision)

    def ask(self, command: c.JobCommand) -> tuple[Change | None, list[str] | str]:
        """The decision and the names of its events, or None and why there is none."""
        try:
            decision = self.decider.change(self.jobs.get(command.job_id), command, self.now)
        except JobStateError as error:
            return None, error.reason
        return decision, "dropped" if decision is None else [event.type.name for event in decision.events]

    def keep(self, job_id: str, decision: Change) -> None:
        assert decision.before is self.jobs.get(job_id)
        self.events.setdefault(job_id, []).extend(decision.events)
        self.log.extend(decision.events)
        self.ended.setdefault(job_id, []).extend([decision.ended] if decision.ended else [])
        self.counter.add(decision)
        self.jobs[job_id] = decision.after

    @rule(span=spans)
    def time_passes(self, span: int) -> None:
        self.now += span

    @rule(job_id=job_ids, job_type=job_types, max_retries=st.none() | st.integers(0, 2), own_timeout=st.booleans())
    def create(self, job_id: str, job_type: str, max_retries: int | None, own_timeout: bool) -> None:
        command = c.Create(
            job_id=job_id, job_type=job_type, max_retries=max_retries, timeout=7 * SECOND if own_timeout else None
        )
        decision, outcome = self.ask(command)
        assert outcome == ("JOB_EXISTS" if job_id in self.models else ["QUEUED"])
        if decision is None:
            return
        retries, seconds, _, _, _ = POLICIES[job_type]
        timeout = 7 * SECOND if own_timeout else seconds and seconds * SECOND
        retries = retries if max_retries is None else max_retries
        self.models[job_id] = Model(job_type, retries, timeout, self.now, created=self.now, heard_time=self.now)
        self.keep(job_id, decision)

    @rule(job_id=job_ids)
    def start(self, job_id: str) -> None:
        command = c.Start(job_id=job_id, worker="worker")
        self.send(command, lambda model: model.start(command))

    @rule(
        job_id=job_ids,
        name=naming,
        progress=st.none() | st.integers(0, 100),
        message=st.none() | st.sampled_from(["", "on"]),
        metadata=st.sampled_from([b"", b"", b"{x}", TOO_LARGE]),
        usage=usages,
    )
    def update_progress(self, job_id: str, name: str, **report: Any) -> None:
        command = c.UpdateProgress(job_id=job_id, attempt=self.attempt(job_id, name), **report)
        self.send(command, lambda model: model.update_progress(command))

    @rule(job_id=job_ids, name=naming)
    def give_a_sign_of_life(self, job_id: str, name: str) -> None:
        command = c.UpdateProgress(job_id=job_id, attempt=self.attempt(job_id, name))
        self.send(command, lambda model: model.update_progress(command))

    @rule(job_id=job_ids, name=naming, usage=usages)
    def complete(self, job_id: str, name: str, usage: Usage) -> None:
        command = c.Complete(job_id=job_id, attempt=self.attempt(job_id, name), usage=usage)
        self.send(command, lambda model: model.complete(command))

    @rule(job_id=job_ids, name=naming, usage=usages, retryable=st.sampled_from([True, True, False]))
    def fail(self, job_id: str, name: str, usage: Usage, retryable: bool) -> None:
        command = c.Fail(job_id=job_id, attempt=self.attempt(job_id, name), usage=usage, retryable=retryable)
        self.send(command, lambda model: model.fail(command))

    @rule(job_id=job_ids, name=naming, retry_delay=st.sampled_from([0, SECOND, 1_000 * SECOND]))
    def fail_with_a_delay(self, job_id: str, name: str, retry_delay: int) -> None:
        command = c.Fail(job_id=job_id, attempt=self.attempt(job_id, name), retry_delay=retry_delay)
        self.send(command, lambda model: model.fail(command))

    @rule(job_id=job_ids, immediately=st.booleans())
    def retry(self, job_id: str, immediately: bool) -> None:
        command = c.Retry(job_id=job_id, immediately=immediately)
        self.send(command, lambda model: model.retry(command))

    @rule(job_id=job_ids)
    def cancel(self, job_id: str) -> None:
        command = c.Cancel(job_id=job_id, reason="changed my mind")
        self.send(command, lambda model: model.cancel(command))

    @rule()
    def the_server_looks(self) -> None:
        self.seen = dict(self.jobs)

    @precondition(lambda self: self.seen)
    @rule(job_id=job_ids, wait=st.booleans())
    def the_server_acts_on_what_is_due(self, job_id: str, wait: bool) -> None:
        seen = self.seen.get(job_id)
        if seen is None or seen.due_time is None:
            return
        self.now = max(self.now, seen.due_time) if wait else self.now
        resume = c.Resume(job_id=job_id, attempt=seen.attempt, due_time=seen.due_time)
        time_out = c.TimeOut(job_id=job_id, attempt=seen.attempt, due_time=seen.due_time)
        self.send(resume, lambda model: model.resume(resume))
        self.send(time_out, lambda model: model.time_out(time_out))

    @precondition(lambda self: self.seen)
    @rule(job_id=job_ids)
    def the_server_checks_for_stale_jobs(self, job_id: str) -> None:
        seen = self.seen.get(job_id, Job(id="", job_type=""))
        command = c.MarkStale(job_id=job_id, attempt=seen.attempt, heard_time=seen.heard_time)
        self.send(command, lambda model: model.mark_stale(command))

    @precondition(lambda self: self.seen)
    @rule(job_id=job_ids)
    def the_server_retries_what_rests(self, job_id: str) -> None:
        command = c.RetryResting(job_id=job_id, attempt=self.seen[job_id].attempt if job_id in self.seen else 0)
        self.send(command, lambda model: model.retry_resting(command))

    @rule(age=st.sampled_from([0, SECOND]))
    def cleanup_deletes(self, age: int) -> None:
        limit = self.now - age
        old = [job for job in self.jobs.values() if job.complete_time is not None and job.complete_time < limit]
        view: Any = SimpleNamespace(now=self.now, finished=lambda _selection: [finished(job) for job in old])
        plan = self.decider.decide(c.DeleteFinished(before=limit, after=None, limit=9), view)
        deletion = plan.deletion if isinstance(plan, Plan) else None
        assert deletion is not None
        assert {job.id for job in deletion.jobs} == {
            job_id for job_id, model in self.models.items() if model.completed is not None and model.completed < limit
        }
        self.counter.delete(deletion.jobs)
        for job in old:
            for kept in (self.jobs, self.models, self.events, self.ended):
                kept.pop(job.id)

    @invariant()
    def every_job_is_what_the_model_says(self) -> None:
        assert self.jobs.keys() == self.models.keys()
        for job_id, model in self.models.items():
            job, expected = self.jobs[job_id], model.seen()
            assert {name: getattr(job, name) for name in expected} | {"state": job.state.name} == expected

    @invariant()
    def attempts_are_numbered_from_one_without_gap(self) -> None:
        for job_id, job in self.jobs.items():
            running = 1 if job.state.name == "PROCESSING" else 0
            numbers = [attempt.number for attempt in self.ended[job_id]] + [job.attempt] * running
            assert numbers == list(range(1, job.attempt + 1))

    @invariant()
    def retries_stay_within_their_limit_and_are_one_less_than_the_attempts_they_lead_to(self) -> None:
        for job in self.jobs.values():
            assert 0 <= job.retry_count <= job.max_retries
            assert job.attempt in (job.retry_count, job.retry_count + 1)

    @invariant()
    def a_job_is_due_exactly_while_it_waits_or_a_claimed_attempt_has_a_timeout(self) -> None:
        for job in self.jobs.values():
            timed = job.state.name == "PROCESSING" and job.claimed and job.timeout is not None
            assert (job.due_time is not None) == (timed or job.state.name == "RETRYING")
            assert (job.attempt_deadline is not None) == timed
            assert (job.next_retry_time is not None) == (job.state.name == "RETRYING")

    @invariant()
    def a_job_has_a_complete_time_exactly_when_it_is_final(self) -> None:
        for job in self.jobs.values():
            assert (job.complete_time is not None) == job.state.is_final == (job.state.name in FINAL)

    @invariant()
    def durations_and_tokens_are_those_of_the_attempts(self) -> None:
        for job_id, job in self.jobs.items():
            ended = self.ended[job_id]
            running = job.attempt_tokens if job.state.name == "PROCESSING" else 0
            claimed = [(attempt.claim_time, attempt.end_time) for attempt in ended]
            assert job.duration == sum(end - claim for claim, end in claimed if claim is not None)
            assert all(attempt.start_time <= attempt.end_time for attempt in ended)
            assert job.estimated_tokens == sum(attempt.tokens for attempt in ended) + running

    @invariant()
    def the_tallies_of_waits_are_the_waits_of_the_claims(self) -> None:
        waits = waits_of(self.log)
        summed: Counter[Measure] = Counter()
        for key, value in self.counter.tallies().items():
            summed[key[1]] += value
        assert all(waited >= 0 for waited in waits)
        assert (summed[Measure.WAIT], summed[Measure.WAIT_HISTOGRAM]) == (sum(waits), len(waits))
        for job_id, model in self.models.items():
            assert tuple(waits_of(self.events[job_id])) == model.waits

    @invariant()
    def the_tallies_of_stored_jobs_are_the_stored_jobs(self) -> None:
        stored = {key: value for key, value in self.counter.tallies().items() if key[1] is Measure.STORED and value}
        assert stored == Counter((job.job_type, Measure.STORED, job.state) for job in self.jobs.values())

    @invariant()
    def taking_the_job_of_every_event_ends_in_the_job(self) -> None:
        for job_id, job in self.jobs.items():
            # A heartbeat makes no event: when the attempt last reported is not for watchers.
            assert replace(self.events[job_id][-1].job, heard_time=job.heard_time) == job
            assert self.events[job_id][0].previous_state is None
            for earlier, later in zip(self.events[job_id], self.events[job_id][1:], strict=False):
                assert later.previous_state is earlier.job.state
                assert later.time >= earlier.time


TestJobs = Jobs.TestCase
TestJobs.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
