"""Every view uses the same phases."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jobstate_client
from jobstate_client import State
from jobstate_client.views.phase import Phase, phase_of

LIBRARY = Path(jobstate_client.__file__).parent
VIEWS = sorted(path for folder in ("cli", "views", "demo") for path in (LIBRARY / folder).rglob("*.py"))


@pytest.mark.parametrize(
    ("state", "claimed", "phase"),
    [
        (State.QUEUED, False, Phase.WAITING),
        (State.PROCESSING, True, Phase.RUNNING),
        (State.PROCESSING, False, Phase.WAITING),
        (State.RETRYING, True, Phase.RETRYING),
        (State.FAILED, True, Phase.FAILED),
        (State.COMPLETED, True, Phase.ENDED),
        (State.PERMANENTLY_FAILED, True, Phase.ENDED),
        (State.CANCELLED, False, Phase.ENDED),
        (State.UNKNOWN, False, Phase.UNKNOWN),
    ],
)
def test_every_state_has_one_phase(state: State, claimed: bool, phase: Phase) -> None:
    assert phase_of(state, claimed=claimed) is phase


def test_ended_is_what_is_final() -> None:
    assert {state for state in State if phase_of(state, claimed=False) is Phase.ENDED} == {
        state for state in State if state.is_final
    }


@pytest.mark.parametrize("path", VIEWS, ids=lambda p: p.name)
def test_no_view_decides_by_itself_whether_a_job_is_running(path: Path) -> None:
    """Only the phase looks at ``claimed``."""
    tree = ast.parse(path.read_text("utf-8"))
    calls = [
        keyword.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "phase_of"
        for keyword in call.keywords
    ]
    read = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "claimed"]

    assert not [node.lineno for node in read if node not in calls]
