"""Commands of callers, and of the server itself. Values only; ``domain.rules`` decides what they change."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, NamedTuple

from jobstate_server.domain.caller import ANONYMOUS, Caller
from jobstate_server.domain.filters import Position
from jobstate_server.domain.groups import GroupPolicy
from jobstate_server.domain.job import Document, Usage
from jobstate_server.domain.limits import RESPONSE_BYTES_MAX
from jobstate_server.domain.needs import Need
from jobstate_server.domain.reads import Due, Finished, Reads
from jobstate_server.domain.values import value
from jobstate_server.domain.waiting import Priority, UniqueKey, UniqueUntil


@dataclass(frozen=True, slots=True)
class Request:
    """The caller's idempotency key: the same ``request_id`` with the same ``rpc`` and ``digest`` is the same call."""

    principal: str
    request_id: str
    rpc: str
    digest: bytes

    @property
    def key(self) -> tuple[str, str]:
        """The unique key: each principal has its own request ids."""
        return self.principal, self.request_id


@value
class Command:
    """The base of all commands."""

    is_report: ClassVar[bool] = False
    """Whether it is refused before other commands when the server is overloaded: the next report makes up for it."""

    @property
    def caller(self) -> Caller:
        """Who gives it."""
        raise NotImplementedError

    @property
    def rows(self) -> int:
        """How many rows it counts in the limits of the queue."""
        return 1

    def add_reads(self, reads: Reads) -> None:
        """Add what must be read before this command can be decided."""


@value
class JobCommand(Command):
    """A command for one job."""

    job_id: str
    caller: Caller = ANONYMOUS
    request: Request | None = None

    def add_reads(self, reads: Reads) -> None:
        reads.job_ids.add(self.job_id)
        if self.request is not None:
            reads.request_keys.add(self.request.key)


class AttemptRef(NamedTuple):
    """An attempt of a job."""

    job_id: str
    attempt: int


@value
class Relations:
    """How a new job is related to others."""

    needs: tuple[Need, ...] = ()
    """Each needed job once."""
    group_id: str = ""
    """The group that it becomes a member of. Empty means none."""
    group: GroupPolicy | None = None
    """Makes the job a group. Then the command has no needs, no delay and no policy of its own."""
    by: AttemptRef | None = None
    """The attempt that creates the job."""

    def add_reads(self, reads: Reads) -> None:
        """Add the jobs that are named."""
        reads.job_ids.update(need.job_id for need in self.needs)
        if self.group_id:
            reads.job_ids.add(self.group_id)
        if self.by is not None:
            reads.job_ids.add(self.by.job_id)


@value
class Create(JobCommand):
    """Create a job. None means the job type's value. ``no_timeout`` overrides the type's timeout with none."""

    _: KW_ONLY
    job_type: str
    source_id: str = ""
    metadata: Document = b""
    max_retries: int | None = None
    timeout: int | None = None
    no_timeout: bool = False
    level: int = Priority.NORMAL
    delay: int = 0
    not_before_time: int | None = None
    """When the job may be begun, if it has no ``delay``."""
    start_within: int | None = None
    unique_key: str = ""
    unique_until: int = UniqueUntil.FINAL
    lane: str | None = None
    """None means as the job type's lane_from says."""
    labels: str | None = None
    relations: Relations | None = None
    """None for a job that is related to no others."""

    @property
    def rows(self) -> int:
        return 1 if self.relations is None else 1 + len(self.relations.needs)

    @property
    def unique(self) -> UniqueKey | None:
        """The key that only one job may have. None without one."""
        return (self.caller.principal, self.job_type, self.unique_key) if self.unique_key else None

    def add_reads(self, reads: Reads) -> None:
        JobCommand.add_reads(self, reads)
        reads.job_types.add(self.job_type)
        if self.unique_key:
            reads.unique_keys.add((self.caller.principal, self.job_type, self.unique_key))
        if self.relations is not None:
            self.relations.add_reads(reads)


@value
class BatchCreate(Command):
    """Create all of these jobs, or none."""

    creates: tuple[Create, ...]
    caller: Caller = ANONYMOUS

    @property
    def rows(self) -> int:
        return sum(create.rows for create in self.creates)

    def add_reads(self, reads: Reads) -> None:
        for create in self.creates:
            create.add_reads(reads)


@value
class Start(JobCommand):
    """Start the first attempt, or claim one that the server resumed."""

    worker: str = ""


@value
class Acquire(Command):
    """Claim the next ready jobs of these types."""

    job_types: tuple[str, ...]
    max_jobs: int = 1
    bytes_max: int = RESPONSE_BYTES_MAX
    """How large the jobs may be together. There is always room for one."""
    lease: int | None = None
    """None means the job type's."""
    worker: str = ""
    caller: Caller = ANONYMOUS
    request: Request | None = None

    def add_reads(self, reads: Reads) -> None:
        if self.request is not None:
            reads.request_keys.add(self.request.key)


