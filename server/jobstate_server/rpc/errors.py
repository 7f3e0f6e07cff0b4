"""Maps kinds of domain errors to gRPC statuses, and adds the details of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from jobstate_server.domain.errors import ErrorKind, JobStateError

DOMAIN = "jobstate"
"""The domain in every ErrorInfo of jobstate."""

_STATUS = {
    ErrorKind.INVALID: StatusCode.INVALID_ARGUMENT,
    ErrorKind.NOT_FOUND: StatusCode.NOT_FOUND,
    ErrorKind.EXISTS: StatusCode.ALREADY_EXISTS,
    ErrorKind.NOT_ALLOWED: StatusCode.FAILED_PRECONDITION,
    ErrorKind.OUT_OF_RANGE: StatusCode.OUT_OF_RANGE,
    ErrorKind.EXHAUSTED: StatusCode.RESOURCE_EXHAUSTED,
    ErrorKind.UNAVAILABLE: StatusCode.UNAVAILABLE,
    ErrorKind.INTERNAL: StatusCode.INTERNAL,
}


def status_code(error: JobStateError | type[JobStateError]) -> StatusCode:
    """The status of an error."""
    return _STATUS[error.kind]


STATUS_BYTES_MAX = 3_584
"""Bytes that a status may take in the headers of an answer: proxies accept 4 KiB of headers, and some 200 bytes are not
ours. nginx would replace a larger answer with a 502."""

_TEXT_BYTES_MAX = 256, 64
"""Bytes to which the texts of a status that is too large are cut. The second applies if the first is not enough."""


def status_of(error: JobStateError) -> status_pb2.Status:
    """The status that the caller gets: code, message, ErrorInfo and further details.

    If it is too large for the headers of an answer, its texts are cut, and then the last violations are left out.
    """
    status = _status(error, lambda text: text)
    for text_bytes_max in _TEXT_BYTES_MAX:
        if _header_bytes(status) <= STATUS_BYTES_MAX:
            break
        status = _status(error, partial(_cut, bytes_max=text_bytes_max))
        violations = len(error.violations)
        while _header_bytes(status) > STATUS_BYTES_MAX and violations > 1:
            violations -= 1
            status = _status(error, partial(_cut, bytes_max=text_bytes_max), violations)
    return status


def _status(error: JobStateError, cut: Callable[[str], str], violations_max: int | None = None) -> status_pb2.Status:
    number: int = status_code(error).value[0]
    facts = {key: cut(value) for key, value in error.facts.items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts)
    details = (info, *_further_details(error, cut, violations_max))
    return status_pb2.Status(code=number, message=cut(error.message), details=[_packed(detail) for detail in details])


def _header_bytes(status: status_pb2.Status) -> int:
    """The size of a status in headers: the message, percent-encoded, and the whole status in base64."""
    message = sum(1 if 32 <= byte < 127 and byte != 37 else 3 for byte in status.message.encode())
    encoded: int = status.ByteSize()
    return message + (encoded + 2) // 3 * 4


def _cut(text: str, bytes_max: int) -> str:
    encoded = text.encode()
    if len(encoded) <= bytes_max:
        return text
    return encoded[: bytes_max - 3].decode(errors="ignore") + "…"


def _further_details(
    error: JobStateError, cut: Callable[[str], str], violations_max: int | None = None
) -> list[Message]:
    if error.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=cut(field), description=cut(problem))
            for field, problem in error.violations[:violations_max]
        ]
        return [error_details_pb2.BadRequest(field_violations=violations)]
    if error.retry_delay_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_delay_s * 1_000))
        return [retry]
    if not error.job_id:
        return []
    if error.kind is ErrorKind.NOT_ALLOWED:
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=error.job_id, description=cut(error.message)
        )
        return [error_details_pb2.PreconditionFailure(violations=[violation])]
    return [
        error_details_pb2.ResourceInfo(
            resource_type="jobstate.v1.Job", resource_name=error.job_id, description=cut(error.message)
        )
    ]


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
