"""Erase, as a store does it: only what is about jobs that are gone, and the counts stay right."""

from __future__ import annotations

from jobstate_server.domain.events import EventType, is_erased
from jobstate_server.domain.filters import EventFilter
from jobstate_server.domain.job import JobState
from jobstate_server.domain.reads import Named, Reads
from jobstate_server.engine.erasing import erased
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.erasing import EVENTS_SEARCHED_MAX, ErasedEvent, ErasedLane, UsedRequest
from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import Changes, LaneChange, StoredEvent

from .support import UNBOUNDED, a_job, a_request, an_event, keep, keep_events, keep_jobs, key_of

OF_SOURCE = EventFilter(source_ids=frozenset(("source",)))


def stored(reader: Reader) -> list[StoredEvent]:
    return reader.events(0, EventFilter(), 100, UNBOUNDED).events


def erase_all(store: Store, reader: Reader) -> int:
    events = [event for event, _ in erased(event for event in stored(reader) if not is_erased(event.payload))]
    with store.transaction() as transaction:
        return transaction.erase_events(events)


def test_an_erased_event_keeps_its_place_and_its_check(store: Store, reader: Reader) -> None:
    keep_events(store, *(an_event(f"job-{number}", time=number, payload=b"\x3a\x02\x22\x00") for number in range(3)))
    before = stored(reader)

    assert erase_all(store, reader) == 3

    after = stored(reader)
    assert list(map(event_check, after)) == list(map(event_check, before))
    assert all(is_erased(event.payload) and not event.source_id for event in after)
    kept = [event._replace(source_id="", payload=b"") for event in before]
    assert [event._replace(payload=b"") for event in after] == kept
    assert erase_all(store, reader) == 0


def test_the_log_counts_the_bytes_that_are_left_and_how_often_it_was_erased(store: Store, reader: Reader) -> None:
    keep_events(store, an_event(payload=b"\x2a\x7f" + b"x" * 127), an_event("other", payload=b"\x3a\x00"))

    erase_all(store, reader)

    state = reader.log_state()
    assert state.bytes == sum(len(event.payload) for event in stored(reader))
    assert state.erasures == 1
    erase_all(store, reader)
    assert reader.log_state().erasures == 1


def test_events_of_a_stored_job_are_not_erased_but_those_of_an_earlier_one_with_its_id_are(
    store: Store, reader: Reader
) -> None:
    keep_events(store, *(an_event(time=number, payload=b"\x3a\x00") for number in range(4)))
    keep_jobs(store, a_job(create_sequence=3))

    assert erase_all(store, reader) == 2
    assert [is_erased(event.payload) for event in stored(reader)] == [True, True, False, False]


def test_the_erased_deletion_of_a_job_passes_every_filter_of_sources(store: Store, reader: Reader) -> None:
    deleted = int(EventType.DELETED)
    keep_events(store, an_event("one", payload=b"\x3a\x00"), an_event("one", type=deleted, payload=b"\x3a\x00"))
    keep_events(store, an_event("two", type=deleted, source_id="", payload=b"\x3a\x00"))
    with store.transaction() as transaction:
        transaction.erase_events([event for event, _ in erased(stored(reader)[:2])])

    found = reader.events(0, EventFilter(source_ids=frozenset(("another",))), 100, UNBOUNDED).events

    assert [(event.job_id, event.type) for event in found] == [("one", deleted)]
    assert reader.events(0, OF_SOURCE, 100, UNBOUNDED).events == found


def test_events_are_found_by_the_bytes_in_their_payloads_within_every_bound(store: Store, reader: Reader) -> None:
    payloads = [b"\x00%_a\xff", b"", b"\x00%_b", b"a\x00%_", b"\x00%_" * 9, b"\xff\x00%_"]
    keep_events(store, *(an_event(f"job-{number}", payload=payload) for number, payload in enumerate(payloads)))

    def found(after: int, *parts: bytes, limit: int = 100, bytes_max: int = UNBOUNDED) -> tuple[list[int], int]:
        events, through = reader.search_events(after, parts, limit, bytes_max)
        return [event.sequence for event in events], through

    end = EVENTS_SEARCHED_MAX
    assert found(0, b"\x00%_") == ([1, 3, 4, 5, 6], end)
    assert found(1, b"\x00%_", b"\xff") == ([6], end + 1)
    assert found(0, b"\x00%_", limit=2) == ([1, 3], 3)
    assert found(3, b"\x00%_", bytes_max=5) == ([4], 4)
    assert found(0, b"\x00a") == ([], end)


