"""A frozen server fails nobody who reported to it; one that others stood in for decides nothing any more."""

from __future__ import annotations

from pathlib import Path

from ..support.postgres import postgres_server
from .freezing import OK, all_frozen, one_frozen

ATTEMPTS = 40
TIMEOUT_S = 3.0
FREEZE_S = 5.0


async def test_every_report_that_waited_in_a_frozen_server_is_accepted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"

    assert await all_frozen(tmp_path, url, 1, ATTEMPTS, TIMEOUT_S, FREEZE_S) == {OK: ATTEMPTS}


async def test_every_report_that_waited_in_replicas_that_were_all_frozen_is_accepted(tmp_path: Path) -> None:
    url = postgres_server().new_store()

    assert await all_frozen(tmp_path, url, 2, ATTEMPTS, TIMEOUT_S, FREEZE_S) == {OK: ATTEMPTS}


async def test_a_replica_keeps_all_limits_while_another_is_frozen_whose_reports_are_refused(tmp_path: Path) -> None:
    outcomes, late = await one_frozen(tmp_path, postgres_server().new_store(), ATTEMPTS, TIMEOUT_S)

    assert outcomes == {"ATTEMPT_SUPERSEDED": ATTEMPTS}
    # PostgreSQL may have to end what the frozen one had in hand, which it does within five seconds.
    assert 0 <= late < 10
