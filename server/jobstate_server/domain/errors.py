"""Every error that a caller can get, as one tree that does not depend on gRPC.

    JobStateError
    ├── InvalidField            a value of the request is not acceptable
    │   └── UnknownJobType      the server does not accept this job type
    ├── JobNotFound
    ├── JobExists
    ├── TransitionNotAllowed    the lifecycle does not allow this step from the job's state
    ├── RetryNotAllowed         the job is PERMANENTLY_FAILED
    ├── AttemptSuperseded       the named attempt is not the running one
    ├── AttemptRequired         the job has been retried, so the caller must name its attempt
    ├── ReleaseLimitReached     the job has been released as often as a job can be
    ├── GroupClosed             the group takes no more members
    ├── NotAGroup               the job is not a group
    ├── RequestIdReused         the request_id was used before for a different call or content
    ├── CursorExpired           the events after the cursor are beyond retention
    ├── CursorUnknown           the cursor does not belong to this log
    ├── MessageTooLarge
    ├── Unavailable             nothing is wrong with the call; repeat it later
    │   ├── Overloaded
    │   ├── StoreUnavailable
    │   └── Draining
    └── InternalError           a defect of ours; the cause is in the log only

``reason`` is the name in ``jobstate.v1.ErrorReason`` without its prefix. ``facts`` become the metadata of the
``ErrorInfo``. Every value in the message is also in the facts, because programs read facts and people read messages.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import ClassVar

from jobstate_server.domain.lifecycle import CALLS


class ErrorKind(enum.Enum):
    """The kind of an error. It decides which gRPC status callers get."""

    INVALID = enum.auto()
    """The request itself is wrong."""
    NOT_FOUND = enum.auto()
    EXISTS = enum.auto()
    """What the request would create exists already."""
    NOT_ALLOWED = enum.auto()
    """The request is valid, but the state of the job or log does not allow it."""
    OUT_OF_RANGE = enum.auto()
    """The data asked for are no longer stored."""
    EXHAUSTED = enum.auto()
    """A limit or a queue leaves no room for the request."""
    UNAVAILABLE = enum.auto()
    INTERNAL = enum.auto()
    """A defect of ours."""


class JobStateError(Exception):
    """The service refused or could not complete a call."""

    reason: ClassVar[str]
    kind: ClassVar[ErrorKind]
    violations: tuple[tuple[str, str], ...] = ()
    """The fields of the request that are not acceptable, each with its problem."""
    job_id = ""
    """The job that the error is about, if any."""
    retry_delay_s: float | None = None
    """After how many seconds to repeat the call. None if a repeat would not help."""

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts: dict[str, str] = {key: str(value) for key, value in facts.items()}


class InvalidField(JobStateError):
    """Fields of the request have values that are not acceptable.

    ``field`` is the path of the first, as in ``requests[3].id``; ``violations`` lists every one with its problem.
    """

    reason = "INVALID_FIELD"
    kind = ErrorKind.INVALID

    def __init__(self, field: str, problem: str, *, others: tuple[tuple[str, str], ...] = (), **facts: object) -> None:
        super().__init__(f"{field}: {problem}", field=field, **facts)
        self.field = field
        self.problem = problem
        self.violations = ((field, problem), *others)

    def within(self, prefix: str) -> InvalidField:
        """The same error for fields nested in ``prefix``."""
        others = tuple((f"{prefix}.{field}", problem) for field, problem in self.violations[1:])
        facts = {key: value for key, value in self.facts.items() if key != "field"}
        return InvalidField(f"{prefix}.{self.field}", self.problem, others=others, **facts)

    def joined(self, others: Iterable[InvalidField]) -> InvalidField:
        """This error with the violations of the others added."""
        found = tuple(violation for other in others for violation in other.violations)
        facts = {key: value for key, value in self.facts.items() if key != "field"}
        return InvalidField(self.field, self.problem, others=self.violations[1:] + found, **facts)


class UnknownJobType(InvalidField):
    """The config does not name this job type, and ``strict_job_types`` or the limit of unnamed types refuses it."""

    reason = "UNKNOWN_JOB_TYPE"

    def __init__(self, job_type: str, field: str = "job_type") -> None:
        super().__init__(
            field, f"{job_type!r} is not a job type of this server (ListJobTypes lists them)", job_type=job_type
        )
        self.job_type = job_type

    def within(self, prefix: str) -> UnknownJobType:
        return UnknownJobType(self.job_type, f"{prefix}.{self.field}")


class JobNotFound(JobStateError):
    """No job has this id: it was never created, or cleanup has deleted it."""

    reason = "JOB_NOT_FOUND"
    kind = ErrorKind.NOT_FOUND

    def __init__(self, job_id: str, field: str = "") -> None:
        """``field``: the field that names the job, if it is not the one that the call is about."""
        message = f"no job has the id {job_id!r}"
        if field:
            super().__init__(f"{field}: {message}", job_id=job_id, field=field)
        else:
            super().__init__(message, job_id=job_id)
        self.job_id = job_id

    @classmethod
    def deleted(cls, job_id: str) -> JobNotFound:
        """The error of a repeated call whose job has been deleted since. The fact ``deleted`` is ``true``."""
        refusal = cls(job_id)
        refusal.message = f"this request_id was used for job {job_id!r}, which has been deleted since"
        refusal.args = (refusal.message,)
        refusal.facts["deleted"] = "true"
        return refusal


class JobExists(JobStateError):
    """A job with this id is stored already."""

    reason = "JOB_EXISTS"
    kind = ErrorKind.EXISTS

    def __init__(self, job_id: str) -> None:
        super().__init__(f"a job with the id {job_id!r} exists already", job_id=job_id)
        self.job_id = job_id


class TransitionNotAllowed(JobStateError):
    """The lifecycle does not allow this trigger in the job's state. Nothing was changed."""

    reason = "TRANSITION_NOT_ALLOWED"
    kind = ErrorKind.NOT_ALLOWED

    def __init__(
        self, job_id: str, state: str, trigger: str, allowed: tuple[str, ...], why: str = "", *, because: str = ""
    ) -> None:
        """
        Args:
            why: a part of the message, besides the state.
            because: the fact ``why``, for programs. Empty if the state says enough.
        """
        # The message has the names of calls, which people know; the facts have the names of the triggers.
        calls = dict.fromkeys(CALLS.get(name, name) for name in allowed)
        possible = ", ".join(calls) if calls else "nothing, the state is final"
        super().__init__(
            f"job {job_id!r} is {state}{why}: {CALLS.get(trigger, trigger)} is not allowed (allowed: {possible})",
            job_id=job_id,
            state=state,
            trigger=trigger,
            allowed=",".join(allowed),
            **({"why": because} if because else {}),
        )
        self.job_id = job_id


