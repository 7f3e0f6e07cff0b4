"""``raise Release(...)``: the work gives its attempt back."""

from __future__ import annotations

from jobstate_client.core.documents import cut, seconds
from jobstate_client.core.limits import HOLD_LANE_S_MAX, RETRY_DELAY_S_MAX, TEXT_BYTES_MAX
from jobstate_client.core.values import Span


class Release(Exception):
    """Raise this in a handler, or in the block of a run, to give the attempt back without a verdict.

    It costs no retry, and the job is handed out again: after ``delay``, or at once, at its old place in the order. A
    job can be released 1,000 times; after that the attempt fails as RELEASE_LIMIT_REACHED.
    """

    # Of the class, for subclasses that do not call this __init__.
    delay: Span | None = None
    hold_lane: Span | bool | None = None
    reason: str = ""

    def __init__(self, *, delay: Span | None = None, hold_lane: Span | bool | None = None, reason: str = "") -> None:
        """Say when and why.

        Args:
            delay: how long the job waits, at most 7 days.
            hold_lane: how long no job of its lane is handed out, at most 1 hour. True is as long as ``delay``, or 1
                hour if that is longer: for an answer 429 with its Retry-After.
            reason: for people. What is beyond 4 KiB is cut off.

        Raises:
            TypeError, ValueError: one of them is no span or no text, or is out of its bounds, or ``hold_lane`` is True
                without a delay.
        """
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a text, not {type(reason).__name__}")
        self.reason = cut(reason, TEXT_BYTES_MAX)
        self.delay = delay
        self.hold_lane = hold_lane
        if delay is not None and not 0 <= seconds(delay, "delay") <= RETRY_DELAY_S_MAX:
            raise ValueError("delay must be from 0 to 7 days")
        hold = hold_of(hold_lane, delay)
        if hold is not None and not 0 <= seconds(hold, "hold_lane") <= HOLD_LANE_S_MAX:
            raise ValueError("hold_lane must be from 0 to 1 hour")
        super().__init__(self.reason)


def hold_of(hold_lane: Span | bool | None, delay: Span | None) -> Span | None:
    """How long a release holds its lane; None is not at all.

    Raises:
        TypeError, ValueError: it is to be held as long as the delay, and there is none, or it is no span.
    """
    if hold_lane is None or hold_lane is False:
        return None
    if hold_lane is not True:
        return hold_lane
    if delay is None:
        raise ValueError("hold_lane=True holds the lane as long as the delay: give one, or say how long in hold_lane")
    return min(seconds(delay, "delay"), HOLD_LANE_S_MAX)
