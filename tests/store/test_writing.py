"""What ``Transaction.write`` does to jobs, and that a transaction is kept whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.clock import ManualClock
from jobstate_server.domain.commands import Request
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.reads import Due
from jobstate_server.domain.statistics import Measure
from jobstate_server.store.base import Reader, Store, Transaction
from jobstate_server.store.errors import StoreError, StoreUnreachable
from jobstate_server.store.records import ChangedJob, Changes, StoredRequest

from ..support.reads import reads
from .support import (
    MODERATELY,
    Backend,
    Interruption,
    a_job,
    a_request,
    an_attempt,
    an_event,
    attempts_of,
    contents,
    interrupt,
    keep,
    keep_events,
    keep_jobs,
    opened,
    reading,
    remains,
    stored_job,
    unversioned,
)


def everything(suffix: str) -> Changes:
    """Something of every kind, none of it clashing with another suffix."""
    return Changes(
        inserted=[ChangedJob(a_job(f"job-{suffix}", due_time=1), 0)],
        events=[an_event(f"job-{suffix}"), an_event(f"job-{suffix}", type=2)],
        attempts=[an_attempt(f"job-{suffix}")],
        requests=[a_request(f"request-{suffix}")],
        tallies={("type", Measure.STORED, 1): 1, (f"type-{suffix}", Measure.STORED, 1): 1},
    )


def requests_in(store: Store, *request_ids: str) -> set[str]:
    """Which of these request ids of "owner" are stored."""
    with store.transaction() as transaction:
        found = transaction.load(reads(request_keys=[("owner", request_id) for request_id in request_ids])).requests
    return {request_id for _, request_id in found}


def test_a_new_store_is_empty(store: Store, reader: Reader) -> None:
    found = contents(store)

    assert (found.jobs, found.attempts, found.events, found.tallies, found.tasks) == ([], [], [], {}, {})
    assert found.log == (0, 0, 0, 0)
    assert reader.overdue(2**62) == 0


def test_an_inserted_job_gets_the_sequence_of_its_last_event_as_version(store: Store) -> None:
    keep_events(store, an_event(), an_event())

    keep(
        store,
        Changes(
            inserted=[ChangedJob(a_job("a"), 1), ChangedJob(a_job("b"), 2)],
            events=[an_event("a"), an_event("a"), an_event("b")],
        ),
    )

    assert stored_job(store, "a") == a_job("a", version=4)
    assert stored_job(store, "b") == a_job("b", version=5)


def test_an_updated_and_a_progressed_job_get_the_sequence_of_their_last_event_as_version(store: Store) -> None:
    keep_jobs(store, a_job("a"), a_job("b"))

    keep(
        store,
        Changes(
            updated=[ChangedJob(a_job("a", state=JobState.PROCESSING), 2)],
            progressed=[ChangedJob(a_job("b", progress=5), 1)],
            events=[an_event("a"), an_event("b"), an_event("a")],
        ),
    )

    assert stored_job(store, "a") == a_job("a", state=JobState.PROCESSING, version=3)
    assert stored_job(store, "b") == a_job("b", progress=5, version=2)


def test_a_job_without_an_event_keeps_its_version(store: Store) -> None:
    keep_events(store, an_event())

    keep(store, Changes(inserted=unversioned([a_job("a", version=41), a_job("b", version=42)])))
    keep(
        store,
        Changes(
            updated=unversioned([a_job("a", version=41, worker="w")]),
            progressed=unversioned([a_job("b", version=42, heard_time=9)]),
            events=[an_event()],
        ),
    )

    assert stored_job(store, "a") == a_job("a", version=41, worker="w")
    assert stored_job(store, "b") == a_job("b", version=42, heard_time=9)


def test_a_change_of_one_job_leaves_its_neighbours_alone(store: Store) -> None:
    keep_jobs(store, a_job("a"), a_job("b"), a_job("c"), a_job("d"))

    keep(
        store,
        Changes(
            deleted=[remains("a")],
            updated=unversioned([a_job("b", worker="w")]),
            progressed=unversioned([a_job("c", progress=1)]),
        ),
    )

    assert contents(store).jobs == [a_job("b", worker="w"), a_job("c", progress=1), a_job("d")]


def test_a_deleted_job_takes_its_attempts_with_it(store: Store, reader: Reader) -> None:
    keep(
        store,
        Changes(
            inserted=unversioned([a_job("a"), a_job("b")]),
            attempts=[an_attempt("a"), an_attempt("a", 2), an_attempt("b")],
        ),
    )

    keep(store, Changes(deleted=[remains("a")]))

    assert reader.jobs(["a", "b"]) == {"b": a_job("b")}
    assert attempts_of(reader, "a") == []
    assert attempts_of(reader, "b") == [an_attempt("b")]


def test_a_deleted_job_leaves_its_events_in_the_log(store: Store) -> None:
    keep(store, Changes(inserted=[ChangedJob(a_job(), 0)], events=[an_event()]))

    keep(store, Changes(deleted=[remains("job")], events=[an_event(type=11)]))

    assert [(event.sequence, event.type) for event in contents(store).events] == [(1, 1), (2, 11)]


def test_deleting_what_is_not_there_does_nothing(store: Store) -> None:
    keep_jobs(store, a_job())

    keep(store, Changes(deleted=[remains("missing")]))

    assert contents(store).jobs == [a_job()]


def test_a_job_deleted_and_inserted_in_one_write_is_the_new_one(store: Store, reader: Reader) -> None:
    keep(store, Changes(inserted=unversioned([a_job(worker="old")]), attempts=[an_attempt(), an_attempt(number=2)]))

    keep(
        store,
        Changes(
            deleted=[remains("job")],
            inserted=[ChangedJob(a_job(worker="new"), 1)],
            events=[an_event(type=11), an_event(type=1)],
            attempts=[an_attempt(worker="new")],
        ),
    )

    assert stored_job(store) == a_job(worker="new", version=2)
    assert attempts_of(reader, "job") == [an_attempt(worker="new")]


def test_a_job_inserted_and_reported_on_in_one_write_is_the_reported_one(store: Store) -> None:
    changes = Changes(inserted=unversioned([a_job()]), progressed=unversioned([a_job(progress=3)]))

    keep(store, changes)

    assert contents(store).jobs == [a_job(progress=3)]


def test_a_new_job_gets_the_unique_key_that_another_gives_up_in_the_same_write(store: Store) -> None:
    first, second = a_job("first", unique_key="key", unique_until=1), a_job("second", unique_key="key", unique_until=1)
    keep_jobs(store, first)
    ended = replace(first, state=JobState.COMPLETED)

    keep(store, Changes(updated=unversioned([ended]), inserted=unversioned([second])))

    assert contents(store).jobs == [ended, second]


def test_attempts_are_read_by_number_and_by_job(store: Store, reader: Reader) -> None:
    jobs = unversioned([a_job("a"), a_job("b")])
    keep(store, Changes(inserted=jobs, attempts=[an_attempt("a", 10), an_attempt("b"), an_attempt("a", 2)]))
    keep(store, Changes(attempts=[an_attempt("a", 1)]))

    assert [attempt.number for attempt in attempts_of(reader, "a")] == [1, 2, 10]
    assert attempts_of(reader, "b") == [an_attempt("b")]
    assert attempts_of(reader, "missing") == []


def test_a_transaction_sees_what_was_committed_before_it(store: Store) -> None:
    keep(store, everything("a"))

    with store.transaction() as transaction:
        loaded = transaction.load(
            reads(["job-a", "missing"], request_keys=[("owner", "request-a"), ("owner", "missing")], due=10)
        )

    expected = a_job("job-a", due_time=1, version=1)
    assert loaded.jobs == {"job-a": expected}
    assert loaded.requests == {("owner", "request-a"): a_request("request-a")}
    assert loaded.due == {Due(10): ["job-a"]}


def test_loading_nothing_finds_nothing(store: Store) -> None:
    keep(store, everything("a"))

    with store.transaction() as transaction:
        loaded = transaction.load(reads())

    assert (loaded.jobs, loaded.requests, loaded.due) == ({}, {}, {})


def test_a_transaction_that_writes_nothing_changes_nothing(store: Store) -> None:
    keep(store, everything("a"))
    before = contents(store)

    with store.transaction() as transaction:
        transaction.load(reads(["job-a"], due=10))

    assert contents(store) == before


def test_a_thousand_jobs_are_loaded_with_one_call(store: Store) -> None:
    jobs = {f"{number}": a_job(f"{number}") for number in range(1_000)}
    keep_jobs(store, *jobs.values())

    with store.transaction() as transaction:
        assert transaction.load(reads([*jobs, "missing"])).jobs == jobs


def test_an_exception_in_the_block_passes_through_and_leaves_nothing(store: Store) -> None:
    keep(store, everything("a"))
    before = contents(store)

    def work(transaction: Transaction) -> None:
        transaction.write(
            Changes(
                deleted=[remains("job-a")],
                inserted=[ChangedJob(a_job("job-b"), 0)],
                events=[an_event()],
                attempts=[an_attempt("job-b", 2)],
                requests=[a_request("request-b")],
                tallies={("type", Measure.STORED, 1): 5},
            )
        )
        transaction.claim_task("task", 1, "token", "replica")

    with pytest.raises(Interruption):
        interrupt(store, work)

    assert contents(store) == before
    assert requests_in(store, "request-a", "request-b") == {"request-a"}


def test_an_exception_in_the_block_undoes_maintenance_too(store: Store) -> None:
    keep(store, everything("a"))
    keep_jobs(store, a_job("running", state=JobState.PROCESSING, due_time=1))
    before = contents(store)

    def work(transaction: Transaction) -> None:
        assert transaction.trim_events(2**62, 0, 100) == 2
        assert transaction.trim_requests(2**62, 100) == 1
        assert transaction.postpone_timeouts(100) == 2

    with pytest.raises(Interruption):
        interrupt(store, work)

    assert contents(store) == before
    assert requests_in(store, "request-a") == {"request-a"}


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, GeneratorExit, SystemExit])
def test_an_interruption_leaves_nothing(store: Store, interruption: type[BaseException]) -> None:
    with pytest.raises(interruption):
        interrupt(store, lambda transaction: transaction.write(everything("a")), interruption)

    assert contents(store).log == (0, 0, 0, 0)
    assert keep(store, everything("b")) == 1


def refused_writes() -> dict[str, Changes]:
    """Changes with one row that cannot be kept, and good ones before and after it."""
    good = everything("b")
    return {
        "a job id that exists": Changes(
            inserted=[*good.inserted, *unversioned([a_job("job-a", create_sequence=7)])],
            events=good.events,
            requests=good.requests,
            tallies=good.tallies,
        ),
        "a key that exists": Changes(
            inserted=[*good.inserted, *unversioned([a_job("c", create_sequence=a_job("job-a").create_sequence)])],
            events=good.events,
        ),
        "an attempt of no job": Changes(
            inserted=good.inserted, events=good.events, attempts=[*good.attempts, an_attempt("missing")]
        ),
        "a job id twice": Changes(
            inserted=unversioned([a_job("b"), a_job("b", create_sequence=7)]), events=good.events
        ),
        "an attempt that exists": Changes(
            deleted=[remains("other")],
            updated=unversioned([a_job("job-a", worker="w")]),
            events=good.events,
            attempts=[*good.attempts, an_attempt("job-a")],
            tallies=good.tallies,
        ),
        "a request id that exists": Changes(
            inserted=good.inserted,
            events=good.events,
            requests=[*good.requests, a_request("request-a", job_id="else")],
            tallies=good.tallies,
        ),
        "a number beyond 64 bits": Changes(
            inserted=[*good.inserted, *unversioned([a_job("c", create_time=2**63)])], events=good.events
        ),
        "text that is no Unicode": Changes(
            inserted=[*good.inserted, *unversioned([a_job("c", worker="\ud800")])], events=good.events
        ),
        "a value missing": Changes(
            inserted=[*good.inserted, *unversioned([a_job("c", source_id=None)])], events=good.events
        ),
    }


@pytest.mark.parametrize("wrong", refused_writes())
def test_a_row_that_cannot_be_kept_is_a_store_error_and_leaves_nothing(store: Store, wrong: str) -> None:
    keep(store, everything("a"))
    keep_jobs(store, a_job("other"))
    before = contents(store)

    with pytest.raises(StoreError) as caught:
        keep(store, refused_writes()[wrong])

    assert not isinstance(caught.value, StoreUnreachable)
    assert contents(store) == before
    assert requests_in(store, "request-a", "request-b") == {"request-a"}


def test_a_store_works_on_after_a_refused_write(store: Store) -> None:
    keep(store, everything("a"))
    with pytest.raises(StoreError):
        keep(store, everything("a"))

    assert keep(store, everything("b")) == 3
    assert [job.id for job in contents(store).jobs] == ["job-a", "job-b"]


def test_two_principals_may_use_the_same_request_id(store: Store) -> None:
    one = a_request(principal="one", job_id="a")
    two = a_request(principal="two", job_id="d")

    keep(store, Changes(requests=[one]))
    keep(store, Changes(requests=[two]))

    with store.transaction() as transaction:
        keys = [("one", "request"), ("two", "request")]
        assert transaction.load(reads(request_keys=keys)).requests == {keys[0]: one, keys[1]: two}


def test_only_the_requests_asked_for_are_loaded(store: Store) -> None:
    keep(
        store,
        Changes(
            requests=[
                StoredRequest(Request(principal, request_id, "Create", b""), "job", 1)
                for principal in ("one", "two")
                for request_id in ("x", "y")
            ]
        ),
    )

    with store.transaction() as transaction:
        found = transaction.load(reads(request_keys=[("one", "x"), ("two", "y"), ("three", "x")])).requests

    assert set(found) == {("one", "x"), ("two", "y")}


def test_a_transaction_tells_the_time_of_the_clock(store: Store) -> None:
    with store.transaction() as first:
        pass
    with store.transaction() as second:
        pass

    assert 0 < first.now <= second.now


@dataclass(frozen=True)
class Step:
    """One write of a history. ``number`` marks what it writes."""

    deed: str
    job_id: str
    state: JobState
    number: int
    kept: bool


IDS = ("a", "b", "c")

histories = st.lists(
    st.builds(
        Step,
        deed=st.sampled_from(["delete", "replace", "update", "progress", "postpone"]),
        job_id=st.sampled_from(IDS),
        state=st.sampled_from(JobState),
        number=st.integers(1, 99),
        kept=st.booleans() | st.just(True),
    ),
    max_size=25,
)


def take(transaction: Transaction, step: Step, before: Job | None) -> Job | None:
    """Do what the step says to its job, as it now is, and tell what the job is afterwards."""
    changed = a_job(step.job_id, state=step.state, worker=f"{step.number}", due_time=step.number)
    if step.deed == "delete":
        transaction.write(Changes(deleted=[remains(step.job_id)], events=[an_event(step.job_id)]))
        return None
    if step.deed == "postpone":
        transaction.postpone_timeouts(step.number)
        return before
    if before is None or step.deed == "replace":
        changes = Changes(
            deleted=[remains(step.job_id)], inserted=[ChangedJob(changed, 1)], events=[an_event(), an_event()]
        )
        return replace(changed, version=transaction.write(changes) + 1)
    if step.deed == "update":
        return replace(
            changed, version=transaction.write(Changes(updated=[ChangedJob(changed, 0)], events=[an_event()]))
        )
    progressed = replace(before, progress=step.number, heard_time=step.number)
    transaction.write(Changes(progressed=[ChangedJob(progressed, None)]))
    return progressed


@MODERATELY
@given(history=histories)
def test_what_a_transaction_loads_is_what_was_kept_last_and_what_a_reader_reads(
    backend: Backend, history: list[Step]
) -> None:
    model: dict[str, Job] = {}
    with opened(backend.new_home(), ManualClock()) as store, reading(store) as reader:
        for step in history:
            after: Job | None = None

            def work(transaction: Transaction, step: Step = step) -> None:
                nonlocal after
                loaded = transaction.load(reads(IDS)).jobs
                assert loaded == model
                after = take(transaction, step, loaded.get(step.job_id))

            if not step.kept:
                with pytest.raises(Interruption):
                    interrupt(store, work)
            else:
                with store.transaction() as transaction:
                    work(transaction)
                model.pop(step.job_id, None)
                if after is not None:
                    model[step.job_id] = after
                if step.deed == "postpone":
                    for job_id, job in model.items():
                        if job.state in {JobState.PROCESSING, JobState.QUEUED} and job.due_time is not None:
                            model[job_id] = replace(job, due_time=max(job.due_time, step.number))

            with store.transaction() as transaction:
                assert transaction.load(reads(IDS)).jobs == model
            assert reader.jobs(IDS) == model
