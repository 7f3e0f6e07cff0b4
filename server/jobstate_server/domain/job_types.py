"""Job types: the policy of a job unless its Create overrides it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jobstate_server.domain.backoff import backoff_delay
from jobstate_server.domain.durations import MINUTE, SECOND
from jobstate_server.domain.errors import UnknownJobType
from jobstate_server.domain.lanes import LaneFrom, LaneHolds
from jobstate_server.domain.limits import (
    CONCURRENCY_MAX,
    LEASE_DEFAULT,
    LEASE_MAX,
    LEASE_MIN,
    MAX_RETRIES_MAX,
    PRIORITY_STEP_DEFAULT,
    PRIORITY_STEP_MAX,
    RETRY_DELAY_MAX,
    TIMEOUT_MAX,
)
from jobstate_server.domain.rates import (
    RATE_PER_SECOND_MAX,
    RATE_PERIOD_MAX,
    RATE_PERIOD_MIN,
    PerTime,
    Rate,
    default_burst,
)

DEFAULT_JOB_TYPE = "default"
"""The name of the policy for job types that the config does not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobType:
    """The policy of one job type. Spans are microseconds."""

    name: str
    max_retries: int
    timeout: int | None
    base_delay: int
    max_delay: int
    stale_threshold: int
    jitter: float = 0.0
    auto_retry: bool = True
    lease: int = LEASE_DEFAULT
    priority_step: int = PRIORITY_STEP_DEFAULT
    concurrency: int = 0
    """While so many attempts are claimed, none is handed out. 0 means without limit."""
    rate: PerTime | None = None
    burst: int = 0
    """How many may be handed out at once. 0 means a tenth of the rate's count."""
    lane_from: LaneFrom = LaneFrom.NONE
    lane_concurrency: int = 0
    lane_rate: PerTime | None = None
    lane_burst: int = 0
    lane_holds: LaneHolds = LaneHolds.ATTEMPT

    def __post_init__(self) -> None:
        """Refuse a policy that cannot work. Raises ValueError with a message that names the type and the setting."""
        problems = [
            (not 0 <= self.max_retries <= MAX_RETRIES_MAX, f"max_retries must be 0 to {MAX_RETRIES_MAX}"),
            (
                self.timeout is not None and not 0 < self.timeout <= TIMEOUT_MAX,
                "timeout must be above 0 and at most 30 days",
            ),
            (not 0 <= self.base_delay <= RETRY_DELAY_MAX, "base_delay must be 0 to 7 days"),
            (not 0 <= self.max_delay <= RETRY_DELAY_MAX, "max_delay must be 0 to 7 days"),
            (self.max_delay < self.base_delay, "max_delay must not be below base_delay"),
            (not 0 < self.stale_threshold <= TIMEOUT_MAX, "stale_threshold must be above 0 and at most 30 days"),
            (not 0.0 <= self.jitter <= 1.0, "jitter must be 0 to 1"),
            (not LEASE_MIN <= self.lease <= LEASE_MAX, "lease must be 5 seconds to 1 hour"),
            (not 0 <= self.priority_step <= PRIORITY_STEP_MAX, "priority_step must be 0 to 7 days"),
            (not 0 <= self.concurrency <= CONCURRENCY_MAX, f"concurrency must be 0 (none) to {CONCURRENCY_MAX:,}"),
            (
                not 0 <= self.lane_concurrency <= CONCURRENCY_MAX,
                f"lane_concurrency must be 0 (none) to {CONCURRENCY_MAX:,}",
            ),
            *_rate_problems("rate", self.rate, "burst", self.burst),
            *_rate_problems("lane_rate", self.lane_rate, "lane_burst", self.lane_burst),
        ]
        if found := [problem for wrong, problem in problems if wrong]:
            raise ValueError(f"job type {self.name!r}: {'; '.join(found)}")

    @property
    def hand_out_rate(self) -> Rate | None:
        """How fast jobs of the type may be handed out."""
        return _rate(self.rate, self.burst)

    @property
    def lane_hand_out_rate(self) -> Rate | None:
        """How fast jobs of one lane may be handed out."""
        return _rate(self.lane_rate, self.lane_burst)

    @property
    def holds_jobs(self) -> bool:
        """Whether a job has its place in the lane until it is final."""
        return self.lane_holds is LaneHolds.JOB

    @property
    def is_limited(self) -> bool:
        """Whether something limits how many jobs may run, or how fast they may be handed out."""
        return bool(self.concurrency or self.lane_concurrency or self.rate or self.lane_rate)

    @property
    def is_bounded(self) -> bool:
        """Whether the end of an attempt may allow another one to be handed out."""
        return bool(self.concurrency or self.lane_concurrency)

    def backoff_delay(self, retry_count: int, random: float = 0.0) -> int:
        """Microseconds to wait before the next attempt of a job that has been retried ``retry_count`` times.

        Args:
            retry_count: retries before this one, from 0.
            random: a number from 0 up to 1 that selects the point within the jitter.
        """
        return backoff_delay(self.base_delay, self.max_delay, retry_count, jitter=self.jitter, random=random)