class RetryNotAllowed(JobStateError):
    """The job is PERMANENTLY_FAILED, so it cannot be retried."""

    reason = "RETRY_NOT_ALLOWED"
    kind = ErrorKind.NOT_ALLOWED

    def __init__(self, job_id: str, why: str, retry_count: int, max_retries: int) -> None:
        super().__init__(
            f"job {job_id!r} cannot be retried: {why} ({retry_count} of {max_retries} retries used)",
            job_id=job_id,
            why=why,
            retry_count=retry_count,
            max_retries=max_retries,
        )
        self.job_id = job_id


class _AttemptRefused(JobStateError):
    """The base of the errors about an attempt."""

    def __init__(self, message: str, job_id: str, attempt: int, current_attempt: int, state: str) -> None:
        super().__init__(message, job_id=job_id, attempt=attempt, current_attempt=current_attempt, state=state)
        self.job_id = job_id


class AttemptSuperseded(_AttemptRefused):
    """The named attempt is not running: it has ended, or another has replaced it. Its work must be discarded."""

    reason = "ATTEMPT_SUPERSEDED"
    kind = ErrorKind.NOT_ALLOWED

    def __init__(self, job_id: str, attempt: int, current_attempt: int, state: str, field: str = "") -> None:
        """``field``: the field that names the attempt, if it is not the one that the call is about."""
        super().__init__(
            f"{field}: " * bool(field)
            + f"attempt {attempt} of job {job_id!r} is not running (current attempt {current_attempt}, state {state})",
            job_id,
            attempt,
            current_attempt,
            state,
        )
        if field:
            self.facts["field"] = field


