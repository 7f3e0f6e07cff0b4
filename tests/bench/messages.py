"""The requests that the load sends, encoded beforehand, and the answers of the echo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from google.protobuf.message import Message

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb

Level: TypeAlias = "job_pb2.Priority.ValueType"
SERVICE = "/jobstate.v1.JobService/"
JOB_TYPE = "bench"
METADATA = {f"key-{number}": "v" * 12 for number in range(8)}
"""200 bytes once encoded, which every job carries."""

PERCENTAGES = (25, 50, 75)
"""What the reports of one life say."""

LIFECYCLE_CALLS = 3 + len(PERCENTAGES)

ONE_LEVEL: tuple[Level, ...] = (job_pb2.PRIORITY_UNSPECIFIED,)
EVERY_LEVEL: tuple[Level, ...] = tuple(job_pb2.Priority.values()[1:])
"""From the lowest priority to the highest."""

_TIMES = ("create_time", "update_time", "start_time", "claim_time")


class Request(NamedTuple):
    """A call to make."""

    method: str
    body: bytes


def create_request(
    job_id: str, level: Level = job_pb2.PRIORITY_UNSPECIFIED, lane: str = "", group_id: str = ""
) -> pb.CreateRequest:
    """A new job, with 200 bytes of metadata."""
    request = pb.CreateRequest(
        id=job_id, job_type=JOB_TYPE, source_id="episode-12", priority=level, lane=lane, group_id=group_id
    )
    request.metadata.update(METADATA)
    return request


def start_request(job_id: str) -> pb.StartRequest:
    """The beginning of a job's first attempt."""
    return pb.StartRequest(id=job_id, worker="worker-1")


def progress_request(job_id: str, progress: int = 50) -> pb.UpdateProgressRequest:
    """A report such as most are."""
    return pb.UpdateProgressRequest(id=job_id, progress=progress, message="half way there", attempt=1)


def complete_request(job_id: str) -> pb.CompleteRequest:
    """The good end of a job."""
    return pb.CompleteRequest(id=job_id, attempt=1, result_count=12)


def lifecycle(job_id: str, reports: int = len(PERCENTAGES)) -> list[pb.JobUpdate]:
    """All the updates of one job: the six that a lifecycle is counted by, or fewer with fewer reports."""
    return [
        pb.JobUpdate(create=create_request(job_id)),
        pb.JobUpdate(start=start_request(job_id)),
        *[pb.JobUpdate(progress=progress_request(job_id, progress)) for progress in PERCENTAGES[:reports]],
        pb.JobUpdate(complete=complete_request(job_id)),
    ]


_METHODS = {"create": "Create", "start": "Start", "progress": "UpdateProgress", "complete": "Complete"}


def lifecycle_calls(job_id: str, reports: int = len(PERCENTAGES)) -> list[Request]:
    """The same as calls of their own."""
    kinds = [(str(update.WhichOneof("update")), update) for update in lifecycle(job_id, reports)]
    return [Request(_METHODS[kind], getattr(update, kind).SerializeToString()) for kind, update in kinds]


def progress_call(job_id: str) -> list[Request]:
    """One report."""
    return [Request("UpdateProgress", progress_request(job_id).SerializeToString())]


def get_call(job_id: str) -> list[Request]:
    """One Get."""
    return [Request("Get", pb.GetRequest(id=job_id).SerializeToString())]


def batch(number: int, updates: Sequence[pb.JobUpdate]) -> bytes:
    """One batch of StreamUpdates."""
    return pb.StreamUpdatesRequest(batch=number, updates=updates).SerializeToString()


def progress_batches(job_ids: Sequence[str], size: int, count: int) -> list[bytes]:
    """``count`` batches of ``size`` reports, going round the jobs."""
    batches: list[bytes] = []
    for number in range(count):
        named = [job_ids[(number * size + index) % len(job_ids)] for index in range(size)]
        batches.append(batch(number, [pb.JobUpdate(progress=progress_request(job_id)) for job_id in named]))
    return batches


