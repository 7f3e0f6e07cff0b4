"""Loads whose jobs are handed out: workers acquire them, where the other loads start each by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .bench import Bench, Untrue
from .load import sample
from .messages import ONE_LEVEL, PERCENTAGES, Level
from .processes import JobServer, Target
from .samples import Sample
from .workers import Plan, Worked
from .workloads import BATCH, CONNECTIONS

WORKERS_A_STREAM = 4
"""Each has a batch under way: as many as the other loads have on a stream."""

CALLERS = 64
HANDS = 16

_COMPLETED = "SELECT count(DISTINCT job_id) FROM event WHERE sequence > ? AND type = 5"
_RELEASED = "SELECT count(*) FROM event WHERE sequence > ? AND type = 13"


def worked(bench: Bench, server: Target, load: Callable[[], Worked], plan: Plan) -> tuple[Sample, Worked]:
    """Run workers; one operation is one job handed out.

    Raises:
        Untrue: the store does not show that each was handed out, and has ended as the workers left it, once.
    """
    assert isinstance(server, JobServer)
    before, cpu = server.counters(), server.cpu()
    done = load()
    taken = sample(done.tally)
    taken.server_cpu = server.cpu() - cpu
    # Given back: .released, .started and, once it is handed out again, .claimed.
    events = done.hand_outs * (3 if plan.releases else 2 + plan.reports + plan.makes)
    if plan.group_id:
        # The server itself reports how far the group has come.
        events += server.count(
            "SELECT count(*) FROM event WHERE sequence > ? AND job_id = ?", before.head, plan.group_id
        )
    bench.witness(server, before, events, done.tally.answered, hands_out=True)
    query = _RELEASED if plan.releases else _COMPLETED
    if not server.count(query, before.head) == done.hand_outs == plan.jobs:
        raise Untrue(f"{plan.jobs} jobs were to be handed out, {done.hand_outs} were, and not all ended once")
    return replace(taken, ops=done.hand_outs), done


class StreamWorkers:
    """Workers on streams, each with 100 jobs in hand: the ends of these and the acquire of the next are one batch.

    Those that start jobs by hand start the next in that batch. Like the others they know of a job that it is theirs
    before they report on it. ``StreamLifecycles`` does not wait for that: half of its jobs begin and end in one commit,
    which stores them once.
    """

    unit = "lifecycles"

    def __init__(
        self,
        bench: Bench,
        reports: int = len(PERCENTAGES),
        levels: tuple[Level, ...] = ONE_LEVEL,
        *,
        starts: bool = False,
        lanes: int = 1,
        group_id: str = "",
    ) -> None:
        self._bench = bench
        jobs = bench.sizes.stream_lifecycles * CONNECTIONS
        self._plan = Plan(jobs, BATCH, reports, levels=levels, starts=starts, lanes=lanes, group_id=group_id)

    def run(self, target: Target) -> Sample:
        plan = replace(self._plan, prefix=self._bench.name("handed-"))

        def load() -> Worked:
            done: Worked = self._bench.load.ask(
                "stream_workers", target.address, plan, streams=CONNECTIONS, workers=WORKERS_A_STREAM
            )
            return done

        return worked(self._bench, target, load, plan)[0]


class CallingWorkers:
    """Workers that make one unary call after the other, each with up to 16 jobs in hand."""

    unit = "lifecycles"

    def __init__(self, bench: Bench, reports: int = len(PERCENTAGES), hands: int = HANDS, jobs: int = 0) -> None:
        self._bench = bench
        self._plan = Plan(jobs or bench.sizes.lifecycles, hands, reports)
        self.acquired: list[float] = []
        """How long each acquire of the last run took, in seconds."""

    def run(self, target: Target) -> Sample:
        plan = replace(self._plan, prefix=self._bench.name("called-"))

        def load() -> Worked:
            done: Worked = self._bench.load.ask(
                "calling_workers", target.address, plan, connections=CONNECTIONS, workers=CALLERS
            )
            return done

        taken, done = worked(self._bench, target, load, plan)
        self.acquired = done.acquired
        return taken
