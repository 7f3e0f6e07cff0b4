"""The screen of ``top`` and its model: exact lines, bounded memory, correct in the end."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from jobstate_client import Client, Event, EventType, Job, JobError, SnapshotJob, SnapshotStarted, State, Synced
from jobstate_client.cli.terminal.live_watch import LivePrinter, bars
from jobstate_client.cli.terminal.top_screen import Size, frame
from jobstate_client.core.inspection import JobType, Lane, Rate, Stats, TypeStats, TypeStatus
from jobstate_client.core.states import WaitReason
from jobstate_client.core.values import Detail
from jobstate_client.testing import JobstateServer
from jobstate_client.views.held import LANES_MAX, held_text
from jobstate_client.views.job_list import JOBS_KEPT_MAX
from jobstate_client.views.overview import COUNTS_OLD_AFTER, EVENTS_KEPT_MAX, JOB_TYPES_KEPT_MAX, Overview
from jobstate_client.views.rows import NOTE_CHARACTERS_MAX
from jobstate_client.views.running_jobs import RUNNING_JOBS_MAX, RunningJobs

from .support import run

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
SIZES = [(80, 24), (100, 30), (149, 40), (150, 40), (200, 50)]


def a_job(job_id: str, state: State = State.PROCESSING, **fields: Any) -> Job:
    """A job that began half a minute ago."""
    values: dict[str, Any] = dict.fromkeys(Job.__slots__)
    values |= {"id": job_id, "job_type": "clean_transcript", "source_id": "", "state": state, "progress": 40}
    values |= {"progress_message": "half way", "attempt": 1, "version": 1, "worker": "me", "claimed": True}
    values |= {"retry_count": 0, "max_retries": 3, "duration": timedelta(), "cancel_reason": "", "metadata": {}}
    values |= {
        "estimated_tokens": 0,
        "estimated_cost": 0.0,
        "result_count": 0,
        "start_time": NOW - timedelta(seconds=30),
        "claim_time": NOW - timedelta(seconds=30),
    }
    values |= {"update_time": NOW, "create_time": NOW - timedelta(minutes=1)}
    return Job(**(values | fields))


def an_event(job: Job, type_: EventType = EventType.STARTED, sequence: int = 1, **detail: Any) -> Event:
    name = f"processing-job.{type_.value.lower().replace('_', '-')}"
    return Event(sequence, type_, name, NOW, "", None, job, Detail(**detail), False, False, False)


def some_stats(*names: str, **stored: int) -> Stats:
    counts = {State[name]: number for name, number in stored.items()}
    base = TypeStats("", counts, None, 1, 0, 0, 0.5, None, None, None, None, None, None, None, None, 0, 0, 0.0)
    return Stats({name: replace(base, job_type=name) for name in names}, base)


def texts(overview: Overview, width: int, height: int, now: datetime = NOW) -> list[str]:
    return [line.plain for line in frame(overview, Size(width, height), now)]


@pytest.fixture
def overview() -> Overview:
    """A board with something everywhere."""
    overview = Overview("127.0.0.1:50051")
    overview.update(SnapshotStarted(), NOW)
    for number in range(40):
        overview.update(SnapshotJob(a_job(f"running-{number:02}", version=number + 1)), NOW)
    error = JobError("RATE_LIMITED", "slow down", True, None, 1, NOW)
    due = NOW + timedelta(seconds=12)
    overview.update(
        SnapshotJob(a_job("waiting", State.RETRYING, next_retry_time=due, retry_count=1, last_error=error)), NOW
    )
    overview.update(Synced("cursor"), NOW)
    for number in range(60):
        overview.update(an_event(a_job(f"done-{number:02}", State.COMPLETED, version=99), EventType.COMPLETED), NOW)
    overview.set_counts(some_stats("clean_transcript", "resting", PROCESSING=40, RETRYING=1, COMPLETED=1_234_567), NOW)
    return overview


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_picture_fills_the_screen_and_no_more(overview: Overview, width: int, height: int) -> None:
    lines = texts(overview, width, height)

    assert len(lines) == height
    assert max(map(cell_len, lines)) <= width


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 250), st.integers(1, 80), st.text(max_size=40))
def test_no_size_and_no_text_breaks_the_picture(width: int, height: int, text: str) -> None:
    overview = Overview(text)
    overview.update(SnapshotJob(a_job(text, progress_message=text, job_type=text)), NOW)
    overview.update(an_event(a_job("x", State.CANCELLED), EventType.CANCELLED, reason=text), NOW)
    overview.connection_lost(text, NOW)
    overview.set_counts(some_stats(text or "x", QUEUED=10**12), NOW)
    lines = texts(overview, width, height)

    assert len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_everything_asked_for_is_on_every_screen(overview: Overview, width: int, height: int) -> None:
    shown = "\n".join(texts(overview, width, height))

    for part in (
        "live, 6.0 events/s",
        "12:00:00Z  q quits",
        "PERMANENTLY_FAILED",
        "1,234,567",
        "running-00",
        "40%",
        "━",
        "30s",
    ):
        assert part in shown, part
    for part in (
        "Running ",
        " of 40",
        "Next attempts 1",
        "waiting",
        "in 12s",
        "retry 1 of 3",
        "RATE_LIMITED",
        "done-59",
    ):
        assert part in shown, part


def test_a_wide_screen_shows_job_types_too(overview: Overview) -> None:
    shown = texts(overview, 200, 50)

    assert any("Job types 2" in line for line in shown)
    assert any("resting" in line and "50.0%" in line for line in shown)


def some_work() -> Stats:
    """The statistics of a server that hands out jobs."""
    stats = some_stats("clean_transcript", QUEUED=12, PROCESSING=40, RETRYING=3, COMPLETED=9)
    total = replace(
        stats.total,
        waiting={WaitReason.TURN: 9, WaitReason.TIME: 8},
        oldest_ready_time=NOW - timedelta(minutes=3),
        running=38,
        released=4,
        expired=2,
    )
    return Stats({"clean_transcript": replace(total, job_type="clean_transcript")}, total)


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "waiting for a worker 9, oldest 3m  delayed 5  expired 2  released 4  running 38"),
        (60, "waiting for a worker 9, oldest 3m  delayed 5  expired 2"),
        (40, "waiting for a worker 9, oldest 3m"),
        (20, "waiting for a worker"),
    ],
)
def test_what_waits_is_told_apart_from_what_is_delayed(overview: Overview, width: int, line: str) -> None:
    overview.set_counts(some_work(), NOW)

    assert texts(overview, width, 24)[3].rstrip() == line


def test_jobs_that_wait_for_others_are_counted_if_there_are_any(overview: Overview) -> None:
    total = some_work().total
    overview.set_counts(Stats({}, replace(total, waiting={**total.waiting, WaitReason.NEEDS: 7})), NOW)

    line = "waiting for a worker 9, oldest 3m  delayed 5  waiting for needs 7  expired 2"
    assert texts(overview, 80, 24)[3].rstrip() == line


def test_job_types_tell_how_many_of_their_jobs_are_delayed(overview: Overview) -> None:
    overview.set_counts(some_work(), NOW)
    head, row = next((head, row) for head, row in pairwise(texts(overview, 200, 50)) if "DELAYED" in head)

    assert "QUEUED  DELAYED" in head
    assert "12        5         40" in row


def test_a_server_that_does_not_say_what_waits_shows_no_such_line(overview: Overview) -> None:
    overview.set_counts(some_stats("clean_transcript", QUEUED=3), NOW)
    assert texts(overview, 80, 24)[3].startswith("Running ")

    overview.set_counts(some_stats("clean_transcript", PROCESSING=3), NOW)
    assert texts(overview, 80, 24)[3].startswith("Running ")


def a_policy(**limits: Any) -> JobType:
    zero = timedelta()
    return JobType("work", 3, None, zero, zero, 0.0, zero, True, **limits)


def a_lane(ready: int = 1, running: int = 0, held_until: datetime | None = None, *, paused: bool = False) -> Lane:
    return Lane("a", ready, running, None, held_until, paused, None)


OPEN = TypeStatus(False, "", None)


@pytest.mark.parametrize(
    ("limits", "running", "status", "lanes", "text"),
    [
        ({}, 9, OPEN, [a_lane()], ""),
        ({"concurrency": 40}, 39, OPEN, [], ""),
        ({"concurrency": 40}, 41, OPEN, [], "41 of 40 running"),
        ({}, 0, TypeStatus(True, "invoice", None), [a_lane(paused=True)], "paused: invoice"),
        ({}, 0, TypeStatus(True, "", None), [], "paused"),
        ({"rate": Rate(600, timedelta(minutes=1), 20)}, 0, TypeStatus(False, "", NOW), [], "at its rate of 600/1m"),
        ({"lane_concurrency": 2}, 4, OPEN, [a_lane(), a_lane(5, 2), a_lane(0, 2)], "1 lane full"),
        (
            {},
            0,
            OPEN,
            [a_lane(paused=True), a_lane(0, paused=True), a_lane(held_until=NOW)],
            "1 lane paused, 1 lane held",
        ),
        ({}, 0, OPEN, [a_lane(paused=True)] * (LANES_MAX + 1), f"at least {LANES_MAX} lanes paused"),
    ],
)
def test_what_holds_back_the_jobs_of_a_type_is_told_in_words(
    limits: dict[str, Any], running: int, status: TypeStatus, lanes: list[Lane], text: str
) -> None:
    assert held_text(a_policy(**limits), running, status, lanes) == text


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_what_is_held_back_has_a_line_while_there_is_any(overview: Overview, width: int, height: int) -> None:
    overview.set_counts(some_work(), NOW)
    assert not any("held back" in line for line in texts(overview, width, height))
    overview.set_held({"render": "paused: \x1b[2J" + "x" * 500, "other": "1 lane full"})
    shown = texts(overview, width, height)

    assert shown[4].startswith("held back render paused: \\x1b[2Jxxx")
    assert len(shown) == height
    assert max(map(cell_len, shown)) <= width
    overview.set_held({})
    assert not any("held back" in line for line in texts(overview, width, height))


def test_a_released_job_is_no_retry_and_keeps_no_error_of_an_earlier_attempt() -> None:
    overview = Overview("here")
    error = JobError("RATE_LIMITED", "slow down", True, None, 1, NOW)
    later = NOW + timedelta(seconds=12)
    for job in (
        a_job("given back twice", claimed=False, claim_time=None, attempt=3),
        a_job("failed, then given back", State.RETRYING, attempt=2, retry_count=1, last_error=error),
        a_job(
            "given back, then failed", State.RETRYING, attempt=2, retry_count=1, last_error=replace(error, attempt=2)
        ),
        a_job("failed", claimed=False, claim_time=None, attempt=2, retry_count=1, last_error=error),
    ):
        overview.update(SnapshotJob(replace(job, next_retry_time=later)), NOW)
    shown = {row.id: (row.next_attempt, row.retry_note(NOW)) for row in overview.retrying.all()}

    assert shown == {
        "given back twice": ("given back", "waits 30s for a worker"),
        "failed, then given back": ("given back", ""),
        "given back, then failed": ("retry 1 of 3", "RATE_LIMITED"),
        "failed": ("retry 1 of 3", "waits 30s for a worker, RATE_LIMITED"),
    }


def test_markup_in_texts_is_shown_as_it_is(overview: Overview) -> None:
    overview.update(an_event(a_job("m", progress_message="[bold red]x[/]", version=5), EventType.PROGRESS), NOW)

    assert "[bold red]x[/]" in "\n".join(texts(overview, 200, 50))


def test_an_outage_is_shown_with_its_beginning_and_its_reason(overview: Overview) -> None:
    overview.connection_lost("UNAVAILABLE", NOW)
    overview.connection_lost("DEADLINE", NOW + timedelta(seconds=70))
    later = NOW + timedelta(minutes=2)

    assert "connecting since 12:00:00Z (2m)" in texts(overview, 80, 24, later)[0]
    overview.connected()
    overview.connection_lost("DEADLINE", NOW)
    assert "reconnecting since 12:00:00Z (2m)" in texts(overview, 120, 30, later)[0]
    assert "reconnecting since 12:00:00Z" in texts(overview, 80, 24, later)[0]
    assert texts(overview, 80, 24, later)[1].rstrip() == "DEADLINE"
    overview.connected()
    assert "live" in texts(overview, 80, 24, later)[0]


def test_before_the_snapshot_is_complete_it_says_so() -> None:
    overview = Overview("127.0.0.1:50051")

    assert "reading the jobs …" in texts(overview, 80, 24)[0]
    assert texts(overview, 80, 24)[2].split() == ["–"] * 7


def test_old_counts_are_dimmed(overview: Overview) -> None:
    fresh = frame(overview, Size(80, 24), NOW)[2]
    old = frame(overview, Size(80, 24), NOW + COUNTS_OLD_AFTER * 2)[2]

    assert {str(span.style) for span in old.spans} == {"dim"}
    assert {str(span.style) for span in fresh.spans} > {"dim"}


def test_memory_is_bounded_whatever_comes(overview: Overview) -> None:
    for number in range(JOBS_KEPT_MAX + 50):
        overview.update(SnapshotJob(a_job(f"many-{number}", progress_message="x" * 4_096)), NOW)
        later = NOW + timedelta(seconds=number)
        overview.update(SnapshotJob(a_job(f"later-{number}", State.RETRYING, next_retry_time=later)), NOW)
        overview.update(an_event(a_job(f"gone-{number}", State.CANCELLED), EventType.CANCELLED), NOW)
    overview.set_counts(some_stats(*(f"type-{number}" for number in range(1_000)), PROCESSING=5_000), NOW)

    assert len(overview.running.all()) == len(overview.retrying.all()) == JOBS_KEPT_MAX
    assert len(overview.events) == EVENTS_KEPT_MAX
    assert len(overview.job_types) == JOB_TYPES_KEPT_MAX
    assert max(len(job.message) for job in overview.running.all()) == NOTE_CHARACTERS_MAX
    assert overview.retrying.all()[0].id == "waiting" or overview.retrying.all()[0].id == "later-0"
    assert any("Running 8 of 5,000" in line for line in texts(overview, 80, 24))


def test_the_longest_at_work_comes_first_and_an_attempt_without_a_worker_is_not_running() -> None:
    overview = Overview("here")
    for job_id, age, claimed in (("b", 5, True), ("a", 50, False), ("c", 20, True)):
        since = NOW - timedelta(seconds=age)
        job = a_job(job_id, start_time=since, claim_time=since if claimed else None, claimed=claimed)
        overview.update(SnapshotJob(job), NOW)

    shown = "\n".join(texts(overview, 120, 24))

    assert [job.id for job in overview.running.all()] == ["c", "b"]
    assert "Running 2 ─" in shown
    assert "Next attempts 1, 1 waiting for a worker ─" in shown
    assert "waits 50s for a worker" in shown


def test_an_older_copy_never_replaces_a_newer_one() -> None:
    overview = Overview("here")
    overview.update(SnapshotJob(a_job("first", version=5, progress=60)), NOW)
    overview.update(an_event(a_job("first", version=3, progress=20), EventType.PROGRESS), NOW)
    overview.update(an_event(a_job("first", State.RETRYING, version=4), EventType.RETRYING, delay=timedelta()), NOW)

    assert [(job.id, job.progress) for job in overview.running.all()] == [("first", 60)]
    assert overview.retrying.all() == []


def test_a_job_moves_with_its_state_and_leaves_with_its_end() -> None:
    overview = Overview("here")
    overview.update(an_event(a_job("first", version=1)), NOW)
    overview.update(an_event(a_job("first", State.RETRYING, version=2), EventType.RETRYING, delay=timedelta()), NOW)
    assert (overview.running.all(), [job.id for job in overview.retrying.all()]) == ([], ["first"])
    overview.update(an_event(a_job("first", State.COMPLETED, version=3), EventType.COMPLETED), NOW)
    assert (overview.running.all(), overview.retrying.all()) == ([], [])


def test_a_new_snapshot_forgets_what_was_held(overview: Overview) -> None:
    overview.update(SnapshotStarted(), NOW)

    assert (overview.running.all(), overview.retrying.all(), overview.is_live) == ([], [], False)


def test_the_rate_falls_when_nothing_comes(overview: Overview) -> None:
    assert overview.event_rate(NOW) == 6.0
    assert overview.event_rate(NOW + timedelta(seconds=30)) == 0.0


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"claimed": False, "claim_time": None, "attempt": 2}, "due     given back     waits 30s for a worker"),
        ({"attempt": 3}, "attempt 3, half way"),
        ({"attempt_deadline": NOW + timedelta(seconds=4)}, "times out in 4s, half way"),
        ({"update_time": NOW - timedelta(minutes=3)}, "unchanged for 3m, half way"),
    ],
)
def test_what_matters_of_a_job_in_progress_is_noted(fields: dict[str, Any], note: str) -> None:
    overview = Overview("here")
    overview.update(SnapshotJob(a_job("first", **fields)), NOW)

    assert note in "\n".join(texts(overview, 119, 24))


def test_bars_are_bounded_and_give_way_to_the_events() -> None:
    running = RunningJobs()
    for number in range(RUNNING_JOBS_MAX + 10):
        running.update(a_job(f"job-{number}"))
    lines = bars(running, 80, 24, NOW)

    assert len(lines) == 12
    assert lines[0].plain.startswith(f"Running 11 of {RUNNING_JOBS_MAX:,} ─")
    assert "job-10 " in lines[1].plain
    running.clear()
    assert bars(running, 80, 24, NOW) == []


def test_bars_leave_room_for_the_echo_of_ctrl_c() -> None:
    console = Console(width=80, height=24, force_terminal=True)
    live = LivePrinter(console, follow=True)
    live.event(an_event(a_job("first", progress_message="x" * 200), EventType.PROGRESS), "")
    lines = console.render_lines(live, pad=False)

    assert len(lines) == 2
    assert {sum(segment.cell_length for segment in line) for line in lines} == {78}


def test_the_counts_of_a_real_server_are_shown(server: JobstateServer, client: Client) -> None:
    client.create("resting")
    overview = Overview(server.address)
    overview.set_counts(client.stats(), NOW)

    assert texts(overview, 80, 24)[2].split()[0] == "1"


def test_a_state_in_capitals_counts_the_same_jobs_wherever_it_stands(server: JobstateServer, client: Client) -> None:
    client.fail(client.start(client.create("resting", id="rests")), "X")
    client.fail(client.start(client.create("resting", id="over")), "X", retryable=False)
    overview = Overview(server.address)
    overview.set_counts(client.stats(), NOW)
    lines = texts(overview, 200, 50)
    header = dict(zip(lines[1].split(), lines[2].split(), strict=True))
    head, row = (next(line for line in lines if word in line) for word in ("WAIT P95", "resting"))
    names = head.replace("WAIT P95", "WAIT").split()
    table = dict(zip(names, row.split()[1:], strict=False))

    assert (header["FAILED"], header["PERMANENTLY_FAILED"]) == ("1", "1")
    assert (table["FAILED"], table["PERMANENTLY_FAILED"]) == ("1", "1")


def test_a_line_of_a_watch_never_stands_above_the_bar_that_it_ended() -> None:
    screen = StringIO()
    console = Console(
        width=80, height=24, file=screen, force_terminal=True, color_system=None, _environ={"TERM": "xterm"}
    )
    live = LivePrinter(console, follow=True)
    live.event(an_event(a_job("first", version=1), EventType.PROGRESS), "")
    with live:
        live._live.refresh()
        assert "Running 1" in screen.getvalue()
        live.event(an_event(a_job("first", State.COMPLETED, version=2), EventType.COMPLETED, sequence=2), "")
        after = screen.getvalue().rpartition("completed")[2]

    assert "Running" not in after


def test_the_message_and_error_of_a_job_that_has_ended_are_shown_as_the_last_ones(
    server: JobstateServer, client: Client
) -> None:
    job = client.start(client.create("clean_transcript", id="first"), worker="me")
    client.progress(job, 40, "cleaning part 4")
    running = run(server, "get", "first").out
    client.fail(job, "RATE_LIMITED", "too many calls")
    server.advance(60)
    client.complete(client.start("first"), result_count=3)
    over = run(server, "get", "first").out
    listed = run(server, "list").out

    assert re.search(r"^progress +40 %, cleaning part 4$", running, re.MULTILINE)
    assert re.search(r"^progress +100 %$", over, re.MULTILINE)
    assert re.search(r"^last error +of attempt 1, RATE_LIMITED: too many calls$", over, re.MULTILINE)
    assert "note" not in over
    assert "RATE_LIMITED" not in listed
