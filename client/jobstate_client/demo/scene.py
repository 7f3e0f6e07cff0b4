"""The scene of the demo: its jobs, how each attempt goes, and the expected outcome."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from jobstate_client.core.states import Priority, State

WORKERS = ("worker-1", "worker-2", "worker-3")
"""Processes that take one job at a time. One of them is killed."""

LEASE_S = 5
"""The silence after which the server takes the worker of a video for dead: the shortest that a lease can be."""


class Ending(Enum):
    """How an attempt ends, once it has done as much work as it will do."""

    COMPLETES = auto()
    FAILS = auto()
    WORKER_IS_KILLED = auto()
    """By SIGKILL, as by `kill -9`: it says nothing any more, and its lease ends."""
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
    attempts: tuple[Attempt, ...]
    final_state: State = State.COMPLETED
    priority: Priority = Priority.NORMAL
    pause: float = 0.0
    """The seconds that go by before it is created, after the one before."""
    delays: tuple[float, ...] = ()
    """The seconds that the server must wait before each retry."""
    max_retries: int | None = None
    """None takes the job type's."""
    messages: tuple[str, ...] = ("reading", "working", "writing")
    """Progress messages, spread over the attempt."""


_RATE_LIMITED = ("RATE_LIMITED", "the model accepts no more calls this second")
_NO_POSTS = ("BAD_OUTPUT", "the model returned no posts")

ACTS = (
    Act(
        *("video-1", "render_video", "episode-12.mp4"),
        (Attempt(2.4, 40, Ending.WORKER_IS_KILLED, "STALE"), Attempt(1.6)),
        delays=(1.0,),
    ),
    Act(
        *("transcript-2", "clean_transcript", "episode-13.mp3"),
        (
            Attempt(1.6, 30, Ending.FAILS, *_RATE_LIMITED),
            Attempt(1.2, 60, Ending.FAILS, *_RATE_LIMITED),
            Attempt(1.6),
        ),
        delays=(1.0, 2.0),
    ),
    Act("insights-3", "extract_insights", "episode-12.mp3", (Attempt(3.6),)),
    Act("posts-4", "generate_posts", "episode-11.mp3", (Attempt(2.4),)),
    Act(
        *("posts-5", "generate_posts", "episode-10.mp3"),
        (Attempt(0.8, 40, Ending.FAILS, *_NO_POSTS), Attempt(0.8, 40, Ending.FAILS, *_NO_POSTS)),
        State.PERMANENTLY_FAILED,
        delays=(1.5,),
        max_retries=1,
    ),
    Act(
        *("insights-6", "extract_insights", "episode-9.mp3"),
        (Attempt(1.6, 45, Ending.IS_CANCELLED, message="a newer upload replaces it"),),
        State.CANCELLED,
    ),
    Act("transcript-7", "clean_transcript", "episode-1.mp3", (Attempt(1.2),), priority=Priority.BACKGROUND),
    Act("insights-8", "extract_insights", "episode-14.mp3", (Attempt(1.2),), priority=Priority.URGENT, pause=0.8),
)
"""The jobs of the demo, in the order of their creation. The first three are as many as there are workers."""

ACT_OF = {act.job_id: act for act in ACTS}
