"""The one map from domain errors to gRPC statuses, and the details that go with each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from jobstate_server.domain import errors as e

DOMAIN = "jobstate"
"""The domain of every ErrorInfo of ours."""

STATUS: dict[type[e.JobStateError], StatusCode] = {
    e.InvalidField: StatusCode.INVALID_ARGUMENT,
    e.JobNotFound: StatusCode.NOT_FOUND,
    e.JobExists: StatusCode.ALREADY_EXISTS,
    e.TransitionNotAllowed: StatusCode.FAILED_PRECONDITION,
    e.RetryNotAllowed: StatusCode.FAILED_PRECONDITION,
    e.AttemptSuperseded: StatusCode.FAILED_PRECONDITION,
    e.AttemptRequired: StatusCode.FAILED_PRECONDITION,
    e.RequestIdReused: StatusCode.ALREADY_EXISTS,
    e.CursorExpired: StatusCode.OUT_OF_RANGE,
    e.CursorUnknown: StatusCode.FAILED_PRECONDITION,
    e.MessageTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    e.Overloaded: StatusCode.RESOURCE_EXHAUSTED,
    e.StoreUnavailable: StatusCode.UNAVAILABLE,
    e.Draining: StatusCode.UNAVAILABLE,
    e.InternalError: StatusCode.INTERNAL,
}
"""The status of each kind of error; a kind that is not here has that of its nearest ancestor."""


def status_code(kind: type[e.JobStateError]) -> StatusCode:
    """The status of a kind of error."""
    for ancestor in kind.__mro__:
        if ancestor in STATUS:
            return STATUS[ancestor]
    raise LookupError(f"{kind.__name__} has no status")


STATUS_BYTES_MAX = 3_584
"""What a status may take of the headers of an answer: proxies take 4 KiB of them, and some 200 bytes are not ours.
nginx would answer 502 in place of a larger one."""

_TEXT_BYTES_MAX = 256, 64
"""To how many bytes the texts of a status are cut that would be larger; the second where the first is not enough."""


def status_of(error: e.JobStateError) -> status_pb2.Status:
    """The whole status that a caller is answered with: code, message, ErrorInfo and what else fits.

    Of one that is too large for the headers of an answer the texts are cut, then the last violations left out.
    """
    status = _status(error, lambda text: text)
    for text_bytes_max in _TEXT_BYTES_MAX:
        if _header_bytes(status) <= STATUS_BYTES_MAX:
            break
        status = _status(error, partial(_cut, bytes_max=text_bytes_max))
        violations = len(error.violations) if isinstance(error, e.InvalidField) else 0
        while _header_bytes(status) > STATUS_BYTES_MAX and violations > 1:
            violations -= 1
            status = _status(error, partial(_cut, bytes_max=text_bytes_max), violations)
    return status


def _status(error: e.JobStateError, cut: Callable[[str], str], violations_max: int | None = None) -> status_pb2.Status:
    number: int = status_code(type(error)).value[0]
    facts = {key: cut(value) for key, value in error.facts.items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts)
    details = (info, *_further_details(error, cut, violations_max))
    return status_pb2.Status(code=number, message=cut(error.message), details=[_packed(detail) for detail in details])


def _header_bytes(status: status_pb2.Status) -> int:
    """What a status takes as headers: the message, percent-encoded, and all of it in base64."""
    message = sum(1 if 32 <= byte < 127 and byte != 37 else 3 for byte in status.message.encode())
    encoded: int = status.ByteSize()
    return message + (encoded + 2) // 3 * 4


def _cut(text: str, bytes_max: int) -> str:
    encoded = text.encode()
    if len(encoded) <= bytes_max:
        return text
    return encoded[: bytes_max - 3].decode(errors="ignore") + "…"


def _further_details(
    error: e.JobStateError, cut: Callable[[str], str], violations_max: int | None = None
) -> list[Message]:
    if isinstance(error, e.InvalidField):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=cut(field), description=cut(problem))
            for field, problem in error.violations[:violations_max]
        ]
        return [error_details_pb2.BadRequest(field_violations=violations)]
    if isinstance(error, (e.JobNotFound, e.JobExists)):
        return [
            error_details_pb2.ResourceInfo(
                resource_type="jobstate.v1.Job", resource_name=error.job_id, description=cut(error.message)
            )
        ]
    if isinstance(error, (e.TransitionNotAllowed, e.RetryNotAllowed, e.AttemptSuperseded, e.AttemptRequired)):
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=error.job_id, description=cut(error.message)
        )
        return [error_details_pb2.PreconditionFailure(violations=[violation])]
    if isinstance(error, e.Unavailable):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_delay_s * 1_000))
        return [retry]
    return []


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
