"""The short forms of the storms of lanes. Their full lengths are run by hand: see ``lane_storms``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ..support.postgres import postgres_server
from .lane_storms import Neighbourhood, limit, neighbour

LANES = 10


@pytest.mark.timeout(300)
async def test_a_lane_with_many_long_jobs_leaves_the_others_their_turns(tmp_path: Path) -> None:
    """N8: a quiet lane waits for at most one hand-out of each other lane; first come first served, for the backlog."""
    given = Neighbourhood(backlog=600, lanes=LANES, per_second=2.0, seconds=2.0, workers=20, long_s=0.5, short_s=0.05)

    fair = await neighbour(tmp_path / "fair.db", given)
    plain = await neighbour(tmp_path / "plain.db", replace(given, in_one_lane=True))

    print(fair, plain, sep="\n")
    assert fair.broken == plain.broken == {}
    assert fair.checked["by_turns"] > 0
    # Of its lane there may be another one before it, which waits for as many.
    assert fair.told["p50 of hand-outs before it"] <= LANES
    assert fair.told["p99 of hand-outs before it"] <= 2 * (LANES + 1)
    assert plain.told["p50 of hand-outs before it"] > LANES


@pytest.mark.timeout(300)
async def test_a_limit_of_ten_is_never_eleven_and_always_used() -> None:
    """Three servers, and many more workers than places."""
    storm = await limit(postgres_server().new_store(), workers=150, jobs=60, duration_s=3.0)

    print(storm)
    assert storm.broken == {}
    assert storm.told["most that ran at once"] == 10
    # The jobs take so long that a slow machine hands places on in a small part of that.
    assert storm.told["share of the places in use"] >= 0.95
