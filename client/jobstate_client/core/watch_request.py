"""The request of a watch, from the arguments of ``watch``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol, TypeVar, overload

from jobstate.v1 import event_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core.decoding import EVENT_TYPES
from jobstate_client.core.documents import duration
from jobstate_client.core.operations import JobRef, id_of
from jobstate_client.core.states import EventType
from jobstate_client.core.validation import labels as validate_labels
from jobstate_client.core.validation import names
from jobstate_client.core.values import Span

EVENT_TYPE_NUMBERS = {type_: event_pb2.EventType.ValueType(number) for number, type_ in EVENT_TYPES.items()}

Start = Literal["latest", "earliest"]

_STARTS = {"latest": pb.WATCH_START_LATEST, "earliest": pb.WATCH_START_EARLIEST}

EventsT_co = TypeVar("EventsT_co", covariant=True)
ItemsT_co = TypeVar("ItemsT_co", covariant=True)


def watch_request(  # noqa: PLR0913 - the arguments of a watch, by keyword
    *,
    job_ids: Iterable[JobRef] = (),
    job_types: Iterable[str] = (),
    source_ids: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    types: Iterable[EventType | str] = (),
    cursor: str = "",
    start: Start | None = None,
    snapshot: bool = False,
    follow: bool = True,
    until_final: bool = False,
    latest_progress: bool = False,
    heartbeat_interval: Span | None = None,
) -> pb.WatchEventsRequest:
    """The request for the arguments of ``Client.watch``."""
    if start not in {None, *_STARTS}:
        raise ValueError(f"start must be latest or earliest, not {start!r}")
    if cursor and start is not None:
        raise TypeError("cursor and start both set the beginning: give only one")
    request = pb.WatchEventsRequest(
        job_ids=[id_of(job, "job_ids") for job in names(job_ids, "job_ids")],
        job_types=names(job_types, "job_types"),
        source_ids=names(source_ids, "source_ids"),
        labels=validate_labels(labels),
        types=[EVENT_TYPE_NUMBERS[EventType.parse(type_)] for type_ in names(types, "types")],
        snapshot=snapshot,
        until_final=until_final,
        heartbeat_interval=None if heartbeat_interval is None else duration(heartbeat_interval, "heartbeat_interval"),
        progress=pb.WATCH_PROGRESS_LATEST if latest_progress else pb.WATCH_PROGRESS_ALL,
    )
    if not follow:
        request.follow = False
    if cursor:
        request.cursor = cursor
    elif start is not None:
        request.start = _STARTS[start]
    return request


class WatchMethod(Protocol[EventsT_co, ItemsT_co]):
    """The type of ``watch`` in both clients: with a snapshot, a watch yields more than events."""

    @overload
    def __call__(
        self,
        *,
        job_ids: Iterable[JobRef] = (),
        job_types: Iterable[str] = (),
        source_ids: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        types: Iterable[EventType | str] = (),
        cursor: str = "",
        start: Start | None = None,
        snapshot: Literal[False] = False,
        follow: bool = True,
        until_final: bool = False,
        latest_progress: bool = False,
        heartbeat_interval: Span | None = None,
        patience: Span | None = None,
    ) -> EventsT_co: ...

    @overload
    def __call__(
        self,
        *,
        job_ids: Iterable[JobRef] = (),
        job_types: Iterable[str] = (),
        source_ids: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        types: Iterable[EventType | str] = (),
        cursor: str = "",
        snapshot: Literal[True],
        follow: bool = True,
        until_final: bool = False,
        latest_progress: bool = False,
        heartbeat_interval: Span | None = None,
        patience: Span | None = None,
    ) -> ItemsT_co: ...
