"""A process killed with -9 takes no acknowledged write with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobstate_server.domain.job import Job

from ..support import PATIENCE_S, Contents, contents, reading
from .support import at_work, opened_at

WRITE_FOR_EVER = """
number = 0
while True:
    number += 1
    ids = [f"{number}-{part}" for part in range(number % 4 + 1)]
    events = [NewEvent(number, id, "type", "", "", 1, b"x" * (number % 700)) for id in ids]
    jobs = [Job(id=id, job_type="type", result_count=number, metadata=b"m" * number) for id in ids]
    jobs = [ChangedJob(job, index, index) for index, job in enumerate(jobs)]
    with store.transaction() as transaction:
        first = transaction.write(Changes(inserted=jobs, events=events))
        if number % 10 == 0:
            transaction.trim_events(number - 20, 2**62, 1000)
    print(number, first, len(ids), flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 25, 120])
def test_after_kill_9_every_acknowledged_write_is_there_and_the_log_is_gapless(path: Path, acknowledged: int) -> None:
    with at_work(WRITE_FOR_EVER, path) as (process, output):
        told = [output.readline() for _ in range(acknowledged)]
        process.kill()
        told += [line for line in output if line.endswith("\n")]
        process.wait(PATIENCE_S)
    writes = [tuple(map(int, line.split())) for line in told]
    assert len(writes) >= acknowledged

    with opened_at(path) as store, reading(store) as reader:
        log = reader.log_state()
        for number, first, count in writes:
            jobs = reader.jobs([f"{number}-{part}" for part in range(count)])
            assert {(job.id, job.version) for job in jobs.values()} == {
                (f"{number}-{part}", first + part) for part in range(count)
            }
        found = contents(store)

    check_whole(found)
    _, first, count = writes[-1]
    # At most the one write that was under way came after the last that was acknowledged.
    assert first + count - 1 <= log.head <= first + count - 1 + 4


def check_whole(found: Contents) -> None:
    """No gap in the log, its bytes right, and each event beside its job and the reverse."""
    head, horizon, _, size = found.log
    assert [event.sequence for event in found.events] == list(range(horizon + 1, head + 1))
    assert size == sum(len(event.payload) for event in found.events)
    versions: dict[int, Job] = {job.version: job for job in found.jobs}
    assert set(versions) == set(range(1, head + 1))
    assert all(versions[event.sequence].id == event.job_id for event in found.events)