def lifecycle_batches(job_ids: Sequence[str], size: int, reports: int = len(PERCENTAGES)) -> list[bytes]:
    """Batches as a worker with ``size`` jobs in hand sends them: one step of all of these, then the next step."""
    batches: list[bytes] = []
    for start in range(0, len(job_ids), size):
        lives = [lifecycle(job_id, reports) for job_id in job_ids[start : start + size]]
        for step in zip(*lives, strict=True):
            batches.append(batch(len(batches), step))
    return batches


def whole_lives_batches(job_ids: Sequence[str], size: int) -> list[bytes]:
    """Create, start and complete of ``size`` jobs per batch: the quickest way to many jobs that are done."""
    batches: list[bytes] = []
    for start in range(0, len(job_ids), size):
        lives = [lifecycle(job_id) for job_id in job_ids[start : start + size]]
        batches.append(batch(len(batches), [life[step] for step in (0, 1, 5) for life in lives]))
    return batches


def lane_name(number: int, lanes: int) -> str:
    """The lane of a job among so many lanes. With one it is the empty one."""
    return f"tenant-{number % lanes}" if lanes > 1 else ""


def group_request(group_id: str) -> pb.CreateRequest:
    """A new group that tolerates no failures."""
    return pb.CreateRequest(id=group_id, job_type=JOB_TYPE, group=job_pb2.GroupPolicy())


def batch_create(
    job_ids: Sequence[str],
    levels: Sequence[Level] = ONE_LEVEL,
    lanes: int = 1,
    first: int = 0,
    *,
    group_id: str = "",
) -> bytes:
    """A BatchCreate of these jobs, with the levels in turn, and the lanes from the ``first`` on."""
    requests = [
        create_request(job_id, levels[number % len(levels)], lane_name(first + number, lanes), group_id)
        for number, job_id in enumerate(job_ids)
    ]
    return pb.BatchCreateRequest(requests=requests).SerializeToString()


def _example(*, metadata: bool) -> job_pb2.Job:
    job = job_pb2.Job(id="bench-000000", job_type=JOB_TYPE, source_id="episode-12", progress=50, attempt=1, version=9)
    job.state = job_pb2.JOB_STATE_PROCESSING
    job.progress_message = "half way there"
    job.worker = "worker-1"
    job.claimed = True
    job.max_retries = 1_000
    for name in _TIMES:
        getattr(job, name).FromMicroseconds(1_700_000_000_123_456)
    if metadata:
        job.metadata.update(METADATA)
    return job


def echoed() -> dict[str, Message]:
    """What the echo answers, by method: as large as what the server answers."""
    return {
        "Create": pb.CreateResponse(job=_example(metadata=True)),
        "Start": pb.StartResponse(job=_example(metadata=True)),
        "UpdateProgress": pb.UpdateProgressResponse(job=_example(metadata=False)),
        "Complete": pb.CompleteResponse(job=_example(metadata=True)),
        "Get": pb.GetResponse(job=_example(metadata=True)),
    }


def one_event() -> pb.WatchEventsResponse:
    """What the echo sends its watchers: an event per message."""
    job = _example(metadata=False)
    event = event_pb2.Event(sequence=1_000, type=event_pb2.EVENT_TYPE_PROGRESS, name="processing-job.progress", job=job)
    event.time.FromMicroseconds(1_700_000_000_123_456)
    event.previous_state = job.state
    return pb.WatchEventsResponse(kind=pb.WATCH_RESPONSE_KIND_EVENTS, events=[event], cursor="c" * 40)


def one_payload() -> bytes:
    """As many of that event's bytes as the log stores besides its columns."""
    (event,) = one_event().events
    from_columns = event_pb2.Event(sequence=event.sequence, type=event.type, name=event.name)
    job = event.job
    from_columns.job.MergeFrom(job_pb2.Job(id=job.id, job_type=job.job_type, source_id=job.source_id))
    from_columns.job.version = job.version
    from_columns.job.update_time.CopyFrom(job.update_time)
    size = event.ByteSize() - from_columns.ByteSize()
    return event.SerializeToString()[-size:]


def watch_everything() -> bytes:
    """A watch from now on, that stays silent for as long as a watch may."""
    request = pb.WatchEventsRequest()
    request.heartbeat_interval.FromSeconds(300)
    return request.SerializeToString()
