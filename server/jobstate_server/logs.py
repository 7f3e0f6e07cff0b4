"""Logs: events with fields, one per line, as text for people or JSON for machines, to standard error.

Logging never blocks: a thread of its own writes the lines. When more than ``BYTES_MAX`` wait, because standard error is
a full disk or a pipe that nobody reads, further lines are dropped and counted. The count is logged as soon as something
can be written again.
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
"""Bytes that may wait to be written: some ten thousand lines. A reader that is merely slow needs less."""

LINE_BYTES_MAX = 64 * 1024
"""Longer lines are cut. A traceback is shorter, and one line must not displace all others."""

REPEATS_MAX = 5
"""Lines of one kind written within ``REPEATS_S``. Further ones are counted, and the count is logged at the end."""

REPEATS_S = 10.0

KINDS_MAX = 1_000
"""Kinds of lines counted at once. At this number all counts are logged and start again."""

_CHUNK_BYTES = 64 * 1024
"""Bytes written at once: what a pipe holds."""

_PLAIN = re.compile(r"[^\s\"'=\x00-\x1f\x7f]+")

SILENT_TURNS_MAX = 3
"""Seconds for which a write may make no progress before it is a problem."""

STDOUT, STDERR = 1, 2

log = logging.getLogger(__name__)


class _Utc(logging.Formatter):
    """Formats times as RFC 3339 in UTC, with a Z."""

    @staticmethod
    def converter(seconds: float | None) -> time.struct_time:
        """The time to format."""
        return time.gmtime(seconds)

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class _TextFormatter(_Utc):
    """Formats a record as time, level, event, then its fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = " ".join(f"{key}={_field(value)}" for key, value in record.__dict__.items() if key not in _OURS)
        head, newline, rest = line.partition("\n")
        return f"{head} {fields}".rstrip() + newline + rest


class _JsonFormatter(JsonFormatter, _Utc):
    """Formats a record as one JSON object."""


def _field(value: object) -> str:
    """A value, quoted where it could be mistaken for another field or another line."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class Writer:
    """Writes lines to a file descriptor in a thread of its own. ``put`` never blocks."""

    def __init__(self, descriptor: int, dropped_line: Callable[[int], str]) -> None:
        """
        Args:
            dropped_line: makes the line that says how many lines were dropped.
        """
        self._descriptor = descriptor
        self._dropped_line = dropped_line
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._is_writing = False
        self._progress = 0
        """Counts the writes, of whole lines or parts, that the system has taken."""
        self._progress_seen = 0
        self._silent_turns = 0
        self._failure: str | None = None
        """Why the latest write failed. None if it did not."""
        # A signal handler may log while its own thread holds this.
        self._changed = threading.Condition(threading.RLock())
        self._start()

    def _start(self) -> None:
        # A daemon: a write that blocks must not keep the process from exiting.
        self._is_writing = False
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    @property
    def dead(self) -> list[str]:
        """The thread's name once it has ended. Any thread may ask."""
        return [] if self._thread.is_alive() else [self._thread.name]

    def restart(self) -> None:
        """Replace a thread that has died."""
        with self._changed:
            if not self._thread.is_alive():
                self._start()

    def turn(self) -> None:
        """Count a second. Called by the watchdog."""
        is_stuck = self._is_writing and self._progress == self._progress_seen
        self._silent_turns = self._silent_turns + 1 if is_stuck else 0
        self._progress_seen = self._progress

    @property
    def problem(self) -> str | None:
        """Why nobody gets to see the log, None when it is written. Any thread may ask."""
        if self._failure is not None:
            return f"the log cannot be written: {self._failure}"
        if self._silent_turns >= SILENT_TURNS_MAX:
            return f"the log has not been written for {self._silent_turns} s: nobody reads it"
        return None

    def put(self, line: str) -> None:
        """Queue a line to be written, or drop it when too much is waiting."""
        encoded = line.encode("utf-8", "backslashreplace")
        if len(encoded) > LINE_BYTES_MAX:
            encoded = encoded[:LINE_BYTES_MAX] + " … (cut)".encode()
        encoded += b"\n"
        with self._changed:
            # Until the server has a watchdog nobody else notices.
            self.restart()
            if self._bytes + len(encoded) > BYTES_MAX:
                self._dropped += 1
                return
            self._lines.append(encoded)
            self._bytes += len(encoded)
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until everything is written. Returns whether it is."""
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
                chunk = self._dropped_line(dropped).encode() + b"\n" + chunk
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
        while self._lines and size < _CHUNK_BYTES:
            taken.append(self._lines.popleft())
            size += len(taken[-1])
        self._bytes -= size
        return b"".join(taken), len(taken)

    def _write(self, chunk: bytes) -> bool:
        """Write it all. Returns False when it cannot be written: the disk is full, or the reader has gone."""
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
                self._progress += 1
            except BlockingIOError:
                # Another process that shares our terminal or pipe may have made it non-blocking.
                select.select([], [self._descriptor], [], 1.0)
            except OSError as error:
                self._failure = error.strerror
                return False
        self._failure = None
        return True


class Repeats(logging.Filter):
    """Limits how often lines of one kind are written, and logs how many were left out.

    Lines are of one kind if they have the same logger, level, message and cause.
    """

    def __init__(self, emit: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._emit = emit
        self._seen: dict[tuple[object, ...], tuple[int, logging.LogRecord]] = {}
        self._timer: threading.Timer | None = None
        # A signal handler may log while its own thread holds this.
        self._lock = threading.RLock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write this line."""
        cause = record.exc_info[0] if record.exc_info else getattr(record, "cause", "")
        # Libraries log any object as the message, such as a statement with its values.
        message = record.msg if isinstance(record.msg, str) else repr(record.msg)
        kind = (record.name, record.levelno, message, str(cause))
        with self._lock:
            if kind not in self._seen and len(self._seen) >= KINDS_MAX:
                self.emit_counts()
            count = self._seen[kind][0] + 1 if kind in self._seen else 1
            self._seen[kind] = count, record
            if self._timer is None:
                self._timer = threading.Timer(REPEATS_S, self.emit_counts)
                self._timer.daemon = True
                self._timer.start()
            return count <= REPEATS_MAX

    def emit_counts(self) -> None:
        """Log how many lines were left out, and start counting again."""
        with self._lock:
            seen, self._seen = self._seen, {}
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        for count, last in seen.values():
            if count > REPEATS_MAX:
                last.repeated = count - REPEATS_MAX
                self._emit(last)


