"""A store that goes away is told to callers, costs no answer, and is found again without help."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..support.postgres import own_server
from . import store_outage
from .torture import Scene
from .validators import broken

OUTAGE_S = 3.0

ENDINGS = {("UNAVAILABLE", "STORE_UNAVAILABLE"), ("DEADLINE_EXCEEDED", "")}


@pytest.mark.timeout(400)
async def test_a_postgresql_that_is_stopped_under_load_costs_no_answer_and_is_found_again(tmp_path: Path) -> None:
    """Meanwhile health says NOT_SERVING, and callers are told when to come back or wait as long as they said."""
    with own_server() as postgres:
        scene = Scene.of_replicas(tmp_path, postgres, store_outage.REPLICAS)
        outage = await store_outage.run(scene, OUTAGE_S)

    print(outage.told)
    assert outage.endings["UNAVAILABLE", "STORE_UNAVAILABLE"] > 0
    assert set(outage.endings) <= ENDINGS
    assert outage.without_delay == []
    assert min(outage.answered["before"], outage.answered["after"]) >= store_outage.CALLERS * store_outage.ANSWERS
    assert broken(outage.history) == {}
    assert [line for server in scene.servers for line in server.complaints] == []
