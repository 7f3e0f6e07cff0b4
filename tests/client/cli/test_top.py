"""``jobstate top`` on a real terminal, with a real server."""

from __future__ import annotations

import signal
import termios

import pytest

from jobstate_client import Client, NewJob
from jobstate_client.testing import JobstateServer, serving

from .support import at_terminal, run, run_alone


def test_top_shows_what_is_there_and_what_happens_and_q_leaves(server: JobstateServer, client: Client) -> None:
    client.progress(client.start(client.create("clean_transcript", id="first")), 40, "half way")
    with at_terminal("--server", server.address, "top") as terminal:
        before = terminal.settings()
        terminal.until(lambda text: "live" in text and "half way" in text and "40%" in text)
        client.create("clean_transcript", id="second")
        terminal.until(lambda text: "queued" in text and "second" in text)
        terminal.press("q")
        code = terminal.end()
        after = terminal.settings()

    assert code == 0
    assert terminal.raw.rstrip().endswith("\x1b[?1049l\x1b[?25h") or "\x1b[?1049l" in terminal.raw
    assert after[3] & (termios.ICANON | termios.ECHO) == before[3] & (termios.ICANON | termios.ECHO) != 0
    assert "Traceback" not in terminal.text


def test_top_shows_a_group_with_its_progress_and_what_became_of_its_members(
    server: JobstateServer, client: Client
) -> None:
    with client.group("import_day", id="day", tolerated_failures=1) as day:
        day.create_many(NewJob("fetch", id=f"fetch-{number}") for number in range(4))
    client.complete(client.start("fetch-0"))
    client.cancel("fetch-1")
    with at_terminal("--server", server.address, "top", columns=120) as terminal:
        terminal.until(lambda text: "1 completed, 1 cancelled of 4" in text)
        client.complete(client.start("fetch-2"))
        server.advance(1)
        terminal.until(lambda text: "2 completed, 1 cancelled of 4" in text and "75%" in text)


def test_no_other_key_leaves_top(server: JobstateServer, client: Client) -> None:
    with at_terminal("--server", server.address, "top") as terminal:
        terminal.until(lambda text: "live" in text)
        terminal.press("x\x1b[A \n")
        client.create("resting", id="after")
        terminal.until(lambda text: "after" in text)
        terminal.press("Q")

        assert terminal.end() == 0


def test_top_never_shows_raw_what_a_job_says(server: JobstateServer, client: Client) -> None:
    client.progress(client.start(client.create("resting", id="first")), 40, "\x1b]0;owned\x07[blink]")
    with at_terminal("--server", server.address, "top", columns=200) as terminal:
        terminal.until(lambda text: r"\x1b]0;owned\x07[blink]" in text)

        assert "\x1b]0;owned" not in terminal.raw


def test_ctrl_c_leaves_top_in_order(server: JobstateServer) -> None:
    with at_terminal("--server", server.address, "top") as terminal:
        terminal.until(lambda text: "live" in text)
        terminal.process.send_signal(signal.SIGINT)
        code = terminal.end()

    assert code == 130
    assert "\x1b[?1049l" in terminal.raw
    assert "Traceback" not in terminal.text


def test_a_signal_to_end_leaves_top_in_order(server: JobstateServer) -> None:
    with at_terminal("--server", server.address, "top") as terminal:
        terminal.until(lambda text: "live" in text)
        terminal.process.send_signal(signal.SIGTERM)
        code = terminal.end()

    assert code == 128 + signal.SIGTERM
    assert "\x1b[?1049l" in terminal.raw


def test_top_follows_the_size_of_the_terminal(server: JobstateServer) -> None:
    with at_terminal("--server", server.address, "top") as terminal:
        terminal.until(lambda text: "live" in text)
        assert "Job types" not in terminal.text
        terminal.resize(200, 50)
        terminal.until(lambda text: "Job types" in text)


def test_top_shows_an_outage_and_resumes_when_the_server_is_back(server: JobstateServer, client: Client) -> None:
    with at_terminal("--server", server.address, "top", columns=120) as terminal:
        terminal.until(lambda text: "live" in text)
        server.stop()
        terminal.until(lambda text: "reconnecting since" in text)
        server.start()
        terminal.mark()
        client.create("resting", id="first")
        terminal.until(lambda text: "queued" in text and "first" in text and "live" in text)


def test_top_lists_the_jobs_again_when_its_cursor_is_no_longer_valid(server: JobstateServer, client: Client) -> None:
    client.start(client.create("resting", id="old-one"))
    with at_terminal("--server", server.address, "top", columns=120) as terminal:
        terminal.until(lambda text: "old-one" in text)
        server.stop()
        with serving(listen=server.address) as other:
            other.client().start(other.client().create("resting", id="new-one"))
            terminal.until(lambda text: "new-one" in text)
            terminal.mark()
            text = terminal.until(lambda text: text.count("new-one") > 2)

    assert "old-one" not in text[text.index("new-one") :].partition("Events")[0]


def test_a_server_that_is_not_there_is_reported_and_not_waited_for_for_ever() -> None:
    with at_terminal("--server", "127.0.0.1:1", "--timeout", "1s", "top") as terminal:
        code = terminal.end()

    assert code == 3
    assert "no server answers at 127.0.0.1:1" in terminal.text


def test_without_a_terminal_top_says_what_to_take_instead(server: JobstateServer) -> None:
    result = run_alone("--server", server.address, "top")

    assert result.code == 2
    assert "jobstate watch" in result.err


def test_top_is_not_for_programs(server: JobstateServer) -> None:
    result = run(server, "top", "--json")

    assert result.code == 2
    assert "jobstate watch --snapshot --json" in result.err


def test_top_says_why_it_shows_nothing_and_q_leaves_with_that_reason() -> None:
    with at_terminal("--server", "127.0.0.1:1", "top") as terminal:
        terminal.until(lambda text: "connecting since" in text and "no server answers at 127.0.0.1:1" in text)
        terminal.mark()
        terminal.press("q")
        code = terminal.end()

    assert code == 3
    assert "no server answers at 127.0.0.1:1" in terminal.text


@pytest.mark.parametrize("command", [["top"], ["watch"]])
def test_what_trying_again_does_not_mend_ends_a_view_at_once(command: list[str], server: JobstateServer) -> None:
    with at_terminal("--server", server.address, "--tls", *command) as terminal:
        code = terminal.end()

    assert code == 2
    assert "does not speak TLS" in terminal.text


def test_top_tells_what_is_paused_and_what_waits_for_a_limit_and_when_that_is_over() -> None:
    limits = {"one": {"concurrency": 1}, "each": {"lane_concurrency": 1}}
    with serving(job_types=limits, manual_time=False) as server:
        client = server.client()
        for job_type in ("one", "each", "paused"):
            client.create_many(NewJob(job_type, lane="a") for _ in range(2))
        for job_type in ("one", "each"):
            client.acquire([job_type])
        client.create("each", lane="b")
        client.pause("each", lane="b", reason="invoice")
        client.pause("paused", reason="the disk is full")
        with at_terminal("--server", server.address, "top", columns=120) as terminal:
            terminal.until(lambda text: "held back each 1 lane paused, 1 lane full; paused paused: the disk" in text)
            assert "one 1 of 1 running" in terminal.text
            terminal.mark()
            client.unpause("paused")
            terminal.until(lambda text: "held back each 1 lane paused, 1 lane full; one 1 of 1 running" in text)
            terminal.press("q")

            assert terminal.end() == 0
