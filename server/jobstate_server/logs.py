"""Logs: events with fields, one a line, as text for people or JSON for machines, to standard error.

Nobody who logs ever waits for who reads the log. A thread of its own writes; where it falls behind by more than
``BYTES_MAX``, because standard error is a full disk or a pipe that nobody empties, lines are dropped, counted, and the
count is told as soon as something can be written again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

_OURS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

BYTES_MAX = 4 * 1024 * 1024
"""What may wait to be written: some ten thousand lines, more than a reader needs that is only slow."""

LINE_BYTES_MAX = 64 * 1024
"""A line, longer ones are cut: a traceback has less, and one line must not push out all others."""

REPEATS_MAX = 5
"""Lines of one kind that are written within ``REPEATS_S``. More are counted, and the count is told in the end."""

REPEATS_S = 10.0

KINDS_MAX = 1_000
"""Kinds of lines that are told apart at once; when there are more all of them are told, and counted anew."""

_AT_ONCE = 64 * 1024
"""Bytes written at once: what a pipe holds."""

_PLAIN = re.compile(r"[^\s\"'=\x00-\x1f\x7f]+")

STDOUT, STDERR = 1, 2

log = logging.getLogger(__name__)


class _Utc(logging.Formatter):
    """Tells times as everything else here does: RFC 3339, in UTC, with a Z."""

    @staticmethod
    def converter(seconds: float | None) -> time.struct_time:
        """The time to be told."""
        return time.gmtime(seconds)

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class _TextFormatter(_Utc):
    """Time, level, event, then its fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = " ".join(f"{key}={_field(value)}" for key, value in record.__dict__.items() if key not in _OURS)
        head, newline, rest = line.partition("\n")
        return f"{head} {fields}".rstrip() + newline + rest


class _JsonFormatter(JsonFormatter, _Utc):
    """One object a line."""


def _field(value: object) -> str:
    """A value that cannot be taken for another field, nor for another line."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class Writer:
    """Writes lines to a file descriptor, in a thread of its own. ``put`` never waits."""

    def __init__(self, descriptor: int, told: Callable[[int], str]) -> None:
        """
        Args:
            told: the line that tells how many lines were dropped.
        """
        self._descriptor = descriptor
        self._told = told
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._is_writing = False
        # A signal's handler may log while this very thread is in here.
        self._changed = threading.Condition(threading.RLock())
        self._start()

    def _start(self) -> None:
        # A thread that hangs in a write must not keep the process from ending.
        self._is_writing = False
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    @property
    def dead(self) -> list[str]:
        """The thread, once it has ended. Any thread may ask."""
        return [] if self._thread.is_alive() else [self._thread.name]

    def restart(self) -> None:
        """Put a new thread in the place of one that has died."""
        with self._changed:
            if not self._thread.is_alive():
                self._start()

    def put(self, line: str) -> None:
        """Have the line written, in order, if there is room for it."""
        encoded = line.encode("utf-8", "backslashreplace")
        if len(encoded) > LINE_BYTES_MAX:
            encoded = encoded[:LINE_BYTES_MAX] + " … (cut)".encode()
        encoded += b"\n"
        with self._changed:
            # Before the server has a watchdog nobody else would notice.
            self.restart()
            if self._bytes + len(encoded) > BYTES_MAX:
                self._dropped += 1
                return
            self._lines.append(encoded)
            self._bytes += len(encoded)
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait up to this many seconds until everything is written. Returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._is_writing, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                self._is_writing = True
                chunk, count = self._next_chunk()
                dropped, self._dropped = self._dropped, 0
            if dropped:
                chunk = self._told(dropped).encode() + b"\n" + chunk
            is_written = False
            try:
                is_written = self._write(chunk)
            finally:
                if not is_written:
                    with self._changed:
                        self._dropped += dropped + count

    def _next_chunk(self) -> tuple[bytes, int]:
        taken: list[bytes] = []
        size = 0
        while self._lines and size < _AT_ONCE:
            taken.append(self._lines.popleft())
            size += len(taken[-1])
        self._bytes -= size
        return b"".join(taken), len(taken)

    def _write(self, chunk: bytes) -> bool:
        """Write it all. False when it cannot be written: a full disk, a reader that has gone."""
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Whoever shares our terminal or pipe may have made it so.
                select.select([], [self._descriptor], [], 1.0)
            except OSError:
                return False
        return True


class Repeats(logging.Filter):
    """Lets lines of one kind through a few times in a while, and tells how many more there were.

    Of one kind are lines of the same logger, level, message and cause.
    """

    def __init__(self, tell: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._tell = tell
        self._seen: dict[tuple[object, ...], tuple[int, logging.LogRecord]] = {}
        self._timer: threading.Timer | None = None
        # A signal's handler may log while this very thread is in here.
        self._lock = threading.RLock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line is written."""
        cause = record.exc_info[0] if record.exc_info else getattr(record, "cause", "")
        # Libraries log whatever they have: a statement with its values, say.
        message = record.msg if isinstance(record.msg, str) else repr(record.msg)
        kind = (record.name, record.levelno, message, str(cause))
        with self._lock:
            if kind not in self._seen and len(self._seen) >= KINDS_MAX:
                self.tell()
            count = self._seen[kind][0] + 1 if kind in self._seen else 1
            self._seen[kind] = count, record
            if self._timer is None:
                self._timer = threading.Timer(REPEATS_S, self.tell)
                self._timer.daemon = True
                self._timer.start()
            return count <= REPEATS_MAX

    def tell(self) -> None:
        """Tell what was held back, and count anew."""
        with self._lock:
            seen, self._seen = self._seen, {}
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        for count, last in seen.values():
            if count > REPEATS_MAX:
                last.repeated = count - REPEATS_MAX
                self._tell(last)


class _Handler(logging.Handler):
    """Hands lines to the writer."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.writer = Writer(STDERR, self._told)
        self.addFilter(Repeats(self.emit))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:
            lost = logging.makeLogRecord({"name": log.name, "levelno": logging.ERROR, "levelname": "ERROR"})
            lost.msg, lost.cause, lost.logger = "a line of the log could not be made", type(error).__name__, record.name
            line = self.format(lost)
        self.writer.put(line)

    def _told(self, dropped: int) -> str:
        record = logging.makeLogRecord(
            {"name": log.name, "levelno": logging.WARNING, "levelname": "WARNING", "msg": "lines of the log were lost"}
        )
        record.lines = dropped
        return self.format(record)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether gRPC tells of more than a caller who left before the answer could be sent."""
    return not record.getMessage().startswith("ExecuteBatchError")


def set_up(style: Literal["text", "json"], level: str) -> Writer:
    """Send the process's logs to standard error. Returns the writer, to be flushed before the process ends."""
    if style == "json":
        formatter: logging.Formatter = _JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "message": "event"},
        )
    else:
        formatter = _TextFormatter("%(asctime)s %(levelname)-7s %(message)s")
    handler = _Handler(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # These tell every ring of the schedule and every transition at INFO; what matters of that our own events tell.
    for noisy in ("apscheduler", "transitions"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
    return handler.writer


@contextmanager
def python_s_own() -> Iterator[None]:
    """Log what Python itself would write to standard error, and wait for."""
    before = threading.excepthook, sys.unraisablehook
    threading.excepthook = lambda given: log.error(
        "a thread has ended by an exception",
        exc_info=given.exc_value,
        extra={"name_of_thread": getattr(given.thread, "name", "?")},
    )
    sys.unraisablehook = lambda given: log.error("an exception had nowhere to go", exc_info=given.exc_value)
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = before
