"""What is written by hand stays small, explained and finished."""

from __future__ import annotations

import ast

from .support import CLIENT, ROOT, SERVER, TESTS, calls_in, modules_below, parsed, relative

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60

GENERATORS = (
    ROOT / "generated" / "generate.py",
    ROOT / "docs" / "reference" / "generate.py",
    ROOT / "docs" / "reference" / "python.py",
)
HAND_WRITTEN = [*modules_below(SERVER, CLIENT, TESTS), *GENERATORS]
TEST_MODULES = modules_below(TESTS)
SERVER_MODULES = modules_below(SERVER)

UNFINISHED = ("TO" + "DO", "FIX" + "ME")
"""In two halves, so that this module may be tidy too."""

SPEAKS_TO_PEOPLE = SERVER / "jobstate_server" / "cli.py"
"""The command line prints; everything else logs."""


def test_no_module_outgrows_one_sitting() -> None:
    lines = {relative(path): len(path.read_text("utf-8").splitlines()) for path in HAND_WRITTEN}

    assert {path: count for path, count in lines.items() if count > MODULE_LINES_MAX} == {}


def test_no_function_outgrows_a_screen() -> None:
    long = [
        f"{relative(path)}:{node.lineno} {node.name}"
        for path in HAND_WRITTEN
        for node in ast.walk(parsed(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or node.lineno) - node.lineno >= FUNCTION_LINES_MAX
    ]

    assert not long


def test_every_module_says_what_it_is_for() -> None:
    assert not [relative(path) for path in HAND_WRITTEN if not ast.get_docstring(parsed(path))]


def test_nothing_is_left_to_be_done_later() -> None:
    texts = {relative(path): path.read_text("utf-8") for path in HAND_WRITTEN}

    assert not [(path, word) for path, text in texts.items() for word in UNFINISHED if word in text]


def test_the_server_logs_and_never_prints() -> None:
    assert SPEAKS_TO_PEOPLE in SERVER_MODULES
    assert not [
        f"{relative(path)}:{call.lineno}"
        for path in SERVER_MODULES
        if path != SPEAKS_TO_PEOPLE
        for call, name in calls_in(path)
        if name == "print"
    ]


def test_no_test_waits_by_sleeping() -> None:
    """``sleep(0)`` only lets others run, and waits for nothing."""
    assert not [
        f"{relative(path)}:{call.lineno}"
        for path in TEST_MODULES
        for call, name in calls_in(path)
        if name == "sleep" and not is_zero(call)
    ]


def is_zero(call: ast.Call) -> bool:
    match call.args:
        case [ast.Constant(value=0)]:
            return True
    return False
