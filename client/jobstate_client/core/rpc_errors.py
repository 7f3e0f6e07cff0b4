"""Turns a failed call into an error of this package. Only this module knows how a status is encoded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from jobstate_client import errors as e
from jobstate_client.core.documents import span_from
from jobstate_client.core.states import State

DOMAIN = "jobstate"
_DETAILS_KEY = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _kinds(kind: type[e.JobStateError]) -> Iterator[type[e.JobStateError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _kinds(narrower)


BY_REASON = {kind.reason: kind for kind in _kinds(e.Refused) if "reason" in vars(kind)}

_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: e.Unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: e.DeadlineExceeded,
}


def error_from_rpc(
    failure: grpc.RpcError, request_id: str = "", arguments: Mapping[str, str] | None = None
) -> e.JobStateError:
    """The error of a failed call. Its message names ``arguments`` in place of the fields of the request."""
    call: Any = failure
    code = call.code() or grpc.StatusCode.UNKNOWN
    error = _from_details(code, call.details() or "", call.trailing_metadata() or ())
    if error is None:
        error = _BY_CODE.get(code, e.TransportError)(f"{code.name}: {call.details()}", code=code)
    if request_id:
        error.request_id = request_id
    if arguments and (field := error.metadata.get("field", "")):
        _name_argument(error, field, arguments)
    error.__cause__ = failure
    return error


def _name_argument(error: e.JobStateError, field: str, arguments: Mapping[str, str]) -> None:
    """People know the arguments of the client. What programs read keeps the names of the contract."""
    first = re.split(r"\W", field, maxsplit=1)[0]
    if first in arguments and error.message.startswith(field):
        error.message = arguments[first] + error.message.removeprefix(first)
        error.args = (error.message,)


def error_for_reason(
    reason: str,
    message: str,
    metadata: Mapping[str, str],
    code: grpc.StatusCode | int | None = None,
    **details: Any,
) -> e.JobStateError:
    """The error of a reason. For a reason that this version does not know it is a plain ``Refused``."""
    kind = BY_REASON.get(reason, e.Refused)
    if kind is e.TransitionNotAllowed and metadata.get("state") == State.CANCELLED:
        kind = e.JobCancelled
    status = _CODES.get(code) if isinstance(code, int) else code
    error = kind(message, metadata, code=status, **details)
    if kind is e.Refused:
        error.reason = reason
    return error


def _from_details(code: grpc.StatusCode, message: str, trailing: Any) -> e.JobStateError | None:
    encoded = next((value for key, value in trailing if key == _DETAILS_KEY), None)
    if encoded is None:
        return None
    # Imported with the first error that has details: many programs never see one.
    kinds, statuses = import_module("google.rpc.error_details_pb2"), import_module("google.rpc.status_pb2")
    info, retry, fields = kinds.ErrorInfo(), kinds.RetryInfo(), kinds.BadRequest()
    try:
        status = statuses.Status.FromString(encoded)
        found = {type(each) for each in (info, retry, fields) for detail in status.details if detail.Unpack(each)}
    except (DecodeError, TypeError):
        # A proxy has changed the details; the code is still an error.
        return None
    if type(info) not in found or info.domain != DOMAIN:
        return None
    retry_delay = retry.retry_delay
    return error_for_reason(
        info.reason,
        message,
        info.metadata,
        code,
        retry_after=span_from(retry_delay) if retry_delay.ByteSize() else None,
        violations=tuple((field.field, field.description) for field in fields.field_violations),
    )
