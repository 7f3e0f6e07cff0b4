"""``raise Release(...)``: the work gives its attempt back."""

from __future__ import annotations

from jobstate_client.core.documents import cut, seconds
from jobstate_client.core.limits import RETRY_DELAY_S_MAX, TEXT_BYTES_MAX
from jobstate_client.core.values import Span


class Release(Exception):
    """Raise this in a handler, or in the block of a run, to give the attempt back without a verdict.

    It costs no retry, and the job is handed out again: after ``delay``, or at once, at its old place in the order. A
    job can be released 1,000 times; after that the attempt fails as RELEASE_LIMIT_REACHED.
    """

    # Of the class, for subclasses that do not call this __init__.
    delay: Span | None = None
    reason: str = ""

    def __init__(self, *, delay: Span | None = None, reason: str = "") -> None:
        """Say when and why.

        Args:
            delay: how long the job waits, at most 7 days.
            reason: for people. What is beyond 4 KiB is cut off.

        Raises:
            TypeError, ValueError: one of them is no span or no text, or the delay is out of its bounds.
        """
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a text, not {type(reason).__name__}")
        self.reason = cut(reason, TEXT_BYTES_MAX)
        self.delay = delay
        if delay is not None and not 0 <= seconds(delay, "delay") <= RETRY_DELAY_S_MAX:
            raise ValueError("delay must be from 0 to 7 days")
        super().__init__(self.reason)
