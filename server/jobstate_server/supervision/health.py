"""Health: whether this server can serve a change and a read, and if not, why."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class Health:
    """The current problems, one per source. Use on the event loop's thread."""

    def __init__(self, on_change: Callable[[bool], None]) -> None:
        """``on_change`` is called with False when the server stops serving, and with True when it serves again."""
        self._on_change = on_change
        self._problems: dict[str, str] = {}

    @property
    def is_serving(self) -> bool:
        """Whether a change and a read would be answered."""
        return not self._problems

    @property
    def problems(self) -> list[str]:
        """One sentence for each problem."""
        return list(self._problems.values())

    def report(self, source: str, problem: str | None) -> None:
        """Set the problem that ``source`` has now, as a sentence. None clears it."""
        was_serving = self.is_serving
        before = self._problems.get(source)
        if problem is None:
            self._problems.pop(source, None)
        else:
            self._problems[source] = problem
        if problem is not None and before is None:
            log.error("not serving", extra={"cause": problem})
        if self.is_serving != was_serving:
            if self.is_serving:
                log.info("serving again", extra={"cause": before})
            self._on_change(self.is_serving)
