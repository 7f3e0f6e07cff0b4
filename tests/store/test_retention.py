"""Request ids are forgotten by age. How events are, is in ``test_log``."""

from __future__ import annotations

from jobstate_server.store.base import Store
from jobstate_server.store.records import Changes

from ..support.reads import reads
from .support import a_request, keep


def trim(store: Store, older_than: int, limit: int = 1_000) -> int:
    with store.transaction() as transaction:
        return transaction.trim_requests(older_than, limit)


def kept(store: Store, *keys: tuple[str, str]) -> set[tuple[str, str]]:
    """Which of these are stored."""
    with store.transaction() as transaction:
        return set(transaction.load(reads(request_keys=keys)).requests)


def test_request_ids_used_before_a_time_are_forgotten(store: Store) -> None:
    keep(store, Changes(requests=[a_request(f"{time}", time=time) for time in range(5)]))

    assert trim(store, 3) == 3

    assert kept(store, *[("owner", f"{time}") for time in range(5)]) == {("owner", "3"), ("owner", "4")}
    assert trim(store, 3) == 0


def test_at_most_the_limit_of_request_ids_is_forgotten(store: Store) -> None:
    keep(store, Changes(requests=[a_request(f"{number}") for number in range(5)]))

    assert [trim(store, 2, limit=2) for _ in range(4)] == [2, 2, 1, 0]


def test_forgetting_one_principal_s_request_id_keeps_the_same_id_of_another(store: Store) -> None:
    keep(store, Changes(requests=[a_request(principal="one", time=1), a_request(principal="two", time=9)]))

    assert trim(store, 5) == 1
    assert kept(store, ("one", "request"), ("two", "request")) == {("two", "request")}


def test_a_forgotten_request_id_may_be_used_again(store: Store) -> None:
    keep(store, Changes(requests=[a_request(job_id="old")]))
    trim(store, 5)

    keep(store, Changes(requests=[a_request(job_id="new")]))

    with store.transaction() as transaction:
        assert transaction.load(reads(request_keys=[("owner", "request")])).requests == {
            ("owner", "request"): a_request(job_id="new")
        }
