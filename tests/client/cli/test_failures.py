"""Exit codes, hints, and what is said when something goes wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobstate_client import errors
from jobstate_client.cli import failures
from jobstate_client.cli.exits import Exit
from jobstate_client.testing import JobstateServer

from .support import run, run_alone


def kinds(kind: type[errors.JobStateError] = errors.JobStateError) -> Iterator[type[errors.JobStateError]]:
    for narrower in kind.__subclasses__():
        yield narrower
        yield from kinds(narrower)


SPECIFIC = [kind for kind in kinds() if kind not in {errors.Refused, errors.TransportError}]


@pytest.mark.parametrize("kind", SPECIFIC, ids=lambda kind: kind.__name__)
def test_every_kind_of_error_says_what_to_do(kind: type[errors.JobStateError]) -> None:
    assert failures.hint(kind("it went wrong"))


@pytest.mark.parametrize("kind", SPECIFIC, ids=lambda kind: kind.__name__)
def test_only_what_may_succeed_later_exits_with_3(kind: type[errors.JobStateError]) -> None:
    later = (errors.TryLater, errors.Unreachable, errors.DeadlineExceeded)

    assert failures.exit_code(kind("it went wrong")) == (3 if issubclass(kind, later) else 1)


@pytest.mark.parametrize(
    "kind", [errors.Unreachable, errors.DeadlineExceeded, errors.StoreUnavailable, errors.InternalError]
)
def test_when_it_is_unknown_whether_a_change_was_made_its_request_id_is_told(kind: type[errors.JobStateError]) -> None:
    change, read = kind("it went wrong"), kind("it went wrong")
    change.request_id = "0123456789"

    assert failures.hint(change).endswith("repeat the command with --request-id 0123456789.")
    assert "--request-id" not in failures.hint(read)


def test_no_server_exits_with_3_and_names_the_address() -> None:
    result = run("127.0.0.1:1", "list", "--timeout", "5s")

    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("jobstate: no server answers at 127.0.0.1:1 (")
    assert "--server HOST:PORT" in result.err


def test_no_answer_in_time_exits_with_3() -> None:
    result = run("127.0.0.1:1", "cancel", "first", "--timeout", "50ms")

    assert result.code == 3
    assert "--timeout" in result.err
    assert "--request-id" in result.err


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["get"], ["list", "--state", "odd"], ["list", "--limit", "-1"]]
)
def test_wrong_usage_exits_with_2_and_names_the_help(arguments: list[str], server: JobstateServer) -> None:
    result = run(server, *arguments)

    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("jobstate: ")
    assert result.err.rstrip().endswith(" --help")


@pytest.mark.parametrize("group", [[], ["maintenance"]])
def test_a_group_without_a_command_shows_its_help(group: list[str], server: JobstateServer) -> None:
    result = run(server, *group)

    assert (result.code, result.out) == (2, "")
    assert (
        result.err.startswith("Usage: jobstate") and "\nCommands:\n" in result.err
    ) or "Missing command" in result.err


def test_the_codes_are_those_that_scripts_know() -> None:
    assert {code.name: code.value for code in Exit} == {
        "DONE": 0,
        "REFUSED": 1,
        "USAGE": 2,
        "LATER": 3,
        "BAD_NEWS": 4,
        "INTERRUPTED": 130,
        "BROKEN_PIPE": 141,
    }


def test_a_locale_without_the_letters_ends_no_command(server: JobstateServer) -> None:
    run(server, "create", "default", "--id", "first", "--source-id", "größer")
    result = run_alone("--server", server.address, "get", "first", env={"PYTHONIOENCODING": "ascii"})

    assert result.code == 0
    assert r"gr\xf6\xdfer" in result.out
