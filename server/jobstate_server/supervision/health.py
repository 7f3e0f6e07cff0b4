"""Health: whether this server can do what a caller would ask of it, and if not, why."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class Health:
    """What is wrong, by who found it. Belongs on the event loop's thread."""

    def __init__(self, on_change: Callable[[bool], None]) -> None:
        """``on_change`` is told when the server can no longer serve, and when it can again."""
        self._on_change = on_change
        self._troubles: dict[str, str] = {}

    @property
    def is_serving(self) -> bool:
        """Whether a change and a read would be answered."""
        return not self._troubles

    @property
    def troubles(self) -> list[str]:
        """A sentence for each thing that is wrong."""
        return list(self._troubles.values())

    def tell(self, source: str, trouble: str | None) -> None:
        """Take note of what ``source`` finds now: a sentence, or None when nothing is wrong (any more)."""
        was_serving = self.is_serving
        before = self._troubles.get(source)
        if trouble is None:
            self._troubles.pop(source, None)
        else:
            self._troubles[source] = trouble
        if trouble is not None and before is None:
            log.error("not serving", extra={"cause": trouble})
        if self.is_serving != was_serving:
            if self.is_serving:
                log.info("serving again", extra={"cause": before})
            self._on_change(self.is_serving)
