"""``python -m jobstate_client.demo.worker``: one worker of the demo, a process that can be killed.

It does what every worker does: it asks for a job, runs a function, and the client library reports how that ended. What
the function does is told by the scene.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from jobstate_client.core.job_failure import JobFailure
from jobstate_client.core.run import Run
from jobstate_client.demo.scene import ACT_OF, Ending
from jobstate_client.sync.client import Client

READY = "ready"
"""What it prints before it asks for its first job."""

STEP_PERCENT = 5


def play(run: Run) -> None:
    """Do one attempt as the scene has it.

    Raises:
        JobFailure: the attempt fails.
        JobCancelled: the job was cancelled.
    """
    act = ACT_OF[run.id]
    attempt = act.attempts[run.attempt - 1]
    # The end itself sets the progress to 100.
    steps = range(STEP_PERCENT, min(attempt.until, 99) + 1, STEP_PERCENT)
    for percent in steps:
        run.cancelled.wait(attempt.seconds / len(steps))
        message = act.messages[min(percent * len(act.messages) // 100, len(act.messages) - 1)]
        # Usage is a total of the attempt so far, so that a report that is sent twice counts once.
        run.usage(tokens=percent * 40, cost=percent * 0.0004)
        run.progress(percent, message)
    if attempt.ending is Ending.FAILS:
        raise JobFailure(attempt.message, code=attempt.code)
    if attempt.ending is not Ending.COMPLETES:
        # What is to come comes from outside.
        run.cancelled.wait()
        run.progress(attempt.until)
    run.result_count = 12


def _stop_without_parent() -> None:
    """End when the demo is gone, however that came: nobody else would end this process."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Work until SIGTERM."""
    address, name = sys.argv[1:]
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    with Client(address) as client:
        worker = client.worker(play, job_types=sorted({act.job_type for act in ACT_OF.values()}), worker=name)
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        print(READY, flush=True)
        worker.run()


if __name__ == "__main__":
    main()
