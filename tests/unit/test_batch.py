"""One batch: commands see each other, one that fails leaves no trace, and a plan may change many jobs."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest

from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.errors import InternalError, JobExists, JobNotFound
from jobstate_server.domain.events import EventType
from jobstate_server.domain.job import Attempt, AttemptOutcome, Job, JobError, JobState, Usage
from jobstate_server.domain.plan import Change, Plan
from jobstate_server.domain.reads import Due, Finished
from jobstate_server.domain.rules import decider as deciding
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.domain.statistics import Measure
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.outcomes import DeletedOutcome, DueOutcome, Outcome, Verdict
from jobstate_server.store.records import Changes, Loaded

from .support import NOW, a_decider, a_job, an_unclaimed_job, finished

SERVE = c.ServeDue(limit=10, caller=SERVER)


class Writing:
    """A transaction that keeps what it is to write, and sets the versions as stores do."""

    def __init__(self) -> None:
        self.changes = Changes()

    def finish(self, changes: Changes) -> int:
        self.changes = changes
        for job, last_event, *_ in (*changes.inserted, *changes.updated, *changes.progressed):
            if last_event is not None:
                job.numbered(1 + last_event)
        return 1


def due_job(job_id: str, **changes: Any) -> Job:
    """A job whose wait for a retry is over."""
    error = JobError("BROKEN", "", True, b"", 1, NOW)
    return a_job(JobState.RETRYING, id=job_id, metadata=b"", **{"last_error": error, **changes})


def a_batch(*jobs: Job, decider: Decider | None = None) -> Batch:
    """A batch that has found these jobs due."""
    loaded = Loaded({job.id: job for job in jobs}, {}, {Due(10): [job.id for job in jobs]})
    return Batch(decider or a_decider(), NOW, loaded, requests_room=10)


def written(batch: Batch) -> Changes:
    """What the batch has a transaction write."""
    transaction: Any = Writing()
    batch.write(transaction, is_last=True)
    changes: Changes = transaction.changes
    return changes


def served(batch: Batch) -> tuple[int, int]:
    """How many due jobs were served, and how many could not be."""
    batch.decide(SERVE)
    outcome = batch.verdicts(1, next_due=NOW)[-1]
    assert isinstance(outcome, DueOutcome)
    assert outcome.next_due == NOW
    return outcome.served, outcome.failed


class RaisesForOne(Decider):
    """A rule that fails on one job."""

    def change(self, job: Job | None, command: c.JobCommand, now: int) -> Change | None:
        if command.job_id == "bad":
            raise ZeroDivisionError
        return super().change(job, command, now)


def test_a_due_job_whose_rule_raises_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    base = a_decider()
    decider = RaisesForOne(base.context.job_types, base.context.merge, lambda: 0.0)
    batch = a_batch(due_job("first"), due_job("bad"), due_job("last"), decider=decider)

    assert served(batch) == (2, 1)
    assert [row.job.id for row in written(batch).updated] == ["first", "last"]
    assert [record.__dict__["job"] for record in caplog.records] == ["bad"]


def test_a_due_job_that_cannot_be_encoded_stops_no_other() -> None:
    unreadable = JobError("BROKEN", "half of a pair: \ud800", True, b"", 1, NOW)
    batch = a_batch(due_job("bad", last_error=unreadable), due_job("good"))

    assert served(batch) == (1, 1)
    assert [row.job.id for row in written(batch).updated] == ["good"]
    assert batch.jobs["bad"].state is JobState.RETRYING


def test_a_due_job_that_a_command_before_has_changed_is_not_served() -> None:
    batch = a_batch(due_job("cancelled"), due_job("due"))
    batch.decide(c.Cancel(job_id="cancelled"))

    assert served(batch) == (1, 0)
    assert batch.jobs["cancelled"].state is JobState.CANCELLED


def test_due_jobs_are_served_once_however_often_a_batch_asks() -> None:
    batch = a_batch(due_job("one"), due_job("other"))

    assert served(batch) == (2, 0)
    assert served(batch) == (0, 0)


FIRST, SECOND = (Finished(NOW, None, limit) for limit in (10, 11))


def a_cleanup(*jobs: Job, named: tuple[Job, ...] = ()) -> Batch:
    """A batch in which two selections have found these jobs finished, and commands have named some of them."""
    found = [finished(job) for job in jobs]
    loaded = Loaded({job.id: job for job in named}, {}, finished={FIRST: found, SECOND: found})
    return Batch(a_decider(), NOW, loaded, requests_room=10)


def delete(batch: Batch, selection: Finished = FIRST) -> list[str]:
    """The ids of the jobs that are deleted, in order."""
    batch.decide(c.DeleteFinished(caller=SERVER, before=NOW, after=None, limit=selection.limit))
    outcome = batch.verdicts(1)[-1]
    assert isinstance(outcome, DeletedOutcome)
    return [job.id for job in outcome.deleted]


def test_what_others_need_is_not_deleted_and_the_next_slice_begins_after_it() -> None:
    jobs = [finished(ended(job_id)) for job_id in ("old", "kept", "last")]
    found = [job._replace(is_kept=job.id != "old") for job in jobs]
    batch = Batch(a_decider(), NOW, Loaded({}, {}, finished={FIRST: found}), requests_room=10)
    batch.decide(c.DeleteFinished(caller=SERVER, before=NOW, after=None, limit=FIRST.limit))
    (outcome,) = batch.verdicts(1)

    assert isinstance(outcome, DeletedOutcome)
    assert [job.id for job in outcome.deleted] == ["old"]
    assert outcome.found == 3
    assert outcome.last is not None
    assert outcome.last.id == "last"


def ended(job_id: str, state: JobState = JobState.COMPLETED) -> Job:
    """A job that has ended."""
    return a_job(state, id=job_id, metadata=b"", last_error=None)


def test_every_finished_job_is_deleted_with_an_event_of_its_own_in_order() -> None:
    batch = a_cleanup(ended("b"), ended("a", JobState.CANCELLED), ended("c"))

    assert delete(batch) == ["b", "a", "c"]

    changes = written(batch)
    assert [job.id for job in changes.deleted] == ["b", "a", "c"]
    assert [(event.job_id, event.type, event.time) for event in changes.events] == [
        (job_id, EventType.DELETED, NOW) for job_id in ("b", "a", "c")
    ]
    assert {(event.job_type, event.source_id, event.principal) for event in changes.events} == {
        ("clean_transcript", "source", "principal")
    }
    assert changes.tallies == {
        ("clean_transcript", Measure.STORED, JobState.COMPLETED): -2,
        ("clean_transcript", Measure.STORED, JobState.CANCELLED): -1,
    }


def test_a_job_is_deleted_once_however_often_a_batch_finds_it() -> None:
    batch = a_cleanup(ended("one"), ended("other"))

    assert delete(batch) == ["one", "other"]
    assert delete(batch, SECOND) == []
    assert [job.id for job in written(batch).deleted] == ["one", "other"]


def test_commands_after_a_deletion_do_not_find_the_job() -> None:
    job = ended("job")
    batch = a_cleanup(job, named=(job,))
    delete(batch)

    batch.decide(c.Cancel(job_id="job"))
    batch.decide(c.Create(job_id="job", job_type="default"))

    _, refused, created = batch.verdicts(1)
    assert isinstance(refused, JobNotFound)
    assert isinstance(created, Outcome)
    changes = written(batch)
    assert [job.id for job in changes.deleted] == ["job"]
    assert [row.job.state for row in changes.inserted] == [JobState.QUEUED]


def test_a_job_whose_usage_came_before_its_deletion_is_not_written_again() -> None:
    job = ended("job")
    attempt = Attempt(
        job_id="job",
        number=1,
        start_time=1,
        claim_time=1,
        end_time=2,
        outcome=AttemptOutcome.COMPLETED,
        worker="",
        tokens=0,
        cost_nano=0,
        error=None,
    )
    loaded = Loaded({"job": job}, {}, finished={FIRST: [finished(job)]}, attempts={("job", 1): attempt})
    batch = Batch(a_decider(), NOW, loaded, requests_room=10)
    batch.decide(c.ReportUsage(job_id="job", attempt=1, usage=Usage(tokens=5)))

    assert delete(batch) == ["job"]

    changes = written(batch)
    assert [job.id for job in changes.deleted] == ["job"]
    assert (changes.updated, changes.progressed, changes.amended) == ([], [], [])
    assert batch.ended_attempt("job", 1) is None
    assert [event.type for event in changes.events] == [EventType.USAGE, EventType.DELETED]


def test_the_server_s_own_work_is_told_its_part_of_the_time_by_its_events() -> None:
    running = a_job(JobState.PROCESSING, id="running", metadata=b"", last_error=None)
    batch = a_cleanup(*[ended(f"{number}") for number in range(3)], named=(running,))
    batch.decide(c.UpdateProgress(job_id="running", attempt=2, progress=60))
    delete(batch)
    written(batch)

    _, outcome = batch.verdicts(1)
    batch.share_time(1_000, 500)

    assert isinstance(outcome, DeletedOutcome)
    assert (outcome.spent, outcome.others) == (750, 1)


def test_a_batch_of_creates_that_is_refused_leaves_no_trace() -> None:
    batch = a_batch(due_job("taken"))
    creates = tuple(c.Create(job_id=job_id, job_type="default") for job_id in ("new", "taken"))

    batch.decide(c.BatchCreate(creates=creates))

    (verdict,) = batch.verdicts(1)
    assert isinstance(verdict, JobExists)
    assert set(batch.jobs) == {"taken"}
    assert written(batch) == Changes()


@pytest.mark.usefixtures("no_collector")
def test_a_refusal_does_not_keep_its_batch() -> None:
    batch = a_batch()
    batch.decide(c.Cancel(job_id="none"))
    verdicts, kept = batch.verdicts(1), weakref.ref(batch)
    assert isinstance(verdicts[0], JobNotFound)

    del batch

    assert kept() is None


class CancelTogether(c.Command):
    """A command that no caller has: cancels the first two jobs and answers with one."""

    __slots__ = ()


def cancel_together(context: Any, _command: CancelTogether, view: Any) -> Plan:
    cancel = deciding.JOB_RULES[c.Cancel]
    jobs = list(view.jobs.values())
    found = [cancel(context, job, c.Cancel(job_id=job.id), view.now) for job in jobs]
    return Plan(tuple(change for change in found if change is not None), answered=1)


@pytest.fixture
def cancels_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(deciding.PLAN_RULES, CancelTogether, cancel_together)


@pytest.mark.usefixtures("cancels_together")
def test_a_plan_changes_many_jobs_and_answers_with_those_that_were_asked_for() -> None:
    batch = a_batch(due_job("asked for"), due_job("follows"))

    batch.decide(CancelTogether())

    changes = written(batch)
    (outcome,) = batch.verdicts(1)
    assert isinstance(outcome, Outcome)
    assert [(job.id, job.version) for job in outcome.jobs] == [("asked for", 1)]
    assert [event.job_id for event in changes.events] == ["asked for", "follows"]
    assert [row.job.state for row in changes.updated] == [JobState.CANCELLED] * 2
    assert sorted(changes.tallies.values()) == [-2, 2, 2]


@pytest.mark.usefixtures("cancels_together")
def test_a_plan_of_which_one_change_cannot_be_encoded_leaves_no_trace() -> None:
    unreadable = JobError("BROKEN", "half of a pair: \ud800", True, b"", 1, NOW)
    batch = a_batch(due_job("good"), due_job("bad", last_error=unreadable))

    batch.decide(CancelTogether())

    assert isinstance(batch.verdicts(1)[0], InternalError)
    assert {job.state for job in batch.jobs.values()} == {JobState.RETRYING}
    assert written(batch) == Changes()


def test_a_report_writes_only_what_reports_change_unless_the_attempt_is_claimed_or_ends() -> None:
    batch = a_batch(*[a_job(JobState.PROCESSING, id=job_id) for job_id in ("reported", "ended")], an_unclaimed_job())

    batch.decide(*[c.UpdateProgress(job_id=job_id, attempt=2, progress=60) for job_id in batch.jobs])
    batch.decide(c.Complete(job_id="ended", attempt=2))

    changes = written(batch)
    assert [row.job.id for row in changes.progressed] == ["reported"]
    assert [(row.job.id, row.job.state, row.job.claimed) for row in changes.updated] == [
        ("ended", JobState.COMPLETED, True),
        ("job", JobState.PROCESSING, True),
    ]


def test_a_job_is_written_once_with_all_that_its_commands_changed_and_each_outcome_has_its_own_version() -> None:
    batch = a_batch(a_job(JobState.QUEUED, id="job", metadata=b""))

    batch.decide(
        c.Start(job_id="job", worker="w"),
        c.UpdateProgress(job_id="job", attempt=1, progress=60),
        c.UpdateProgress(job_id="job", attempt=1),
    )

    (row,) = written(batch).updated
    assert (row.job.worker, row.job.progress, row.last_event) == ("w", 60, 1)
    outcomes = [outcome for outcome in batch.verdicts(1) if isinstance(outcome, Outcome)]
    assert [(outcome.jobs[0].progress, outcome.jobs[0].version) for outcome in outcomes] == [(0, 1), (60, 2), (60, 2)]


def test_a_repeat_of_an_acquire_gets_a_job_that_another_replica_created_after_the_time_of_the_transaction() -> None:
    """Whose transaction began later may have committed first. A later job of that name is still not answered."""
    call = c.Acquire(("default",), 1, request=c.Request("", "request-1", "Acquire", b""))
    job = a_job(JobState.QUEUED, id="job", job_type="default", create_time=NOW + 5, update_time=NOW + 5)
    first = Batch(a_decider(), NOW, Loaded({}, {}, {}), requests_room=10, wanted_types={"default"})
    first.offer(job)
    first.decide(call)
    changes = written(first)
    (stored,) = changes.requests
    claimed = changes.updated[0].job

    def repeated(now: Job) -> Verdict:
        loaded = Loaded({"job": now}, {stored.request.key: stored}, {})
        return Batch(a_decider(), NOW + 9, loaded, requests_room=10).answer(call)

    assert repeated(claimed) == Outcome((claimed,))
    assert repeated(replace(claimed, create_time=NOW + 6)) == Outcome(())
