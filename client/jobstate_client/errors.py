"""The errors of a call, as one tree that mirrors ``jobstate.v1.ErrorReason``.

    JobStateError
    ├── Refused                     the server refused the call and gave a reason
    │   ├── InvalidField            field, violations
    │   │   └── UnknownJobType      job_type
    │   ├── MessageTooLarge         size, size_max
    │   ├── JobNotFound             job_id
    │   ├── JobExists               job_id
    │   │   └── GroupExists         the block of a group found its unique_key taken
    │   ├── TransitionNotAllowed    job_id, state, trigger, allowed, why
    │   │   └── JobCancelled        the job was cancelled
    │   ├── RetryNotAllowed         job_id, why, retry_count, max_retries
    │   ├── AttemptSuperseded       job_id, attempt, current_attempt, state
    │   ├── AttemptRequired         job_id, attempt, current_attempt, state
    │   ├── ReleaseLimitReached     job_id, attempt
    │   ├── GroupClosed             group_id, why, field
    │   ├── NotAGroup               group_id, field
    │   ├── RequestIdReused         request_id
    │   ├── CursorExpired           oldest_cursor
    │   ├── CursorUnknown           oldest_cursor
    │   ├── TryLater                retry_after: nothing is wrong with the call
    │   │   ├── Overloaded
    │   │   ├── StoreUnavailable
    │   │   └── Draining
    │   └── InternalError           call_id
    ├── TransportError              no answer from the service: see ``code``
    │   ├── Unreachable             no server, or the connection was lost
    │   └── DeadlineExceeded        no answer within the timeout
    ├── ClientClosed                the client was closed before or during the call
    └── ClientForked                the client was used before this process was forked

    try:
        client.complete(job, result_count=12)
    except jobstate_client.AttemptSuperseded as error:
        discard_results_of(error.attempt)

What to do about each is in docs/errors.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from jobstate_client.core.states import State

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from jobstate_client.core.values import CreatedJob

__all__ = [
    "AttemptRequired",
    "AttemptSuperseded",
    "ClientClosed",
    "ClientForked",
    "CursorExpired",
    "CursorUnknown",
    "DeadlineExceeded",
    "Draining",
    "GroupClosed",
    "GroupExists",
    "InternalError",
    "InvalidField",
    "JobCancelled",
    "JobExists",
    "JobNotFound",
    "JobStateError",
    "MessageTooLarge",
    "NotAGroup",
    "Overloaded",
    "Refused",
    "ReleaseLimitReached",
    "RequestIdReused",
    "RetryNotAllowed",
    "StoreUnavailable",
    "TransitionNotAllowed",
    "TransportError",
    "TryLater",
    "UnknownJobType",
    "Unreachable",
]

T = TypeVar("T")


class _MetadataField(Generic[T]):
    """An attribute that reads the metadata key of its own name."""

    def __init__(self, convert: Callable[[str], T]) -> None:
        self._convert = convert
        self._key = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._key = name

    def __get__(self, error: JobStateError | None, owner: type) -> T:
        if error is None:
            return cast(T, self)
        return self._convert(error.metadata.get(self._key, ""))


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdigit() else 0


def _truth(text: str) -> bool:
    return text == "true"


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def _state(text: str) -> State:
    if not text:
        return State.UNKNOWN
    return State(text) if text in State.__members__ else State.unknown(text)


class JobStateError(Exception):
    """A call failed. ``reason`` and ``metadata`` are for programs, and the message is for people."""

    reason: str = ""
    """The name of the ErrorReason without its prefix, even if this version does not know it. Empty for an error that
    did not come from the service."""

    def __init__(
        self,
        message: str,
        metadata: Mapping[str, str] | None = None,
        *,
        code: grpc.StatusCode | None = None,
        retry_after: timedelta | None = None,
        violations: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.code = code
        """The gRPC status code, if there was a call."""
        self.retry_after = retry_after
        """How long to wait before the call is repeated, if the server says so."""
        self.violations = violations
        """Every invalid field, with its problem."""
        self.request_id = self.metadata.get("request_id", "")
        """The request_id of a call that changes something: a repeat with it changes nothing twice."""
        self.created: tuple[CreatedJob, ...] = ()
        """The jobs that ``create_many`` had created before, in whole batches."""


class Refused(JobStateError):
    """The server refused the call. Nothing was changed, unless the subclass says otherwise."""


class InvalidField(Refused):
    """A field is missing, malformed, out of bounds, or not allowed together with another: correct the call."""

    reason = "INVALID_FIELD"
    field = _MetadataField(str)


class UnknownJobType(InvalidField):
    """The server's settings do not name this job type, and it accepts no others."""

    reason = "UNKNOWN_JOB_TYPE"
    job_type = _MetadataField(str)


class MessageTooLarge(Refused):
    """The request is too large: send less at once."""

    reason = "MESSAGE_TOO_LARGE"
    size = _MetadataField(_number)
    size_max = _MetadataField(_number)


