"""Lines of the log that repeat are written a few times, then counted, and the count is told."""

from __future__ import annotations

import logging

from jobstate_server import logs


def line(message: str, cause: str = "") -> logging.LogRecord:
    return logging.makeLogRecord({"name": "x", "levelno": logging.WARNING, "msg": message, "cause": cause})


def test_repeated_lines_are_held_back_and_their_count_is_told() -> None:
    told: list[logging.LogRecord] = []
    repeats = logs.Repeats(told.append)

    written = sum(repeats.filter(line("refused")) for _ in range(100))
    repeats.emit_counts()

    assert written == logs.REPEATS_MAX
    assert [(record.msg, record.__dict__["repeated"]) for record in told] == [("refused", 100 - logs.REPEATS_MAX)]
    assert repeats.filter(line("refused"))
    repeats.emit_counts()
    assert len(told) == 1


def test_lines_with_another_message_or_cause_are_of_another_kind() -> None:
    repeats = logs.Repeats(lambda record: None)

    for _ in range(logs.REPEATS_MAX):
        assert repeats.filter(line("refused", "disk full"))
    assert not repeats.filter(line("refused", "disk full"))
    assert repeats.filter(line("refused", "read-only"))
    assert repeats.filter(line("another", "disk full"))
    repeats.emit_counts()


def test_more_kinds_than_are_told_apart_lose_no_count() -> None:
    told: list[logging.LogRecord] = []
    repeats = logs.Repeats(told.append)
    for _ in range(logs.REPEATS_MAX + 3):
        repeats.filter(line("refused"))

    for number in range(logs.KINDS_MAX):
        repeats.filter(line(f"another {number}"))

    assert [record.__dict__["repeated"] for record in told] == [3]
    repeats.emit_counts()


def test_a_message_that_is_no_text_is_of_a_kind_too() -> None:
    repeats = logs.Repeats(lambda record: None)
    record = line("")
    record.msg = ("SELECT ?", [1])

    assert [repeats.filter(record) for _ in range(logs.REPEATS_MAX + 1)] == [True] * logs.REPEATS_MAX + [False]
    repeats.emit_counts()
