"""The event log: how events are numbered, and what a reader finds after a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.clock import ManualClock
from jobstate_server.domain.events import EventType
from jobstate_server.domain.filters import EventFilter
from jobstate_server.domain.reach import EVERYTHING, Reach
from jobstate_server.store.base import EVENTS_SCANNED_MAX, TRIM_BYTES_MAX, Reader, Store
from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import Changes, EventPage, LogState, NewEvent, StoredEvent

from .support import (
    ANY_EVENT,
    MODERATELY,
    UNBOUNDED,
    Backend,
    Interruption,
    a_job,
    an_event,
    as_stored,
    interrupt,
    keep,
    keep_events,
    keep_jobs,
    opened,
    page_of,
    reading,
    stored_events,
)

NAMES = ("a", "b", "c")


def numbered(count: int) -> list[NewEvent]:
    """Events that can be told apart by payload and time."""
    return [an_event(time=number, payload=b"%04d" % number) for number in range(count)]


def trim(store: Store, *, older_than: int = 0, bytes_max: int = UNBOUNDED, limit: int = 1_000_000) -> int:
    """Trim in a transaction of its own. Without arguments nothing is old or too much."""
    with store.transaction() as transaction:
        return transaction.trim_events(older_than, bytes_max, limit)


def test_one_trim_removes_no_more_bytes_than_a_writer_can_wait_for(store: Store, reader: Reader) -> None:
    payload = bytes(TRIM_BYTES_MAX // 4)
    keep_events(store, *[an_event(time=1, payload=payload)] * 10)

    removed = [trim(store, bytes_max=0) for _ in range(4)]

    assert removed == [4, 4, 2, 0]
    assert reader.log_state().bytes == 0


def test_an_event_larger_than_one_trim_may_remove_goes_alone(store: Store) -> None:
    large = an_event(time=1, payload=bytes(TRIM_BYTES_MAX + 1))
    keep_events(store, large, an_event(time=1), large)

    assert [trim(store, bytes_max=0) for _ in range(4)] == [1, 1, 1, 0]


def test_events_of_one_write_are_numbered_in_their_order(store: Store) -> None:
    events = numbered(10)

    assert keep_events(store, *events) == 1
    assert stored_events(store) == as_stored(1, events)


def test_events_are_numbered_gaplessly_across_transactions(store: Store) -> None:
    events = numbered(12)

    firsts = [keep_events(store, *events[:1]), keep_events(store, *events[1:5]), keep_events(store, *events[5:])]

    assert firsts == [1, 2, 6]
    assert stored_events(store) == as_stored(1, events)


def test_a_write_without_events_returns_the_head_plus_one_and_numbers_nothing(store: Store, reader: Reader) -> None:
    assert keep(store, Changes()) == 1
    keep_events(store, *numbered(3))

    assert keep(store, Changes(inserted=[])) == 4
    assert reader.log_state().head == 3
    assert keep_events(store, an_event()) == 4


def test_a_rolled_back_write_leaves_no_gap(store: Store) -> None:
    keep_events(store, *numbered(2))
    with pytest.raises(Interruption):
        interrupt(store, lambda transaction: transaction.write(Changes(events=numbered(5))))

    assert keep_events(store, an_event()) == 3
    assert [event.sequence for event in stored_events(store)] == [1, 2, 3]


def test_a_sequence_is_never_used_again_after_the_whole_log_was_trimmed(store: Store, reader: Reader) -> None:
    keep_events(store, *numbered(5))

    assert trim(store, older_than=1_000) == 5

    assert stored_events(store) == []
    assert keep_events(store, an_event()) == 6
    assert reader.log_state() == LogState(6, 5, event_check(numbered(5)[4]), len(b"payload"))


def test_the_head_is_the_newest_sequence_and_the_bytes_are_those_of_the_payloads(store: Store, reader: Reader) -> None:
    keep_events(store, an_event(payload=b""), an_event(payload=b"12345"))
    assert reader.log_state() == LogState(2, 0, 0, 5)

    keep_events(store, an_event(payload=b"x" * 70_000))
    assert reader.log_state() == LogState(3, 0, 0, 70_005)


def test_one_event_is_found_by_its_sequence(store: Store, reader: Reader) -> None:
    events = numbered(3)
    keep_events(store, *events)

    assert [reader.event(sequence) for sequence in (1, 2, 3)] == as_stored(1, events)
    assert reader.event(0) is None
    assert reader.event(4) is None


def test_a_trimmed_event_is_not_found(store: Store, reader: Reader) -> None:
    keep_events(store, *numbered(3))
    trim(store, older_than=2)

    assert reader.event(2) is None
    assert reader.event(3) is not None


def test_the_events_after_a_sequence_exclude_it(store: Store, reader: Reader) -> None:
    events = numbered(5)
    keep_events(store, *events)

    assert page_of(reader, 0).events == as_stored(1, events)
    assert page_of(reader, 3).events == as_stored(4, events[3:])


def test_a_page_at_the_head_is_empty_and_stays_there(store: Store, reader: Reader) -> None:
    keep_events(store, *numbered(5))

    for wanted in (
        ANY_EVENT,
        EventFilter(reach=Reach(None, ("nobody",))),
        EventFilter(job_ids=frozenset({"job"})),
    ):
        assert page_of(reader, 5, wanted) == EventPage([], 5, event_check(numbered(5)[4]), 0, 0)


def test_a_page_beyond_the_head_does_not_go_back(store: Store, reader: Reader) -> None:
    keep_events(store, *numbered(5))

    page = page_of(reader, 9)
    assert (page.events, page.scanned, page.horizon) == ([], 9, 0)


@pytest.mark.parametrize("removed", [0, 2, 5], ids=["kept", "partly removed", "all removed"])
@pytest.mark.parametrize(
    ("wanted", "limit", "scanned"),
    [
        pytest.param(ANY_EVENT, 100, 5, id="all"),
        pytest.param(ANY_EVENT, 1, 3, id="cut"),
        pytest.param(EventFilter(reach=Reach(None, ("nobody",))), 100, 5, id="none"),
        pytest.param(EventFilter(job_types=frozenset({"odd"})), 100, 5, id="some"),
        pytest.param(EventFilter(job_ids=frozenset({"job-2"})), 100, 5, id="of a job"),
    ],
)
def test_a_page_carries_the_check_of_the_last_event_looked_at_and_the_horizons(
    store: Store, reader: Reader, removed: int, wanted: EventFilter, limit: int, scanned: int
) -> None:
    events = [
        an_event(f"job-{number}", job_type="odd" if number % 2 else "even", time=number, payload=b"%04d" % number)
        for number in range(5)
    ]
    keep_events(store, *events)
    trim(store, older_than=removed)

    page = page_of(reader, max(removed, 2), wanted, limit=limit)

    if removed == 5:
        scanned = 5
    checks = [event_check(event) for event in events]
    horizon_check = checks[removed - 1] if removed else 0
    assert (page.scanned, page.check) == (scanned, checks[scanned - 1])
    assert (page.horizon, page.horizon_check) == (removed, horizon_check)


def test_a_page_of_a_log_without_events_has_the_check_of_none(reader: Reader) -> None:
    assert page_of(reader, 0) == EventPage([], 0, 0, 0, 0)


def test_a_page_ends_at_its_limit_and_scanned_says_where(store: Store, reader: Reader) -> None:
    events = numbered(5)
    keep_events(store, *events)

    page = page_of(reader, 1, limit=2)

    assert page.events == as_stored(2, events[1:3])
    assert page.scanned == 3


def test_a_whole_page_was_scanned_up_to_the_head(store: Store, reader: Reader) -> None:
    keep_events(store, an_event("wanted"), an_event("other"), an_event("other"))

    assert page_of(reader, 0, EventFilter(job_ids=frozenset({"wanted"}))).scanned == 3
    assert page_of(reader, 0, EventFilter(job_types=frozenset({"missing"}))).scanned == 3


def test_a_page_ends_before_its_payloads_exceed_the_bytes(store: Store, reader: Reader) -> None:
    keep_events(store, *[an_event(payload=b"x" * 10) for _ in range(5)])

    exact = page_of(reader, 0, bytes_max=30)
    short = page_of(reader, 0, bytes_max=29)

    assert ([event.sequence for event in exact.events], exact.scanned) == ([1, 2, 3], 3)
    assert ([event.sequence for event in short.events], short.scanned) == ([1, 2], 2)


def test_a_page_has_its_first_event_however_large(store: Store, reader: Reader) -> None:
    keep_events(store, an_event(payload=b"x" * 1_000), an_event(payload=b""), an_event(payload=b"y"))

    page = page_of(reader, 0, bytes_max=1)

    assert [event.sequence for event in page.events] == [1]
    assert page.scanned == 1


def test_a_filtered_page_scans_a_bounded_stretch(store: Store, reader: Reader) -> None:
    keep_events(store, *[an_event(payload=b"") for _ in range(EVENTS_SCANNED_MAX)], an_event(job_type="rare"))
    rare = EventFilter(job_types=frozenset({"rare"}))

    first = page_of(reader, 0, rare)
    second = page_of(reader, first.scanned, rare)

    assert (first.events, first.scanned) == ([], EVENTS_SCANNED_MAX)
    assert [event.sequence for event in second.events] == [EVENTS_SCANNED_MAX + 1]
    assert second.scanned == EVENTS_SCANNED_MAX + 1


def test_the_events_of_named_jobs_are_found_at_any_distance(store: Store, reader: Reader) -> None:
    keep_events(store, *[an_event(payload=b"") for _ in range(EVENTS_SCANNED_MAX + 5)], an_event("far"))

    page = page_of(reader, 0, EventFilter(job_ids=frozenset({"far", "missing"})))

    assert [event.job_id for event in page.events] == ["far"]
    assert page.scanned == EVENTS_SCANNED_MAX + 6


def test_events_of_jobs_out_of_reach_are_not_seen(store: Store, reader: Reader) -> None:
    keep_events(
        store,
        an_event(job_type="render_film", source_id="one"),
        an_event(job_type="render_text", source_id="two"),
        an_event(job_type="Render_text", source_id=""),
    )

    def seen_within(reach: Reach) -> list[int]:
        return [event.sequence for event in page_of(reader, 0, EventFilter(reach=reach)).events]

    assert seen_within(Reach(("render_*",))) == [1, 2]
    assert seen_within(Reach(("render_text", "Render_text"))) == [2, 3]
    assert seen_within(Reach(("render_*",), ("two", "o*e"))) == [2]
    assert seen_within(Reach(None, ("o*",))) == [1]
    assert seen_within(Reach(None, ("",))) == [3]
    assert seen_within(Reach((), None)) == []
    assert seen_within(EVERYTHING) == [1, 2, 3]


def test_naming_a_job_does_not_show_events_out_of_reach(store: Store, reader: Reader) -> None:
    keep_events(store, an_event("a", source_id="one"), an_event("a", source_id="two"))

    page = page_of(reader, 0, EventFilter(job_ids=frozenset({"a"}), reach=Reach(source_ids=("one",))))

    assert [event.source_id for event in page.events] == ["one"]


def some(values: st.SearchStrategy[str]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(values, max_size=2)


patterns = st.sampled_from([*NAMES, *(f"{name}*" for name in NAMES), "*"])

new_events = st.builds(
    NewEvent,
    time=st.integers(0, 5),
    job_id=st.sampled_from(NAMES),
    job_type=st.sampled_from(NAMES),
    source_id=st.sampled_from(NAMES),
    principal=st.sampled_from(NAMES),
    type=st.sampled_from(EventType).map(int),
    payload=st.binary(max_size=20),
)

reaches = st.just(EVERYTHING) | st.builds(
    Reach, st.none() | some(patterns).map(tuple), st.none() | some(patterns).map(tuple)
)

event_filters = st.builds(
    EventFilter,
    job_ids=some(st.sampled_from(NAMES)),
    job_types=some(st.sampled_from(NAMES)),
    source_ids=some(st.sampled_from(NAMES)),
    types=st.frozensets(st.sampled_from(EventType), max_size=8),
    reach=reaches,
)


def passing(events: Sequence[StoredEvent], wanted: EventFilter) -> list[StoredEvent]:
    """The model of a filter."""
    return [event for event in events if wanted.passes(event.job_id, event.job_type, event.source_id, event.type)]


@MODERATELY
@given(
    events=st.lists(new_events, max_size=40),
    asked=st.lists(
        st.tuples(event_filters, st.integers(0, 41), st.integers(1, 5), st.integers(0, 60)), min_size=1, max_size=10
    ),
)
def test_continuing_after_scanned_yields_each_wanted_event_once_and_in_order(
    backend: Backend, events: list[NewEvent], asked: list[tuple[EventFilter, int, int, int]]
) -> None:
    with opened(backend.new_home(), ManualClock()) as store, reading(store) as reader:
        first = keep_events(store, *events)
        log = as_stored(first, events)
        for wanted, start, limit, bytes_max in asked:
            found: list[StoredEvent] = []
            after, previous = start, start - 1

            while after > previous:
                page = reader.events(after, wanted, limit, bytes_max)
                assert len(page.events) <= limit
                assert len(page.events) <= 1 or sum(len(event.payload) for event in page.events) <= bytes_max
                assert all(after < event.sequence <= page.scanned for event in page.events)
                assert page.scanned >= after
                found += page.events
                previous, after = after, page.scanned

            assert found == passing([event for event in log if event.sequence > start], wanted)
            assert after == max(start, len(events))


def test_trimming_nothing_moves_nothing(store: Store, reader: Reader) -> None:
    assert trim(store, older_than=1_000, bytes_max=0) == 0
    keep_events(store, *numbered(3))
    before = reader.log_state()

    assert trim(store) == 0
    assert reader.log_state() == before


def test_events_are_trimmed_by_age(store: Store, reader: Reader) -> None:
    events = numbered(5)
    keep_events(store, *events)

    assert trim(store, older_than=3) == 3

    assert stored_events(store) == as_stored(4, events[3:])
    assert reader.log_state() == LogState(5, 3, event_check(numbered(5)[2]), 8)


def test_events_are_trimmed_by_bytes(store: Store, reader: Reader) -> None:
    events = numbered(5)
    keep_events(store, *events)

    assert trim(store, bytes_max=9) == 3

    assert stored_events(store) == as_stored(4, events[3:])
    assert reader.log_state() == LogState(5, 3, event_check(numbered(5)[2]), 8)
    assert trim(store, bytes_max=8) == 0


def test_events_are_trimmed_when_either_age_or_bytes_asks_for_it(store: Store) -> None:
    keep_events(store, *numbered(5))

    assert trim(store, older_than=1, bytes_max=12) == 2
    assert trim(store, older_than=4, bytes_max=12) == 2


def test_at_most_the_limit_is_trimmed(store: Store, reader: Reader) -> None:
    keep_events(store, *numbered(5))

    assert trim(store, older_than=1_000, bytes_max=0, limit=2) == 2
    assert reader.log_state() == LogState(5, 2, event_check(numbered(5)[1]), 12)
    assert trim(store, older_than=1_000, bytes_max=0, limit=2) == 2
    assert trim(store, older_than=1_000, bytes_max=0, limit=2) == 1
    assert trim(store, older_than=1_000, bytes_max=0, limit=2) == 0
    assert reader.log_state() == LogState(5, 5, event_check(numbered(5)[4]), 0)


def test_an_old_event_behind_a_young_one_stays_so_that_the_log_has_no_hole(store: Store) -> None:
    keep_events(store, an_event(time=1), an_event(time=9), an_event(time=1))

    assert trim(store, older_than=5) == 1
    assert [event.sequence for event in stored_events(store)] == [2, 3]


def test_trimmable_events_are_counted_however_many_they_are(store: Store, reader: Reader) -> None:
    keep_events(store, *[an_event(payload=b"") for _ in range(2 * EVENTS_SCANNED_MAX + 1)], an_event(time=9))

    assert reader.trimmable_events(9, UNBOUNDED) == 2 * EVENTS_SCANNED_MAX + 1
    assert reader.trimmable_events(10, UNBOUNDED) == 2 * EVENTS_SCANNED_MAX + 2
    assert reader.trimmable_events(0, UNBOUNDED) == 0


def test_the_horizon_check_is_that_of_the_last_event_trimmed(store: Store, reader: Reader) -> None:
    events = [an_event(payload=b""), an_event(payload=b"\xff" * 99, time=2), an_event(time=3)]
    keep_events(store, *events)

    trim(store, older_than=2)
    assert (reader.log_state().horizon, reader.log_state().horizon_check) == (1, event_check(events[0]))

    trim(store, older_than=3)
    assert (reader.log_state().horizon, reader.log_state().horizon_check) == (2, event_check(events[1]))


def test_trimming_leaves_jobs_alone(store: Store, reader: Reader) -> None:
    keep_jobs(store, a_job())
    keep_events(store, an_event())

    trim(store, older_than=1_000)

    assert reader.jobs(["job"]) == {"job": a_job()}


@pytest.mark.parametrize(
    "wanted",
    [ANY_EVENT, EventFilter(reach=Reach(None, ("s*",))), EventFilter(job_ids=frozenset({"job"}))],
    ids=repr,
)
def test_a_page_tells_the_horizon(store: Store, reader: Reader, wanted: EventFilter) -> None:
    keep_events(store, *numbered(5))
    assert page_of(reader, 0, wanted).horizon == 0

    trim(store, older_than=3)

    page = page_of(reader, 0, wanted)
    assert page.horizon == 3
    assert [event.sequence for event in page.events] == [4, 5]


steps = st.lists(
    st.lists(new_events, max_size=6) | st.tuples(st.integers(0, 6), st.integers(0, 60), st.integers(1, 4)),
    max_size=20,
)


@MODERATELY
@given(steps=steps)
def test_appending_and_trimming_keep_the_log_whole(
    backend: Backend, steps: list[list[NewEvent] | tuple[int, int, int]]
) -> None:
    with opened(backend.new_home(), ManualClock()) as store, reading(store) as reader:
        log: list[StoredEvent] = []
        head = horizon = check = 0
        for step in steps:
            if isinstance(step, list):
                assert keep_events(store, *step) == head + 1
                log += as_stored(head + 1, step)
                head += len(step)
            else:
                older_than, bytes_max, limit = step
                trimmable, kept = 0, sum(len(event.payload) for event in log)
                while trimmable < len(log) and (log[trimmable].time < older_than or kept > bytes_max):
                    kept -= len(log[trimmable].payload)
                    trimmable += 1
                removed = min(trimmable, limit)
                if removed:
                    last = log[removed - 1]
                    horizon, check = last.sequence, event_check(last)
                del log[:removed]
                assert reader.trimmable_events(older_than, bytes_max) == trimmable
                assert trim(store, older_than=older_than, bytes_max=bytes_max, limit=limit) == removed

            assert reader.log_state() == (head, horizon, check, sum(len(event.payload) for event in log), 0)
            assert page_of(reader, horizon).events == log
