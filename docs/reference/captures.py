"""Makes docs/captures anew: what the views show of a scene that a real server has played, and no view can change it.

    python docs/reference/captures.py

A test makes them too, and compares: a capture is always what the views draw now.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jobstate_client import Client, Event, EventType, Job, SnapshotStarted, Synced, Unreachable
from jobstate_client.cli.terminal.error_messages import hint, message
from jobstate_client.cli.terminal.job_lines import event_line
from jobstate_client.cli.terminal.live_watch import ECHO_WIDTH, bars
from jobstate_client.cli.terminal.top_screen import Size, frame
from jobstate_client.cli.terminal.watch_printers import LinePrinter
from jobstate_client.core.inspection import Stats
from jobstate_client.testing import JobstateServer, serving
from jobstate_client.views.overview import Overview
from jobstate_client.views.rows import EventRow
from jobstate_client.views.running_jobs import RunningJobs

FOLDER = Path(__file__).resolve().parents[1] / "captures"
SERVER = "127.0.0.1:50051"
NARROW, WIDE = Size(80, 24), Size(200, 50)

ENDS = datetime(2026, 11, 26, 19, 18, 9, 400_000, tzinfo=UTC)
"""When the scene ends: every capture is of this moment, or a little later."""

STEP_S = 0.5
STEPS = 150
SLOTS = 20
"""Attempts that the scene's two workers take on at once."""

IDLE_STEPS = 9
"""At the end, when the workers finish what they have and take on nothing new, so that retries wait for one too."""

PIPED = "episode-24"
"""The job whose history is captured as a pipe gets it. It needs two attempts."""

SAYS = {
    "clean_transcript": ("fetching audio", "aligning speakers", "removing filler words"),
    "extract_insights": ("reading the transcript", "asking the model", "ranking insights"),
    "generate_posts": ("outline", "draft 1", "draft 2"),
    "render_video": ("frame 400", "frame 1100", "muxing audio"),
}

POLICY = {"max_retries": 3, "base_delay": "8s", "max_delay": "1m", "jitter": 0.0, "timeout": "2m"}


@dataclass
class Attempt:
    """An attempt that a worker of the scene has under way."""

    job: Job
    seconds: float
    ends: str
    """How it ends: empty is well."""
    done: float = 0.0


