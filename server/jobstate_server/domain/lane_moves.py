"""What the changes of one transaction add to the counts of lanes, and which limits they have relied on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from jobstate_server.domain.job import INT64_MAX, Job
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.lanes import NOTHING_COUNTED, LaneCounts
from jobstate_server.domain.turns import NO_LIMIT, Limits, LimitUse, TypeState


@dataclass(slots=True)
class Move:
    """What is added to a lane, or to all lanes of a type."""

    counts: LaneCounts = NOTHING_COUNTED
    claims: int = 0
    """How many attempts were claimed, by whatever call."""
    turn_time: int = 0
    """The turn that it had. 0 if it had none."""
    held_until: int = 0
    hold_reason: str = ""
    use: LimitUse | None = None
    """What hand-outs have relied on. None if there was none."""


@dataclass(slots=True)
class TypeMove(Move):
    """What is added to a type, and to each of its lanes."""

    lanes: dict[str, Move] = field(default_factory=dict)

    def lane(self, name: str) -> Move:
        """What is added to this lane."""
        move = self.lanes.get(name)
        if move is None:
            move = self.lanes[name] = Move()
        return move


class LaneMoves:
    """Adds up the changes of one transaction, but those of types that have neither limits nor lanes."""

    def __init__(self, job_types: JobTypes) -> None:
        self._job_types = job_types
        self._limits: dict[str, Limits] = {}
        self._types: dict[str, TypeMove] = {}
        self.held: set[str] = set()
        """The types of which a lane is held."""
        self.plain: set[str] = set()
        """Types that are known to have no limits. Of these, only changes of jobs in lanes are added."""

    def limits(self, job_type: str) -> Limits:
        """The limits of a type."""
        limits = self._limits.get(job_type)
        if limits is None:
            limits = self._limits[job_type] = Limits(self._job_types.policy(job_type))
        return limits

    def counts(self, job: Job) -> bool:
        """Whether the changes of this job are to be added."""
        if job.lane or job.job_type in self._types:
            return True
        if job.job_type in self.plain:
            return False
        if self._job_types.policy(job.job_type).is_limited:
            return True
        self.plain.add(job.job_type)
        return False

    def of_type(self, job_type: str) -> TypeMove:
        """What is added to this type. Its changes are added up from now on."""
        move = self._types.get(job_type)
        if move is None:
            move = self._types[job_type] = TypeMove()
            self.plain.discard(job_type)
        return move

    def add(self, job_type: str, lane: str, counted: LaneCounts, counts: LaneCounts) -> None:
        """A job that was counted as the one, if at all, is counted as the other."""
        added, claims = counts.minus(counted), counts.running > counted.running
        of_type = self.of_type(job_type)
        for move in (of_type, of_type.lane(lane)):
            move.counts = move.counts.plus(added)
            move.claims += claims

    def hand_out(self, job: Job, now: int, latest_turn: int) -> None:
        """A job is about to be handed out by an Acquire: its lane has its turn, and limits are relied on.

        Args:
            job: as it is before.
            latest_turn: the latest stored turn of the type.
        """
        limits, of_type = self.limits(job.job_type), self.of_type(job.job_type)
        lane = of_type.lane(job.lane)
        lane.turn_time = of_type.turn_time = max(now, latest_turn + 1, of_type.turn_time + 1)
        if not limits.has_any:
            lane.use = of_type.use = NO_LIMIT
            return
        running_max = INT64_MAX if limits.concurrency == INT64_MAX else limits.concurrency - 1 - of_type.counts.running
        even_max = INT64_MAX
        if limits.rate is not None:
            even_max = now + limits.rate.tolerance - of_type.claims * limits.rate.interval
        of_type.use = _stricter(of_type.use, LimitUse(running_max, even_max))
        under_way_max = even_max = INT64_MAX
        if limits.lane_concurrency != INT64_MAX:
            under_way_max = limits.lane_concurrency - 1 - limits.under_way(lane.counts)
        if limits.lane_rate is not None:
            even_max = now + limits.lane_rate.tolerance - lane.claims * limits.lane_rate.interval
        lane.use = _stricter(lane.use, LimitUse(under_way_max, even_max))

    def hold(self, job: Job, until: int, reason: str) -> None:
        """Hold the lane of a job."""
        lane = self.of_type(job.job_type).lane(job.lane)
        self.held.add(job.job_type)
        if until > lane.held_until:
            lane.held_until, lane.hold_reason = until, reason

    def copy(self, job_types: Iterable[str]) -> LaneMoves:
        """What is added to these types, to be added to without a change of this."""
        moves = LaneMoves(self._job_types)
        moves.held.update(self.held)
        for name in job_types:
            if name in self._types:
                move = self._types[name]
                moves._types[name] = replace(move, lanes={lane: replace(each) for lane, each in move.lanes.items()})
        return moves

    def __iter__(self) -> Iterator[tuple[str, TypeMove]]:
        return iter(self._types.items())


def moved(state: TypeState, move: TypeMove, limits: Limits, gone: Mapping[str, int], now: int) -> TypeState:
    """A type as it is stored, with the turns, holds and rates of its lanes as the transaction has made them.

    Args:
        gone: how many of the ready jobs that are counted in each lane are not ready any more.
    """
    lanes = dict(state.lanes)
    for name in lanes.keys() & {*move.lanes, *gone}:
        lane, added = lanes[name], move.lanes.get(name) or Move()
        even = lane.next_even_time
        if limits.lane_rate is not None:
            even = limits.lane_rate.after(even, now, added.claims)
        lanes[name] = replace(
            lane,
            counts=lane.counts.minus(LaneCounts(ready=gone.get(name, 0))),
            turn_time=max(lane.turn_time, added.turn_time),
            next_even_time=even,
            held_until=max(lane.held_until, added.held_until),
        )
    even = state.next_even_time
    if limits.rate is not None:
        even = limits.rate.after(even, now, move.claims)
    return replace(state, next_even_time=even, lanes=lanes)


def _stricter(known: LimitUse | None, use: LimitUse) -> LimitUse:
    return use if known is None else LimitUse(*map(min, known, use))
