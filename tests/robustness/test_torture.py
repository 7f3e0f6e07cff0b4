"""The short forms of ``make torture``: one round each, every promise."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from ..support.postgres import own_server
from .database import VICTIMS
from .nemesis import TIMELY
from .torture import Scene, Tally, judge, torment

KILLS = 6
DURATION_S = 8.0

WORKED = (
    "jobs handed out",
    "hand-outs in streams",
    "acquires repeated",
    "callers gone",
    "workers died",
    "workers woken",
    "release limits met",
    "lanes held",
    "pauses",
    "graphs and groups",
    "groups grown",
    "jobs recreated by themselves",
    "RecreateMany done",
    "erasures answered",
    "answers lost in silence",
    "answers lost with the connection",
)
"""What workers, operators and the proxy do in every round."""

UNDER_WAY = ("poisoned updates answered", "calls repeated long after", *WORKED)

REPLICAS = 3
REPLICAS_DURATION_S = 5.0
"""At least. Replicas get every disturbance once, however long that takes."""

DISTURBANCES = (
    "kills",
    "kill several",
    "stops",
    "freezes",
    "pause beyond the lease",
    "kill PostgreSQL",
    "stop PostgreSQL",
    "crash PostgreSQL",
    *(f"cut {victims}" for victims in VICTIMS),
    "connections cut",
    "clean up",
    "clock moves",
    "restart under another clock",
    "freeze beyond limits",
    "take the workers away",
    "end a part",
    "break a part",
    "kill before the answer",
    "change the configuration",
    "freeze in its turn",
    "hold a snapshot",
    *WORKED,
    "poisoned updates answered",
    "calls repeated long after",
    "look for the stale",
    "retry the failed",
)


@pytest.mark.timeout(400)
async def test_every_promise_holds_through_kills_stops_freezes_compactions_and_clock_moves(tmp_path: Path) -> None:
    history, counts = await torment(Scene.of_one(tmp_path), secrets.token_hex(4), DURATION_S, KILLS, UNDER_WAY)
    verdicts, told = judge(history, tmp_path)
    tally = Tally()
    tally.add(history, verdicts, counts)

    print(tally.told())
    assert not told, told
    assert counts["kills"] >= KILLS
    assert all(counts[name] for name in ("clock moves", *TIMELY[1:], *UNDER_WAY))
    # Whether a job ends while somebody waits for just that is chance; the others have plenty to look at.
    assert {name for name, verdict in verdicts.items() if not verdict.checked} <= {"until_final"}


@pytest.mark.timeout(400)
async def test_every_promise_holds_for_replicas_while_they_and_postgresql_fall(tmp_path: Path) -> None:
    with own_server() as postgres:
        scene = Scene.of_replicas(tmp_path, postgres, REPLICAS)
        history, counts = await torment(scene, "every disturbance once", REPLICAS_DURATION_S, meets=UNDER_WAY)
    verdicts, told = judge(history, tmp_path)
    tally = Tally()
    tally.add(history, verdicts, counts)

    print(tally.told())
    assert not told, told
    assert [name for name in DISTURBANCES if not counts[name]] == []
    assert counts["resumes elsewhere"] > 0
    assert counts["moves of clients"] > 0
    assert {name for name, verdict in verdicts.items() if not verdict.checked} <= {"until_final"}