class JobNotFound(Refused):
    """There is no such job: it was never created, or cleanup has deleted it.

    ``deleted``: the call repeats one that succeeded, and the job has been deleted since. ``field``: which need, group
    or creator of a new job it is; empty for the job of the call.
    """

    reason = "JOB_NOT_FOUND"
    job_id = _MetadataField(str)
    deleted = _MetadataField(_truth)
    field = _MetadataField(str)


class JobExists(Refused):
    """There is already a job with this id."""

    reason = "JOB_EXISTS"
    job_id = _MetadataField(str)


class GroupExists(JobExists):
    """A block was to create a group whose ``unique_key`` the job ``job_id`` has already. That job was left as it is.

    It is another call's, so the block neither closes nor cancels it. To add to it, create members with its id as
    ``group_id``.
    """


class TransitionNotAllowed(Refused):
    """The job's state does not allow this. Act on ``state``, and do not repeat the call."""

    reason = "TRANSITION_NOT_ALLOWED"
    job_id = _MetadataField(str)
    state = _MetadataField(_state)
    trigger = _MetadataField(str)
    allowed = _MetadataField(_names)
    why = _MetadataField(str)
    """``held back`` if the job is delayed; otherwise empty."""


class JobCancelled(TransitionNotAllowed):
    """The job has been cancelled: stop the work and discard it."""


class RetryNotAllowed(Refused):
    """The job is PERMANENTLY_FAILED. ``why`` is "limit reached" or "not retryable"."""

    reason = "RETRY_NOT_ALLOWED"
    job_id = _MetadataField(str)
    why = _MetadataField(str)
    retry_count = _MetadataField(_number)
    max_retries = _MetadataField(_number)


class AttemptSuperseded(Refused):
    """This attempt is over, and another may have taken its place: stop the work and discard its results.

    ``field``: "by.attempt" if a new job named the attempt as its creator; else empty.
    """

    reason = "ATTEMPT_SUPERSEDED"
    job_id = _MetadataField(str)
    field = _MetadataField(str)
    attempt = _MetadataField(_number)
    current_attempt = _MetadataField(_number)
    state = _MetadataField(_state)


class AttemptRequired(Refused):
    """The job is past its first attempt: name the attempt that your own start returned."""

    reason = "ATTEMPT_REQUIRED"
    job_id = _MetadataField(str)
    attempt = _MetadataField(_number)
    current_attempt = _MetadataField(_number)
    state = _MetadataField(_state)


class ReleaseLimitReached(Refused):
    """The job has been released as often as a job can be: complete or fail its attempt."""

    reason = "RELEASE_LIMIT_REACHED"
    job_id = _MetadataField(str)
    attempt = _MetadataField(_number)


class GroupClosed(Refused):
    """The group takes no more members: it is closed, stopping or final, as ``why`` says. Make a new group."""

    reason = "GROUP_CLOSED"
    group_id = _MetadataField(str)
    why = _MetadataField(str)
    field = _MetadataField(str)


class NotAGroup(Refused):
    """The job was not created as a group."""

    reason = "NOT_A_GROUP"
    group_id = _MetadataField(str)
    field = _MetadataField(str)


class RequestIdReused(Refused):
    """The request_id belongs to another call: use a new one for every new call."""

    reason = "REQUEST_ID_REUSED"


class CursorExpired(Refused):
    """Events after the cursor are gone: watch again with snapshot, or from ``oldest_cursor`` with a gap."""

    reason = "CURSOR_EXPIRED"
    oldest_cursor = _MetadataField(str)


class CursorUnknown(Refused):
    """The cursor belongs to another log: discard what you know from that log, and watch again with snapshot."""

    reason = "CURSOR_UNKNOWN"
    oldest_cursor = _MetadataField(str)


class TryLater(Refused):
    """The call is valid, but cannot be served now. The client has repeated it until its timeout."""


class Overloaded(TryLater):
    """The server has reached a limit of what it accepts at once."""

    reason = "OVERLOADED"


class StoreUnavailable(TryLater):
    """The store did not answer. Whether the change was made is unknown: repeat with the same request_id."""

    reason = "STORE_UNAVAILABLE"


class Draining(TryLater):
    """The server is stopping."""

    reason = "DRAINING"


class InternalError(Refused):
    """An unexpected error in the server. Its log has the cause under ``call_id``."""

    reason = "INTERNAL"
    call_id = _MetadataField(str)


class TransportError(JobStateError):
    """The call ended without an answer from the service; ``code`` is gRPC's. The outcome may be unknown."""


class Unreachable(TransportError):
    """No server was reached, or the connection was lost."""


class DeadlineExceeded(TransportError):
    """There was no answer within the timeout. Whether a change was made is unknown."""


class ClientClosed(JobStateError):
    """The client, or the channel that it was given, is closed. The outcome of a running call is unknown."""


class ClientForked(JobStateError):
    """The client was used before this process was forked, and belongs to the parent: make another one here."""
