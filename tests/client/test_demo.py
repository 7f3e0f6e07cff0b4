"""The demo of `make demo` plays its scene on a real server and checks the outcome itself."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from jobstate_client import EventType, Priority
from jobstate_client.demo.checks import check_order, check_takeover
from jobstate_client.demo.workers import Unexpected

from .support import PATIENCE_S

QUEUED, STARTED, CLAIMED = EventType.QUEUED, EventType.STARTED, EventType.CLAIMED
STALE = EventType.STALE_DETECTED


def test_the_demo_ends_as_expected_and_says_so() -> None:
    command = [sys.executable, "-m", "jobstate_client.demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "processing-job" not in done.stdout
    assert "permanently-failed  posts-5" in done.stdout
    assert "STALE: the attempt has not reported for 5 s" in done.stdout
    assert "has taken over video-1" in done.stdout
    assert "As expected: 8 jobs, " in done.stdout
    assert "The urgent job was created last and overtook " in done.stdout


def told(*events: tuple[EventType, str] | tuple[EventType, str, str], killed: str = "") -> Any:
    """What a watch reports: types of events, the ids of their jobs, and who has them.

    The jobs become ready one after the other. One whose id is a priority has that.
    """
    found = []
    for second, (kind, job_id, *worker) in enumerate(events):
        priority = Priority(job_id) if job_id in set(Priority) else Priority.NORMAL
        since = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
        job = SimpleNamespace(id=job_id, priority=priority, waiting_since=since, worker="".join(worker))
        detail = SimpleNamespace(resumed=kind is STARTED and not worker)
        found.append(SimpleNamespace(type=kind, job=job, detail=detail))
    return SimpleNamespace(events=found)


def test_the_urgent_job_has_overtaken_those_that_were_handed_out_after_it() -> None:
    tracker = told((QUEUED, "a"), (QUEUED, "b"), (QUEUED, "URGENT"), (STARTED, "URGENT", "w"), (STARTED, "a", "w"))

    assert check_order(tracker) == 2


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([(QUEUED, "a"), (QUEUED, "b"), (STARTED, "b", "w")], id="who came later went first"),
        pytest.param([(QUEUED, "LOW"), (QUEUED, "a"), (STARTED, "LOW", "w")], id="low before normal"),
        pytest.param([(STARTED, "a"), (QUEUED, "b"), (STARTED, "b", "w")], id="before a retry that waits"),
        pytest.param([(QUEUED, "URGENT"), (STARTED, "URGENT", "w")], id="nobody overtaken"),
    ],
)
def test_a_hand_out_that_is_not_next_is_unexpected(events: list[Any]) -> None:
    with pytest.raises(Unexpected):
        check_order(told(*events))


TAKEN_OVER: list[Any] = [
    (STARTED, "video-1", "first"),
    (STALE, "video-1"),
    (STARTED, "video-1"),
    (CLAIMED, "video-1", "second"),
]


def test_the_job_of_a_killed_worker_was_taken_over() -> None:
    check_takeover(told(*TAKEN_OVER), ["first"])


@pytest.mark.parametrize(
    ("events", "killed"),
    [
        pytest.param(TAKEN_OVER, [], id="nobody was killed"),
        pytest.param(TAKEN_OVER, ["second"], id="another was killed"),
        pytest.param(TAKEN_OVER[:3], ["first"], id="nobody has taken it over"),
        pytest.param([TAKEN_OVER[0], *TAKEN_OVER[2:]], ["first"], id="it was not stale"),
        pytest.param([*TAKEN_OVER[:3], (CLAIMED, "video-1", "first")], ["first"], id="a dead worker has it"),
    ],
)
def test_a_killed_worker_whose_job_nobody_took_over_is_unexpected(events: list[Any], killed: list[str]) -> None:
    with pytest.raises(Unexpected):
        check_takeover(told(*events), killed)
