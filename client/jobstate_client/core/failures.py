"""What an exception in the work says of the attempt: its code, its message, and whether trying again can help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from google.protobuf.struct_pb2 import Struct

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core import operations
from jobstate_client.core.documents import struct_from
from jobstate_client.core.values import Job, Span
from jobstate_client.errors import JobStateError

CODE_BYTES_MAX = 128
MESSAGE_BYTES_MAX = 4 * 1024
"""The server's limits. What is cut off here is in the worker's own log."""

IsRetryable = Callable[[BaseException], bool]


class JobFailure(Exception):
    """Raise this in the body of a run to say exactly how the attempt failed.

    Any other exception does too: its class is the code, unless it has a ``code`` that is a text, and trying again is
    thought to help, unless it has a ``retryable`` that is False.
    """

    retryable: bool = True

    def __init__(
        self,
        message: str = "",
        *,
        code: str = "",
        retryable: bool | None = None,
        retry_delay: Span | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Say it.

        Args:
            message: for people.
            code: for programs; empty takes the name of the class.
            retryable: whether trying again can help; None takes the class's.
            retry_delay: wait this long before the next attempt, in place of what the job type says.
            details: whatever else is worth keeping, 8 KiB at most.
        """
        super().__init__(message)
        self.code = code
        if retryable is not None:
            self.retryable = retryable
        self.retry_delay = retry_delay
        self.details = details


class NonRetryable(JobFailure):
    """Raise this when trying again cannot help: ``raise NonRetryable("no such file") from error``."""

    retryable: ClassVar[bool] = False  # type: ignore[misc]


def fail_request(
    job: Job, error: BaseException, is_retryable: IsRetryable | None, tokens: int | None, cost: float | None
) -> pb.FailRequest:
    """The request that reports this exception as the failure of the attempt."""
    retryable = _retryable(error, is_retryable)
    request = operations.fail(
        job,
        _cut(_code(error), CODE_BYTES_MAX),
        _cut(str(error), MESSAGE_BYTES_MAX),
        retryable=retryable,
        retry_delay=error.retry_delay if isinstance(error, JobFailure) and retryable else None,
        tokens=tokens,
        cost=cost,
    ).request
    assert isinstance(request, pb.FailRequest)
    if isinstance(error, JobFailure) and error.details is not None:
        request.error.details.CopyFrom(_details(error.details))
    return request


def _details(details: Mapping[str, Any]) -> Struct:
    try:
        return struct_from(details, "details")
    except (TypeError, ValueError) as error:
        # The failure itself has to be told, whatever it was adorned with.
        return struct_from({"details": f"cannot be sent: {error}"}, "details")


def _code(error: BaseException) -> str:
    code = getattr(error, "code", None)
    # That of a SystemExit is what it prints.
    if isinstance(code, str) and code and isinstance(error, Exception):
        return code
    if isinstance(error, JobStateError) and error.reason:
        return error.reason
    return type(error).__name__


def _retryable(error: BaseException, is_retryable: IsRetryable | None) -> bool:
    told = getattr(error, "retryable", None)
    if isinstance(told, bool):
        return told
    # Being interrupted is nothing that the predicate was written for, and nothing that the job did wrong.
    return is_retryable(error) if is_retryable is not None and isinstance(error, Exception) else True


def _cut(text: str, bytes_max: int) -> str:
    """As much of the text as may be sent: NUL is refused, and so are halves of characters."""
    clean = text.replace("\0", "\ufffd").encode("utf-8", "replace")
    return clean[:bytes_max].decode("utf-8", "ignore")
