"""Ids that the server makes sort in the order in which they were made."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.clock import SystemClock
from jobstate_server.wire.job_ids import JobIds

BEGAN = 1_700_000_000_000_000


@given(st.lists(st.integers(-3, 3) | st.sampled_from([-(10**9), 10**9]), min_size=1, max_size=3_000))
def test_ids_sort_as_made_whatever_the_clock_does(steps: list[int]) -> None:
    times = iter([BEGAN + sum(steps[:index]) for index in range(len(steps))])
    ids = JobIds(lambda: next(times))

    made = [ids() for _ in steps]

    assert made == sorted(set(made))


def test_thousands_of_ids_of_one_microsecond_sort_as_made() -> None:
    ids = JobIds(lambda: BEGAN)

    made = [ids() for _ in range(5_000)]

    assert made == sorted(set(made))


def test_an_id_is_a_uuid_of_version_7_that_tells_its_time() -> None:
    for time in (BEGAN, BEGAN + 1, BEGAN + 999, BEGAN + 1_000):
        made = uuid.UUID(JobIds(lambda time=time: time)())  # type: ignore[misc]

        assert (made.version, made.variant) == (7, uuid.RFC_4122)
        assert (made.int >> 80, made.int >> 64 & 0xFFF) == divmod(time, 1_000)


def test_servers_make_different_ids_in_the_same_microsecond() -> None:
    assert len({JobIds(lambda: BEGAN)() for _ in range(100)}) == 100


def test_each_thread_gets_ids_in_order_and_none_twice() -> None:
    ids = JobIds(SystemClock().now)
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(lambda _: [ids() for _ in range(500)], range(4)))

    assert all(part == sorted(part) for part in parts)
    assert len({each for part in parts for each in part}) == 2_000