class _Handler(logging.Handler):
    """Formats records and queues them at the writer."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.writer = Writer(STDERR, self._dropped_line)
        self.addFilter(Repeats(self.emit))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:
            lost = logging.makeLogRecord({"name": log.name, "levelno": logging.ERROR, "levelname": "ERROR"})
            lost.msg, lost.cause, lost.logger = "a log line could not be formatted", type(error).__name__, record.name
            line = self.format(lost)
        self.writer.put(line)

    def _dropped_line(self, dropped: int) -> str:
        record = logging.makeLogRecord(
            {"name": log.name, "levelno": logging.WARNING, "levelname": "WARNING", "msg": "log lines were lost"}
        )
        record.lines = dropped
        return self.format(record)


def is_worth_logging(record: logging.LogRecord) -> bool:
    """Whether gRPC reports more than a caller who left before the answer could be sent."""
    return not record.getMessage().startswith("ExecuteBatchError")


def configure(style: Literal["text", "json"], level: str) -> Writer:
    """Send the process's logs to standard error. Returns the writer, to be flushed before the process exits."""
    if style == "json":
        formatter: logging.Formatter = _JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "message": "event"},
        )
    else:
        formatter = _TextFormatter("%(asctime)s %(levelname)-7s %(message)s")
    handler = _Handler(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # At INFO these log every scheduled run and every transition; our own events say what matters of that.
    for noisy in ("apscheduler", "transitions"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("grpc._cython.cygrpc").addFilter(is_worth_logging)
    return handler.writer


@contextmanager
def uncaught_exceptions_logged() -> Iterator[None]:
    """Log uncaught exceptions, which Python would otherwise write to standard error itself, and block on."""
    before = threading.excepthook, sys.unraisablehook
    threading.excepthook = lambda given: log.error(
        "a thread has died of an exception",
        exc_info=given.exc_value,
        extra={"thread_name": getattr(given.thread, "name", "?")},
    )
    sys.unraisablehook = lambda given: log.error("an exception could not be raised", exc_info=given.exc_value)
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = before
