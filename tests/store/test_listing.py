"""Lists of jobs: filters, both orders, and pages that neither repeat nor lose a job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.clock import ManualClock
from jobstate_server.domain.filters import JobFilter, Order, Position
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.labels import from_text, to_text
from jobstate_server.domain.reach import EVERYTHING, Reach
from jobstate_server.domain.reads import Finished, Reads
from jobstate_server.domain.statistics import Measure
from jobstate_server.domain.waiting import WaitReason, wait_reason
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.reading import job_pages
from jobstate_server.store.records import ChangedJob, Changes
from jobstate_server.store.sizes import document_bytes

from .support import (
    ANY_JOB,
    MODERATELY,
    UNBOUNDED,
    Backend,
    a_job,
    an_error,
    an_event,
    at,
    keep,
    keep_jobs,
    opened,
    reading,
    unversioned,
)

NAMES = ("a", "b", "c")


def listed(
    reader: Reader,
    wanted: JobFilter = ANY_JOB,
    order: Order = Order.OLDEST_FIRST,
    *,
    after: Position | None = None,
    limit: int = 1_000_000,
    bytes_max: int = UNBOUNDED,
) -> list[str]:
    """The ids of a page."""
    return [job.id for job in reader.list_jobs(wanted, order, after, limit, bytes_max).jobs]


def pages_of(reader: Reader, wanted: JobFilter, order: Order, limit: int) -> Iterator[list[Job]]:
    """Every page, read as long as the one before says that there are more."""
    after: Position | None = None
    has_more = True
    while has_more:
        jobs, after, _ = reader.list_jobs(wanted, order, after, limit, UNBOUNDED)
        has_more = after is not None
        assert len(jobs) == limit or not has_more
        yield jobs


def keep_types(store: Store, *names: str) -> None:
    """Let it be known that there are jobs of these types."""
    keep(store, Changes(tallies={(name, Measure.STORED, 1): 1 for name in names or NAMES}))


def wants(wanted: JobFilter, job: Job) -> bool:
    """The model of a filter."""
    return (
        (not wanted.job_ids or job.id in wanted.job_ids)
        and (not wanted.states or job.state in wanted.states)
        and (not wanted.job_types or job.job_type in wanted.job_types)
        and (not wanted.source_ids or job.source_id in wanted.source_ids)
        and set(wanted.labels) <= set(from_text(job.labels))
        and wanted.worker in ("", job.worker)
        and (not wanted.error_code or (job.last_error is not None and job.last_error.code == wanted.error_code))
        and (not wanted.by_end or job.complete_time is not None)
        and (wanted.complete_time_from is None or (job.complete_time or 0) >= wanted.complete_time_from)
        and (wanted.complete_time_to is None or (job.complete_time or 0) < wanted.complete_time_to)
        and (not wanted.wait_reasons or wait_reason(job) in wanted.wait_reasons)
        and (wanted.create_time_from is None or job.create_time >= wanted.create_time_from)
        and (wanted.create_time_to is None or job.create_time < wanted.create_time_to)
        and wanted.reach.admits(job.job_type, job.source_id)
    )


def in_order(jobs: list[Job], order: Order, *, by_end: bool = False) -> list[Job]:
    """The model of an order."""

    def place(job: Job) -> tuple[int, int]:
        return (job.complete_time or 0) if by_end else job.create_time, job.create_sequence

    return sorted(jobs, key=place, reverse=order is Order.NEWEST_FIRST)


ids = st.text("ab𝔘\uffff", min_size=1, max_size=3)

many_jobs = st.lists(
    st.builds(
        a_job,
        ids,
        job_type=st.sampled_from(NAMES),
        source_id=st.sampled_from(NAMES),
        state=st.sampled_from(JobState),
        create_time=st.integers(0, 4),
        labels=st.dictionaries(*[st.sampled_from(NAMES)] * 2).map(to_text),
        worker=st.sampled_from(("", *NAMES)),
        last_error=st.none() | st.sampled_from(("", *NAMES)).map(lambda code: an_error(code=code)),
        complete_time=st.none() | st.integers(0, 4),
        held=st.booleans(),
        open_needs=st.integers(0, 1),
    ).map(lambda job: replace(job, held=job.held and job.state is JobState.QUEUED)),
    max_size=30,
    unique_by=lambda job: job.create_sequence,
)


def some(values: st.SearchStrategy[str], most: int = 3) -> st.SearchStrategy[tuple[str, ...]]:
    """Repetitions included: a caller may name the same value twice."""
    return st.just(()) | st.lists(values, max_size=most).map(tuple)


patterns = st.sampled_from([*NAMES, *(f"{name}*" for name in NAMES), "*"])

reaches = st.just(EVERYTHING) | st.builds(Reach, st.none() | some(patterns), st.none() | some(patterns))

job_filters = st.builds(
    JobFilter,
    job_ids=some(ids, 8),
    states=st.just(()) | st.lists(st.sampled_from(JobState), max_size=6).map(tuple),
    job_types=some(st.sampled_from(NAMES)),
    source_ids=some(st.sampled_from(NAMES)),
    create_time_from=st.none() | st.integers(-1, 5),
    create_time_to=st.none() | st.integers(-1, 5),
    labels=st.just(()) | st.dictionaries(*[st.sampled_from(NAMES)] * 2).map(lambda labels: tuple(labels.items())),
    worker=st.sampled_from(("", *NAMES)),
    error_code=st.sampled_from(("", *NAMES)),
    complete_time_from=st.none() | st.none() | st.integers(-1, 5),
    complete_time_to=st.none() | st.none() | st.integers(-1, 5),
    wait_reasons=st.just(()) | st.lists(st.sampled_from(WaitReason), max_size=2).map(tuple),
    reach=reaches,
)


@MODERATELY
@given(
    jobs=many_jobs,
    asked=st.lists(st.tuples(job_filters, st.sampled_from(Order), st.integers(1, 4)), min_size=1, max_size=10),
)
def test_pages_together_are_the_jobs_that_the_filter_wants_in_order(
    backend: Backend, jobs: list[Job], asked: list[tuple[JobFilter, Order, int]]
) -> None:
    with opened(backend.new_home(), ManualClock()) as store, reading(store) as reader:
        keep_types(store)
        keep_jobs(store, *jobs)
        for wanted, order, limit in asked:
            expected = in_order([job for job in jobs if wants(wanted, job)], order, by_end=wanted.by_end)

            pages = list(pages_of(reader, wanted, order, limit))

            assert [job for page in pages for job in page] == expected
            assert len(pages) == max(1, -(-len(expected) // limit))


@MODERATELY
@given(
    before=many_jobs,
    during=many_jobs,
    wanted=job_filters.filter(lambda wanted: not (wanted.states or wanted.wait_reasons)),
    order=st.sampled_from(Order),
    limit=st.integers(1, 3),
)
def test_jobs_that_come_between_pages_make_no_other_job_appear_twice_or_never(
    backend: Backend, before: list[Job], during: list[Job], wanted: JobFilter, order: Order, limit: int
) -> None:
    known = {job.create_sequence for job in before}
    coming = [job for job in during if job.create_sequence not in known]
    with opened(backend.new_home(), ManualClock()) as store, reading(store) as reader:
        keep_types(store)
        keep_jobs(store, *before)
        found: list[Job] = []

        for page in pages_of(reader, wanted, order, limit):
            found += page
            if coming:
                keep_jobs(store, coming.pop())
            moved = [replace(job, state=JobState.PROCESSING) for job in before]
            keep(store, Changes(updated=unversioned(moved)))

        assert found == in_order(found, order, by_end=wanted.by_end)
        assert len({job.id for job in found}) == len(found)
        assert {job.id for job in before if wants(wanted, job)} <= {job.id for job in found}


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize(
    "wanted",
    [
        ANY_JOB,
        JobFilter(states=(JobState.QUEUED, JobState.FAILED)),
        JobFilter(job_types=("type", "other")),
        JobFilter(source_ids=("source",)),
    ],
    ids=["all", "states", "types", "source"],
)
def test_jobs_of_one_create_time_are_paged_as_they_were_created(
    store: Store, reader: Reader, wanted: JobFilter, order: Order
) -> None:
    jobs = [
        a_job(f"{number:02}", create_time=5, state=JobState.QUEUED if number % 3 else JobState.FAILED)
        for number in range(20)
    ]
    keep_jobs(store, *jobs)

    found = [job for page in pages_of(reader, wanted, order, 3) for job in page]

    assert found == in_order(jobs, order)


def test_jobs_of_one_create_time_are_listed_as_they_were_created_whatever_their_ids(
    store: Store, reader: Reader
) -> None:
    job_ids = ["B", "a", "Z", "é", "~", "\uffff", "𝔘", "a-b", "ab", "a b", "10", "9"]
    keep(
        store,
        Changes(
            inserted=[ChangedJob(a_job(job_id), index, index) for index, job_id in enumerate(job_ids)],
            events=[an_event(job_id) for job_id in job_ids],
        ),
    )

    assert listed(reader) == job_ids
    assert listed(reader, order=Order.NEWEST_FIRST) == job_ids[::-1]


def test_the_lower_bound_of_the_create_time_is_included_and_the_upper_is_not(store: Store, reader: Reader) -> None:
    keep_jobs(store, *[a_job(f"{time}", create_time=time) for time in range(5)])

    assert listed(reader, JobFilter(create_time_from=1, create_time_to=3)) == ["1", "2"]
    assert listed(reader, JobFilter(create_time_from=3, create_time_to=3)) == []


@pytest.mark.parametrize(
    "wanted",
    [
        JobFilter(),
        JobFilter(job_ids=("a", "b")),
        JobFilter(states=(JobState.QUEUED,)),
        JobFilter(job_types=("type",)),
        JobFilter(source_ids=("source",)),
        JobFilter(job_ids=("a", "b"), source_ids=("source",)),
    ],
    ids=["all", "ids", "state", "type", "source", "ids and source"],
)
def test_jobs_out_of_reach_are_not_listed_whatever_else_is_asked_for(
    store: Store, reader: Reader, wanted: JobFilter
) -> None:
    keep_types(store, "type", "other")
    keep_jobs(store, a_job("a"), a_job("b", job_type="other", source_id="elsewhere"))

    def seen_within(reach: Reach) -> list[str]:
        return listed(
            reader,
            JobFilter(
                job_ids=wanted.job_ids,
                states=wanted.states,
                job_types=wanted.job_types,
                source_ids=wanted.source_ids,
                reach=reach,
            ),
        )

    everything = seen_within(EVERYTHING)
    assert seen_within(Reach(("ty*",))) == [job_id for job_id in everything if job_id == "a"]
    assert seen_within(Reach(("other",))) == [job_id for job_id in everything if job_id == "b"]
    assert seen_within(Reach(None, ("source",))) == [job_id for job_id in everything if job_id == "a"]
    assert seen_within(Reach(None, ("else*",))) == [job_id for job_id in everything if job_id == "b"]
    assert seen_within(Reach(("type",), ("elsewhere",))) == []
    assert seen_within(Reach(())) == []


def test_a_page_ends_before_its_documents_exceed_the_bytes(store: Store, reader: Reader) -> None:
    jobs = [
        a_job("a", metadata=b"m" * 1_000),
        a_job("b", result=b"r" * 2_000),
        a_job("c", last_error=an_error(details=b"d" * 3_000)),
        a_job("d"),
    ]
    keep_jobs(store, *jobs)
    sizes = [document_bytes(job) for job in jobs]

    assert listed(reader, bytes_max=sum(sizes)) == ["a", "b", "c", "d"]
    assert listed(reader, bytes_max=sum(sizes) - 1) == ["a", "b", "c"]
    assert listed(reader, bytes_max=sum(sizes[:3]) - 1) == ["a", "b"]
    assert listed(reader, bytes_max=sum(sizes[:2]) - 1) == ["a"]


def test_a_page_says_whether_there_are_more_jobs(store: Store, reader: Reader) -> None:
    def has_more(limit: int, bytes_max: int = UNBOUNDED, after: Position | None = None) -> bool:
        return reader.list_jobs(ANY_JOB, Order.OLDEST_FIRST, after, limit, bytes_max).has_more

    assert not has_more(1)
    keep_jobs(store, *[a_job(job_id, result=b"r" * 900_000) for job_id in "abc"])

    assert [has_more(limit) for limit in (1, 2, 3, 4)] == [True, True, False, False]
    assert has_more(10, bytes_max=1)
    assert has_more(10, bytes_max=1, after=at(0, "a"))
    assert not has_more(10, bytes_max=1, after=at(0, "b"))
    assert not has_more(10, bytes_max=1, after=at(0, "c"))


def test_a_page_has_its_first_job_however_large(store: Store, reader: Reader) -> None:
    keep_jobs(store, a_job("a", result=b"x" * 60_000), a_job("b"))

    assert listed(reader, bytes_max=1) == ["a"]
    assert listed(reader, bytes_max=1, after=at(0, "a")) == ["b"]
    assert listed(reader, bytes_max=1, after=at(0, "b")) == []


@pytest.mark.parametrize("order", Order)
def test_a_page_may_be_of_a_thousand_jobs(store: Store, reader: Reader, order: Order) -> None:
    jobs = [a_job(f"{number:04}", create_time=number % 7, metadata=b"x" * 100) for number in range(1_200)]
    keep_jobs(store, *jobs)

    assert reader.list_jobs(ANY_JOB, order, None, 1_000, UNBOUNDED).jobs == in_order(jobs, order)[:1_000]


def test_a_position_need_not_be_that_of_a_job(store: Store, reader: Reader) -> None:
    first, between, second = (a_job(job_id, create_time=1) for job_id in ("1", "2", "3"))
    keep_jobs(store, first, second, a_job("4", create_time=2))

    after = Position(1, between.create_sequence)
    assert listed(reader, after=after) == ["3", "4"]
    assert listed(reader, order=Order.NEWEST_FIRST, after=after) == ["1"]


def test_labels_are_found_by_their_bytes_and_nothing_else(store: Store, reader: Reader) -> None:
    values = ["a", "A", "a ", "%", "_", "a%", "e\u0301", "\u00e9", "", "'", '"', "\\", "\U0001d518", '","b":"']
    keep_jobs(store, *[a_job(f"{place:02}", labels=to_text({"k": value})) for place, value in enumerate(values)])

    assert [listed(reader, JobFilter(labels=(("k", value),))) for value in values] == [
        [f"{place:02}"] for place in range(len(values))
    ]
    assert listed(reader, JobFilter(labels=(("K", "a"),))) == []


def test_the_labels_of_a_deleted_job_are_gone_and_those_of_others_stay(store: Store, reader: Reader) -> None:
    labels = to_text({"a": "1", "b": "2"})
    gone, stays = (a_job(job_id, state=JobState.COMPLETED, complete_time=9, labels=labels) for job_id in ("1", "2"))
    keep_jobs(store, gone, stays)
    with store.transaction() as transaction:
        selection = Finished(10, None, 1)
        (found,) = transaction.load(Reads(selections={selection})).finished[selection]
    keep(store, Changes(deleted=[found]))
    # A job that is created anew under the same key would be found by labels that were left.
    keep_jobs(store, replace(gone, labels=None))

    assert listed(reader, JobFilter(labels=(("a", "1"),))) == ["2"]
    assert listed(reader) == ["1", "2"]


@pytest.mark.parametrize("order", Order)
def test_a_page_looks_at_so_many_entries_at_most_and_the_next_goes_on_there(
    store: Store, reader: Reader, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_pages, "ENTRIES_SCANNED_MAX", 20)
    monkeypatch.setattr(job_pages, "_FEW", 0)
    labels = [{"all": "", "half": str(number % 2)} | ({"rare": ""} if number == 70 else {}) for number in range(100)]
    jobs = [a_job(f"{number:02}", create_time=number, labels=to_text(labels[number])) for number in range(100)]
    keep_jobs(store, *jobs)
    wanted = JobFilter(labels=(("all", ""), ("half", "0")), reach=Reach(source_ids=("none*",)))
    pages: list[list[Job]] = []
    after: Position | None = None
    while not pages or after is not None:
        found, after, _ = reader.list_jobs(wanted, order, after, 5, UNBOUNDED)
        pages.append(found)

    assert pages == [[]] * len(pages)
    assert len(pages) in (5, 6)
    with_rare = JobFilter(labels=(("all", ""), ("half", "0"), ("rare", "")))
    assert [job.id for job in reader.list_jobs(with_rare, order, None, 5, UNBOUNDED).jobs] == ["70"]
    assert not reader.list_jobs(with_rare, order, None, 5, UNBOUNDED).has_more
