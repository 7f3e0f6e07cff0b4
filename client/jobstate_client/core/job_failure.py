"""How an exception in the work becomes a failure of the attempt: its code, its message, and whether to retry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, ClassVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core import documents
from jobstate_client.core.limits import CODE_BYTES_MAX, DETAILS_BYTES_MAX, RETRY_DELAY_S_MAX, TEXT_BYTES_MAX
from jobstate_client.core.values import Job, Span
from jobstate_client.errors import JobStateError

NAMED_KEYS_MAX = 10
"""Keys of details that the message names when they are left out: nobody reads more, and the message has its limit."""

IsRetryable = Callable[[BaseException], bool]


class JobFailure(Exception):
    """Raise this in the block of a run to say exactly how the attempt failed.

    Any other exception fails the attempt too. Its class name is the code, unless it has a ``code`` that is a text, and
    the failure is retryable, unless it has a ``retryable`` that is False.

    A failure is always reported: parts of it that cannot be sent are left out, and the message says so.
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
        """Describe the failure.

        Args:
            message: for people.
            code: for programs; empty takes the name of the class.
            retryable: whether a retry may succeed; None takes the class attribute.
            retry_delay: how long to wait before the retry, at most 7 days; None takes the job type's backoff.
            details: further data, at most 8 KiB; keys beyond that are left out.
        """
        super().__init__(message)
        self.code = code
        if retryable is not None:
            self.retryable = retryable
        self.retry_delay = retry_delay
        self.details = details


class NonRetryable(JobFailure):
    """Raise this when no retry can succeed: ``raise NonRetryable("no such file") from error``."""

    retryable: ClassVar[bool] = False  # type: ignore[misc]


def fail_requests(
    job: Job, request_id: str, error: BaseException, is_retryable: IsRetryable | None
) -> tuple[pb.FailRequest, pb.FailRequest]:
    """The request that reports this exception, and a plain one, without delay and details, to send if it is refused.

    Raises only what is no ``Exception``, when describing this one does. ``bare_request`` is for that.
    """
    notes: list[str] = []
    request = pb.FailRequest(id=job.id, attempt=job.attempt or None, request_id=request_id)
    request.error.code = documents.cut(_code(error, notes), CODE_BYTES_MAX)
    request.retryable = _retryable(error, is_retryable, notes)
    text = _text(error, notes)
    plain = pb.FailRequest()
    plain.CopyFrom(request)
    plain.request_id += "-plain"
    plain.error.message = _with_notes(text, [*notes, "the rest was refused"])
    if isinstance(error, JobFailure):
        delay = _attribute(error, "retry_delay", notes)
        if delay is not None and request.retryable:
            _fill_delay(request, delay, notes)
        details = _attribute(error, "details", notes)
        if details is not None:
            _fill_details(request.error.details, details, notes)
    request.error.message = _with_notes(text, notes)
    return request, plain


def bare_request(job: Job, request_id: str, error: BaseException, problem: BaseException) -> pb.FailRequest:
    """The failure with an exception that cannot be described, for that raised ``problem``. None of its code is run."""
    request = pb.FailRequest(id=job.id, attempt=job.attempt or None, request_id=request_id, retryable=True)
    request.error.code = documents.cut(_class_name(error), CODE_BYTES_MAX)
    request.error.message = documents.cut(f"(describing it raised {_class_name(problem)})", TEXT_BYTES_MAX)
    return request


def _attribute(error: BaseException, name: str, notes: list[str]) -> Any:
    """An attribute of the exception; None if it has none, or reading it raises."""
    try:
        value = getattr(error, name, None)
        # Some values raise even when they are asked for their type.
        _ = isinstance(value, str)
        return value  # noqa: TRY300 - an else would leave the isinstance without its try
    except Exception as problem:
        notes.append(f"its {name} raised {_class_name(problem)}")
        return None


def _text(error: BaseException, notes: list[str]) -> str:
    try:
        return str(error)
    except Exception as problem:
        notes.append(f"its text could not be made: {_class_name(problem)}")
        return ""


def _code(error: BaseException, notes: list[str]) -> str:
    code = _attribute(error, "code", notes)
    # The code of a SystemExit is what it prints.
    if isinstance(code, str) and code and isinstance(error, Exception):
        return code
    if isinstance(error, JobFailure) and code != "":
        notes.append(f"its code is a {type(code).__name__}, not a text")
    if isinstance(error, JobStateError) and error.reason:
        return error.reason
    return _class_name(error)


def _retryable(error: BaseException, is_retryable: IsRetryable | None, notes: list[str]) -> bool:
    retryable = _attribute(error, "retryable", notes)
    if isinstance(retryable, bool):
        return retryable
    # The predicate is for exceptions of the work. An interrupt is not one, and not the job's fault.
    if is_retryable is None or not isinstance(error, Exception):
        return True
    try:
        verdict: Any = is_retryable(error)
        # A predicate that returns None has not said no.
        return verdict is None or bool(verdict)
    except Exception as problem:
        notes.append(f"is_retryable raised {_described(problem)}, so it is tried again")
        return True


def _fill_delay(request: pb.FailRequest, delay: Span, notes: list[str]) -> None:
    try:
        request.retry_delay.CopyFrom(_valid_delay(delay))
    except Exception as problem:
        notes.append(f"retry_delay was left out: {_described(problem)}")


def _valid_delay(delay: Span) -> Duration:
    if not 0 <= documents.seconds(delay, "retry_delay") <= RETRY_DELAY_S_MAX:
        raise ValueError(f"it must be from 0 to {timedelta(seconds=RETRY_DELAY_S_MAX).days} days")
    return documents.duration(delay, "retry_delay")


def _fill_details(target: Struct, details: Mapping[str, Any], notes: list[str]) -> None:
    """As much of the details as can be sent, key by key."""
    try:
        whole = documents.struct_from(details, "details", DETAILS_BYTES_MAX)
    except Exception as problem:
        first = problem
    else:
        target.CopyFrom(whole)
        return
    if not isinstance(details, Mapping):
        notes.append(f"details were left out: {_described(first)}")
        return
    left_out: list[str] = []
    try:
        for key, value in details.items():
            if len(left_out) <= NAMED_KEYS_MAX and not _fill_key(target, key, value):
                left_out.append(documents.printable(key))
    except Exception as problem:
        notes.append(f"details were left out: {_described(problem)}")
        return
    named = ", ".join(left_out[:NAMED_KEYS_MAX]) + (" and all that follow" if len(left_out) > NAMED_KEYS_MAX else "")
    notes.append(f"details {named} were left out: {_described(first)}")


def _fill_key(target: Struct, key: str, value: Any) -> bool:
    """Whether this key could be added."""
    try:
        one = documents.struct_from({key: value}, "details", DETAILS_BYTES_MAX)
        if target.ByteSize() + one.ByteSize() > DETAILS_BYTES_MAX:
            return False
        target.MergeFrom(one)
    except Exception:
        return False
    return True


def _described(problem: BaseException) -> str:
    try:
        return f"{_class_name(problem)}: {problem}"
    except Exception:
        return _class_name(problem)


def _class_name(error: BaseException) -> str:
    return type(error).__name__


def _with_notes(text: str, notes: list[str]) -> str:
    """The text and the notes. The text is cut first when both are too long."""
    if not notes:
        return documents.cut(text, TEXT_BYTES_MAX)
    note = documents.cut("(" + "; ".join(notes) + ")", TEXT_BYTES_MAX // 4)
    kept = documents.cut(text, TEXT_BYTES_MAX - len(note.encode()) - 1)
    return f"{kept} {note}".lstrip()
