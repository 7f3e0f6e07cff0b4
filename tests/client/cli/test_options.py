"""The common options: address, spans, times, TLS; and what help imports."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest

import jobstate_client.cli
from jobstate_client.cli.commands.address import DEFAULT_SERVER
from jobstate_client.cli.commands.app import cli
from jobstate_client.cli.commands.options import MOMENT, SPAN, SPAN_MAX, tls_of
from jobstate_client.core.channel import DEFAULT_TARGET, TLS
from jobstate_client.testing import JobstateServer

from .support import PROGRAM, environment, run, run_alone

ROOT = Path(__file__).resolve().parents[3]
NOWHERE = "127.0.0.1:1"


def commands(group: click.Group = cli, *path: str) -> dict[str, click.Command]:
    """Every command that does something, by its words."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, *path, name)
        else:
            found[" ".join((*path, name))] = command
    return found


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("7.5min", 450),
        ("1h", 3_600),
        ("1h30m", 5_400),
        ("2d", 172_800),
        ("45", 45),
        ("0", 0),
    ],
)
def test_a_span_is_read(text: str, seconds: float) -> None:
    assert SPAN.convert(text, None, None) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5 minutes", "-5s", "s", "1e3", "5y", f"{SPAN_MAX.days + 1}d", "9" * 400 + "d"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        SPAN.convert(text, None, None)


def test_a_time_is_in_utc_unless_it_says_otherwise() -> None:
    midnight = datetime(2026, 1, 31, tzinfo=UTC)

    assert MOMENT.convert("2026-01-31", None, None) == midnight
    assert MOMENT.convert("2026-01-31T00:00:00Z", None, None) == midnight
    assert MOMENT.convert("2026-01-31T01:00:00+01:00", None, None) == midnight


@pytest.mark.parametrize("text", ["yesterday", "31.1.2026", "", "-1h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        MOMENT.convert(text, None, None)


def test_the_address_left_out_is_the_librarys() -> None:
    assert DEFAULT_SERVER == DEFAULT_TARGET


def test_the_server_is_named_before_the_command_after_it_or_by_the_environment(server: JobstateServer) -> None:
    here, nowhere = ["--server", server.address], ["--server", NOWHERE]

    assert run_alone(*here, "list").code == 0
    assert run_alone("list", *here).code == 0
    assert run_alone("list", env={"JOBSTATE_SERVER": server.address}).code == 0
    assert run_alone(*here, "list", env={"JOBSTATE_SERVER": NOWHERE}).code == 0
    assert run_alone(*nowhere, "list", *here).code == 0
    assert run_alone(*here, "list", *nowhere).code == 3


@pytest.mark.parametrize("name", commands())
def test_every_command_takes_the_common_options_and_has_help(name: str) -> None:
    result = run(NOWHERE, *name.split(), "--help")
    command = commands()[name]
    options = {option for parameter in command.params for option in parameter.opts}

    assert result.code == 0
    assert result.out.startswith(f"Usage: jobstate {name} ")
    if name != "completion":
        assert {"--server", "--timeout", "--json", "--tls", "--tls-root-certificates"} <= options


@pytest.mark.parametrize("name", commands())
def test_every_option_explains_itself(name: str) -> None:
    silent = [each.name for each in commands()[name].params if isinstance(each, click.Option) and not each.help]

    assert not silent


def context_of(*arguments: str) -> click.Context:
    """The options as the command line keeps them."""
    kept: list[click.Context] = []

    @click.command()
    @click.pass_context
    def look(ctx: click.Context) -> None:
        kept.append(ctx)

    for option in reversed(commands()["list"].params):
        if not option.expose_value:
            look.params.append(option)
    look.main(list(arguments), standalone_mode=False)
    return kept[0]


def test_tls_is_made_of_its_options(tmp_path: Path) -> None:
    names = ("ca.pem", "certificate.pem", "key.pem")
    ca, certificate, key = (str(tmp_path / name) for name in names)
    for name in names:
        (tmp_path / name).write_text("PEM")
    own = ["--tls-certificate", certificate, "--tls-private-key", key]

    assert tls_of(context_of()) is None
    assert tls_of(context_of("--tls")) == TLS()
    assert tls_of(context_of("--tls-root-certificates", ca, "--tls-server-name", "jobs", *own)) == TLS(
        root_certificates=Path(ca), certificate=Path(certificate), private_key=Path(key), server_name="jobs"
    )
    with pytest.raises(click.UsageError, match="belong together"):
        tls_of(context_of("--tls-certificate", certificate))


def test_a_server_without_a_certificate_does_not_answer_to_tls(server: JobstateServer) -> None:
    result = run_alone("--server", server.address, "--tls", "--timeout", "2s", "list")

    assert result.code == 2
    assert f"what listens at {server.address} does not speak TLS" in result.err
    assert "Leave out --tls" in result.err
    assert len(result.err.splitlines()) == 2


def imported(*arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    program = (
        "import atexit, sys\nfrom jobstate_client.cli import main\n"
        f"code = main({list(arguments)!r})\nprint(*sys.modules, file=sys.stderr)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment()
    )
    return set(told.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["top", "--help"], ["watch", "--help"]])
def test_help_imports_nothing_that_only_commands_need(arguments: list[str]) -> None:
    later = (
        "rich",
        "jobstate_client.aio",
        "jobstate_client.core.inspection",
        "jobstate_client.cli.terminal.live_watch",
        "asyncio",
    )

    assert not [name for name in imported(*arguments) - imported_by_the_library() if name.startswith(later)]


def imported_by_the_library() -> set[str]:
    """What the client itself imports, command line or not."""
    program = "import sys, jobstate_client\nprint(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment()
    )
    return set(told.stdout.split())


def test_without_the_extra_it_says_in_a_sentence_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none_found(name: str) -> Any:
        return None

    monkeypatch.setattr(jobstate_client.cli, "find_spec", none_found)
    code = jobstate_client.cli.main(["list"])
    told = capsys.readouterr()

    assert (code, told.out) == (2, "")
    assert (
        told.err
        == "jobstate: click and rich not installed; install the command line with: pip install 'jobstate-grpc[cli]'\n"
    )


def test_installing_makes_a_program_of_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert project["scripts"]["jobstate"] == "jobstate_client.cli:main"
    assert {re.split("[<>=]", each)[0] for each in project["optional-dependencies"]["cli"]} == set(
        jobstate_client.cli.NEEDED
    )


def test_the_version_is_shown(server: JobstateServer) -> None:
    assert run(server, "--version").out.startswith("jobstate, version ")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_ends_no_command_otherwise(closed: str, server: JobstateServer) -> None:
    def code(*arguments: str) -> int:
        command = shlex.join([*PROGRAM, "--server", server.address, *arguments])
        shell = ["sh", "-c", f"{command} {closed}"]
        done = subprocess.run(shell, env=environment(), capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode

    job_id = f"made{len(closed)}"
    assert [code("create", "default", "--id", job_id), code("get", "nobody"), code("top")] == [0, 1, 2]
    assert run(server, "get", job_id).code == 0
