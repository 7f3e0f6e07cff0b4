"""The commands of dispatch: acquire, release, explain, and what create says of when a job may begin."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import Client, Job, JobNotFound, Unreachable
from jobstate_client.cli.commands.acquiring import Acquiring
from jobstate_client.cli.exits import Exit
from jobstate_client.cli.terminal.error_messages import hint
from jobstate_client.core.calls import RPCS
from jobstate_client.testing import JobstateServer

from ..support import until
from .support import PROGRAM, at_terminal, run, started


def test_a_job_is_created_with_all_that_decides_when_it_begins(server: JobstateServer, client: Client) -> None:
    result = run(
        server, "create", "clean_transcript", "--id", "first", "--priority", "high", "--delay", "10m",
        "--start-within", "1h", "--unique-key", "episode-12", "--unique-until", "STARTED",
    )  # fmt: skip
    job = client.get("first")

    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("first is QUEUED, priority HIGH, delayed for ")
    assert (job.priority, job.start_within, job.unique_key) == ("HIGH", timedelta(hours=1), "episode-12")
    assert job.ready_time == server.now + timedelta(minutes=10)


def test_a_time_before_which_a_job_cannot_begin_is_in_utc(server: JobstateServer, client: Client) -> None:
    morning = server.now.replace(microsecond=0) + timedelta(days=1)
    run(server, "create", "default", "--id", "first", "--not-before-time", f"{morning:%Y-%m-%dT%H:%M:%S}")

    assert client.get("first").ready_time == morning


def test_a_job_that_has_the_unique_key_is_shown_as_one_that_was_there(server: JobstateServer, client: Client) -> None:
    command = ["create", "clean_transcript", "--unique-key", "episode-12"]
    run(server, *command, "--id", "first")
    again = run(server, *command)

    assert (again.code, again.out, again.err) == (0, "first is QUEUED, there already with this unique key\n", "")
    assert run(server, *command, "--json").json["existing"] is True
    assert len(list(client.list())) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--delay", "1s", "--not-before-time", "2027-01-31"], "--delay and --not-before-time both set"),
        (["--unique-until", "FINAL"], "--unique-until needs --unique-key"),
        (["--not-before-time", "2h"], "'2h' is a span; write a time such as"),
        (["--not-before-time", "tomorrow"], "'tomorrow' is not a time; write one such as 2026-01-31T08:30:00Z\n"),
        (["--priority", "5"], "'--priority'"),
        (["--priority", "UNKNOWN"], "'--priority'"),
        (["--unique-key", "x", "--unique-until", "now"], "'--unique-until'"),
        (["--delay", "-1s"], "is not a span"),
    ],
)
def test_a_beginning_that_cannot_be_meant_is_wrong_usage(
    arguments: list[str], told: str, server: JobstateServer, client: Client
) -> None:
    result = run(server, "create", "default", *arguments)

    assert (result.code, result.out) == (2, "")
    assert told in result.err
    assert list(client.list()) == []


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["create", "x", "--delay", "367d"], "--delay"),
        (["create", "x", "--not-before-time", "2999-01-01"], "--not-before-time"),
        (["create", "x", "--start-within", "0"], "--start-within"),
        (["create", "x", "--unique-key", "x" * 257], "--unique-key"),
        (["acquire", "no spaces"], "JOB_TYPE"),
        (["acquire", "x", "--wait", "61s"], "--wait"),
        (["acquire", "x", "--lease", "1s"], "--lease"),
        (["acquire", "x", "--max-jobs", "1001"], "--max-jobs"),
        (["acquire", "x", "--worker", "x" * 129], "--worker"),
        (["acquire", "x", "--request-id", "short"], "--request-id"),
        (["release", "first", "--delay", "8d"], "--delay"),
        (["release", "first", "--reason", "x" * 5_000], "--reason"),
        (["explain", "no spaces"], "ID"),
    ],
)
def test_a_field_of_dispatch_that_is_refused_is_called_by_its_option(
    arguments: list[str], option: str, server: JobstateServer, client: Client
) -> None:
    client.start(client.create("resting", id="first"))
    result = run(server, *arguments)
    error = json.loads(run(server, *arguments, "--json").err)["error"]

    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"jobstate: INVALID_FIELD: {option}: ")
    assert [each["option"] for each in error["violations"]] == [option]


def test_work_is_acquired_in_its_order_and_shown_with_attempt_and_lease(server: JobstateServer, client: Client) -> None:
    client.create("clean_transcript", id="first")
    client.create("render_video", id="urgent", priority="URGENT")
    client.create("generate_posts", id="other")
    result = run(
        server, "acquire", "clean_transcript", "render_video", "--max-jobs", "5", "--lease", "30s", "--worker", "me"
    )

    assert (result.code, result.err) == (0, "")
    assert result.out == "urgent is PROCESSING, attempt 1, lease 30s\nfirst is PROCESSING, attempt 1, lease 30s\n"
    assert (client.get("first").worker, client.get("other").attempt) == ("me", 0)


def test_one_job_is_acquired_unless_more_are_asked_for(server: JobstateServer, client: Client) -> None:
    client.create("default", id="first")
    client.create("default", id="second")

    assert run(server, "acquire", "default").out == "first is PROCESSING, attempt 1, lease 1m\n"


def test_acquired_jobs_are_json_one_on_each_line(server: JobstateServer, client: Client) -> None:
    client.create("default", id="first")
    client.create("default", id="second", metadata={"language": "en"})
    result = run(server, "acquire", "default", "--max-jobs", "9", "--json")

    assert [(job["id"], job["state"], job["attempt"], job["lease"]) for job in result.json_lines] == [
        ("first", "PROCESSING", 1, 60.0),
        ("second", "PROCESSING", 1, 60.0),
    ]
    assert result.json_lines[1]["metadata"] == {"language": "en"}


def test_what_a_job_does_not_have_is_null_in_json(server: JobstateServer, client: Client) -> None:
    client.create("default", id="first", delay=60.0)
    waiting = run(server, "get", "first", "--json").json
    client.cancel("first")
    cancelled = run(server, "get", "first", "--json").json

    assert (waiting["wait_reason"], waiting["cancel_cause"], waiting["priority"]) == ("TIME", None, "NORMAL")
    assert (cancelled["wait_reason"], cancelled["cancel_cause"]) == (None, "CALLER")


def test_no_work_is_no_error_and_writes_nothing_to_standard_output(server: JobstateServer) -> None:
    people, programs = run(server, "acquire", "default"), run(server, "acquire", "default", "--json")

    assert (people.code, people.out, people.err) == (0, "", "jobstate: no job is ready\n")
    assert (programs.code, programs.out, programs.err) == (0, "", "")


def test_acquire_waits_for_work(server: JobstateServer, client: Client) -> None:
    with started("--server", server.address, "acquire", "default", "--wait", "60s") as process:
        wait_for_acquire(client)
        client.create("default", id="first")
        out, err = process.communicate()

    assert (process.returncode, out, err) == (0, "first is PROCESSING, attempt 1, lease 1m\n", "")


def wait_for_acquire(client: Client) -> None:
    """Wait until the server has an Acquire that waits for work of type default."""
    delayed = client.create("default", id="delayed", delay=3_600.0)
    until(lambda: client.explain(delayed).waiting_acquires == 1)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_acquire_that_is_ended_while_it_waits_asks_no_more(
    number: signal.Signals, code: int, server: JobstateServer, client: Client
) -> None:
    with started("--server", server.address, "acquire", "default", "--wait", "60s") as process:
        wait_for_acquire(client)
        process.send_signal(number)
        out, err = process.communicate()
    client.create("default", id="first")

    assert (process.returncode, out, err) == (code, "", "")
    assert client.explain("delayed").waiting_acquires == 0
    assert client.get("first").attempt == 0


def test_a_hangup_that_is_ignored_does_not_end_acquire(server: JobstateServer, client: Client) -> None:
    command = shlex.join([*PROGRAM, "--server", server.address, "acquire", "default", "--wait", "60s"])
    with started(program=["sh", "-c", f"trap '' HUP; exec {command}"]) as process:
        wait_for_acquire(client)
        process.send_signal(signal.SIGHUP)
        client.create("default", id="first")
        out, err = process.communicate()

    assert (process.returncode, out, err) == (0, "first is PROCESSING, attempt 1, lease 1m\n", "")


@pytest.mark.parametrize("signal_first", [True, False])
def test_a_job_that_is_ready_as_ctrl_c_comes_is_shown_or_given_to_the_next(
    signal_first: bool, server: JobstateServer, client: Client
) -> None:
    with started("--server", server.address, "acquire", "default", "--wait", "60s") as process:
        wait_for_acquire(client)
        if signal_first:
            process.send_signal(signal.SIGINT)
        client.create("default", id="first")
        if not signal_first:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    job = client.get("first")

    assert job.claimed == ("first is PROCESSING" in out)
    assert ("is released again" in err) == (job.attempt == 2)
    assert job.retry_count == 0


def test_ctrl_c_at_a_terminal_leaves_nothing_on_the_screen(server: JobstateServer, client: Client) -> None:
    with at_terminal("--server", server.address, "acquire", "default", "--wait", "60s", columns=20) as terminal:
        wait_for_acquire(client)
        terminal.process.send_signal(signal.SIGINT)

        assert terminal.end() == Exit.INTERRUPTED
    assert terminal.text == ""


def test_explain_is_whole_at_a_narrow_terminal(server: JobstateServer, client: Client) -> None:
    client.create("default", id="first", delay=7_200.0)
    with at_terminal("--server", server.address, "explain", "first", columns=20) as terminal:
        assert terminal.end() == Exit.DONE

    assert "`jobstate retry first --immediately` ends the wait" in terminal.text


def test_jobs_that_were_handed_out_when_ctrl_c_came_are_released(
    server: JobstateServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create("default", id="first")
    client.create("default", id="second")
    ask = Acquiring._ask

    def interrupted(acquiring: Acquiring, timeout_s: float) -> tuple[Job, ...]:
        assert len(ask(acquiring, timeout_s)) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(Acquiring, "_ask", interrupted)
    result = run(server, "acquire", "default", "--max-jobs", "2")

    assert (result.code, result.out) == (Exit.INTERRUPTED, "")
    assert result.err == (
        "jobstate: first was handed out in attempt 1, and is released again\n"
        "jobstate: second was handed out in attempt 1, and is released again\n"
    )
    assert [client.get(name).attempt for name in ("first", "second")] == [2, 2]
    assert client.get("first").retry_count == 0


@pytest.mark.parametrize("lost", ["Acquire", "Release"])
def test_what_cannot_be_released_is_named_with_what_becomes_of_it(
    lost: str, server: JobstateServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create("default", id="first")
    ask, invoke = Acquiring._ask, Client._invoke

    def interrupted(acquiring: Acquiring, timeout_s: float) -> tuple[Job, ...]:
        ask(acquiring, timeout_s)
        raise KeyboardInterrupt

    def unreachable(self: Client, call: Any) -> Any:
        if call.rpc == lost:
            raise Unreachable("the server is gone")
        return invoke(self, call)

    monkeypatch.setattr(Acquiring, "_ask", interrupted)
    monkeypatch.setattr(Client, "_invoke", unreachable)
    result = run(server, "acquire", "default", "--request-id", "my-own-id-1")

    assert (result.code, result.out) == (Exit.INTERRUPTED, "")
    if lost == "Acquire":
        assert "whether jobs were handed out is unknown: no server answers at" in result.err
        assert "the same command with --request-id my-own-id-1 returns them" in result.err
    else:
        assert "first was handed out in attempt 1, which fails when its lease of 1m ends: no server" in result.err


def test_jobs_that_nobody_reads_are_released(server: JobstateServer, client: Client) -> None:
    with started("--server", server.address, "acquire", "default", "--wait", "60s", "--max-jobs", "2") as process:
        wait_for_acquire(client)
        assert process.stdout is not None
        process.stdout.close()
        client.create("default", id="first")
        assert process.stderr is not None
        err = process.stderr.read()
        process.wait()

    assert process.returncode == Exit.BROKEN_PIPE
    assert err == "jobstate: first was handed out in attempt 1, and is released again\n"
    assert (client.get("first").attempt, client.get("first").claimed) == (2, False)


def test_a_full_disk_loses_no_job(server: JobstateServer, client: Client) -> None:
    client.create("default", id="first")
    with open("/dev/full", "w") as full, started("--server", server.address, "acquire", "default", stdout=full) as done:
        _, err = done.communicate()

    assert done.returncode == Exit.USAGE
    assert "first was handed out in attempt 1, and is released again" in err
    assert "No space left on device" in err
    assert client.get("first").attempt == 2


def test_a_repeat_of_acquire_returns_the_same_jobs(server: JobstateServer, client: Client) -> None:
    client.create("default", id="first")
    client.create("default", id="second")
    command = ["acquire", "default", "--request-id", "my-own-id-1"]

    assert run(server, *command).out == run(server, *command).out == "first is PROCESSING, attempt 1, lease 1m\n"


def test_a_released_job_says_what_follows_and_costs_no_retry(server: JobstateServer, client: Client) -> None:
    client.create("clean_transcript", id="first")
    run(server, "acquire", "clean_transcript")
    later = run(server, "release", "first", "--attempt", "1", "--reason", "429", "--delay", "2h", "--tokens", "12")
    server.advance(7_200)
    run(server, "acquire", "clean_transcript")
    at_once = run(server, "release", "first", "--attempt", "2")
    job = client.get("first")

    assert later.out.startswith("first is RETRYING, attempt 1, given back, again in ")
    assert at_once.out == "first is PROCESSING, attempt 3, waits for a worker\n"
    assert (job.attempt, job.retry_count, job.estimated_tokens) == (3, 0, 12)


def test_a_job_released_too_often_is_refused_with_what_to_do(
    server: JobstateServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobstate_server.domain.rules.release.RELEASES_MAX", 1)
    client.release(client.start(client.create("default", id="first")))
    client.start("first")
    result = run(server, "release", "first", "--attempt", "2")

    assert result.code == 1
    assert result.err.startswith("jobstate: RELEASE_LIMIT_REACHED: ")
    assert "Complete or fail the attempt." in result.err


def test_a_start_of_a_delayed_job_says_that_it_is_delayed(server: JobstateServer, client: Client) -> None:
    client.create("default", id="first", delay=60.0)
    result = run(server, "start", "first")

    assert result.code == 1
    assert "`jobstate explain first` says until when" in result.err
    assert "`jobstate retry first --immediately` ends the delay" in result.err
    assert run(server, "retry", "first", "--immediately").out == "first is QUEUED\n"
    assert run(server, "start", "first").code == 0


def test_a_repeat_for_a_job_that_was_deleted_is_not_to_be_made_anew() -> None:
    gone = JobNotFound("no job", {"job_id": "first", "deleted": "true"})

    assert "Do not make it again with another --request-id" in hint(gone)
    assert "Check the id" in hint(JobNotFound("no job", {"job_id": "first"}))


def explained(server: JobstateServer, job_id: str) -> list[list[str]]:
    """What explain says, in words by line."""
    result = run(server, "explain", job_id)
    assert (result.code, result.err) == (0, "")
    return [line.split() for line in result.out.splitlines()]


def test_explain_says_until_when_a_job_is_delayed_and_what_ends_that(server: JobstateServer, client: Client) -> None:
    client.create("default", id="first", delay=7_200.0)
    out = run(server, "explain", "first").out

    assert out.startswith("first is QUEUED, delayed for ")
    assert f"TIME  it waits for the end of its delay, {server.now + timedelta(hours=2):%Y-%m-%d %H:%M:%S}Z (in " in out
    assert "`jobstate retry first --immediately` ends the wait" in out
    assert "jobs before it" not in out


def test_explain_says_how_many_come_before_a_job_and_that_nobody_asks(server: JobstateServer, client: Client) -> None:
    client.create("default", id="first")
    client.create("default", id="second")
    lines = explained(server, "second")

    assert [line[0] for line in lines if line[0].isupper()] == ["TURN", "NO_WORKER"]
    assert ["jobs", "before", "it", "1"] in lines
    assert ["workers", "waiting", "0"] in lines


def test_explain_says_when_a_job_is_expected_to_begin(server: JobstateServer, client: Client) -> None:
    for name in ("first", "second"):
        client.create("default", id=name)
    run(server, "acquire", "default")

    assert ["expected"] in [line[:1] for line in explained(server, "second")]


def test_explain_of_a_job_that_rests_names_the_commands(server: JobstateServer, client: Client) -> None:
    client.fail(client.start(client.create("resting", id="first")), "RATE")
    out = run(server, "explain", "first").out

    assert out.startswith("first is FAILED, attempt 1, RATE\nAWAITS_RETRY_CALL  ")
    assert "`jobstate retry first` or `jobstate cancel first`" in out


def test_explain_of_a_job_that_a_worker_has_names_the_worker(server: JobstateServer, client: Client) -> None:
    client.start(client.create("default", id="first"), worker="me")

    assert run(server, "explain", "first").out == "first is PROCESSING, attempt 1\nworker  me\n"


def test_explain_of_a_job_that_is_final_is_its_state(server: JobstateServer, client: Client) -> None:
    client.cancel(client.create("default", id="first"), "no longer needed")

    assert run(server, "explain", "first").out == "first is CANCELLED, no longer needed\n"


def test_explain_is_the_contracts_answer_in_json(server: JobstateServer, client: Client) -> None:
    client.create("default", id="first")
    client.create("default", id="second")
    told = run(server, "explain", "second", "--json").json

    assert [hold["reason"] for hold in told["holds"]] == ["TURN", "NO_WORKER"]
    assert (told["ahead_in_lane"], told["waiting_acquires"], told["expected_start_time"]) == ("1", 0, None)


OLD_JOB = job_pb2.Job(id="first", job_type="default", state=job_pb2.JOB_STATE_QUEUED, version=1)


@contextmanager
def older_server() -> Iterator[str]:
    """The address of a server that does not hand out jobs yet."""

    def create(_request: bytes, _context: Any) -> bytes:
        return pb.CreateResponse(job=OLD_JOB).SerializeToString()

    handlers: dict[str, Any] = {"Create": grpc.unary_unary_rpc_method_handler(create)}
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(RPCS["Create"].service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("arguments", [["acquire", "default"], ["release", "first"], ["explain", "first"]])
def test_a_server_without_dispatch_is_called_too_old(arguments: list[str]) -> None:
    with older_server() as address:
        result = run(address, *arguments)

    assert (result.code, result.out) == (1, "")
    assert "too old for this command" in result.err


def test_a_job_that_an_older_server_creates_without_what_was_asked_for_is_no_success() -> None:
    with older_server() as address:
        plain = run(address, "create", "default")
        delayed = run(address, "create", "default", "--delay", "1h", "--unique-key", "x")

    assert (plain.code, plain.out, plain.err) == (0, "first is QUEUED\n", "")
    assert (delayed.code, delayed.out) == (2, "first is QUEUED\n")
    assert delayed.err.startswith("jobstate: first was created without --delay, --unique-key: the server is too old")
