"""One sample of Celery, in Celery's own environment: the tasks, and the client that publishes and waits for them.

Usage: python celery_work.py JOBS [chord]. With "chord" the tasks are those of a chord, and the time is that until its
callback has run. The worker is Celery's own command, on the same module, and how many reports it makes
is in BENCH_REPORTS. Prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from celery import Celery, chord

READ_AT_ONCE = 500
READ_BACK = 50
PERCENTAGES = (25, 50, 75)
PREFIX = "celery-task-meta-"
WITHIN_S = 300

url = os.environ["BENCH_REDIS"]
reports = int(os.environ["BENCH_REPORTS"])
app: Any = Celery("celery_work", broker=url, backend=url)
app.conf.update(
    task_track_started=True,
    worker_prefetch_multiplier=128,
    worker_disable_rate_limits=True,
    task_ignore_result=False,
    broker_connection_retry_on_startup=True,
)


def work(task: Any, metadata: dict[str, str]) -> dict[str, int]:
    """The reports and a result."""
    for percent in PERCENTAGES[:reports]:
        task.update_state(state="PROGRESS", meta={"percent": percent, "message": "half way there"})
    return {"result_count": 12, "metadata": len(metadata)}


def count_results(results: list[dict[str, int]]) -> int:
    """How many members of a chord have done their work."""
    return sum(result["result_count"] == 12 for result in results)


task: Any = app.task(bind=True, name="work")(work)
end: Any = app.task(name="end")(count_results)


def in_chord(count: int, metadata: dict[str, str]) -> None:
    """Publish a chord, and wait for its callback."""
    began = time.monotonic()
    done = chord(task.s(metadata) for _ in range(count))(end.s())
    stored = done.get(timeout=WITHIN_S, interval=0.01)
    print(json.dumps({"jobs": count, "seconds": time.monotonic() - began, "stored": stored, "failed": 0}))


def alone(count: int, metadata: dict[str, str]) -> None:
    """Publish, and wait until the state of each reads as a success."""
    redis = app.backend.client
    began = time.monotonic()
    with app.producer_pool.acquire(block=True) as producer:
        left = [task.apply_async((metadata,), producer=producer).id for _ in range(count)]
    ids, deadline = list(left), began + WITHIN_S
    while left and time.monotonic() < deadline:
        some = left[:READ_AT_ONCE]
        states = redis.mget([PREFIX + task_id for task_id in some])
        done = {task_id for task_id, state in zip(some, states, strict=True) if state and b'"SUCCESS"' in state}
        left = [task_id for task_id in left if task_id not in done]
        if len(done) < len(some) // 2:
            threading.Event().wait(0.02)
    seconds = time.monotonic() - began
    unread = sum(app.AsyncResult(task_id).result["result_count"] != 12 for task_id in ids[-READ_BACK:])
    stored = len(set(ids)) - len(left) - unread
    print(json.dumps({"jobs": count, "seconds": seconds, "stored": stored, "failed": 0}))


if __name__ == "__main__":
    sample = in_chord if sys.argv[2:] == ["chord"] else alone
    sample(int(sys.argv[1]), {f"key-{number}": "v" * 12 for number in range(8)})
