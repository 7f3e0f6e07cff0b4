"""The peers that are queues on Redis and PostgreSQL: how each is set up, and one sample of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import install
from .install import NODE_PACKAGES, PROGRAMS, PYTHON_PACKAGES, RIVER
from .services import PeerFailed, background, postgres, postgres_version, redis, redis_version, sample
from .setting import Run, Setting, Trial, Work

AT_ONCE = 1_000
"""How many jobs one call gives away, where a peer can do that."""

_ONE = "one job in each call, 64 calls under way"
_CELERY_WORKER = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")


def redis_setting(*, durable: bool) -> str:
    """How Redis is set."""
    return "Redis with AOF, fsync always" if durable else "Redis as shipped"


def yes(*, durable: bool) -> str:
    """What the table says of whether it is durable."""
    return "yes" if durable else "no"


# BullMQ


def bullmq_versions() -> str:
    """What is measured of it."""
    return f"BullMQ {NODE_PACKAGES['bullmq']}, ioredis {NODE_PACKAGES['ioredis']}, Redis {redis_version()}"


def _bullmq_run(trial: Trial, at_once: int, concurrency: int, pipelining: int, *, durable: bool) -> Run:
    def run(work: Work) -> float:
        with redis(trial.new("bullmq"), durable=durable) as port:
            numbers = (port, work.jobs, work.reports, concurrency, pipelining, at_once)
            return sample([*install.node_program("bullmq_work"), *map(str, numbers)], work.jobs)

    return run


def bullmq(trial: Trial) -> list[Setting]:
    """One job or 1,000 in a call, on a Redis that fsyncs and on one as it is shipped."""
    install.node()
    versions = bullmq_versions()
    settings = []
    for durable in (True, False):
        for at_once, how in ((AT_ONCE, f"`addBulk` of {AT_ONCE:,}"), (1, _ONE)):
            trial.say(f"  BullMQ, {redis_setting(durable=durable)}, {how}:")
            ways = [
                (
                    f"concurrency {concurrency}{', auto-pipelining' if pipelining else ''}",
                    _bullmq_run(trial, at_once, concurrency, pipelining, durable=durable),
                )
                for concurrency in (64, 250)
                for pipelining in (0, 1)
            ]
            name, run = trial.best(ways, 2_000)
            way = f"{redis_setting(durable=durable)}; {how}; {name}"
            settings.append(Setting("BullMQ", versions, way, yes(durable=durable), run, 15_000))
    return settings


# Celery


def celery_versions() -> str:
    """What is measured of it."""
    return f"Celery {PYTHON_PACKAGES['celery[redis,gevent]']}, Redis {redis_version()}"


@contextmanager
def celery_worker(pool: Sequence[str], env: dict[str, str], log: Path, warm_up: int) -> Iterator[None]:
    """A worker that has done so many tasks, for as long as the block lasts."""
    celery = install.python() / "celery"
    command: list[str | Path] = [celery, "-A", "celery_work", "worker", *pool, *_CELERY_WORKER]
    with background(command, log, env, PROGRAMS):
        # Its first jobs tell when it has come up.
        _celery_sample(warm_up, env)
        yield


def _celery_sample(jobs: int, env: dict[str, str]) -> float:
    return sample([install.python() / "python", "celery_work.py", str(jobs)], jobs, env, PROGRAMS)


def _celery_run(trial: Trial, pool: Sequence[str], *, durable: bool) -> Run:
    def run(work: Work) -> float:
        with redis(trial.new("celery"), durable=durable) as port:
            env = {"BENCH_REDIS": f"redis://127.0.0.1:{port}/0", "BENCH_REPORTS": str(work.reports)}
            with celery_worker(pool, env, trial.new("celery.log"), work.jobs // 10 + 1):
                return _celery_sample(work.jobs, env)

    return run


def celery(trial: Trial) -> list[Setting]:
    """One job in a call, on a Redis that fsyncs and on one as it is shipped."""
    install.python()
    versions = celery_versions()
    pools = {
        "prefork, 2 processes": ("-P", "prefork", "-c", "2"),
        "threads, 16": ("-P", "threads", "-c", "16"),
        "gevent, 100": ("-P", "gevent", "-c", "100"),
    }
    settings = []
    for durable in (True, False):
        trial.say(f"  Celery, {redis_setting(durable=durable)}:")
        ways = [(name, _celery_run(trial, pool, durable=durable)) for name, pool in pools.items()]
        name, run = trial.best(ways, 300)
        way = f"{redis_setting(durable=durable)}; one job in each call, one call after the other; {name}; prefetch 128"
        settings.append(Setting("Celery", versions, way, yes(durable=durable), run, 2_000))
    return settings


# Procrastinate


def _procrastinate_program(*arguments: str | int) -> list[str | Path]:
    program = PROGRAMS / "procrastinate_work.py"
    return [install.python() / "python", program, *map(str, arguments)]


def _procrastinate_run(trial: Trial, at_once: int, concurrency: int) -> Run:
    def run(work: Work) -> float:
        log = trial.new("procrastinate.log")
        with postgres() as url:
            env = {"BENCH_POSTGRES": url}
            with background(_procrastinate_program("schema"), log, env) as schema:
                if schema.wait(60):
                    raise PeerFailed(log.read_text("utf-8")[-2000:])
            with background(_procrastinate_program("worker", concurrency, work.reports), log, env):
                # Its first jobs tell when it has come up.
                first = work.jobs // 10 + 1
                sample(_procrastinate_program("client", first, work.reports, at_once), first, env)
                return sample(_procrastinate_program("client", work.jobs, work.reports, at_once), work.jobs, env)

    return run


def procrastinate(trial: Trial) -> list[Setting]:
    """One job or 1,000 in a call."""
    install.python()
    versions = f"Procrastinate {PYTHON_PACKAGES['procrastinate']}, PostgreSQL {postgres_version()}"
    settings = []
    for at_once, how in ((AT_ONCE, f"`batch_defer_async` of {AT_ONCE:,}"), (1, _ONE)):
        trial.say(f"  Procrastinate, {how}:")
        ways = [(f"concurrency {number}", _procrastinate_run(trial, at_once, number)) for number in (8, 30)]
        name, run = trial.best(ways, 200)
        settings.append(Setting("Procrastinate", versions, f"{how}; {name}", "yes", run, 1_500))
    return settings


# River


def _river_run(at_once: int, max_workers: int) -> Run:
    def run(work: Work) -> float:
        with postgres() as url:
            numbers = (work.jobs, work.reports, max_workers, at_once)
            return sample([install.river(), *map(str, numbers)], work.jobs, {"BENCH_POSTGRES": url})

    return run


def river(trial: Trial) -> list[Setting]:
    """One job or 1,000 in a call; its worker fetches and completes in batches by itself."""
    install.river()
    versions = f"River {RIVER['github.com/riverqueue/river']}, pgx, PostgreSQL {postgres_version()}"
    settings = []
    for at_once, how, jobs in ((AT_ONCE, f"`InsertManyFast` of {AT_ONCE:,}", 30_000), (1, _ONE, 10_000)):
        trial.say(f"  River, {how}:")
        ways = [(f"{number:,} workers", _river_run(at_once, number)) for number in (100, 500, 2_000)]
        name, run = trial.best(ways, 3_000)
        way = f"{how}; batch completer; fetches at most every 2 ms; {name}"
        settings.append(Setting("River", versions, way, "yes", run, jobs))
    return settings


# Graphile Worker


def _graphile_run(at_once: int, concurrency: int) -> Run:
    def run(work: Work) -> float:
        with postgres() as url:
            numbers = (work.jobs, work.reports, concurrency, at_once)
            command = [*install.node_program("graphile_work"), *map(str, numbers)]
            return sample(command, work.jobs, {"BENCH_POSTGRES": url})

    return run


def graphile(trial: Trial) -> list[Setting]:
    """One job in a call, fetched and completed alone; or all that in batches, set as its own page on speed has it."""
    install.node()
    versions = f"Graphile Worker {NODE_PACKAGES['graphile-worker']}, Node.js {NODE_PACKAGES['node']}"
    versions += f", PostgreSQL {postgres_version()}"
    batches = f"`addJobs` of {AT_ONCE:,}; `localQueue` of 500, `completeJobBatchDelay` 0"
    settings = []
    for at_once, how, jobs in ((AT_ONCE, batches, 30_000), (1, f"{_ONE}; no batches", 3_000)):
        trial.say(f"  Graphile Worker, {how}:")
        ways = [(f"concurrency {number}", _graphile_run(at_once, number)) for number in (24, 64)]
        name, run = trial.best(ways, 1_000)
        settings.append(Setting("Graphile Worker", versions, f"{how}; {name}", "yes", run, jobs))
    return settings