class Scene:
    """Two workers and what they are given to do, in the time of the server."""

    def __init__(self, server: JobstateServer) -> None:
        self._server = server
        self._client: Client = server.client()
        self._random = random.Random(12)
        self._made = 0
        self._attempts: list[Attempt] = []

    def play(self) -> None:
        """All of it."""
        for step in range(STEPS):
            if step % 4:
                self._create()
            if step < STEPS - IDLE_STEPS:
                self._claim()
            self._work()
            self._server.advance(STEP_S)

    def _create(self) -> None:
        job_type = list(SAYS)[self._random.randrange(len(SAYS))]
        # Every third has an id of the caller's own; the others look as those that the server makes.
        tail = f"{self._random.getrandbits(48):012x}"
        made = f"01a209d7-{self._made + 0x3A0:04x}-7c3e-9b51-{tail}"
        job_id = made if self._made % 3 else f"episode-{self._made}"
        source_id = f"podcast-{self._made % 9}/{self._made}"
        priority = "HIGH" if self._made % 11 == 0 else None
        # Some are of no use unless they begin soon.
        within = 2.0 if self._made % 30 == 16 else None
        delay = 20.0 if self._made % 8 == 5 else None
        self._client.create(
            job_type, id=job_id, source_id=source_id, priority=priority, delay=delay, start_within=within
        )
        self._made += 1

    def _claim(self) -> None:
        if len(self._attempts) == SLOTS:
            return
        worker = f"worker-{self._random.randrange(2)}"
        for job in self._client.acquire(list(SAYS), max_jobs=SLOTS - len(self._attempts), worker=worker):
            chance = self._random.random()
            ends = "BAD_FILE" if chance < 0.05 else ("RATE_LIMITED" if chance < 0.3 or job.id == PIPED else "")
            if 0.3 <= chance < 0.45 and job.id != PIPED:
                ends = "RELEASED"
            if job.attempt > 1:
                ends = "RATE_LIMITED" if chance < 0.15 and job.id != PIPED else ""
            self._attempts.append(Attempt(job, self._random.uniform(5.0, 14.0), ends))

    def _work(self) -> None:
        for attempt in list(self._attempts):
            attempt.done += STEP_S
            percent = min(99, int(100 * attempt.done / attempt.seconds))
            if attempt.done >= attempt.seconds * (0.4 if attempt.ends else 1.0):
                self._attempts.remove(attempt)
                self._end(attempt)
            else:
                says = SAYS[attempt.job.job_type]
                self._client.progress(attempt.job, percent, says[min(percent * len(says) // 100, len(says) - 1)])

    def _end(self, attempt: Attempt) -> None:
        match attempt.ends:
            case "":
                self._client.complete(attempt.job, result_count=self._random.randrange(1, 30), tokens=900, cost=0.02)
            case "RELEASED":
                self._client.release(attempt.job, "the model says 429", delay=12.0)
            case "BAD_FILE":
                self._client.fail(attempt.job, attempt.ends, "not a transcript", retryable=False)
            case code:
                self._client.fail(attempt.job, code, "too many calls")


def shifted(value: Any, by: timedelta) -> Any:
    """The value with all its times moved."""
    if isinstance(value, datetime):
        return value + by
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: shifted(getattr(value, field.name), by) for field in fields(value)})
    if isinstance(value, dict):
        return {key: shifted(each, by) for key, each in value.items()}
    return value


def played() -> tuple[list[Event], Stats]:
    """What a watch and GetStats tell of the scene."""
    with serving(job_types=dict.fromkeys(SAYS, POLICY)) as server:
        Scene(server).play()
        by = ENDS - server.now
        client = server.client()
        events = [shifted(event, by) for event in client.watch(start="earliest", follow=False)]
        return events, shifted(client.stats(), by)


def top(events: list[Event], stats: Stats) -> Overview:
    """What top knows in the end."""
    overview = Overview(SERVER)
    overview.update(SnapshotStarted(), ENDS)
    for event in events:
        overview.update(event, event.time)
    overview.update(Synced(""), ENDS)
    overview.connected()
    overview.set_counts(stats, ENDS)
    return overview


def picture(overview: Overview, size: Size, now: datetime) -> str:
    """The screen of top."""
    return text(line.plain for line in frame(overview, size, now))


def watch(events: list[Event], size: Size) -> str:
    """The screen of a watch at a terminal: the events that have not scrolled away, and the bars."""
    running = RunningJobs()
    for event in events:
        running.update(event.job)
    below = bars(running, size.width - ECHO_WIDTH, size.height, ENDS)
    rows = [EventRow.of(event) for event in events if event.type is not EventType.PROGRESS]
    above = [event_line(row, size.width) for row in rows[len(below) - size.height :]]
    return text(line.plain for line in [*above, *below])


def piped(events: list[Event]) -> str:
    """What a pipe gets of one job."""
    out, lines = io.StringIO(), LinePrinter()
    with redirect_stdout(out):
        for event in events:
            if event.job.id == PIPED:
                lines.event(event, "")
    told = out.getvalue().splitlines()[-12:]
    return text([f"$ jobstate watch {PIPED} --from-earliest --no-follow | tail -n 12", *told])


def text(lines: Any) -> str:
    """The lines as a file has them."""
    return "".join(line.rstrip() + "\n" for line in lines)


def captures() -> Iterator[tuple[str, str]]:
    """The name and content of every file."""
    events, stats = played()
    overview = top(events, stats)
    yield "top-80x24.txt", picture(overview, NARROW, ENDS)
    yield "top-200x50.txt", picture(overview, WIDE, ENDS)
    yield "watch-80x24.txt", watch(events, NARROW)
    yield "watch-200x50.txt", watch(events, WIDE)
    yield "watch-piped.txt", piped(events)
    gone = Unreachable("UNAVAILABLE: failed to connect to all addresses; last error: Connection refused")
    overview.connection_lost(f"{message(gone, SERVER)}. {hint(gone)}", ENDS)
    yield "top-away-80x24.txt", picture(overview, NARROW, ENDS + timedelta(seconds=5))


def main() -> None:
    """Write them."""
    for name, content in captures():
        (FOLDER / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
