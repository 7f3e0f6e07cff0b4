"""``jobstate create --count`` and ``--file``: any number of jobs, in batches that are created whole or not at all."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

import click

from jobstate_client.cli.commands.connection import connected
from jobstate_client.cli.commands.options import DOCUMENT_BYTES_MAX, DocumentType, SpanType, kept, refuse_constant
from jobstate_client.cli.terminal.output import Output, note
from jobstate_client.core import creating
from jobstate_client.core.operations import new_request_id
from jobstate_client.errors import JobStateError, TransportError, TryLater

if TYPE_CHECKING:
    from jobstate_client.core.values import CreatedJob, NewJob

Numbered = Iterator[tuple[int, "NewJob"]]
"""New jobs, each with the number of its line, or of its copy, from 1."""

_UNCERTAIN = (TransportError, TryLater)
_PLACE = re.compile(r"\brequests\[(\d+)\]\.?")

NOT_IN_A_LINE = {"count", "file", "help"}


class Fields:
    """Turns a JSON object into the values of the command's options, which are the fields of a new job."""

    def __init__(self, ctx: click.Context) -> None:
        self._ctx = ctx
        self._parameters = {
            name.lstrip("-").replace("-", "_"): each
            for each in ctx.command.params
            if each.expose_value
            for name in each.opts
        }
        for name in NOT_IN_A_LINE:
            self._parameters.pop(name, None)

    def of(self, document: dict[str, Any]) -> dict[str, Any]:
        """The values by the names of the parameters.

        Raises:
            ValueError: there is no such field, or its value is of the wrong kind.
        """
        return dict(self._field(name, value) for name, value in document.items())

    def _field(self, name: str, value: Any) -> tuple[str, Any]:
        parameter = self._parameters.get(name)
        if parameter is None or parameter.name is None:
            raise ValueError(f"there is no field {name!r}; the fields are {', '.join(sorted(self._parameters))}")
        many = parameter.multiple if isinstance(parameter, click.Option) else False
        values = value if many and isinstance(value, list) else [value]
        converted = tuple(self._converted(parameter, name, each) for each in values)
        return parameter.name, converted if many else converted[0]

    def _converted(self, parameter: click.Parameter, name: str, value: Any) -> Any:
        kinds, expected = _kinds(parameter)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{name}: it must be {expected}, not {json.dumps(value)[:100]}")
        try:
            return parameter.type.convert(value, parameter, self._ctx)
        except click.BadParameter as problem:
            raise ValueError(f"{name}: {problem.message}") from None


