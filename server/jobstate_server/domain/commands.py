"""Commands: what a caller, or the server itself, wants done to a job. Values only; ``decide`` says what they do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

from jobstate_server.domain.job import Document, Usage

SERVER_ACTOR = "server"
"""Actor of whatever the server decides by itself."""


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

    job_id: str
    actor: str = ""
    request: Request | None = None


@_command
class Create(Command):
    """Bring a job into being. None takes the job type's value; ``no_timeout`` overrides its timeout with none."""

    job_type: str
    source_id: str = ""
    principal: str = ""
    metadata: Document = b""
    max_retries: int | None = None
    timeout: int | None = None
    no_timeout: bool = False


@_command
class BatchCreate(Command):
    """Bring all of these into being, or none. ``job_id`` is that of the first."""

    creates: tuple[Create, ...]


@_command
class Start(Command):
    """Begin the first attempt, or claim one that the server resumed."""

    worker: str = ""


@_command
class AttemptCommand(Command):
    """A command of the worker of one attempt. ``attempt`` None: not named."""

    attempt: int | None = None
    usage: Usage = field(default=Usage())


@_command
class UpdateProgress(AttemptCommand):
    """Report how far the attempt is. With nothing but the job and the attempt it says "I am alive".

    Like every report it claims the attempt, if nobody has yet."""

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
class ReportUsage(Command):
    """Say what an attempt has used in total, whether it is running or has ended."""

    attempt: int
    usage: Usage


@_command
class Retry(Command):
    """Send a FAILED job to RETRYING; ``immediately`` skips the wait, or what is left of it."""

    immediately: bool = False


@_command
class Cancel(Command):
    """End a job that is not final yet."""

    reason: str = ""


@_command
class ServerCommand(Command):
    """A decision of the server. It names what was seen, and is dropped in silence if that has changed since."""

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
