"""A watch that also tells where it is: after each response, and when the server is away."""

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
    """Everything of one response has been told, be it events or only a heartbeat."""

    cursor: str
    """Where to go on. Empty until the first SYNCED."""


class _ReportingSession(WatchSession):
    def __init__(self, on_broken: Callable[[JobStateError], None], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._on_broken = on_broken

    def items(self, response: pb.WatchEventsResponse) -> Iterator[Any]:
        yield from super().items(response)
        yield ResponseEnd(self.cursor)

    def resume_delay_s(self, error: JobStateError) -> float:
        if not self._was_answered and exit_code(error) is Exit.USAGE:
            # Such as a certificate that is not trusted: it would be the same the next time.
            raise error
        wait = super().resume_delay_s(error)
        self._on_broken(error)
        return wait


def follow(
    client: Client, *, patience: Span | None = None, on_broken: Callable[[JobStateError], None], **arguments: Any
) -> Watch[Any]:
    """``Client.watch`` whose items are followed by an ``ResponseEnd`` for each response; ``Synced`` always comes.

    ``on_broken`` is called each time that the watch breaks off and will try to go on.
    """
    request = watch_request(**arguments)
    session = _ReportingSession(on_broken, request, connect_s=client._timeout_s, patience=patience, emit_synced=True)
    return client._open_watch(session)
