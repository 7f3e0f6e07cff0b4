"""What is written by hand stays small, explained and finished."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .support import CLIENT, ROOT, SERVER, TESTS, calls_in, modules_below, parsed, relative

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60

GENERATORS = (ROOT / "generated" / "generate.py", ROOT / "docs" / "reference" / "generate.py")
HAND_WRITTEN = [*modules_below(SERVER, CLIENT, TESTS), *GENERATORS]
TEST_MODULES = modules_below(TESTS)
SERVER_MODULES = modules_below(SERVER)

UNFINISHED = ("TO" + "DO", "FIX" + "ME")
"""In two halves, so that this module may be tidy too."""

SPEAKS_TO_PEOPLE = SERVER / "jobstate_server" / "cli.py"
"""The command line prints; everything else logs."""


@pytest.mark.parametrize("path", HAND_WRITTEN, ids=relative)
def test_no_module_outgrows_one_sitting(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MODULE_LINES_MAX


@pytest.mark.parametrize("path", HAND_WRITTEN, ids=relative)
def test_no_function_outgrows_a_screen(path: Path) -> None:
    long = [
        f"{relative(path)}:{node.lineno} {node.name}"
        for node in ast.walk(parsed(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or node.lineno) - node.lineno >= FUNCTION_LINES_MAX
    ]

    assert not long


@pytest.mark.parametrize("path", HAND_WRITTEN, ids=relative)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(parsed(path))


@pytest.mark.parametrize("path", HAND_WRITTEN, ids=relative)
def test_nothing_is_left_to_be_done_later(path: Path) -> None:
    text = path.read_text("utf-8")

    assert not [word for word in UNFINISHED if word in text]


@pytest.mark.parametrize("path", [path for path in SERVER_MODULES if path != SPEAKS_TO_PEOPLE], ids=relative)
def test_the_server_logs_and_never_prints(path: Path) -> None:
    assert not [call.lineno for call, name in calls_in(path) if name == "print"]


@pytest.mark.parametrize("path", TEST_MODULES, ids=relative)
def test_no_test_waits_by_sleeping(path: Path) -> None:
    """``sleep(0)`` only lets others run, and waits for nothing."""
    assert not [call.lineno for call, name in calls_in(path) if name == "sleep" and not is_zero(call)]


def is_zero(call: ast.Call) -> bool:
    match call.args:
        case [ast.Constant(value=0)]:
            return True
    return False
