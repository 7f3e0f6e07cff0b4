"""The life of a job, in Python: create it, start it, report progress, complete it, and watch its events.

With a server on 127.0.0.1:50051 (make serve), in this repository:

    pip install .
    python client/examples/python/story.py 127.0.0.1:50051

The client does by itself what a program in another language has to do:

- Every change has a request_id, so that a call whose answer was lost is repeated and changes nothing twice.
- A job that ``start`` returned names its attempt: a report is never counted for another worker.
- The watch resumes from its cursor after a restart of the server, without missing an event.
- Every reason is an error class, with the metadata of its ErrorInfo as attributes.
- Usage in a report whose attempt is over is reported alone, with ReportUsage.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from jobstate_client import Client, Job, TransitionNotAllowed


def show(client: Client) -> None:
    """Show the life of one job."""
    job = client.create("clean_transcript", source_id="episode-12")
    print("created", job.id, flush=True)

    watch = client.watch(job_ids=[job], start="earliest", until_final=True)
    with ThreadPoolExecutor() as threads, watch:
        names = threads.submit(lambda: [event.name for event in watch])
        work(client, job)
        cancel_too_late(client, job)
        print("events:", ", ".join(names.result()))


def work(client: Client, job: Job) -> None:
    """Do the work of a worker."""
    job = client.start(job, worker="worker-1")
    print("started attempt", job.attempt)

    job = client.progress(job, 50, "half way")
    print("progress", job.progress, job.progress_message)

    client.complete(job, result_count=12)
    print("completed")


def cancel_too_late(client: Client, job: Job) -> None:
    """Show what an error contains."""
    try:
        client.cancel(job, "too late")
    except TransitionNotAllowed as error:
        allowed = ", ".join(error.allowed) or "nothing"
        print(f"refused {error.reason}: {error.state} allows {allowed}")


if __name__ == "__main__":
    # Calls wait for a server that restarts.
    with Client(*sys.argv[1:2], wait_for_ready=True) as client:
        show(client)
