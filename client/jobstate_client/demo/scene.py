"""The scene of the demo: its jobs, how each attempt goes, and the expected outcome."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from jobstate_client.core.states import State


class Ending(Enum):
    """How an attempt ends, once it has done as much work as it will do."""

    COMPLETES = auto()
    FAILS = auto()
    FALLS_SILENT = auto()
    """The worker hangs: the server fails the attempt after its timeout."""
    IS_CANCELLED = auto()
    """The job is cancelled while the worker is working."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: work up to a percentage, for so many seconds, and then its ending."""

    seconds: float
    until: int = 100
    ending: Ending = Ending.COMPLETES
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Act:
    """One job, and its expected outcome."""

    job_id: str
    job_type: str
    source_id: str
    starts_after: float
    attempts: tuple[Attempt, ...]
    final_state: State
    delays: tuple[float, ...] = ()
    """The seconds that the server must wait before each retry."""
    max_retries: int | None = None
    """None takes the job type's."""
    messages: tuple[str, ...] = ("reading", "working", "writing")
    """Progress messages, spread over the attempt."""


_RATE_LIMITED = ("RATE_LIMITED", "the model accepts no more calls this second")

ACTS = (
    Act("transcript-1", "clean_transcript", "episode-12.mp3", 0.0, (Attempt(6.0),), State.COMPLETED),
    Act("insights-2", "extract_insights", "episode-12.mp3", 0.3, (Attempt(8.5),), State.COMPLETED),
    Act("posts-3", "generate_posts", "episode-11.mp3", 0.6, (Attempt(7.0),), State.COMPLETED),
    Act(
        *("transcript-4", "clean_transcript", "episode-13.mp3", 0.9),
        (
            Attempt(1.5, 30, Ending.FAILS, *_RATE_LIMITED),
            Attempt(1.8, 60, Ending.FAILS, *_RATE_LIMITED),
            Attempt(2.4),
        ),
        State.COMPLETED,
        delays=(1.0, 2.0),
    ),
    Act(
        *("posts-5", "generate_posts", "episode-10.mp3", 1.2),
        (
            Attempt(1.8, 40, Ending.FAILS, "BAD_OUTPUT", "the model returned no posts"),
            Attempt(1.5, 40, Ending.FAILS, "BAD_OUTPUT", "the model returned no posts"),
        ),
        State.PERMANENTLY_FAILED,
        delays=(1.5,),
        max_retries=1,
    ),
    Act(
        *("insights-6", "extract_insights", "episode-9.mp3", 1.5),
        (Attempt(3.6, 45, Ending.IS_CANCELLED, message="a newer upload replaces it"),),
        State.CANCELLED,
    ),
    Act(
        *("video-7", "render_video", "episode-12.mp4", 1.8),
        (Attempt(1.2, 35, Ending.FALLS_SILENT, "ATTEMPT_TIMEOUT"), Attempt(1.6)),
        State.COMPLETED,
        delays=(1.0,),
    ),
)
"""The jobs of the demo, in the order of their start."""
