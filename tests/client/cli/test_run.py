"""``jobstate run``: a command as a worker. Its exit code is the verdict, and it ends when its attempt is over."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from jobstate_client import AttemptOutcome, Client, State
from jobstate_client.testing import JobstateServer

from ..support import PATIENCE_S, until
from .support import Result, run, started

SLEEPS = "echo 1%; exec sleep 600"


def run_once(server: JobstateServer, script: str, *options: str) -> Result:
    """One job by this script."""
    return run(server, "run", "thumb", "--once", *options, "--", "sh", "-c", script)


def test_the_command_gets_the_job_and_reports_progress(server: JobstateServer, client: Client) -> None:
    client.create("thumb", id="first", source_id="cat.png", metadata={"width": 3, "text": "ä" * 30_000})
    script = 'echo "50% half way"; wc -c; echo "$JOBSTATE_JOB_ID $JOBSTATE_ATTEMPT $JOBSTATE_SOURCE_ID"; echo 101%'
    result = run_once(server, f'{script}; echo "$JOBSTATE_JOB_TYPE $JOBSTATE_SERVER"')
    job = client.get("first")
    (progress,) = client.watch(job_ids=["first"], types=["PROGRESS"], start="earliest", follow=False)

    assert result.code == 0
    assert [line.strip() for line in result.out.splitlines()] == [
        str(len('{"width": 3, "text": ""}\n') + 60_000),
        "first 1 cat.png",
        "101%",
        f"thumb {server.address}",
    ]
    assert (job.state, progress.job.progress, job.progress_message) == (State.COMPLETED, 50, "half way")
    assert "thumb: attempt 1 of job first completed after " in result.err


@pytest.mark.parametrize(
    ("script", "state", "code", "message"),
    [
        ("echo no disk >&2; echo at all >&2; exit 3", State.RETRYING, "EXIT_3", "no disk\nat all"),
        ("exit 75", State.RETRYING, "EXIT_75", "the command ended with 75"),
        ("exit 65", State.PERMANENTLY_FAILED, "EXIT_65", "the command ended with 65"),
        ("kill -KILL $$", State.RETRYING, "SIGNAL_SIGKILL", "the command was ended by SIGKILL"),
        ("seq 5000 >&2; exit 1", State.RETRYING, "EXIT_1", "\n".join(map(str, range(4981, 5001)))),
    ],
)
def test_the_exit_code_is_the_verdict(
    script: str, state: State, code: str, message: str, server: JobstateServer, client: Client
) -> None:
    client.create("thumb", id="first")
    result = run_once(server, script)
    job = client.get("first")

    assert result.code == 0
    assert job.state is state
    assert job.last_error is not None
    assert (job.last_error.code, job.last_error.message) == (code, message)
    assert "attempt 1 of job first failed after " in result.err


def test_long_and_broken_output_is_taken(server: JobstateServer, client: Client) -> None:
    client.create("thumb", id="first")
    program = "import sys; sys.stdout.write('x' * 300_000); sys.stderr.buffer.write(b'\\xff' * 20_000); sys.exit(1)"
    result = run(server, "run", "thumb", "--once", "--", sys.executable, "-c", program)
    job = client.get("first")

    assert result.out.replace("\n", "") == "x" * 300_000
    assert job.last_error is not None
    assert set(job.last_error.message) == {"\ufffd"}
    assert len(job.last_error.message.encode()) <= 4_096


def test_what_the_command_leaves_behind_does_not_hold_up_its_end(server: JobstateServer, client: Client) -> None:
    client.create("thumb", id="first")
    run_once(server, "sleep 600 & echo $! > /dev/null")

    assert client.get("first").state is State.COMPLETED


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (f"trap 'echo ending; exit 0' TERM; {SLEEPS.replace('exec sleep 600', 'sleep 600 & wait')}", "ending\n"),
        (f"trap '' TERM; {SLEEPS}", ""),
    ],
)
def test_the_command_is_ended_when_its_job_is_cancelled(
    script: str, told: str, server: JobstateServer, client: Client
) -> None:
    client.create("thumb", id="first")
    arguments = ("run", "thumb", "--max-jobs", "1", "--kill-after", "100ms", "--server", server.address)
    with started(*arguments, "--", "sh", "-c", script) as process:
        until(lambda: client.get("first").progress > 0)
        client.cancel("first")
        out, errors = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, out) == (0, told)
    assert "attempt 1 of job first is over after " in errors


@pytest.mark.parametrize(
    ("signals", "options", "outcome", "code"),
    [
        ([signal.SIGTERM], ["--stop-within", "0"], AttemptOutcome.RELEASED, 0),
        ([signal.SIGINT, signal.SIGINT], [], AttemptOutcome.FAILED, 130),
    ],
)
def test_a_worker_that_is_stopped_ends_its_command(
    signals: list[signal.Signals],
    options: list[str],
    outcome: AttemptOutcome,
    code: int,
    server: JobstateServer,
    client: Client,
    tmp_path: Path,
) -> None:
    client.create("thumb", id="first")
    script = f"trap 'touch {tmp_path}/ended; exit' TERM; echo 1%; sleep 600 & wait"
    with started("run", "thumb", *options, "--server", server.address, "--", "sh", "-c", script) as process:
        until(lambda: client.get("first").progress > 0)
        assert process.stderr is not None
        for number in signals:
            process.send_signal(number)
            if len(signals) > 1:
                process.stderr.readline()
        process.wait(PATIENCE_S)

    assert process.returncode == code
    assert (tmp_path / "ended").exists()
    assert [attempt.outcome for attempt in client.attempts("first")] == [outcome]


def test_sigterm_lets_the_running_command_finish(server: JobstateServer, client: Client, tmp_path: Path) -> None:
    client.create("thumb", id="first")
    client.create("thumb", id="second")
    script = f"echo 1%; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"
    with started("run", "thumb", "--server", server.address, "--", "sh", "-c", script) as process:
        until(lambda: client.get("first").progress > 0)
        process.send_signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0
    assert [client.get(name).state for name in ("first", "second")] == [State.COMPLETED, State.QUEUED]


def test_several_at_a_time_name_their_jobs(server: JobstateServer, client: Client) -> None:
    for name in ("first", "second", "third"):
        client.create("thumb", id=name)
    result = run(server, "run", "thumb", "--until-empty", "--concurrency", "2", "--", "sh", "-c", "echo hello")

    assert sorted(result.out.splitlines()) == ["first: hello", "second: hello", "third: hello"]
    assert client.stats().total.stored == {State.COMPLETED: 3}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["thumb"], "Missing argument"),
        (["thumb", "--", "no-such-program"], "there is no program 'no-such-program'"),
        (["thumb", "--once", "--max-jobs", "2", "--", "true"], "give only one"),
        (["thumb", "--worker", "x" * 200, "--", "true"], "worker: has 200 bytes"),
    ],
)
def test_what_is_no_worker_is_refused_before_it_takes_a_job(
    arguments: list[str], problem: str, server: JobstateServer, client: Client
) -> None:
    client.create("thumb", id="first")
    result = run(server, "run", *arguments)

    assert result.code in {1, 2}
    assert problem in result.err
    assert client.get("first").state is State.QUEUED
