"""The one map from domain errors to gRPC statuses, and the details that go with each."""

from __future__ import annotations

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


def status_of(error: e.JobStateError) -> status_pb2.Status:
    """The whole status that a caller is answered with: code, message, ErrorInfo and what else fits."""
    number: int = status_code(type(error)).value[0]
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.facts)
    return status_pb2.Status(
        code=number, message=error.message, details=[_packed(detail) for detail in (info, *_further_details(error))]
    )


def _further_details(error: e.JobStateError) -> list[Message]:
    if isinstance(error, e.InvalidField):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=problem)
            for field, problem in error.violations
        ]
        return [error_details_pb2.BadRequest(field_violations=violations)]
    if isinstance(error, (e.JobNotFound, e.JobExists)):
        return [
            error_details_pb2.ResourceInfo(
                resource_type="jobstate.v1.Job", resource_name=error.job_id, description=error.message
            )
        ]
    if isinstance(error, (e.TransitionNotAllowed, e.RetryNotAllowed, e.AttemptSuperseded, e.AttemptRequired)):
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=error.job_id, description=error.message
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
