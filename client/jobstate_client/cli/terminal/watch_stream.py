"""A watch that also reports the end of each response, and every outage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal.error_messages import exit_code
from jobstate_client.core.watch_request import watch_request
from jobstate_client.core.watch_session import WatchSession
from jobstate_client.sync.watch import Watch

if TYPE_CHECKING:
    from jobstate.v1 import job_service_pb2 as pb
    from jobstate_client.core.values import Span
    from jobstate_client.errors import JobStateError
    from jobstate_client.sync.client import Client


@dataclass(frozen=True, slots=True)
class ResponseEnd:
    """All items of one response have been yielded. A heartbeat has none."""

    cursor: str
    """The position after the response. Empty until the first SYNCED."""


class _ReportingSession(WatchSession):
    def __init__(self, on_outage: Callable[[JobStateError], None], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._on_outage = on_outage

    def items(self, response: pb.WatchEventsResponse) -> Iterator[Any]:
        yield from super().items(response)
        yield ResponseEnd(self.cursor)

    def resume_delay_s(self, error: JobStateError) -> float:
        if not self._was_answered and exit_code(error) is Exit.USAGE:
            # For example a certificate that is not trusted: the next attempt would fail in the same way.
            raise error
        delay = super().resume_delay_s(error)
        self._on_outage(error)
        return delay


def watch_stream(
    client: Client, *, patience: Span | None = None, on_outage: Callable[[JobStateError], None], **arguments: Any
) -> Watch[Any]:
    """``Client.watch`` with a ``ResponseEnd`` after the items of each response, and ``Synced`` without a snapshot too.

    ``on_outage`` is called each time that the watch breaks off and is going to be resumed.
    """
    request = watch_request(**arguments)
    session = _ReportingSession(on_outage, request, connect_s=client._timeout_s, patience=patience, emit_synced=True)
    return client._open_watch(session)
