"""The peers: how each is set up, and one sample of it. page.md says what each is made to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import scratch
from .scratch import HERE, PeerFailed, background, json_of

_CELERY_WORKER = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")

Say = Callable[[str], None]
Run = Callable[[int], float]
"""Takes so many jobs through their lives, and returns how many a second that was."""


@dataclass(frozen=True)
class Setting:
    """A peer, set up one way."""

    system: str
    version: str
    setting: str
    durable: str
    """Whether what it has answered survives the loss of power."""
    run: Run
    jobs: int
    """Of one sample: a few seconds' worth."""


def best(runs: Sequence[tuple[str, Run]], jobs: int, say: Say) -> tuple[str, Run]:
    """Of several ways to run a peer the quickest, so that each is shown at its best."""
    rates = []
    for name, run in runs:
        rates.append(run(jobs))
        say(f"    {name}: {rates[-1]:,.0f}/s")
    return runs[rates.index(max(rates))]


def _bullmq_run(home: Path, port: int, concurrency: int, pipelining: int) -> Run:
    def run(jobs: int) -> float:
        json_of(["redis-cli", "-p", str(port), "--raw", "EVAL", _FLUSH, "0"])
        told = json_of(["node", "bullmq_work.mjs", *map(str, (port, jobs, concurrency, pipelining))], cwd=home)
        return told["jobs"] / told["seconds"]

    return run


def _bullmq(folder: Path, stack: ExitStack, say: Say) -> list[Setting]:
    settings = []
    home = scratch.node_modules()
    version = f"{scratch.node_version('bullmq')}, ioredis {scratch.node_version('ioredis')}"
    version += f", Redis {scratch.redis_version()}"
    for durable in (True, False):
        port = stack.enter_context(scratch.redis(folder / f"bullmq-{durable}", durable=durable))

        ways = [
            (
                f"concurrency {concurrency}{', auto-pipelining' if pipelining else ''}",
                _bullmq_run(home, port, concurrency, pipelining),
            )
            for concurrency in (64, 250, 1_000)
            for pipelining in (0, 1)
        ]
        say(f"  BullMQ, {'durable' if durable else 'default'}:")
        name, run = best(ways, 2_000, say)
        settings.append(Setting("BullMQ", version, _redis_setting(durable) + name, _yes(durable), run, 10_000))
    return settings


_FLUSH = 'redis.call(\'FLUSHALL\') return \'{"jobs": 0, "readable": 0, "failed": 0}\''


def _redis_setting(durable: bool) -> str:
    return "AOF, fsync always; " if durable else "Redis as shipped; "


def _yes(durable: bool) -> str:
    return "yes" if durable else "no"


@contextmanager
def _celery_worker(pool: Sequence[str], env: dict[str, str], log: Path) -> Iterator[None]:
    command: list[str | Path] = [
        scratch.environment() / "celery",
        "-A",
        "celery_work",
        "worker",
        *pool,
        *_CELERY_WORKER,
    ]
    with background(command, log, env, HERE):
        # Its first job tells when it has come up.
        json_of([scratch.environment() / "python", "celery_work.py", "1"], env, HERE)
        yield


def _celery_run(pool: Sequence[str], env: dict[str, str], folder: Path) -> Run:
    def run(jobs: int) -> float:
        with _celery_worker(pool, env, folder / "celery.log"):
            told = json_of([scratch.environment() / "python", "celery_work.py", str(jobs)], env, HERE)
            return told["jobs"] / told["seconds"]

    return run


def _celery(folder: Path, stack: ExitStack, say: Say) -> list[Setting]:
    settings = []
    version = f"{scratch.python_version('celery')}, Redis {scratch.redis_version()}"
    pools = {
        "prefork, 2 processes": ("-P", "prefork", "-c", "2"),
        "threads, 16": ("-P", "threads", "-c", "16"),
        "gevent, 100": ("-P", "gevent", "-c", "100"),
    }
    for durable in (True, False):
        port = stack.enter_context(scratch.redis(folder / f"celery-{durable}", durable=durable))
        env = {"BENCH_REDIS": f"redis://127.0.0.1:{port}/0"}

        say(f"  Celery, {'durable' if durable else 'default'}:")
        name, run = best([(name, _celery_run(pool, env, folder)) for name, pool in pools.items()], 300, say)
        setting = f"{_redis_setting(durable)}{name}, prefetch 128"
        settings.append(Setting("Celery", version, setting, _yes(durable), run, 2_000))
    return settings


def _procrastinate_program(*arguments: str) -> list[str | Path]:
    return [scratch.environment() / "python", HERE / "procrastinate_work.py", *arguments]


def _procrastinate_run(concurrency: int, env: dict[str, str], log: Path) -> Run:
    def run(jobs: int) -> float:
        with background(_procrastinate_program("worker", str(concurrency)), log, env):
            # Its first job tells when it has come up.
            json_of(_procrastinate_program("client", "1"), env)
            told = json_of(_procrastinate_program("client", str(jobs)), env)
            return told["jobs"] / told["seconds"]

    return run


def _procrastinate(folder: Path, stack: ExitStack, say: Say) -> list[Setting]:
    settings = []
    for durable in (True, False):
        uri, running = stack.enter_context(scratch.postgres(folder / f"postgres-{durable}", durable=durable))
        env = {"BENCH_POSTGRES": uri}
        log = folder / "procrastinate.log"
        with background(_procrastinate_program("schema"), log, env) as schema:
            if schema.wait(60):
                raise PeerFailed(log.read_text("utf-8")[-2000:])

        say(f"  Procrastinate, {'as shipped' if durable else 'synchronous_commit off'}:")
        name, run = best(
            [(f"concurrency {concurrency}", _procrastinate_run(concurrency, env, log)) for concurrency in (8, 30)],
            200,
            say,
        )
        version = f"{scratch.python_version('procrastinate')}, PostgreSQL {running}"
        setting = ("as shipped; " if durable else "synchronous_commit off; ") + name
        settings.append(Setting("Procrastinate", version, setting, _yes(durable), run, 1_500))
    return settings


PEERS: dict[str, Callable[[Path, ExitStack, Say], list[Setting]]] = {
    "bullmq": _bullmq,
    "celery": _celery,
    "procrastinate": _procrastinate,
}
"""Each starts its system in a folder, once for each setting, to run until the stack ends."""
