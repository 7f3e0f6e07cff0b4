"""A watch session without a network: what it requests, when the cursor moves, how long it waits."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import pytest

from jobstate.v1 import event_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import errors
from jobstate_client.core.values import Event, SnapshotJob, SnapshotStarted, Synced
from jobstate_client.core.watch_request import watch_request
from jobstate_client.core.watch_session import RESUME_DELAY_S_MAX, WatchSession


def course(connect_s: float = 60.0, patience: float | None = None, **next_request: Any) -> WatchSession:
    return WatchSession(watch_request(**next_request), connect_s=connect_s, patience=patience)


def response(kind: str, cursor: str = "", **fields: Any) -> pb.WatchEventsResponse:
    return pb.WatchEventsResponse(
        kind=pb.WatchResponseKind.Value(f"WATCH_RESPONSE_KIND_{kind}"), cursor=cursor, **fields
    )


def events(cursor: str, *sequences: int) -> pb.WatchEventsResponse:
    return response("EVENTS", cursor, events=[event_pb2.Event(sequence=sequence) for sequence in sequences])


def unreachable() -> errors.Unreachable:
    return errors.Unreachable("nobody there", code=grpc.StatusCode.UNAVAILABLE)


def test_a_watch_from_a_cursor_begins_there_and_continues_from_what_was_handed_out() -> None:
    watch = course(cursor="c0")

    assert (watch.cursor, watch.next_request().cursor) == ("c0", "c0")
    list(watch.items(events("c2", 1, 2)))
    assert watch.next_request().cursor == "c2"


def test_the_cursor_moves_with_the_last_event_of_a_response() -> None:
    watch = course(cursor="c0")
    cursors = [watch.cursor for _ in watch.items(events("c3", 1, 2, 3))]

    assert cursors == ["c0", "c0", "c3"]


def test_a_heartbeat_and_a_kind_of_a_later_server_move_the_cursor_and_yield_nothing() -> None:
    watch = course()

    assert list(watch.items(response("HEARTBEAT", "c1"))) == []
    assert watch.cursor == "c1"
    assert list(watch.items(pb.WatchEventsResponse(kind=99, cursor="c2"))) == []  # type: ignore[arg-type]
    assert watch.cursor == "c2"


def test_a_start_gives_way_to_the_cursor() -> None:
    watch = course(start="earliest")
    assert watch.next_request().start == pb.WATCH_START_EARLIEST

    list(watch.items(response("SYNCED", "c1")))

    assert watch.next_request().WhichOneof("position") == "cursor"


def test_a_broken_snapshot_begins_again_and_says_so() -> None:
    watch = course(snapshot=True)
    page = response("SNAPSHOT", jobs=[{"id": "first"}])
    watch.next_request()
    told = [*watch.items(page), *watch.items(page)]
    watch.resume_delay_s(unreachable())
    again = watch.next_request()
    told += [*watch.items(page), *watch.items(response("SYNCED", "c1"))]
    watch.resume_delay_s(unreachable())

    kinds = [SnapshotStarted, SnapshotJob, SnapshotJob, SnapshotStarted, SnapshotJob, Synced]
    assert [type(item) for item in told] == kinds
    assert (again.snapshot, again.cursor) == (True, "")
    assert watch.next_request().cursor == "c1"
    assert [type(item) for item in watch.items(events("c2", 2))] == [Event]


def test_draining_is_waited_out_as_the_server_asked() -> None:
    watch = course()
    list(watch.items(response("DRAINING", "c1", reconnect_after=timedelta(seconds=1.25))))

    wait = watch.resume_delay_s(errors.Draining("stopping", retry_after=timedelta(seconds=1)))

    assert wait == 1.25
    assert watch.next_request().cursor == "c1"


def test_waits_grow_to_their_limit_and_start_again_after_an_answer() -> None:
    watch = course(connect_s=1e9)
    waits = [watch.resume_delay_s(unreachable()) for _ in range(20)]
    list(watch.items(response("HEARTBEAT", "c1")))

    assert 0.05 <= waits[0] <= 0.1
    assert all(RESUME_DELAY_S_MAX / 2 <= wait <= RESUME_DELAY_S_MAX for wait in waits[-5:])
    assert len(set(waits)) == len(waits)
    assert watch.resume_delay_s(unreachable()) <= 0.1


def test_what_the_server_asks_for_is_the_least_that_is_waited() -> None:
    assert course().resume_delay_s(errors.Overloaded("full", retry_after=timedelta(seconds=5))) == 5


@pytest.mark.parametrize(
    "kind", [errors.CursorExpired, errors.JobNotFound, errors.InvalidField, errors.DeadlineExceeded]
)
def test_what_waiting_does_not_mend_is_raised(kind: type[errors.JobStateError]) -> None:
    watch = course()
    list(watch.items(response("SYNCED", "c1")))

    with pytest.raises(kind):
        watch.resume_delay_s(kind("it is so"))


def test_a_watch_that_a_stopping_server_cut_off_before_it_answered_is_opened_again() -> None:
    cut = errors.TransportError("Cancelled", code=grpc.StatusCode.CANCELLED)

    assert course().resume_delay_s(cut) <= 0.1


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN"])
def test_a_connection_that_a_proxy_cut_is_mended_but_not_one_that_never_was(code: str) -> None:
    watch = course()
    cut = errors.TransportError("RST_STREAM", code=grpc.StatusCode[code])

    with pytest.raises(errors.TransportError):
        watch.resume_delay_s(cut)
    list(watch.items(response("SYNCED", "c1")))
    assert watch.resume_delay_s(cut) <= 0.1


def test_the_first_answer_and_every_later_one_have_limits_of_their_own() -> None:
    with pytest.raises(errors.Unreachable):
        course(connect_s=0.0).resume_delay_s(unreachable())
    patient, impatient = course(connect_s=0.0), course(connect_s=0.0, patience=0.0)
    for watch in (patient, impatient):
        list(watch.items(response("SYNCED", "c1")))

    assert patient.resume_delay_s(unreachable()) <= 0.1
    with pytest.raises(errors.Unreachable):
        impatient.resume_delay_s(unreachable())


def test_a_timeout_is_not_waited_out() -> None:
    watch = WatchSession(watch_request(), connect_s=60.0, timeout=0.01)

    with pytest.raises(errors.DeadlineExceeded) as late:
        watch.resume_delay_s(errors.Overloaded("full", retry_after=timedelta(seconds=5)))

    assert isinstance(late.value.__cause__, errors.Overloaded)
