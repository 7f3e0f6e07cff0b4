"""The notifier reports what other replicas commit, also where notifications do not get through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from jobstate_server.store.errors import StoreUnreachable
from jobstate_server.store.postgres import notifier as listening
from jobstate_server.store.postgres.notifier import PostgresNotifier
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.records import ANY_TYPE, ChangedJob, Changes, Notification

from ..support import Interruption, a_job, an_event, keep, keep_events, keep_jobs
from .support import end_connection, ended_by, foreign, rows

PATIENCE_S = 20.0
"""Nothing that works comes near."""

NO_TIME_S = 0.05
"""Waits for a notification that must not come. It would be there already, after what was committed before it."""


def first(head: int, next_due: int | None = None) -> Notification:
    """What a notifier says when it begins. Events may have been erased before, which the reader may still have."""
    return Notification(head, next_due, ANY_TYPE, has_erased=True)


@pytest.fixture
def notifier(store: PostgresStore) -> Iterator[PostgresNotifier]:
    """The notifier of ``store``, which listens."""
    with closing(store.open_notifier()) as notifier:
        assert notifier.wait(PATIENCE_S) == first(0)
        assert notifier.is_listening
        yield notifier


def notified_until(notifier: PostgresNotifier, head: int) -> list[int | None]:
    """Wait until a head is reported. Returns the due times reported on the way."""
    due = []
    while True:
        notification = notifier.wait(PATIENCE_S)
        assert notification is not None
        due.append(notification.next_due)
        if notification.head >= head:
            assert notification.head == head
            return due


def due_at(moment: int | None, name: str = "job") -> Changes:
    """A new job that is due at a moment."""
    return Changes(inserted=[ChangedJob(a_job(name, due_time=moment), 0)], events=[an_event(name)])


def test_a_notifier_reports_another_replica_s_commit_with_its_head_and_due_time(
    notifier: PostgresNotifier, other: PostgresStore
) -> None:
    keep(other, due_at(77))

    assert notifier.wait(PATIENCE_S) == Notification(1, 77)
    assert notifier.wait(NO_TIME_S) is None


def test_a_commit_without_a_due_time_reports_none(notifier: PostgresNotifier, other: PostgresStore) -> None:
    keep_events(other, an_event(), an_event())

    assert notifier.wait(PATIENCE_S) == Notification(2, None)


def test_a_commit_reports_the_types_of_which_it_left_ready_jobs(
    notifier: PostgresNotifier, other: PostgresStore
) -> None:
    for ready in (["a"], ["b", "c"], []):
        keep(other, Changes(events=[an_event()], ready_types=ready))

    told: set[str] = set()
    head = 0
    while head < 3:
        notification = notifier.wait(PATIENCE_S)
        assert notification is not None
        head, told = notification.head, told | notification.ready_types
    assert told == {"a", "b", "c"}


def test_more_types_than_fit_a_notification_are_reported_as_any(
    notifier: PostgresNotifier, other: PostgresStore
) -> None:
    keep(other, Changes(events=[an_event()], ready_types=[f"{number:064}" for number in range(1_000)]))

    assert notifier.wait(PATIENCE_S) == Notification(1, None, ANY_TYPE)


def test_the_earliest_due_time_of_several_commits_is_not_lost(notifier: PostgresNotifier, other: PostgresStore) -> None:
    for number, moment in enumerate((50, 20, None, 30)):
        keep(other, due_at(moment, f"{number}"))

    assert min(moment for moment in notified_until(notifier, 4) if moment is not None) == 20


def test_a_notifier_does_not_report_what_this_replica_commits_itself(
    notifier: PostgresNotifier, store: PostgresStore, other: PostgresStore
) -> None:
    for _ in range(5):
        keep_events(store, an_event())
    assert notifier.wait(NO_TIME_S) is None

    keep_events(store, an_event())
    keep_events(other, an_event())

    assert notifier.wait(PATIENCE_S) == Notification(7, None)


def test_own_commits_do_not_end_the_wait(
    notifier: PostgresNotifier, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a busy server would take its own work for silence, and look at the log again and again."""
    # When it begins, before and after the first round, before and after the second.
    now = iter([0.0, 0.0, 1.0, 2.0, 3.0])
    for _ in range(3):
        keep_events(store, an_event())
    told: list[float] = []
    notifies = notifier._database.raw_connection.notifies

    def noted(*, timeout: float, stop_after: int) -> Any:
        told.append(timeout)
        return notifies(timeout=NO_TIME_S, stop_after=stop_after)

    monkeypatch.setattr(notifier._database.raw_connection, "notifies", noted)
    monkeypatch.setattr(listening, "time", SimpleNamespace(monotonic=lambda: next(now)))

    assert notifier.wait(2.5) is None
    assert told == [2.5, 0.5]


def test_a_change_that_is_no_event_is_not_reported(notifier: PostgresNotifier, other: PostgresStore) -> None:
    keep_jobs(other, a_job())
    with other.transaction() as transaction:
        transaction.renew("other")

    assert notifier.wait(NO_TIME_S) is None


