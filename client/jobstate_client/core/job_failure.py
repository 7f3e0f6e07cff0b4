"""What an exception in the work says of the attempt: its code, its message, and whether trying again can help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, ClassVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client.core import documents
from jobstate_client.core.limits import (
    CODE_BYTES_MAX,
    DETAILS_BYTES_MAX,
    RETRY_DELAY_S_MAX,
    TEXT_BYTES_MAX,
)
from jobstate_client.core.values import Job, Span
from jobstate_client.errors import JobStateError

NAMED_MAX = 10
"""Keys of details that are named when they are left out: a person wants no more, and the message has its limit."""

IsRetryable = Callable[[BaseException], bool]


class JobFailure(Exception):
    """Raise this in the body of a run to say exactly how the attempt failed.

    Any other exception does too: its class is the code, unless it has a ``code`` that is a text, and trying again is
    thought to help, unless it has a ``retryable`` that is False.

    The failure is always told: what of it cannot be sent is left out, and the message says so.
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
            retry_delay: wait this long before the next attempt, 7 days at most, in place of what the job type says.
            details: whatever else is worth keeping, 8 KiB at most; keys beyond that are left out.
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
    job: Job, request_id: str, error: BaseException, is_retryable: IsRetryable | None
) -> tuple[pb.FailRequest, pb.FailRequest]:
    """The request that reports this exception as the failure of the attempt, and one without all that adorns it.

    Raises nothing, whatever the exception is and does when it is looked at.
    """
    notes: list[str] = []
    request = pb.FailRequest(id=job.id, attempt=job.attempt or None, request_id=request_id)
    request.error.code = _cut(_code(error, notes), CODE_BYTES_MAX)
    request.retryable = _retryable(error, is_retryable, notes)
    text = _text(error, notes)
    plain = pb.FailRequest()
    plain.CopyFrom(request)
    plain.request_id += "-plain"
    plain.error.message = _noted(text, [*notes, "the rest was refused"])
    if isinstance(error, JobFailure):
        delay = _looked_at(error, "retry_delay", notes)
        if delay is not None and request.retryable:
            _fill_delay(request, delay, notes)
        details = _looked_at(error, "details", notes)
        if details is not None:
            _fill_details(request.error.details, details, notes)
    request.error.message = _noted(text, notes)
    return request, plain


def _looked_at(error: BaseException, name: str, notes: list[str]) -> Any:
    """An attribute; None when there is none, or it cannot be looked at."""
    try:
        value = getattr(error, name, None)
        # Here, if anywhere, it shows that a value cannot even be asked what it is.
        _ = isinstance(value, str)
        return value  # noqa: TRY300
    except Exception as problem:
        notes.append(f"its {name} raised {_name(problem)}")
        return None


def _text(error: BaseException, notes: list[str]) -> str:
    try:
        return str(error)
    except Exception as problem:
        notes.append(f"its text could not be made: {_name(problem)}")
        return ""


def _code(error: BaseException, notes: list[str]) -> str:
    code = _looked_at(error, "code", notes)
    # That of a SystemExit is what it prints.
    if isinstance(code, str) and code and isinstance(error, Exception):
        return code
    if isinstance(error, JobFailure) and code != "":
        notes.append(f"its code is a {type(code).__name__}, not a text")
    if isinstance(error, JobStateError) and error.reason:
        return error.reason
    return _name(error)


def _retryable(error: BaseException, is_retryable: IsRetryable | None, notes: list[str]) -> bool:
    told = _looked_at(error, "retryable", notes)
    if isinstance(told, bool):
        return told
    # Being interrupted is nothing that the predicate was written for, and nothing that the job did wrong.
    if is_retryable is None or not isinstance(error, Exception):
        return True
    try:
        verdict: Any = is_retryable(error)
        # A predicate that says nothing has not said no.
        return verdict is None or bool(verdict)
    except Exception as problem:
        notes.append(f"is_retryable raised {_told(problem)}, so it is tried again")
        return True


def _fill_delay(request: pb.FailRequest, delay: Span, notes: list[str]) -> None:
    try:
        request.retry_delay.CopyFrom(_judged_delay(delay))
    except Exception as problem:
        notes.append(f"retry_delay was left out: {_told(problem)}")


def _judged_delay(delay: Span) -> Duration:
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
        notes.append(f"details were left out: {_told(first)}")
        return
    left_out: list[str] = []
    try:
        for key, value in details.items():
            if len(left_out) <= NAMED_MAX and not _fill_key(target, key, value):
                left_out.append(documents.shown(key))
    except Exception as problem:
        notes.append(f"details were left out: {_told(problem)}")
        return
    named = ", ".join(left_out[:NAMED_MAX]) + (" and all that follow" if len(left_out) > NAMED_MAX else "")
    notes.append(f"of the details {named} left out: {_told(first)}")


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


def _told(problem: BaseException) -> str:
    try:
        return f"{_name(problem)}: {problem}"
    except Exception:
        return _name(problem)


def _name(error: BaseException) -> str:
    return type(error).__name__


def _noted(text: str, notes: list[str]) -> str:
    """The text, and beside it what could not be told; the notes are kept when the text has to be cut."""
    if not notes:
        return _cut(text, TEXT_BYTES_MAX)
    note = _cut("(" + "; ".join(notes) + ")", TEXT_BYTES_MAX // 4)
    kept = _cut(text, TEXT_BYTES_MAX - len(note.encode()) - 1)
    return f"{kept} {note}".lstrip()


def _cut(text: str, bytes_max: int) -> str:
    """As much of the text as may be sent: NUL is refused, and so are halves of characters."""
    # As a plain text: what a subclass says of itself is not to be trusted here.
    clean = str.encode(str.replace(text, "\0", "\ufffd"), "utf-8", "replace")
    return clean[:bytes_max].decode("utf-8", "ignore")
