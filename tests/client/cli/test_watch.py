"""``jobstate watch``: lines and JSON, filters, cursors, ends, and outages of the server."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import IO

import pytest

from jobstate_client import Client
from jobstate_client.cli.commands.cursor_file import CURSOR_BYTES_MAX
from jobstate_client.testing import JobstateServer, serving

from ..support import PATIENCE_S, until
from .support import Terminal, at_terminal, run, run_alone, started


def lived(client: Client, job_id: str, job_type: str = "clean_transcript") -> None:
    """A job from its creation to its end."""
    job = client.start(client.create(job_type, id=job_id), worker="me")
    client.progress(job, 50, "half way")
    client.complete(job, result_count=3)


def kinds(out: str) -> list[tuple[str, str]]:
    """The kind and job of each line."""
    return [(line.split()[1], line.split()[2]) for line in out.splitlines()]


LIFE = ["queued", "started", "progress", "completed"]


def test_a_life_is_shown_line_by_line(server: JobstateServer, client: Client) -> None:
    lived(client, "first")
    result = run(server, "watch", "first", "--from-earliest", "--no-follow")

    assert (result.code, result.err) == (0, "")
    assert kinds(result.out) == [(kind, "first") for kind in LIFE]
    assert [line.split("clean_transcript")[1].strip() for line in result.out.splitlines()] == [
        "",
        "attempt 1 by me",
        "50 %, half way",
        "attempt 1, 3 results",
    ]


def test_failures_show_what_was_decided(server: JobstateServer, client: Client) -> None:
    client.fail(client.start(client.create("clean_transcript", id="first")), "RATE", "slow down", retry_delay=20)
    client.fail(client.start(client.create("clean_transcript", id="second")), "BAD_FILE", retryable=False)
    client.fail(client.start(client.create("resting", id="third")), "RATE")
    server.advance(20)
    client.start("first", worker="other")
    client.cancel("first", "an example")
    told = run(server, "watch", "--from-earliest", "--no-follow").out.splitlines()
    words = {(line.split()[1], line.split()[2]): line.split(maxsplit=4)[-1] for line in told}

    assert words["failed", "first"] == "RATE: slow down"
    assert words["retrying", "first"] == "retry 1 of 3 in 20s"
    assert words["started", "first"] == "attempt 2, waits for a worker"
    assert words["claimed", "first"] == "attempt 2 by other"
    assert words["cancelled", "first"] == "an example"
    assert words["permanently-failed", "second"] == "not retryable"
    assert words["failed", "third"] == "RATE, waits for a retry or cancel"


def test_json_is_one_document_a_line_with_the_cursor_to_resume_from(server: JobstateServer, client: Client) -> None:
    lived(client, "first")
    lines = run(server, "watch", "--from-earliest", "--no-follow", "--json").json_lines
    later = run(server, "watch", "--no-follow", "--json", "--cursor", lines[-1]["cursor"])

    assert [line["kind"] for line in lines] == ["event"] * 4
    assert [line["event"]["name"].partition(".")[2] for line in lines] == LIFE
    assert lines[-1]["event"]["job"]["result_count"] == "3"
    assert later.out == ""


def test_filters_choose_the_events(server: JobstateServer, client: Client) -> None:
    lived(client, "first")
    lived(client, "second", "resting")
    client.create("resting", id="third", source_id="ep-3")

    def told(*filters: str) -> list[tuple[str, str]]:
        return kinds(run(server, "watch", "--from-earliest", "--no-follow", *filters).out)

    assert told("second") == [(kind, "second") for kind in LIFE]
    assert told("--job-type", "resting", "--type", "queued") == [("queued", "second"), ("queued", "third")]
    assert told("--source-id", "ep-3") == [("queued", "third")]
    assert told("first", "second", "--type", "PROGRESS", "--latest-progress") == [
        ("progress", "first"),
        ("progress", "second"),
    ]


def test_a_snapshot_shows_the_jobs_as_they_are(server: JobstateServer, client: Client) -> None:
    client.create("resting", id="first")
    client.start(client.create("resting", id="second"))
    told = run(server, "watch", "--snapshot", "--no-follow")
    documents = run(server, "watch", "--snapshot", "--no-follow", "--json").json_lines

    assert sorted(line.split()[2] for line in told.out.splitlines()) == ["PROCESSING", "QUEUED"]
    assert [each["kind"] for each in documents] == ["snapshot_started", "snapshot_job", "snapshot_job", "synced"]
    assert {each["job"]["id"] for each in documents[1:3]} == {"first", "second"}
    assert documents[3]["cursor"]


def test_the_cursor_file_lets_the_next_watch_continue_where_the_last_one_stopped(
    server: JobstateServer, client: Client, tmp_path: Path
) -> None:
    command = ["watch", "--no-follow", "--from-earliest", "--cursor-file", str(tmp_path / "cursor")]
    lived(client, "first")
    before = run(server, *command)
    lived(client, "second")
    after, nothing = run(server, *command), run(server, *command)

    assert kinds(before.out) == [(kind, "first") for kind in LIFE]
    assert kinds(after.out) == [(kind, "second") for kind in LIFE]
    assert nothing.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["cursor"]


def test_the_cursor_is_kept_before_anything_has_happened(
    server: JobstateServer, client: Client, tmp_path: Path
) -> None:
    command = ["watch", "--no-follow", "--cursor-file", str(tmp_path / "cursor")]
    run(server, *command)
    lived(client, "first")

    assert kinds(run(server, *command).out) == [(kind, "first") for kind in LIFE]


def test_the_cursor_moves_with_heartbeats_while_nothing_matches(
    server: JobstateServer, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "cursor"
    lived(client, "first")
    client.create("clean_transcript", id="idle")
    with started("--server", server.address, "watch", "idle", "--heartbeat-interval", "1s", "--cursor-file", str(file)):
        until(file.exists)
        opened = file.read_text()
        lived(client, "second")

        def is_at_the_end() -> bool:
            server.advance(1.0)
            return not list(client.watch(cursor=file.read_text().strip(), follow=False))

        until(is_at_the_end)

    assert file.read_text() != opened


def test_a_cursor_that_cannot_be_kept_ends_the_watch_and_says_why(
    server: JobstateServer, client: Client, tmp_path: Path
) -> None:
    result = run(server, "watch", "--no-follow", "--cursor-file", str(tmp_path / "missing" / "cursor"))

    assert result.code == 2
    assert result.err.startswith(f"jobstate: cannot store the cursor in {tmp_path}/missing/cursor: No such file")


@pytest.mark.parametrize("content", ["two words", "ü", "x" * (CURSOR_BYTES_MAX + 1)])
def test_a_file_that_holds_something_else_is_not_overwritten(
    content: str, server: JobstateServer, tmp_path: Path
) -> None:
    file = tmp_path / "precious"
    file.write_text(content, encoding="utf-8")
    result = run(server, "watch", "--no-follow", "--cursor-file", str(file))

    assert result.code == 2
    assert "does not contain a cursor" in result.err
    assert file.read_text("utf-8") == content


def test_a_cursor_of_another_store_is_refused_with_what_to_do(
    server: JobstateServer, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "cursor"
    with serving() as other:
        run(other, "watch", "--no-follow", "--cursor-file", str(file))
    result = run(server, "watch", "--no-follow", "--cursor-file", str(file))

    assert result.code == 1
    assert result.err.startswith("jobstate: CURSOR_UNKNOWN: ")
    assert "--snapshot" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--until-final"],
        ["first", "--exit-state"],
        ["--cursor", "x", "--cursor-file", "y"],
        ["--cursor", "x", "--from-earliest"],
        ["--snapshot", "--from-earliest"],
        ["--snapshot", "--cursor", "x"],
        ["first", "--until-final", "--no-follow"],
        ["--type", "no-such-type"],
        ["--cursor-file", "/"],
    ],
)
def test_what_contradicts_itself_is_wrong_usage(arguments: list[str], server: JobstateServer) -> None:
    result = run(server, "watch", *arguments)

    assert result.code == 2
    assert "See: jobstate watch --help" in result.err


def test_a_watch_of_an_unknown_job_until_it_is_final_is_refused(server: JobstateServer) -> None:
    result = run(server, "watch", "nobody", "--until-final")

    assert result.code == 1
    assert "JOB_NOT_FOUND" in result.err


@pytest.mark.parametrize("beginning", [[], ["--from-earliest"], ["--snapshot"], ["--json"]])
def test_a_watch_of_jobs_of_which_nothing_can_come_says_so_and_ends(
    beginning: list[str], server: JobstateServer, client: Client
) -> None:
    lived(client, "first")
    final = run(server, "watch", "first", *beginning)
    unknown = run(server, "watch", "first", "nobody", *beginning)

    assert (final.code, final.err) == (0, "jobstate: first is COMPLETED\n")
    assert (unknown.code, unknown.err) == (1, "jobstate: first is COMPLETED\njobstate: there is no job 'nobody'\n")


def test_a_watch_that_ends_by_itself_keeps_its_cursor(server: JobstateServer, client: Client, tmp_path: Path) -> None:
    lived(client, "first")
    run(server, "watch", "first", "--cursor-file", str(tmp_path / "cursor"))

    assert run(server, "watch", "--no-follow", "--cursor", (tmp_path / "cursor").read_text().strip()).out == ""


@pytest.mark.parametrize("others", [["going"], ["gone", "--type", "deleted"], [f"no-{n}" for n in range(21)]])
def test_a_watch_goes_on_while_something_may_come(others: list[str], server: JobstateServer, client: Client) -> None:
    client.create("resting", id="going")
    client.cancel(client.create("resting", id="gone"))
    with started("watch", *others, "--json", "--snapshot", "--server", server.address) as process:
        assert process.stdout is not None
        while "synced" not in process.stdout.readline():
            pass
        client.stats()

        assert process.poll() is None


def test_a_watch_to_the_present_names_what_does_not_exist(server: JobstateServer, client: Client) -> None:
    client.create("resting", id="first")
    ended = run(server, "watch", "first", "nobody", "--no-follow")

    assert (ended.code, ended.out, ended.err) == (0, "", "jobstate: there is no job 'nobody'\n")


def test_the_exit_state_is_4_unless_every_job_completed(server: JobstateServer, client: Client) -> None:
    lived(client, "first")
    client.cancel(client.create("resting", id="second"))
    good = run(server, "watch", "first", "--until-final", "--exit-state")
    bad = run(server, "watch", "first", "second", "--until-final", "--exit-state")

    assert (good.code, good.err) == (0, "")
    assert (bad.code, bad.err) == (4, "jobstate: second is CANCELLED\n")
    assert run(server, "watch", "first", "second", "--until-final").code == 0


def test_a_watch_ends_when_its_jobs_do(server: JobstateServer, client: Client) -> None:
    job = client.create("clean_transcript", id="first")
    with started("--server", server.address, "watch", "first", "--from-earliest", "--until-final") as process:
        assert process.stdout is not None
        assert " queued " in process.stdout.readline()
        client.complete(client.start(job))
        rest, errors = process.communicate(timeout=PATIENCE_S)

    assert [line.split()[1] for line in rest.splitlines()] == ["started", "completed"]
    assert (process.returncode, errors) == (0, "")


def read_past(stream: IO[str], wanted: str) -> list[str]:
    """The lines up to the first that holds this."""
    lines = []
    for line in stream:
        lines.append(line)
        if wanted in line:
            return lines
    raise AssertionError(f"{wanted!r} does not come: {lines}")


def test_a_watch_continues_over_a_restart_of_the_server_and_repeats_nothing(
    server: JobstateServer, client: Client
) -> None:
    with started("--server", server.address, "watch", "--from-earliest", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lived(client, "first")
        told = read_past(process.stdout, "processing-job.completed")
        server.stop()
        away = read_past(process.stderr, "resumes when it is back")
        server.start()
        lived(client, "second")
        told += read_past(process.stdout, "processing-job.completed")
        back = read_past(process.stderr, "connected to")
    sequences = [json.loads(line)["event"]["sequence"] for line in told]

    assert sequences == [str(number) for number in range(1, 9)]
    assert len(away) == len(back) == 1


def test_ctrl_c_ends_a_watch_quietly(server: JobstateServer, client: Client) -> None:
    client.create("resting")
    with started("--server", server.address, "watch", "--from-earliest") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, rest, errors) == (130, "", "")


def test_nobody_reading_ends_a_listing_quietly(server: JobstateServer, client: Client) -> None:
    for number in range(3):
        client.create("resting", id=f"job-{number}", metadata={"text": "x" * 60_000})
    with started("--server", server.address, "list", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        code = process.wait(PATIENCE_S)

    assert (code, errors) == (141, "")


def test_a_server_that_never_comes_is_reported_and_the_watch_ends_in_time() -> None:
    result = run_alone("--server", "127.0.0.1:1", "--timeout", "1s", "watch")

    assert result.code == 3
    assert "no server answers at 127.0.0.1:1" in result.err


def test_patience_with_a_server_that_is_away_has_the_end_that_was_set(server: JobstateServer, client: Client) -> None:
    client.create("resting")
    with started("--server", server.address, "watch", "--from-earliest", "--patience", "500ms") as process:
        assert process.stdout is not None
        process.stdout.readline()
        server.stop()
        _, errors = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 3
    assert "no server answers" in errors or "DRAINING" in errors


# At a terminal


def lines_of(terminal: Terminal) -> str:
    return terminal.text.replace("\r", "")


def test_at_a_terminal_progress_moves_bars_and_the_rest_is_lines(server: JobstateServer, client: Client) -> None:
    with at_terminal("--server", server.address, "watch", "--from-earliest", columns=100) as terminal:
        job = client.start(client.create("clean_transcript", id="first"), worker="me")
        terminal.until(lambda text: "attempt 1 by me" in text and "0%" in text)
        client.progress(job, 40, "half \x1b[2J way [bold]")
        terminal.until(lambda text: r"40%   0s half \x1b[2J way [bold]" in text or r"half \x1b[2J way [bold]" in text)
        assert "progress" not in terminal.text
        client.complete(job, result_count=3)
        terminal.until(lambda text: "attempt 1, 3 results" in text)
        terminal.process.send_signal(signal.SIGINT)
        code = terminal.end()

    assert code == 130
    assert "Traceback" not in terminal.text
    assert terminal.raw.endswith("\x1b[?25h") or "\x1b[?25h" in terminal.raw


def test_bars_take_at_most_half_of_the_screen(server: JobstateServer, client: Client) -> None:
    for number in range(30):
        client.start(client.create("resting", id=f"job-{number:02}"))
    with at_terminal("--server", server.address, "watch", "--snapshot", columns=80, lines=24) as terminal:
        terminal.until(lambda text: "Running 11 of 30" in text)


def test_at_a_terminal_an_outage_is_shown_among_the_lines(server: JobstateServer, client: Client) -> None:
    client.create("resting", id="first")
    with at_terminal("--server", server.address, "watch", "--from-earliest") as terminal:
        terminal.until(lambda text: "first" in text)
        server.stop()
        terminal.until(lambda text: "resumes when" in text)
        server.start()
        terminal.until(lambda text: "connected to" in text)


def test_a_signal_to_end_puts_the_terminal_back_in_order(server: JobstateServer, client: Client) -> None:
    client.create("resting", id="first")
    with at_terminal("--server", server.address, "watch", "--from-earliest") as terminal:
        terminal.until(lambda text: "first" in text)
        terminal.process.send_signal(signal.SIGTERM)
        code = terminal.end()

    assert code == 128 + signal.SIGTERM
    assert terminal.raw.rfind("\x1b[?25h") > terminal.raw.rfind("\x1b[?25l")