def test_events_that_retention_has_removed_are_passed_over(store: Store, reader: Reader) -> None:
    keep_events(store, *(an_event(time=number, payload=b"\x3a\x00") for number in range(3)))
    events = [event for event, _ in erased(stored(reader))]
    with store.transaction() as transaction:
        transaction.trim_events(2, UNBOUNDED, 10)
        assert transaction.erase_events([*events, ErasedEvent(99, b"\x40")]) == 1


def test_request_ids_of_stored_jobs_are_kept_and_those_of_others_forgotten(store: Store, reader: Reader) -> None:
    acquired = a_request("acquired", time=5)._replace(job_id="", acquired=(("gone", 1), ("stored", 1)))
    used = [
        a_request("of-the-gone", job_id="gone"),
        a_request("of-the-stored", job_id="stored", time=9)._replace(create_sequence=key_of("stored")),
        a_request("of-an-earlier-one", job_id="stored", time=2)._replace(create_sequence=1),
        acquired,
    ]
    keep(store, Changes(requests=used))
    keep_jobs(store, a_job("stored", create_time=7))
    page = reader.requests_from(0, 2)
    assert page.next_time is not None
    requests = [*page.requests, *reader.requests_from(page.next_time, 100).requests]
    assert len(requests) == 4
    named = [(request, job_id) for request in requests for job_id in request.job_ids.split()]

    with store.transaction() as transaction:
        assert transaction.erase_requests(named) == 3

    assert [request.request_id for request in reader.requests_from(0, 100).requests] == ["of-the-stored"]
    assert store.requests_stored == 1


def test_request_ids_of_one_time_are_in_one_page(store: Store, reader: Reader) -> None:
    keep(store, Changes(requests=[a_request(f"{number}", time=5) for number in range(9)]))

    page = reader.requests_from(0, 4)

    assert (len(page.requests), page.next_time) == (0, 5)
    page = reader.requests_from(5, 4)
    assert (len(page.requests), page.next_time) == (9, 6)
    assert isinstance(page.requests[0], UsedRequest)
    assert reader.requests_from(6, 4) == ([], None)


def test_jobs_are_selected_by_id_in_whatever_state(store: Store) -> None:
    keep_jobs(store, a_job("ended", state=JobState.COMPLETED, complete_time=5), a_job("queued"))
    selection = Named(("ended", "queued", "unknown"))

    with store.transaction() as transaction:
        found = transaction.load(Reads(selections={selection})).finished[selection]

    assert [(job.id, job.state, job.is_kept) for job in found] == [
        ("ended", JobState.COMPLETED, False),
        ("queued", JobState.QUEUED, False),
    ]


def a_lane(name: str, **changes: object) -> LaneChange:
    values = {"ready": 0, "returned": 0, "running": 0, "resting": 0, "turn_time": 0, "advance": 0, "tolerance": -1}
    return LaneChange("type", name, **{**values, "held_until": 0, "hold_reason": "", **changes})  # type: ignore[arg-type]


def test_lanes_without_jobs_are_deleted_and_reasons_of_holds_forgotten(store: Store, reader: Reader) -> None:
    with store.transaction() as transaction:
        ours = a_lane("held", ready=1, held_until=2**52, hold_reason="ours")
        theirs = a_lane("theirs", ready=1, held_until=2**52, hold_reason="theirs")
        transaction.write(
            Changes(
                lanes=[a_lane("idle", held_until=2**52), a_lane("busy", ready=1), ours, theirs], now=transaction.now
            )
        )

    with store.transaction() as transaction:
        transaction.erase_lanes([ErasedLane("type", name, "ours") for name in ("", "idle", "busy", "held", "theirs")])

    left = {name: reader.lane_record("type", name) for name in ("idle", "busy", "held", "theirs")}
    assert left["busy"].state.counts.ready == 1
    assert [(left[name].hold_reason, left[name].state.held_until) for name in ("idle", "held", "theirs")] == [
        ("", 0),
        ("", 2**52),
        ("theirs", 2**52),
    ]