@value
class ServeWaiting(Command):
    """Hand out ready jobs to the calls of Acquire that wait."""

    caller: Caller = ANONYMOUS


@value
class Pause(Command):
    """Pause the hand-out of a job type, or of one of its lanes, or let it go on."""

    job_type: str
    lane: str | None
    """None means the whole type."""
    paused: bool
    reason: str = ""
    caller: Caller = ANONYMOUS

    def add_reads(self, reads: Reads) -> None:
        reads.job_types.add(self.job_type)


@value
class AttemptCommand(JobCommand):
    """A command of the worker of an attempt. ``attempt`` is None if the caller does not name it."""

    attempt: int | None = None
    usage: Usage = field(default=Usage())


@value
class UpdateProgress(AttemptCommand):
    """Report progress. With nothing but the job and the attempt it is a heartbeat.

    Like every report it claims the attempt if no worker has yet."""

    is_report: ClassVar[bool] = True

    progress: int | None = None
    message: str | None = None
    metadata: Document = b""

    @property
    def is_heartbeat(self) -> bool:
        """Whether it reports nothing but that the worker is alive. A heartbeat makes no event."""
        return self.progress is None and self.message is None and not self.metadata and self.usage == Usage()


@value
class Complete(AttemptCommand):
    """Complete the job."""

    result_count: int | None = None
    result: Document = b""


@value
class Fail(AttemptCommand):
    """Fail the attempt. ``retry_delay`` takes precedence over the job type's backoff."""

    code: str = ""
    message: str = ""
    details: Document = b""
    retryable: bool = True
    retry_delay: int | None = None


@value
class Release(AttemptCommand):
    """Give the attempt back without a verdict."""

    reason: str = ""
    delay: int = 0
    hold_lane: int = 0
    """How long nothing of the job's lane is handed out."""


@value
class ReportUsage(JobCommand):
    """Report the total usage of an attempt, whether it is running or has ended."""

    _: KW_ONLY
    attempt: int
    usage: Usage

    def add_reads(self, reads: Reads) -> None:
        JobCommand.add_reads(self, reads)
        reads.attempt_keys.add((self.job_id, self.attempt))


@value
class Retry(JobCommand):
    """Move a FAILED job to RETRYING. ``immediately`` skips the wait, or the rest of it."""

    immediately: bool = False


@value
class Cancel(JobCommand):
    """Cancel a job that is not in a final state."""

    reason: str = ""


@value
class Recreate(JobCommand):
    """Create a job with the terms of one that has ended, which ``job_id`` names."""

    _: KW_ONLY
    new_id: str

    def add_reads(self, reads: Reads) -> None:
        JobCommand.add_reads(self, reads)
        reads.recreated_ids.add(self.job_id)


@value
class CloseGroup(JobCommand):
    """Say that a group is complete: from now on only its running members may add members."""


@value
class ServerCommand(JobCommand):
    """A command of the server for one job. It names what the server saw, and does nothing if that has changed since."""

    _: KW_ONLY
    attempt: int


@value
class Resume(ServerCommand):
    """Start the next attempt of a RETRYING job whose wait is over."""

    _: KW_ONLY
    due_time: int


@value
class MakeReady(ServerCommand):
    """End the delay of a job whose time has come."""

    _: KW_ONLY
    due_time: int


@value
class Expire(ServerCommand):
    """Cancel a job that nobody has begun within its ``start_within``."""

    _: KW_ONLY
    due_time: int


@value
class ResolveNeeds(ServerCommand):
    """Tell jobs that need a final job of its end."""

    _: KW_ONLY
    due_time: int


@value
class RunGroup(ServerCommand):
    """Do what is to be done with a group: end it, cancel members of it, or report its progress."""


@value
class ReturnUndelivered(ServerCommand):
    """Release an attempt whose Acquire could not be answered."""


@value
class TimeOut(ServerCommand):
    """Fail a claimed attempt that has exceeded its timeout or its lease."""

    _: KW_ONLY
    due_time: int


@value
class MarkStale(ServerCommand):
    """Fail a claimed attempt that has not reported since ``heard_time``."""

    _: KW_ONLY
    heard_time: int


@value
class RetryResting(ServerCommand):
    """Retry a retryable job that is in FAILED although its type retries automatically."""


@value
class ServeDue(Command):
    """Serve due jobs and groups, the earliest first."""

    limit: int
    caller: Caller = ANONYMOUS

    def add_reads(self, reads: Reads) -> None:
        reads.selections.add(Due(self.limit))


@value
class DeleteFinished(Command):
    """Delete jobs that ended before ``before``, in the order in which they ended, from after a position on."""

    before: int
    after: Position | None
    limit: int
    caller: Caller = ANONYMOUS

    @property
    def selection(self) -> Finished:
        """The jobs to delete."""
        return Finished(self.before, self.after, self.limit)

    def add_reads(self, reads: Reads) -> None:
        reads.selections.add(self.selection)