def _rate(rate: PerTime | None, burst: int) -> Rate | None:
    return None if rate is None else Rate(rate.count, rate.period, burst or default_burst(rate.count))


def _rate_problems(name: str, rate: PerTime | None, burst_name: str, burst: int) -> list[tuple[bool, str]]:
    if rate is None:
        # A burst may be inherited from the default type, or wait for a rate.
        return [(burst < 0, f"{burst_name} must be 1 or more")]
    is_period = RATE_PERIOD_MIN <= rate.period <= RATE_PERIOD_MAX
    count_max = RATE_PER_SECOND_MAX * rate.period // SECOND
    return [
        (not is_period, f"{name} must be for a period of 1 second to 7 days"),
        (is_period and not 1 <= rate.count <= count_max, f"{name} must be 1 up to 10,000 a second"),
        (not 0 <= burst <= rate.count, f"{burst_name} must be 1 up to the {rate.count} of {name}"),
    ]


SHIPPED_JOB_TYPES = (
    JobType(
        name="clean_transcript",
        max_retries=3,
        timeout=60 * SECOND,
        base_delay=1 * SECOND,
        max_delay=30 * SECOND,
        stale_threshold=5 * MINUTE,
    ),
    JobType(
        name="extract_insights",
        max_retries=5,
        timeout=120 * SECOND,
        base_delay=2 * SECOND,
        max_delay=60 * SECOND,
        stale_threshold=10 * MINUTE,
    ),
    JobType(
        name="generate_posts",
        max_retries=4,
        timeout=90 * SECOND,
        base_delay=3 * SECOND // 2,
        max_delay=45 * SECOND,
        stale_threshold=15 * MINUTE // 2,
    ),
    JobType(
        name=DEFAULT_JOB_TYPE,
        max_retries=3,
        timeout=None,
        base_delay=1 * SECOND,
        max_delay=60 * SECOND,
        stale_threshold=15 * MINUTE,
    ),
)
"""The policies that every server has. The config file overrides them setting by setting, and adds others."""


class JobTypes:
    """The policies in force."""

    def __init__(self, job_types: Iterable[JobType] = SHIPPED_JOB_TYPES, *, strict: bool = False) -> None:
        """``strict`` refuses jobs of a type that no policy names."""
        self._by_name = {job_type.name: job_type for job_type in job_types}
        self._default = self._by_name[DEFAULT_JOB_TYPE]
        self.strict = strict

    def policy(self, name: str) -> JobType:
        """The policy for ``name``, or the default one when no policy has that name."""
        return self._by_name.get(name, self._default)

    def names(self, name: str) -> bool:
        """Whether a policy of its own exists for ``name``."""
        return name in self._by_name

    def all(self) -> list[JobType]:
        """Every policy, by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]


class UnnamedTypes:
    """The job types in use that have no policy of their own, and whether another may be added.

    They are stored, and a stored type stays. This object holds the types that this server knows of, and those that the
    current transaction adds, which count only once it is committed.
    """

    def __init__(self, job_types: JobTypes, limit: int) -> None:
        """``limit``: how many may be used. Each takes rows of statistics for ever."""
        self._job_types = job_types
        self._limit = limit
        self._known: set[str] = set()
        self._new: set[str] = set()

    @property
    def is_full(self) -> bool:
        """Whether as many are known as may be used, so that the store need not be asked for others."""
        return len(self._known) >= self._limit

    def begin(self) -> None:
        """A transaction begins. Types that an uncommitted transaction added do not count."""
        self._new = set()

    def add(self, name: str) -> None:
        """The current transaction creates a job of this type."""
        if not self._job_types.names(name):
            self._new.add(name)

    def commit(self) -> None:
        """The transaction was committed: its types are known from now on."""
        self._known |= self._new

    def learn(self, names: Iterable[str]) -> None:
        """The store has, or had, jobs of these types."""
        self._known.update(name for name in names if not self._job_types.names(name))

    def unknown(self, names: Iterable[str]) -> set[str]:
        """The types for which the store must be asked whether they may be used."""
        if self._job_types.strict:
            return set()
        return {name for name in names if not self._job_types.names(name)} - self._known

    def check(self, names: Iterable[str]) -> None:
        """Refuse job types that may not be used, alone or together. Raises UnknownJobType for the first one."""
        new: set[str] = set()
        for name in names:
            if self._job_types.names(name):
                continue
            if self._job_types.strict:
                raise UnknownJobType(name)
            if name in self._known or name in self._new:
                continue
            new.add(name)
            if len(self._known | self._new | new) > self._limit:
                raise UnknownJobType(name)
