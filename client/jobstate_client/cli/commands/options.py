"""The options of every command, and the types of option values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from jobstate_client.cli.commands.address import ADDRESS, DEFAULT_SERVER

if TYPE_CHECKING:
    from jobstate_client.core.channel import TLS

F = TypeVar("F", bound=Callable[..., Any])

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

SPAN_MAX = timedelta(days=10_000)
"""More than any span of the contract may be, and less than a Duration or a date can represent."""

DOCUMENT_BYTES_MAX = 8 * 1024 * 1024
"""Largest file that is read for a JSON option: the largest request that the server accepts."""

_KEPT = "jobstate_client.cli."

CALLER = "jobstate_client.cli:caller"
"""The key of the context of the command that calls the server."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_PART = r"(\d+(?:\.\d+)?)(ms|s|min|m|h|d)"


class SpanType(click.ParamType[timedelta]):
    """A span such as 500ms, 30s, 5m, 1h30m or 7d; a bare number is seconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Parse the value."""
        if isinstance(value, timedelta):
            return value
        text = str(value).strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            text += "s"
        if not re.fullmatch(f"({_PART})+", text):
            self.fail(f"{value!r} is not a span; write one such as 500ms, 30s, 5m, 1h30m or 7d", param, ctx)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text))
        if seconds > SPAN_MAX.total_seconds():
            self.fail(f"{value} is longer than {SPAN_MAX.days} days", param, ctx)
        return timedelta(seconds=seconds)


class PatienceType(SpanType):
    """A span above 0: how long to wait."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Parse the value."""
        span = super().convert(value, param, ctx)
        if not span:
            self.fail("it must be longer than 0", param, ctx)
        return span


class MomentType(click.ParamType[datetime]):
    """A time in UTC such as 2026-01-31 or 2026-01-31T08:30:00Z, or a span, which means that long ago."""

    name = "time"
    example = "2026-01-31T08:30:00Z, or 2h for two hours ago"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse the value."""
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        if re.fullmatch(f"({_PART})+", text):
            return datetime.now(UTC) - SPAN.convert(text, param, ctx)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{value!r} is not a time; write one such as {self.example}", param, ctx)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


class InstantType(MomentType):
    """A time in UTC such as 2026-01-31T08:30:00Z. A span is refused: it could mean from now or ago."""

    example = "2026-01-31T08:30:00Z"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse the value."""
        if isinstance(value, str) and re.fullmatch(f"({_PART})+", value.strip()):
            self.fail(f"{value!r} is a span; write a time such as {self.example}", param, ctx)
        return super().convert(value, param, ctx)


class LabelType(click.ParamType[tuple[str, str]]):
    """A label, KEY=VALUE. The value may be empty, and may have more of the sign."""

    name = "label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Parse the value."""
        if isinstance(value, tuple):
            return value
        key, sign, text = str(value).partition("=")
        if not sign or not key:
            self.fail(f"{value!r} is not a label; write KEY=VALUE, such as tenant=acme", param, ctx)
        return key, text


