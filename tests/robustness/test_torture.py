"""The short form of ``make torture``: one round, every promise."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from .torture import Tally, judge, torment

KILLS = 10
DURATION_S = 15.0


@pytest.mark.timeout(180)
async def test_every_promise_holds_through_kills_stops_freezes_compactions_and_clock_moves(tmp_path: Path) -> None:
    history, counts = await torment(tmp_path, secrets.token_hex(4), DURATION_S, KILLS)
    verdicts, told = judge(history, tmp_path)
    tally = Tally()
    tally.add(history, verdicts, counts)

    print(tally.told())
    assert not told, told
    assert counts["kills"] >= KILLS
    # Whether a job ends while somebody waits for just that is chance; the others have plenty to look at.
    assert {name for name, verdict in verdicts.items() if not verdict.checked} <= {"until_final"}
