"""A watch leaves out what it was asked to leave out, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from jobstate.v1 import event_pb2
from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import complete, create, history, names, report, start, struct, watching_live
from ..support.server import Running
from .support import live_out

FILTERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "none": ({}, ["a.queued", "a.started", "a.completed", "b.queued", "b.started", "b.completed", "c.queued"]),
    "job_ids": ({"job_ids": ["a", "c"]}, ["a.queued", "a.started", "a.completed", "c.queued"]),
    "job_types": ({"job_types": ["clean_transcript"]}, ["b.queued", "b.started", "b.completed"]),
    "source_ids": ({"source_ids": ["south", "east"]}, ["b.queued", "b.started", "b.completed", "c.queued"]),
    "types": (
        {"types": [event_pb2.EVENT_TYPE_STARTED, event_pb2.EVENT_TYPE_COMPLETED]},
        ["a.started", "a.completed", "b.started", "b.completed"],
    ),
    "a label": ({"labels": {"way": "up"}}, ["a.queued", "a.started", "a.completed", "c.queued"]),
    "labels": ({"labels": {"way": "up", "far": ""}}, ["c.queued"]),
    "a label and a source": ({"labels": {"way": "up"}, "source_ids": ["south"]}, ["c.queued"]),
    "a label and a type": ({"labels": {"way": "up"}, "types": [event_pb2.EVENT_TYPE_STARTED]}, ["a.started"]),
    "a label that no job has": ({"labels": {"way": "down"}}, []),
    "two kinds": ({"source_ids": ["south"], "job_types": ["default"]}, ["c.queued"]),
    "all kinds": (
        {
            "job_ids": ["a", "b"],
            "job_types": ["clean_transcript", "default"],
            "source_ids": ["south"],
            "types": [event_pb2.EVENT_TYPE_QUEUED],
        },
        ["b.queued"],
    ),
    "what nothing matches": ({"job_ids": ["a"], "source_ids": ["south"]}, []),
}


@pytest.mark.parametrize(("filters", "expected"), FILTERS.values(), ids=FILTERS)
async def test_a_filter_passes_the_same_events_from_the_log_and_live(
    running: Running, filters: dict[str, Any], expected: list[str]
) -> None:
    async with watching_live(running, **filters) as watch:
        await live_out(running, "a", source_id="north", labels={"way": "up"})
        await live_out(running, "b", "clean_transcript", source_id="south")
        await create(running, "c", source_id="south", labels={"way": "up", "far": ""})
        live = await watch.events(len(expected)) if expected else []
    caught_up = await history(running, *filters.pop("job_ids", ()), **filters)

    told = [f"{event.job.id}.{name}" for event, name in zip(live, names(live), strict=True)]
    assert told == expected
    assert caught_up == live


async def test_under_latest_progress_gives_way_to_later_progress_but_metadata_only_to_metadata(
    running: Running,
) -> None:
    for job_id in ("one", "two"):
        await create(running, job_id)
        await start(running, job_id)
    await report(running, "one", metadata=struct(a=1))
    await report(running, "one", progress=10, metadata=struct(b=2))
    await report(running, "two", progress=5)
    await report(running, "one", progress=20)
    await report(running, "one", progress=30)
    await complete(running, "one")

    events = await history(running, progress=pb.WATCH_PROGRESS_LATEST)

    told = [(event.job.id, name, event.job.progress) for event, name in zip(events, names(events), strict=True)]
    assert told[4:] == [
        ("one", "progress", 10),
        ("two", "progress", 5),
        ("one", "progress", 30),
        ("one", "completed", 100),
    ]
    assert dict(events[4].job.metadata) == {"a": 1, "b": 2}
