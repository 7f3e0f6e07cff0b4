"""Tallies add up, and stop at the greatest number instead of passing it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.clock import ManualClock
from jobstate_server.domain.job import INT64_MAX, JobState
from jobstate_server.domain.statistics import Measure, TallyKey
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.records import Changes

from .support import MODERATELY, Backend, keep, opened, reading

STORED: TallyKey = ("type", Measure.STORED, JobState.QUEUED)
TOKENS: TallyKey = ("type", Measure.TOKENS, 0)


def add(store: Store, **deltas: int) -> None:
    """Add to the TOKENS of types."""
    keep(store, Changes(tallies={(job_type, Measure.TOKENS, 0): delta for job_type, delta in deltas.items()}))


def test_a_tally_begins_with_its_first_delta(store: Store, reader: Reader) -> None:
    keep(store, Changes(tallies={STORED: 2, TOKENS: 0}))

    assert reader.tallies([]) == {STORED: 2, TOKENS: 0}


def test_a_negative_delta_takes_away(store: Store, reader: Reader) -> None:
    keep(store, Changes(tallies={STORED: 2}))
    keep(store, Changes(tallies={STORED: -2}))

    assert reader.tallies([]) == {STORED: 0}


def test_tallies_are_apart_by_type_measure_and_bucket(store: Store, reader: Reader) -> None:
    tallies: dict[TallyKey, int] = {
        (job_type, measure, bucket): number
        for number, (job_type, measure, bucket) in enumerate(
            (job_type, measure, bucket) for job_type in ("a", "b") for measure in Measure for bucket in (0, 1, 900)
        )
    }

    keep(store, Changes(tallies=tallies))

    assert reader.tallies([]) == tallies
    assert all(type(key[1]) is Measure for key in reader.tallies([]))


def test_the_tallies_of_named_types_are_read_alone(store: Store, reader: Reader) -> None:
    add(store, a=1, b=2, c=3)

    assert set(reader.tallies(["a", "c", "missing"])) == {("a", Measure.TOKENS, 0), ("c", Measure.TOKENS, 0)}
    assert reader.tallies(["missing"]) == {}


@pytest.mark.parametrize("deltas", [(INT64_MAX, 1), (1, INT64_MAX), (INT64_MAX, INT64_MAX), (INT64_MAX - 1, 1)])
def test_a_sum_stops_at_the_greatest_number(store: Store, reader: Reader, deltas: tuple[int, ...]) -> None:
    for delta in deltas:
        add(store, type=delta)

    assert reader.tallies([]) == {TOKENS: INT64_MAX}


def test_a_delta_beyond_the_greatest_number_stops_there_too(store: Store, reader: Reader) -> None:
    add(store, first=2 * INT64_MAX, second=1)
    add(store, first=2 * INT64_MAX, second=2 * INT64_MAX)

    assert set(reader.tallies([]).values()) == {INT64_MAX}


def test_a_saturated_tally_still_goes_down(store: Store, reader: Reader) -> None:
    add(store, type=INT64_MAX)
    add(store, type=INT64_MAX)
    add(store, type=-INT64_MAX)

    assert reader.tallies([]) == {TOKENS: 0}


deltas = st.dictionaries(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(Measure), st.integers(0, 2)), st.integers(-9, 9)
)


@MODERATELY
@given(written=st.lists(deltas, max_size=10))
def test_tallies_are_the_sums_of_their_deltas(backend: Backend, written: list[dict[TallyKey, int]]) -> None:
    sums: Counter[TallyKey] = Counter()
    with opened(backend.new_home(), ManualClock()) as store, reading(store) as reader:
        for tallies in written:
            keep(store, Changes(tallies=tallies))
            for key, delta in tallies.items():
                sums[key] += delta

        assert {key: value for key, value in reader.tallies([]).items() if value} == {
            key: value for key, value in sums.items() if value
        }


def test_the_job_types_that_ever_had_a_job_are_told(store: Store) -> None:
    """Also of those whose jobs are gone, or came and went in one transaction."""
    tallies = {
        ("gone", Measure.STORED, int(JobState.QUEUED)): 0,
        ("here", Measure.STORED, int(JobState.COMPLETED)): 1,
        ("here", Measure.DURATION_HISTOGRAM, 7): 1,
        ("with 'quote", Measure.STORED, int(JobState.CANCELLED)): 1,
    }
    keep(store, Changes(tallies=tallies))

    with store.transaction() as transaction:
        assert transaction.known_job_types() == {"gone", "here", "with 'quote"}
        assert transaction.known_job_types(["here", "gone", "never"]) == {"here", "gone"}
        assert transaction.known_job_types([]) == set()


def test_a_store_without_jobs_has_no_job_types(store: Store) -> None:
    with store.transaction() as transaction:
        assert transaction.known_job_types() == set()
