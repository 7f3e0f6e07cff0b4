"""Commands: what a caller, or the server itself, wants done. Values only; ``domain.rules`` decides what they change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, TypeVar, dataclass_transform

from jobstate_server.domain.caller import ANONYMOUS, Caller
from jobstate_server.domain.job import Document, Usage
from jobstate_server.domain.reads import Due, Reads


@dataclass(frozen=True, slots=True)
class Request:
    """The caller's idempotency key: the same ``request_id`` with the same ``rpc`` and ``digest`` is the same call."""

    principal: str
    request_id: str
    rpc: str
    digest: bytes

    @property
    def key(self) -> tuple[str, str]:
        """What is unique: a principal's own request ids."""
        return self.principal, self.request_id


C = TypeVar("C")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def _command(cls: type[C]) -> type[C]:
    """A dataclass that the type checker alone holds to be frozen: one is made for every call, and making it takes three
    times as long when Python holds it too."""
    return dataclass(slots=True, kw_only=True)(cls)


@_command
class Command:
    """What every command has."""

    is_report: ClassVar[bool] = False
    """Whether it may be refused sooner than others while the server is busy: the next report makes up for it."""

    caller: Caller = ANONYMOUS

    @property
    def rows(self) -> int:
        """How many rows of the queue's limits it counts as."""
        return 1

    def add_reads(self, reads: Reads) -> None:
        """Add what has to be read before this command can be decided."""


@_command
class JobCommand(Command):
    """A command for one job."""

    job_id: str
    request: Request | None = None

    def add_reads(self, reads: Reads) -> None:
        reads.job_ids.add(self.job_id)
        if self.request is not None:
            reads.request_keys.add(self.request.key)


@_command
class Create(JobCommand):
    """Bring a job into being. None takes the job type's value; ``no_timeout`` overrides its timeout with none."""

    job_type: str
    source_id: str = ""
    metadata: Document = b""
    max_retries: int | None = None
    timeout: int | None = None
    no_timeout: bool = False

    def add_reads(self, reads: Reads) -> None:
        JobCommand.add_reads(self, reads)
        reads.job_types.add(self.job_type)


@_command
class BatchCreate(Command):
    """Bring all of these into being, or none."""

    creates: tuple[Create, ...]

    @property
    def rows(self) -> int:
        return len(self.creates)

    def add_reads(self, reads: Reads) -> None:
        for create in self.creates:
            create.add_reads(reads)


@_command
class Start(JobCommand):
    """Begin the first attempt, or claim one that the server resumed."""

    worker: str = ""


@_command
class AttemptCommand(JobCommand):
    """A command of the worker of one attempt. ``attempt`` None: not named."""

    attempt: int | None = None
    usage: Usage = field(default=Usage())


@_command
class UpdateProgress(AttemptCommand):
    """Report how far the attempt is. With nothing but the job and the attempt it says "I am alive".

    Like every report it claims the attempt, if nobody has yet."""

    is_report: ClassVar[bool] = True

    progress: int | None = None
    message: str | None = None
    metadata: Document = b""

    @property
    def is_heartbeat(self) -> bool:
        """Whether nothing but life is reported: no event of its own."""
        return self.progress is None and self.message is None and not self.metadata and self.usage == Usage()


@_command
class Complete(AttemptCommand):
    """End the job well."""

    result_count: int | None = None
    result: Document = b""


@_command
class Fail(AttemptCommand):
    """End the attempt badly. ``retry_delay`` wins over the job type's backoff."""

    code: str = ""
    message: str = ""
    details: Document = b""
    retryable: bool = True
    retry_delay: int | None = None


@_command
class ReportUsage(JobCommand):
    """Say what an attempt has used in total, whether it is running or has ended."""

    attempt: int
    usage: Usage

    def add_reads(self, reads: Reads) -> None:
        JobCommand.add_reads(self, reads)
        reads.attempt_keys.add((self.job_id, self.attempt))


@_command
class Retry(JobCommand):
    """Send a FAILED job to RETRYING; ``immediately`` skips the wait, or what is left of it."""

    immediately: bool = False


@_command
class Cancel(JobCommand):
    """End a job that is not final yet."""

    reason: str = ""


@_command
class ServerCommand(JobCommand):
    """A decision of the server about one job. It names what was seen, and does nothing if that has changed since."""

    attempt: int


@_command
class Resume(ServerCommand):
    """The wait of a RETRYING job is over."""

    due_time: int


@_command
class TimeOut(ServerCommand):
    """The claimed attempt has outlasted its timeout."""

    due_time: int


@_command
class MarkStale(ServerCommand):
    """Nothing was heard of the claimed attempt since ``heard_time``."""

    heard_time: int


@_command
class RetryResting(ServerCommand):
    """A retryable job rests in FAILED although its type retries by itself."""


@_command
class Delete(ServerCommand):
    """Remove a final job that ended before ``completed_before``."""

    completed_before: int


@_command
class ServeDue(Command):
    """Do what has fallen due by itself, the earliest first: resume retries and fail attempts that took too long."""

    limit: int

    def add_reads(self, reads: Reads) -> None:
        reads.selections.add(Due(self.limit))
