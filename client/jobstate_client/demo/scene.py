"""What happens in the demo: the jobs, what becomes of each attempt, and what must have come of it in the end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from jobstate.v1 import job_pb2


class Ending(Enum):
    """How an attempt goes on once its work is done as far as it gets."""

    COMPLETES = auto()
    FAILS = auto()
    FALLS_SILENT = auto()
    """The worker hangs: the server fails the attempt when its timeout is over."""
    IS_CANCELLED = auto()
    """Somebody cancels the job while the worker is at it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: work up to a percentage, in so many seconds, and then its ending."""

    seconds: float
    until: int = 100
    ending: Ending = Ending.COMPLETES
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Act:
    """One job, and what must come of it."""

    job_id: str
    job_type: str
    source_id: str
    starts_after: float
    attempts: tuple[Attempt, ...]
    ends: job_pb2.JobState.ValueType
    delays: tuple[float, ...] = ()
    """Seconds that the server must put before each retry."""
    max_retries: int | None = None
    """Fixed for this job; None takes its type's."""
    says: tuple[str, ...] = ("reading", "working", "writing")
    """Progress messages, spread over the attempt."""


_RATE_LIMITED = ("RATE_LIMITED", "the model takes no more calls this second")

ACTS = (
    Act("transcript-1", "clean_transcript", "episode-12.mp3", 0.0, (Attempt(6.0),), job_pb2.JOB_STATE_COMPLETED),
    Act("insights-2", "extract_insights", "episode-12.mp3", 0.3, (Attempt(8.5),), job_pb2.JOB_STATE_COMPLETED),
    Act("posts-3", "generate_posts", "episode-11.mp3", 0.6, (Attempt(7.0),), job_pb2.JOB_STATE_COMPLETED),
    Act(
        *("transcript-4", "clean_transcript", "episode-13.mp3", 0.9),
        (
            Attempt(1.5, 30, Ending.FAILS, *_RATE_LIMITED),
            Attempt(1.8, 60, Ending.FAILS, *_RATE_LIMITED),
            Attempt(2.4),
        ),
        job_pb2.JOB_STATE_COMPLETED,
        delays=(1.0, 2.0),
    ),
    Act(
        *("posts-5", "generate_posts", "episode-10.mp3", 1.2),
        (
            Attempt(1.8, 40, Ending.FAILS, "BAD_OUTPUT", "the model returned no posts"),
            Attempt(1.5, 40, Ending.FAILS, "BAD_OUTPUT", "the model returned no posts"),
        ),
        job_pb2.JOB_STATE_PERMANENTLY_FAILED,
        delays=(1.5,),
        max_retries=1,
    ),
    Act(
        *("insights-6", "extract_insights", "episode-9.mp3", 1.5),
        (Attempt(3.6, 45, Ending.IS_CANCELLED, message="a newer upload replaces it"),),
        job_pb2.JOB_STATE_CANCELLED,
    ),
    Act(
        *("video-7", "render_video", "episode-12.mp4", 1.8),
        (Attempt(1.2, 35, Ending.FALLS_SILENT, "ATTEMPT_TIMEOUT"), Attempt(2.4)),
        job_pb2.JOB_STATE_COMPLETED,
        delays=(1.0,),
    ),
)
"""What is shown, in the order of the screen."""
