"""The short forms of the storms of dispatch. Their full lengths are run by hand: see ``dispatch_storms``."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..support.postgres import postgres_server
from . import dispatch_storms as storms

STATEMENTS_MAX = 3.0
"""For each job of a crowd's burst, from its creation to its worker."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_delays_that_end_in_one_microsecond_end_in_order_while_others_are_answered(
    tmp_path: Path, store: str
) -> None:
    """N6."""
    url = postgres_server().new_store() if store == "postgres" else ""
    (server,) = storms.servers_on(url, tmp_path, 1)

    storm = await storms.delays_end_at_once(server, 2_000, lead_s=20.0)

    print(storm)
    assert storm.broken == {}
    assert storm.told["calls during"] > 0


@pytest.mark.timeout(300)
async def test_a_crowd_that_waits_at_three_servers_is_no_herd() -> None:
    """N7."""
    storm = await storms.crowd(postgres_server().new_store(), workers=60, singles=6, burst=600)

    print(storm)
    assert storm.broken == {}
    assert storm.told["statements for each job of the burst"] <= STATEMENTS_MAX


@pytest.mark.timeout(300)
async def test_hand_outs_keep_their_order_while_a_snapshot_is_held() -> None:
    """N10."""
    storm = await storms.snapshot_is_held(postgres_server().new_store(), seconds=3.0)

    print(storm)
    assert storm.broken == {}


@pytest.mark.timeout(300)
async def test_a_server_that_is_frozen_in_its_turn_holds_others_up_for_some_seconds_only(tmp_path: Path) -> None:
    """N2: until PostgreSQL ends its transaction, and not until it is thawed."""
    sleeping, awake = storms.servers_on(postgres_server().new_store(), tmp_path, 2)

    storm = await storms.frozen_in_its_turn(sleeping, awake, freeze_s=9.0)

    print(storm)
    assert storm.broken == {}
    assert storm.told["hand-outs of the other meanwhile"] > 1