class DocumentType(click.ParamType[dict[str, Any]]):
    """A JSON object, or @FILE for one in a file, or @- for standard input."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Parse the value."""
        if isinstance(value, dict):
            return value
        text = str(value)
        if text.startswith("@"):
            text = self._content(text[1:], param, ctx)
        try:
            document = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            self.fail(f"this is not JSON: {error}", param, ctx)
        if not isinstance(document, dict):
            self.fail('it must be a JSON object, such as {"language": "en"}', param, ctx)
        self._check(document, param, ctx)
        return document

    def _content(self, name: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            with click.open_file(name, "rb") as file:
                content: bytes = file.read(DOCUMENT_BYTES_MAX + 1)
        except OSError as error:
            self.fail(f"cannot read {name}: {error.strerror}", param, ctx)
        if len(content) > DOCUMENT_BYTES_MAX:
            self.fail(f"{name} has more than {DOCUMENT_BYTES_MAX} bytes", param, ctx)
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            self.fail(f"{name} is not UTF-8", param, ctx)

    def _check(self, document: Mapping[str, Any], param: click.Parameter | None, ctx: click.Context | None) -> None:
        """Refuse what the library would refuse, with the path of the value."""
        from jobstate_client.core.documents import struct_from

        try:
            struct_from(document, param.name if param is not None and param.name else "document")
        except (TypeError, ValueError, RecursionError) as error:
            self.fail(str(error), param, ctx)


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is not a JSON number")


SPAN = SpanType()
PATIENCE = PatienceType()
MOMENT = MomentType()
INSTANT = InstantType()
DOCUMENT = DocumentType()
LABEL = LabelType()
PATH = click.Path(dir_okay=False, path_type=Path)
READABLE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


def labels_option(text: str) -> Callable[[F], F]:
    """The option --label, which may be repeated. ``text`` says what it is for."""
    return click.option(
        "--label", "labels", multiple=True, type=LABEL, metavar="KEY=VALUE", callback=_as_labels, help=text
    )


def _as_labels(ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, str], ...]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for key, text in value:
        if labels.setdefault(key, text) != text:
            raise click.BadParameter(f"{key} is given twice, with different values", ctx, param)
    return labels


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Store a common option, which may be given before the command or after it; the last one wins."""
    assert param.name is not None
    key = _KEPT + param.name
    given = ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    if value not in (None, False) and (given or key not in ctx.meta):
        ctx.meta[key] = value


def _common(*names: str, **settings: Any) -> Callable[[F], F]:
    return click.option(*names, expose_value=False, callback=_keep, **settings)


def common(command: F) -> F:
    """Add the common options to a command. The TLS options are shown only in the help of ``jobstate`` itself."""
    return _with(command, hide_tls=True)


def common_to_all(group: F) -> F:
    """Add the common options to ``jobstate`` itself."""
    return _with(group, hide_tls=False)


def _with(command: F, *, hide_tls: bool) -> F:
    tls = {"hidden": hide_tls}
    file = {**tls, "type": READABLE, "metavar": "FILE"}
    options = (
        _common(
            "--server",
            type=ADDRESS,
            metavar="HOST:PORT",
            envvar="JOBSTATE_SERVER",
            help=f"Address of the server. [default: JOBSTATE_SERVER of the environment, or {DEFAULT_SERVER}]",
        ),
        _common("--timeout", type=PATIENCE, help="How long a call may take with its repeats. [default: 30s]"),
        _common("--json", is_flag=True, help="Write JSON: one document, or one on each line."),
        _common("--tls", is_flag=True, help="Use TLS, with a certificate that this machine trusts.", **tls),
        _common("--tls-root-certificates", help="Certificates to trust instead, as PEM.", **file),
        _common("--tls-certificate", help="The client's certificate, if the server asks for one, as PEM.", **file),
        _common("--tls-private-key", help="The key of the client's certificate, as PEM.", **file),
        _common(
            "--tls-server-name", metavar="NAME", help="The name in the server's certificate, if it differs.", **tls
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def kept(ctx: click.Context, name: str) -> Any:
    """The value of a common option; None if it was not given."""
    return ctx.meta.get(_KEPT + name)


def server_of(ctx: click.Context) -> str:
    """The address of the server."""
    return str(kept(ctx, "server") or DEFAULT_SERVER)


def tls_of(ctx: click.Context) -> TLS | None:
    """The TLS settings; None is without TLS."""
    fields = ("root_certificates", "certificate", "private_key", "server_name")
    given = {field: kept(ctx, f"tls_{field}") for field in fields}
    if kept(ctx, "tls") is None and not any(given.values()):
        return None
    if (given["certificate"] is None) is not (given["private_key"] is None):
        raise click.UsageError("--tls-certificate and --tls-private-key belong together: give both or neither.", ctx)
    from jobstate_client.core.channel import TLS

    return TLS(**(given | {"server_name": given["server_name"] or ""}))