class AttemptRequired(_AttemptRefused):
    """The job has had more than one attempt, so the call must say which one it speaks for."""

    reason = "ATTEMPT_REQUIRED"
    kind = ErrorKind.NOT_ALLOWED

    def __init__(self, job_id: str, current_attempt: int, state: str) -> None:
        super().__init__(
            f"job {job_id!r} has had {current_attempt} attempts: name the attempt this call is for",
            job_id,
            0,
            current_attempt,
            state,
        )


class ReleaseLimitReached(JobStateError):
    """The job has been released as often as a job can be."""

    reason = "RELEASE_LIMIT_REACHED"
    kind = ErrorKind.NOT_ALLOWED

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(
            f"job {job_id!r} has been released as often as a job can be: complete or fail its attempt {attempt}",
            job_id=job_id,
            attempt=attempt,
        )
        self.job_id = job_id


class GroupClosed(JobStateError):
    """The group takes no more members: it is closed, stopping or final, which ``why`` says."""

    reason = "GROUP_CLOSED"
    kind = ErrorKind.NOT_ALLOWED

    def __init__(self, group_id: str, why: str, field: str = "group_id") -> None:
        super().__init__(
            f"{field}: group {group_id!r} takes no more members: {why}", group_id=group_id, field=field, why=why
        )
        self.job_id = group_id


class NotAGroup(JobStateError):
    """The job was not created as a group."""

    reason = "NOT_A_GROUP"
    kind = ErrorKind.NOT_ALLOWED

    def __init__(self, group_id: str, field: str = "group_id") -> None:
        super().__init__(f"{field}: job {group_id!r} is not a group", group_id=group_id, field=field)
        self.job_id = group_id


class RequestIdReused(JobStateError):
    """This request_id was used within the last 24 hours for another RPC, or with other content."""

    reason = "REQUEST_ID_REUSED"
    kind = ErrorKind.EXISTS

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"request_id {request_id!r} was already used for a different call; make a new one", request_id=request_id
        )


class CursorExpired(JobStateError):
    """Events after the cursor have been removed by retention, so the stream cannot be continued without a gap."""

    reason = "CURSOR_EXPIRED"
    kind = ErrorKind.OUT_OF_RANGE

    def __init__(self, oldest_cursor: str) -> None:
        super().__init__(
            "events after this cursor are beyond retention: take a snapshot, or resume at oldest_cursor with a gap",
            oldest_cursor=oldest_cursor,
        )


class CursorUnknown(JobStateError):
    """This log did not issue the cursor: it is from another server, a restored store, or damaged."""

    reason = "CURSOR_UNKNOWN"
    kind = ErrorKind.NOT_ALLOWED

    def __init__(self, why: str, oldest_cursor: str) -> None:
        super().__init__(f"the cursor does not belong to this log: {why}", oldest_cursor=oldest_cursor)


class MessageTooLarge(JobStateError):
    """The request is larger than the server receives."""

    reason = "MESSAGE_TOO_LARGE"
    kind = ErrorKind.EXHAUSTED

    def __init__(self, size: int, size_max: int) -> None:
        super().__init__(f"the request has {size} bytes, at most {size_max} are accepted", size=size, size_max=size_max)


class Unavailable(JobStateError):
    """Nothing is wrong with the call. Repeat it after ``retry_delay_s`` seconds."""

    def __init__(self, message: str, retry_delay_s: float, **facts: object) -> None:
        super().__init__(message, **facts)
        self.retry_delay_s = retry_delay_s


class Overloaded(Unavailable):
    """A queue is full, or too many calls are open. The call was not begun."""

    reason = "OVERLOADED"
    kind = ErrorKind.EXHAUSTED


class StoreUnavailable(Unavailable):
    """The store did not answer. Unless the message says otherwise, nothing was changed."""

    reason = "STORE_UNAVAILABLE"
    kind = ErrorKind.UNAVAILABLE


class Draining(Unavailable):
    """The server is stopping and takes no new work."""

    reason = "DRAINING"
    kind = ErrorKind.UNAVAILABLE

    def __init__(self, retry_delay_s: float) -> None:
        super().__init__("the server is stopping; connect again", retry_delay_s)


class InternalError(JobStateError):
    """A defect of ours. The cause is in the server's log under ``call_id``, and only there."""

    reason = "INTERNAL"
    kind = ErrorKind.INTERNAL

    def __init__(self, call_id: str) -> None:
        super().__init__(f"internal error; quote call_id {call_id} to the operator", call_id=call_id)