def test_what_is_rolled_back_is_not_reported(notifier: PostgresNotifier, other: PostgresStore) -> None:
    with ended_by(Interruption, other) as transaction:
        transaction.write(Changes(events=[an_event()]))
        raise Interruption

    assert notifier.wait(NO_TIME_S) is None


def test_a_notifier_notifies_once_when_it_begins_with_where_the_log_stands(
    store: PostgresStore, other: PostgresStore
) -> None:
    keep(other, due_at(9))
    with closing(store.open_notifier()) as notifier:
        assert notifier.wait(PATIENCE_S) == first(1, 9)
        assert notifier.wait(NO_TIME_S) is None


def test_a_notifier_whose_connection_broke_says_so_and_then_notifies_once_for_all_it_missed(
    url: str, notifier: PostgresNotifier, other: PostgresStore
) -> None:
    for round_ in range(2):
        end_connection(url, notifier._database.process)
        keep(other, due_at(5, f"{round_}"))
        keep_events(other, an_event())
        with pytest.raises(StoreUnreachable):
            notifier.wait(PATIENCE_S)

        assert notifier.wait(PATIENCE_S) == Notification(2 * round_ + 2, 5, ANY_TYPE)
        assert notifier.wait(NO_TIME_S) is None
    keep_events(other, an_event())
    assert notifier.wait(PATIENCE_S) == Notification(5, None)


def test_a_notification_in_the_format_of_another_release_makes_the_notifier_poll(
    url: str, notifier: PostgresNotifier, store: PostgresStore, other: PostgresStore
) -> None:
    with foreign(url) as connection:
        connection.execute(b"SELECT pg_notify(%s, 'head=1; due=2; more')", (store.channel,))

    assert notifier.wait(PATIENCE_S) == Notification(0, None, ANY_TYPE)
    keep_events(other, an_event())
    assert notifier.wait(PATIENCE_S) == Notification(1, None)


def test_stores_in_one_database_do_not_notify_each_other(notifier: PostgresNotifier, store: PostgresStore) -> None:
    with foreign(store._url) as connection:
        connection.execute(b"SELECT pg_notify('jobstate_000000000000', '7 ')")

    assert notifier.wait(NO_TIME_S) is None


def muted(notifier: PostgresNotifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no LISTEN get through, as a pooler in transaction mode does."""
    monkeypatch.setattr(listening, "PROBE_TIMEOUT_S", NO_TIME_S)
    connect = notifier._database._connect

    def connect_through_a_pooler() -> psycopg.Connection[Any]:
        connection = connect()
        execute = connection.execute

        def swallow(query: bytes, *values: Any, **options: Any) -> Any:
            return execute(b"SELECT 1" if query.startswith(b"LISTEN") else query, *values, **options)

        monkeypatch.setattr(connection, "execute", swallow)
        return connection

    monkeypatch.setattr(notifier._database, "_connect", connect_through_a_pooler)


def test_a_notifier_that_gets_no_notifications_polls_instead(
    store: PostgresStore, other: PostgresStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(store.open_notifier()) as notifier:
        muted(notifier, monkeypatch)
        assert notifier.wait(PATIENCE_S) == first(0)
        assert not notifier.is_listening
        assert "polling instead" in caplog.text

        keep(other, due_at(31))
        assert notified_until(notifier, 1)[-1] == 31
        assert notifier.wait(NO_TIME_S) is None
        keep_events(other, an_event())
        assert notified_until(notifier, 2)[-1] == 31


def test_a_polling_notifier_whose_connection_broke_polls_again(
    url: str, store: PostgresStore, other: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(store.open_notifier()) as notifier:
        muted(notifier, monkeypatch)
        assert notifier.wait(PATIENCE_S) == first(0)
        keep_events(other, an_event())
        end_connection(url, notifier._database.process)
        with pytest.raises(StoreUnreachable):
            notifier.wait(PATIENCE_S)

        assert notifier.wait(PATIENCE_S) == Notification(1, None, ANY_TYPE)


def test_a_notifier_that_cannot_connect_says_so_each_time(store: PostgresStore) -> None:
    with closing(PostgresNotifier("postgresql://nobody@127.0.0.1:1/db", store.channel, lambda: None)) as notifier:
        for _ in range(2):
            with pytest.raises(StoreUnreachable, match="cannot connect"):
                notifier.wait(NO_TIME_S)


def test_a_closed_notifier_has_no_connection_left(url: str, store: PostgresStore) -> None:
    notifier = store.open_notifier()
    notifier.wait(PATIENCE_S)
    process = notifier._database.process
    assert process is not None

    notifier.close()

    with foreign(url) as connection:
        # It returns when the process is gone, or at once when it is gone already.
        connection.execute("SELECT pg_terminate_backend(%s, 20000)", (process,))
    assert rows(url, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", process) == [(0,)]
    assert notifier._database.is_closed()
