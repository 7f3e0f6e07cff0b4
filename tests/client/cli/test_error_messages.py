"""Exit codes, hints and error messages."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from jobstate_client import Client, errors
from jobstate_client.cli.commands.address import problem
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal import error_messages
from jobstate_client.testing import JobstateServer
from jobstate_server.domain.lifecycle import SERVER_TRIGGERS, Trigger

from .support import run, run_alone
from .test_options import commands


def kinds(kind: type[errors.JobStateError] = errors.JobStateError) -> Iterator[type[errors.JobStateError]]:
    for narrower in kind.__subclasses__():
        yield narrower
        yield from kinds(narrower)


SPECIFIC = [kind for kind in kinds() if kind not in {errors.Refused, errors.TransportError}]


@pytest.mark.parametrize("kind", SPECIFIC, ids=lambda kind: kind.__name__)
def test_every_kind_of_error_says_what_to_do(kind: type[errors.JobStateError]) -> None:
    assert error_messages.hint(kind("it went wrong"))


@pytest.mark.parametrize("kind", SPECIFIC, ids=lambda kind: kind.__name__)
def test_only_what_may_succeed_later_exits_with_3(kind: type[errors.JobStateError]) -> None:
    later = (errors.TryLater, errors.Unreachable, errors.DeadlineExceeded)

    assert error_messages.exit_code(kind("it went wrong")) == (3 if issubclass(kind, later) else 1)


@pytest.mark.parametrize(
    "kind", [errors.Unreachable, errors.DeadlineExceeded, errors.StoreUnavailable, errors.InternalError]
)
def test_when_it_is_unknown_whether_a_change_was_made_its_request_id_is_shown(kind: type[errors.JobStateError]) -> None:
    change, read = kind("it went wrong"), kind("it went wrong")
    change.request_id = "0123456789"

    assert error_messages.hint(change).endswith("repeat the command with --request-id 0123456789.")
    assert "--request-id" not in error_messages.hint(read)


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
    ("address", "told"),
    [
        ("127.0.0.1", "has no port; write 127.0.0.1:50051"),
        ("jobs.example", "has no port; write jobs.example:50051"),
        ("http://127.0.0.1:50051", "has no http://; write 127.0.0.1:50051"),
        ("http://jobs.example/", "has no http://; write jobs.example:50051"),
        ("https://jobs.example", "has no https://; write jobs.example:443 and --tls"),
        ("::1", "write it in brackets, with a port: [::1]:50051"),
        ("[::1]", "has no port; write [::1]:50051"),
        ("127.0.0.1:99999", "a port is a number from 1 to 65535"),
        ("127.0.0.1:0", "a port is a number from 1 to 65535"),
        ("127.0.0.1:grpc", "write HOST:PORT"),
        ("two words:1", "write HOST:PORT"),
        ("", "write HOST:PORT"),
        (",", "write HOST:PORT"),
        ("a@b:1", "write HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_meant_is_wrong_usage_and_says_what_to_write(address: str, told: str) -> None:
    result = run(address, "list")

    assert (result.code, result.out) == (2, "")
    assert told in result.err


@pytest.mark.parametrize(
    "address",
    [
        "jobs.example:443",
        "127.0.0.1:1",
        "[::1]:50051",
        "unix:/run/jobs.sock",
        "dns:///jobs.example:1",
        "ipv4:1.2.3.4:5",
    ],
)
def test_an_address_of_any_kind_that_grpc_knows_is_taken(address: str) -> None:
    assert problem(address) == ""


def test_an_address_of_the_environment_is_named_as_that() -> None:
    result = run_alone("list", env={"JOBSTATE_SERVER": "localhost"})

    assert result.code == 2
    assert "write localhost:50051 (in JOBSTATE_SERVER)" in result.err


def test_what_does_not_speak_grpc_is_not_taken_for_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            while True:
                try:
                    connection, _ = web.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1_000)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        result = run(f"127.0.0.1:{web.getsockname()[1]}", "list", "--timeout", "5s")
        web.shutdown(socket.SHUT_RDWR)

    assert (result.code, result.out) == (2, "")
    assert "does not speak gRPC" in result.err


def test_a_name_that_cannot_be_resolved_is_shown_as_that() -> None:
    result = run("no-such-host.invalid:1", "list", "--timeout", "5s")

    assert result.code == 3
    assert "the name in no-such-host.invalid:1 cannot be resolved" in result.err


def test_an_attempt_that_has_not_begun_is_not_taken_for_one_that_is_over(
    server: JobstateServer, client: Client
) -> None:
    client.create("resting", id="first")
    early = run(server, "complete", "first", "--attempt", "7")
    client.start("first")
    ahead = run(server, "complete", "first", "--attempt", "7")
    right = run(server, "complete", "first", "--attempt", "1")
    late = run(server, "progress", "first", "--attempt", "1")

    assert (early.code, ahead.code, right.code, late.code) == (1, 1, 0, 1)
    assert "Write --attempt 1." in ahead.err
    assert "jobstate start first" in early.err or "The job's state does not allow it" in early.err
    assert "The job's state does not allow it" in late.err or "That attempt is over" in late.err


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["create", "x", "--attempt-timeout", "31d"], "--attempt-timeout"),
        (["create", "no spaces"], "JOB_TYPE"),
        (["create", "x", "--source-id", "x" * 300], "--source-id"),
        (["get", "no spaces"], "ID"),
        (["list", "--job-type", "no spaces"], "--job-type"),
        (["watch", "--source-id", "x" * 300, "--no-follow"], "--source-id"),
        (["watch", "no spaces", "--no-follow"], "ID"),
        (["fail", "first", "--code", "x" * 300], "--code"),
        (["fail", "first", "--retry-delay", "9000d"], "--retry-delay"),
        (["maintenance", "cleanup", "--older-than", "1s"], "--older-than"),
    ],
)
def test_a_field_that_is_refused_is_called_by_its_option(
    arguments: list[str], option: str, server: JobstateServer, client: Client
) -> None:
    client.start(client.create("resting", id="first"))
    people = run(server, *arguments)
    programs = json.loads(run(server, *arguments, "--json").err)["error"]

    assert people.code == 1
    assert people.err.startswith(f"jobstate: INVALID_FIELD: {option}: ")
    assert [each["option"] for each in programs["violations"]] == [option]


def test_a_step_that_is_not_allowed_is_answered_with_the_commands_that_are(
    server: JobstateServer, client: Client
) -> None:
    client.fail(client.start(client.create("clean_transcript", id="first")), "X")
    server.advance(60)
    resumed = run(server, "retry", "first")
    client.cancel("first")
    final = run(server, "start", "first")

    assert resumed.code == final.code == 1
    assert "allows now: `jobstate start`, `jobstate progress`, `jobstate complete`, `jobstate fail`," in resumed.err
    assert "allows now" not in final.err


@pytest.mark.parametrize("trigger", [each.value for each in Trigger if each not in SERVER_TRIGGERS])
def test_every_step_that_a_refusal_names_has_a_command(trigger: str) -> None:
    assert error_messages.COMMANDS[trigger].split()[0] in commands()


@pytest.mark.parametrize("cost", ["nan", "inf", "-1", "1e300", "much"])
def test_a_cost_that_is_none_is_refused_in_a_sentence(cost: str, server: JobstateServer, client: Client) -> None:
    client.start(client.create("resting", id="first"))
    result = run(server, "complete", "first", "--cost", cost)

    assert result.code in {1, 2}
    assert "cost" in result.err
    assert client.get("first").state == "PROCESSING"


@pytest.mark.parametrize(
    "arguments",
    [["get"], ["--json", "list", "--limit", "x"], ["list", "--limit", "x"], ["nothing"], ["top"], ["--timeout", "0"]],
)
def test_wrong_usage_too_is_json_for_those_who_ask_for_json(arguments: list[str], server: JobstateServer) -> None:
    result = run(server, *arguments, "--json")
    error = json.loads(result.err)["error"]
    refused = json.loads(run(server, "get", "nobody", "--json").err)["error"]

    assert (result.code, result.out) == (2, "")
    assert error["message"]
    assert list(error) == list(refused)


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
        "BAD_STATE": 4,
        "INTERRUPTED": 130,
        "BROKEN_PIPE": 141,
    }


def test_a_locale_without_the_letters_ends_no_command(server: JobstateServer) -> None:
    run(server, "create", "default", "--id", "first", "--source-id", "größer")
    result = run_alone("--server", server.address, "get", "first", env={"PYTHONIOENCODING": "ascii"})

    assert result.code == 0
    assert r"gr\xf6\xdfer" in result.out