def _kinds(parameter: click.Parameter) -> tuple[tuple[type, ...], str]:
    """The JSON that an option takes in a line, and how to call it."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return (bool,), "true or false"
    if isinstance(parameter.type, DocumentType):
        # A text would be taken for the name of a file, and read.
        return (dict,), "an object"
    if isinstance(parameter.type, click.IntRange):
        return (int,), "a whole number"
    if isinstance(parameter.type, SpanType):
        return (str, int, float), "a span such as 30s, or a number of seconds"
    return (str,), "a text"


def jobs_in_lines(file: IO[bytes], name: str, job_of: Callable[[dict[str, Any]], NewJob]) -> Numbered:
    """The job of each line that is not blank.

    Raises:
        click.UsageError: a line is no such job; the message has its number.
    """
    number = 0
    while line := file.readline(DOCUMENT_BYTES_MAX + 1):
        number += 1
        try:
            document = _document(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)
            job = None if document is None else job_of(document)
        except click.UsageError as problem:
            raise click.UsageError(f"{name}, line {number:,}: {problem.message}") from problem
        except (ValueError, TypeError, RecursionError) as problem:
            raise click.UsageError(f"{name}, line {number:,}: {problem}") from problem
        if job is not None:
            yield number, job


def _document(line: bytes) -> dict[str, Any] | None:
    """The object in a line; None if it is blank. Raises ValueError if it is anything else."""
    if len(line) > DOCUMENT_BYTES_MAX:
        raise ValueError(f"it has more than {DOCUMENT_BYTES_MAX:,} bytes")
    if not line.strip():
        return None
    try:
        document = json.loads(line.decode("utf-8"), parse_constant=refuse_constant)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as problem:
        raise ValueError(f"this is not JSON: {problem.msg} at character {problem.pos + 1:,}") from None
    if not isinstance(document, dict):
        raise ValueError('it must be a JSON object, such as {"job_type": "email"}')  # noqa: TRY004 - a line is no argument
    return document


class Sending:
    """Creates the jobs batch by batch, and says what became of them, however it ends."""

    def __init__(self, ctx: click.Context, unit: str, request_id: str) -> None:
        """``unit`` is what a number counts: line or copy. Each job gets the request id with its number."""
        self._ctx = ctx
        self._unit = unit
        self._request_id = request_id or new_request_id()
        self._output = Output(as_json=bool(kept(ctx, "json")))
        self._pending: deque[int] = deque()
        """The numbers of the jobs that were read and are not known to be created."""
        self._sent = 0
        """How many of these are in the batch under way."""
        self._created = self._existing = self._last = 0

    def send(self, jobs: Numbered) -> None:
        """Create them.

        Raises:
            JobStateError, click.UsageError: whatever ended it. A note says which jobs have been created.
        """
        try:
            with connected(self._ctx) as client:
                for call in creating.create_many(self._noted(jobs)).calls:
                    self._sent = len(call.request.requests)  # type: ignore[attr-defined]
                    self._made(client._invoke(call))
        except (TypeError, ValueError) as error:
            self._tell(error)
            raise click.UsageError(str(error), self._ctx) from error
        except BaseException as error:
            if isinstance(error, JobStateError):
                self._name_lines(error)
            self._tell(error)
            raise
        if self._existing:
            note(f"{self._existing:,} of {self._created:,} were there already, with their unique key")
        elif self._output.is_terminal and not self._output.as_json:
            note(f"{self._created:,} created")

    def _noted(self, jobs: Numbered) -> Iterator[NewJob]:
        from dataclasses import replace

        for number, job in jobs:
            self._pending.append(number)
            yield replace(job, request_id=job.request_id or f"{self._request_id}-{number}")

    def _made(self, jobs: tuple[CreatedJob, ...]) -> None:
        # All counted before the first is written: that may be interrupted.
        numbers = [self._pending.popleft() for _ in jobs]
        self._sent, self._last, self._created = 0, numbers[-1], self._created + len(jobs)
        self._existing += sum(job.existing for job in jobs)
        for job in jobs:
            if self._output.as_json:
                self._output.document(job)
            else:
                self._output.text(job.id)
        sys.stdout.flush()

    def _name_lines(self, error: JobStateError) -> None:
        """Name lines instead of places in a batch."""
        numbers = list(self._pending)

        def named(text: str) -> str:
            return _PLACE.sub(lambda found: f"{self._unit} {numbers[int(found[1])]:,}: ", text)

        error.message = named(error.message)
        error.metadata |= {"field": _PLACE.sub("", error.metadata["field"])} if "field" in error.metadata else {}
        error.violations = tuple(
            (_PLACE.sub("", field), "".join(named(place[0]) for place in _PLACE.finditer(field)) + problem)
            for field, problem in error.violations
        )
        error.request_id = self._request_id

    def _tell(self, error: BaseException) -> None:
        done = f"{self._created:,} created" + (f", up to {self._unit} {self._last:,}" if self._created else "")
        uncertain = self._sent and (isinstance(error, _UNCERTAIN) or not isinstance(error, Exception))
        if uncertain:
            first, last = self._pending[0], self._pending[self._sent - 1]
            done += f"; whether {self._unit} {first:,} to {last:,} were is unknown"
        if not (self._created or uncertain):
            note("nothing was created")
            return
        note(f"{done}. With --request-id {self._request_id} the same command does not create them twice")
