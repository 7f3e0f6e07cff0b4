"""Whatever is wrong with a call is told by code, reason, field and details; and nothing is stored."""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.decide import Decider
from jobstate_server.watch.cursor import Cursor, decode_cursor, encode_cursor

from ..support.calls import (
    Refusal,
    ask,
    cancel,
    complete,
    create,
    fail,
    get,
    refusal_of,
    refused,
    report,
    retry,
    span,
    start,
    struct,
    watching_live,
)
from ..support.clock import WatchedClock
from ..support.server import RESTING, Client, Running, rows, serving

SECRET = "the password is hunter2"

JOB_RPCS: dict[str, type[Message]] = {
    "Get": pb.GetRequest,
    "Start": pb.StartRequest,
    "UpdateProgress": pb.UpdateProgressRequest,
    "Complete": pb.CompleteRequest,
    "Fail": pb.FailRequest,
    "Retry": pb.RetryRequest,
    "Cancel": pb.CancelRequest,
}
"""The RPCs that name one job."""

BAD_IDS = {
    "empty": "",
    "overlong": "a" * 129,
    "with a space": "a b",
    "with a slash": "a/b",
    "with a newline": "job\n",
    "with NUL": "a\0b",
    "not ASCII": "jöb",
    "beginning with a dot": ".job",
    "beginning with a dash": "-job",
}

REPORTS: dict[str, type[Message]] = {name: JOB_RPCS[name] for name in ("UpdateProgress", "Complete", "Fail")}

BAD_USAGE: dict[str, tuple[job_pb2.Usage, str]] = {
    "NaN cost": (job_pb2.Usage(cost=math.nan), "usage.cost"),
    "infinite cost": (job_pb2.Usage(cost=math.inf), "usage.cost"),
    "negatively infinite cost": (job_pb2.Usage(cost=-math.inf), "usage.cost"),
    "negative cost": (job_pb2.Usage(cost=-0.001), "usage.cost"),
    "cost over 10^9": (job_pb2.Usage(cost=1_000_000_001.0), "usage.cost"),
    "negative tokens": (job_pb2.Usage(tokens=-1), "usage.tokens"),
    "absurd tokens": (job_pb2.Usage(tokens=2**62), "usage.tokens"),
}

HUGE = struct(blob="x" * (64 * 1024))
NOT_FINITE = struct(deep={"list": [1, {"number": math.nan}]})
NO_STATE = job_pb2.JobState.ValueType(99)
NO_TYPE = event_pb2.EventType.ValueType(99)


def bad(name: str, rpc: str, request: Message, field: str) -> Any:
    """A bad request, and the field that its refusal names."""
    return pytest.param(rpc, request, field, id=f"{rpc}: {name}")


def _bad_ids() -> Iterator[Any]:
    for name, job_id in BAD_IDS.items():
        for rpc, kind in JOB_RPCS.items():
            yield bad(f"id {name}", rpc, kind(id=job_id), "id")
        if job_id:
            yield bad(f"id {name}", "Create", pb.CreateRequest(id=job_id, job_type="default"), "id")
        yield bad(f"job type {name}", "Create", pb.CreateRequest(job_type=job_id), "job_type")
        yield bad(f"id {name}", "WatchEvents", pb.WatchEventsRequest(job_ids=["job", job_id]), "job_ids[1]")


def _bad_reports() -> Iterator[Any]:
    for name, (usage, field) in BAD_USAGE.items():
        for rpc, kind in REPORTS.items():
            yield bad(name, rpc, kind(id="job", usage=usage), field)
    for number in (0, -1):
        for rpc, kind in REPORTS.items():
            yield bad(f"attempt {number}", rpc, kind(id="job", attempt=number), "attempt")
    for name, request_id in {
        "short": "1234567",
        "overlong": "x" * 129,
        "spaced": "12345 678",
        "odd": "1234567é",
    }.items():
        for rpc in ("Start", "Complete", "Fail", "Retry", "Cancel"):
            yield bad(f"request_id {name}", rpc, JOB_RPCS[rpc](id="job", request_id=request_id), "request_id")
        yield bad(f"request_id {name}", "Create", pb.CreateRequest(job_type="t", request_id=request_id), "request_id")


def _bad_creates() -> Iterator[Any]:
    given: dict[str, Any]
    for name, field, given in (
        ("overlong job type", "job_type", {"job_type": "t" * 65}),
        ("overlong source_id", "source_id", {"source_id": "é" * 129}),
        ("source_id with NUL", "source_id", {"source_id": "a\0"}),
        ("max_retries -1", "max_retries", {"max_retries": -1}),
        ("max_retries 1001", "max_retries", {"max_retries": 1_001}),
        ("negative timeout", "timeout", {"timeout": span(-1)}),
        ("timeout over 30 days", "timeout", {"timeout": span(30 * 86_400 + 1)}),
        ("metadata over the limit", "metadata", {"metadata": HUGE}),
        ("NaN in metadata", "metadata.deep.list[1].number", {"metadata": NOT_FINITE}),
        ("infinity in metadata", "metadata.a", {"metadata": struct(a=math.inf)}),
    ):
        yield bad(name, "Create", pb.CreateRequest(**({"job_type": "default"} | given)), field)


def _bad_changes() -> Iterator[Any]:
    given: dict[str, Any]
    for number in (-1, 101, 2**31 - 1):
        yield bad(
            f"progress {number}", "UpdateProgress", pb.UpdateProgressRequest(id="job", progress=number), "progress"
        )
    for name, field, given in (
        ("overlong message", "message", {"message": "é" * 2_049}),
        ("message with NUL", "message", {"message": "\0"}),
        ("metadata over the limit", "metadata", {"metadata": HUGE}),
        ("NaN in metadata", "metadata.deep.list[1].number", {"metadata": NOT_FINITE}),
    ):
        yield bad(name, "UpdateProgress", pb.UpdateProgressRequest(id="job", **given), field)

    yield bad("negative result_count", "Complete", pb.CompleteRequest(id="job", result_count=-1), "result_count")
    yield bad("result over the limit", "Complete", pb.CompleteRequest(id="job", result=HUGE), "result")
    yield bad("infinity in result", "Complete", pb.CompleteRequest(id="job", result=struct(a=-math.inf)), "result.a")

    for name, field, error in (
        ("overlong code", "error.code", pb.FailureReport(code="c" * 129)),
        ("overlong message", "error.message", pb.FailureReport(message="m" * 4_097)),
        ("details over the limit", "error.details", pb.FailureReport(details=struct(blob="x" * 8_192))),
        ("NaN in details", "error.details.a", pb.FailureReport(details=struct(a=math.nan))),
    ):
        yield bad(name, "Fail", pb.FailRequest(id="job", error=error), field)
    for name, given in (
        ("negative retry_delay", {"retry_delay": span(-0.5)}),
        ("retry_delay over 7 days", {"retry_delay": span(7 * 86_400 + 1)}),
        ("retry_delay of a permanent failure", {"retry_delay": span(1), "retryable": False}),
    ):
        yield bad(name, "Fail", pb.FailRequest(id="job", **given), "retry_delay")

    yield bad("overlong worker", "Start", pb.StartRequest(id="job", worker="w" * 129), "worker")
    yield bad("overlong reason", "Cancel", pb.CancelRequest(id="job", reason="r" * 4_097), "reason")


def _bad_questions() -> Iterator[Any]:
    filters: dict[str, Any]
    watch: dict[str, Any]
    for name, field, filters in (
        ("page size -5", "page_size", {"page_size": -5}),
        ("unknown state", "states[1]", {"states": [job_pb2.JOB_STATE_QUEUED, NO_STATE]}),
        ("unspecified state", "states[0]", {"states": [job_pb2.JOB_STATE_UNSPECIFIED]}),
        ("unknown order", "order", {"order": pb.ListOrder.ValueType(99)}),
        ("too many states", "states", {"states": [job_pb2.JOB_STATE_QUEUED] * 101}),
        ("too many job types", "job_types", {"job_types": ["t"] * 101}),
        ("odd job type", "job_types[0]", {"job_types": ["a b"]}),
        ("overlong source_id", "source_id", {"source_id": "s" * 257}),
        ("impossible time", "create_time_from", {"create_time_from": Timestamp(seconds=2**60)}),
        ("impossible nanos", "create_time_to", {"create_time_to": Timestamp(nanos=-1)}),
    ):
        yield bad(name, "List", pb.ListRequest(**filters), field)

    for name, field, watch in (
        ("unknown type", "types[0]", {"types": [NO_TYPE]}),
        ("unspecified type", "types[0]", {"types": [event_pb2.EVENT_TYPE_UNSPECIFIED]}),
        ("unknown start", "start", {"start": pb.WatchStart.ValueType(99)}),
        ("unknown progress", "progress", {"progress": pb.WatchProgress.ValueType(99)}),
        ("empty cursor", "cursor", {"cursor": ""}),
        ("too many jobs", "job_ids", {"job_ids": ["job"] * 1_001}),
        ("too many sources", "source_ids", {"source_ids": ["s"] * 101}),
        ("snapshot from the earliest event", "snapshot", {"snapshot": True, "start": pb.WATCH_START_EARLIEST}),
        ("until_final of all jobs", "until_final", {"until_final": True}),
        ("until_final not followed", "until_final", {"until_final": True, "job_ids": ["job"], "follow": False}),
        ("negative heartbeat", "heartbeat_interval", {"heartbeat_interval": span(-1)}),
    ):
        yield bad(name, "WatchEvents", pb.WatchEventsRequest(**watch), field)

    yield bad("odd job type", "GetStats", pb.GetStatsRequest(job_types=["default", "a b"]), "job_types[1]")


def _bad_batches() -> Iterator[Any]:
    yield bad("empty batch", "BatchCreate", pb.BatchCreateRequest(), "requests")
    one = pb.CreateRequest(job_type="default")
    yield bad("overlong batch", "BatchCreate", pb.BatchCreateRequest(requests=[one] * 1_001), "requests")
    for name, field, create_request in (
        ("id of an item", "requests[1].id", pb.CreateRequest(id="a b", job_type="default")),
        ("job type of an item", "requests[1].job_type", pb.CreateRequest()),
        ("metadata of an item", "requests[1].metadata", pb.CreateRequest(job_type="default", metadata=HUGE)),
        ("request_id of an item", "requests[1].request_id", pb.CreateRequest(job_type="default", request_id="short")),
    ):
        yield bad(name, "BatchCreate", pb.BatchCreateRequest(requests=[one, create_request]), field)


def _bad_cleanups() -> Iterator[Any]:
    for name, seconds, force in (
        ("below an hour", 3_599, False),
        ("negative", -1, False),
        ("negative by force", -1, True),
    ):
        yield bad(
            f"older_than {name}", "Cleanup", mpb.CleanupRequest(older_than=span(seconds), force=force), "older_than"
        )


BAD_REQUESTS = [
    *_bad_ids(),
    *_bad_reports(),
    *_bad_creates(),
    *_bad_changes(),
    *_bad_questions(),
    *_bad_batches(),
    *_bad_cleanups(),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A server with one running job, for all that must not change it."""
    async with serving(tmp_path_factory.mktemp("shared") / "jobs.db", WatchedClock()) as running:
        await create(running)
        await start(running)
        yield running


@pytest.fixture
def stored(shared: Running) -> Iterator[Running]:
    """The same server, checked: nothing may be stored."""
    before = rows(shared.path)

    yield shared

    assert rows(shared.path) == before


on_shared = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(("rpc", "request_", "field"), BAD_REQUESTS)
@on_shared
async def test_a_bad_field_is_named_and_nothing_is_stored(
    stored: Running, rpc: str, request_: Message, field: str
) -> None:
    refusal = await refused(ask(stored, rpc, request_))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": field}
    assert refusal.fields == [field]
    assert refusal.message.startswith(f"{field}: ")
    assert all(violation.description for violation in refusal.detail(error_details_pb2.BadRequest).field_violations)


@on_shared
async def test_every_bad_field_of_a_request_is_named_at_once(stored: Running) -> None:
    request = pb.UpdateProgressRequest(
        id="", progress=101, message="m" * 4_097, usage=job_pb2.Usage(tokens=-1, cost=math.nan), attempt=0
    )

    refusal = await refused(stored.jobs.UpdateProgress(request))

    assert set(refusal.fields) == {"id", "progress", "message", "usage.tokens", "usage.cost", "attempt"}


@pytest.mark.parametrize("rpc", JOB_RPCS)
@on_shared
async def test_an_unknown_job_is_not_found(stored: Running, rpc: str) -> None:
    refusal = await refused(ask(stored, rpc, JOB_RPCS[rpc](id="nobody")))

    assert refusal.brief == ("NOT_FOUND", "JOB_NOT_FOUND")
    assert refusal.metadata == {"job_id": "nobody"}
    resource = refusal.detail(error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("jobstate.v1.Job", "nobody")


@on_shared
async def test_watching_an_unknown_job_until_it_is_final_is_refused(stored: Running) -> None:
    request = pb.WatchEventsRequest(job_ids=["job", "nobody"], until_final=True)

    refusal = await refused(ask(stored, "WatchEvents", request))

    assert refusal.brief == ("NOT_FOUND", "JOB_NOT_FOUND")
    assert refusal.metadata == {"job_id": "nobody"}


@on_shared
async def test_an_id_that_a_job_has_is_taken(stored: Running) -> None:
    refusal = await refused(create(stored, "job"))

    assert refusal.brief == ("ALREADY_EXISTS", "JOB_EXISTS")
    assert refusal.metadata == {"job_id": "job"}
    assert refusal.detail(error_details_pb2.ResourceInfo).resource_name == "job"


@pytest.mark.parametrize("ids", [("new", "job"), ("new", "new")], ids=["of a stored job", "of the same batch"])
@on_shared
async def test_an_id_that_is_taken_refuses_the_whole_batch(stored: Running, ids: tuple[str, str]) -> None:
    items = [pb.CreateRequest(id=job_id, job_type="default") for job_id in ids]

    refusal = await refused(stored.jobs.BatchCreate(pb.BatchCreateRequest(requests=items)))

    assert refusal.brief == ("ALREADY_EXISTS", "JOB_EXISTS")
    assert refusal.metadata == {"job_id": ids[1]}


async def test_metadata_that_only_merging_takes_over_the_limit_is_refused(running: Running) -> None:
    await create(running, metadata=struct(a="x" * 40_000))
    await start(running)
    before = rows(running.path)

    refusal = await refused(report(running, metadata=struct(b="x" * 40_000)))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": "metadata"}
    assert rows(running.path) == before
    # What replaces instead of adding fits.
    assert (await report(running, metadata=struct(a="x" * 60_000))).metadata["a"] == "x" * 60_000


# Job types.


async def test_an_unnamed_job_type_is_unknown_where_types_are_strict(path: Path) -> None:
    async with serving(path, strict_job_types=True) as running:
        refusal = await refused(create(running, job_type="clean_transcipt"))
        items = [pb.CreateRequest(job_type="default"), pb.CreateRequest(job_type="clean_transcipt")]
        of_batch = await refused(running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items)))

        assert refusal.brief == of_batch.brief == ("INVALID_ARGUMENT", "UNKNOWN_JOB_TYPE")
        assert refusal.metadata == {"job_type": "clean_transcipt", "field": "job_type"}
        assert of_batch.metadata == {"job_type": "clean_transcipt", "field": "requests[1].job_type"}
        assert refusal.fields == ["job_type"]
        assert rows(path)["job"] == []


async def test_one_unnamed_job_type_too_many_is_unknown(path: Path) -> None:
    async with serving(path, max_job_types=2) as running:
        await create(running, "1", "one")
        items = [pb.CreateRequest(job_type=job_type) for job_type in ("one", "two", "three")]
        of_batch = await refused(running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items)))
        await create(running, "2", "two")
        refusal = await refused(create(running, "3", "three"))

        assert of_batch.brief == refusal.brief == ("INVALID_ARGUMENT", "UNKNOWN_JOB_TYPE")
        assert refusal.metadata == {"job_type": "three", "field": "job_type"}
        assert of_batch.metadata == {"job_type": "three", "field": "requests[2].job_type"}
        assert (await create(running, "4", "two")).job_type == "two"
        assert len(rows(path)["job"]) == 3


# The lifecycle.

TRIGGERS: dict[str, Callable[[Client, str], Awaitable[job_pb2.Job]]] = {
    "start": start,
    "progress": lambda client, job_id: report(client, job_id, progress=1),
    "complete": complete,
    "fail": fail,
    "retry": retry,
    "retry immediately": lambda client, job_id: retry(client, job_id, immediately=True),
    "cancel": cancel,
}


async def _fail_for_good(client: Client, job_id: str) -> None:
    await fail(client, job_id, retryable=False)


WAYS: dict[str, tuple[Callable[[Client, str], Awaitable[object]], ...]] = {
    "QUEUED": (),
    "PROCESSING": (start,),
    "PROCESSING, unclaimed": (start, fail, TRIGGERS["retry immediately"]),
    "COMPLETED": (start, complete),
    "FAILED": (start, fail),
    "RETRYING": (start, fail, retry),
    "PERMANENTLY_FAILED, not retryable": (start, _fail_for_good),
    "PERMANENTLY_FAILED, exhausted": (start, fail),
    "CANCELLED": (cancel,),
}
"""How a job gets into each state."""

ALLOWED: dict[str, tuple[str, ...]] = {
    "QUEUED": ("start", "cancel"),
    "PROCESSING": ("progress", "complete", "fail", "cancel"),
    "PROCESSING, unclaimed": ("start", "progress", "complete", "fail", "cancel"),
    "COMPLETED": (),
    "FAILED": ("retry", "retry immediately", "cancel"),
    "RETRYING": ("retry", "retry immediately", "cancel"),
    "PERMANENTLY_FAILED, not retryable": (),
    "PERMANENTLY_FAILED, exhausted": (),
    "CANCELLED": (),
}

OFFERED = {
    "QUEUED": "start,cancel",
    "PROCESSING": "progress,complete,fail,cancel",
    "PROCESSING, unclaimed": "claim,progress,complete,fail,cancel",
    "FAILED": "retry,cancel",
    "RETRYING": "expedite,cancel",
}
"""What the refusal says could be asked instead."""


async def _bring_to(running: Running, state: str, job_id: str = "job") -> job_pb2.Job:
    await create(running, job_id, RESTING, max_retries=0 if "exhausted" in state else 3)
    for step in WAYS[state]:
        await step(running, job_id)
    job = await get(running, job_id)
    assert job_pb2.JobState.Name(job.state) == f"JOB_STATE_{state.partition(',')[0]}"
    return job


PAIRS = [(state, trigger) for state in WAYS for trigger in TRIGGERS]
FORBIDDEN = [(state, trigger) for state, trigger in PAIRS if trigger not in ALLOWED[state]]


@pytest.mark.parametrize(("state", "trigger"), FORBIDDEN)
@on_shared
async def test_a_trigger_is_refused_in_every_state_that_does_not_allow_it(
    shared: Running, state: str, trigger: str
) -> None:
    job_id = f"{state}:{trigger}".replace(", ", ":").replace(" ", "-")
    await _bring_to(shared, state, job_id)
    before = rows(shared.path)

    refusal = await refused(TRIGGERS[trigger](shared, job_id))

    assert rows(shared.path) == before
    violation = refusal.detail(error_details_pb2.PreconditionFailure).violations[0]
    assert (violation.type, violation.subject) == (refusal.reason, job_id)
    if state.startswith("PERMANENTLY_FAILED") and trigger.startswith("retry"):
        why, retries = ("limit reached", "0") if "exhausted" in state else ("not retryable", "3")
        assert refusal.brief == ("FAILED_PRECONDITION", "RETRY_NOT_ALLOWED")
        assert refusal.metadata == {"job_id": job_id, "why": why, "retry_count": "0", "max_retries": retries}
    else:
        assert refusal.brief == ("FAILED_PRECONDITION", "TRANSITION_NOT_ALLOWED")
        assert refusal.metadata == {
            "job_id": job_id,
            "state": state.partition(",")[0],
            "trigger": trigger.partition(" ")[0],
            "allowed": OFFERED.get(state, ""),
        }


@pytest.mark.parametrize(("state", "trigger"), sorted(set(PAIRS) - set(FORBIDDEN)))
@on_shared
async def test_a_trigger_is_taken_in_every_state_that_allows_it(shared: Running, state: str, trigger: str) -> None:
    job_id = f"{state}:{trigger}".replace(", ", ":").replace(" ", "-")
    before = await _bring_to(shared, state, job_id)

    if before.attempt > 1 and trigger in {"progress", "complete", "fail"}:
        refusal = await refused(TRIGGERS[trigger](shared, job_id))
        assert refusal.reason == "ATTEMPT_REQUIRED"
    else:
        after = await TRIGGERS[trigger](shared, job_id)
        unmoved = (state, trigger) == ("RETRYING", "retry")
        assert (after.version == before.version) == unmoved


@pytest.mark.parametrize("rpc", REPORTS)
async def test_a_report_of_an_old_attempt_is_superseded(running: Running, rpc: str) -> None:
    await _bring_to(running, "PROCESSING, unclaimed")
    before = rows(running.path)

    refusal = await refused(ask(running, rpc, REPORTS[rpc](id="job", attempt=1)))

    assert refusal.brief == ("FAILED_PRECONDITION", "ATTEMPT_SUPERSEDED")
    assert refusal.metadata == {"job_id": "job", "attempt": "1", "current_attempt": "2", "state": "PROCESSING"}
    assert refusal.detail(error_details_pb2.PreconditionFailure).violations[0].subject == "job"
    assert rows(running.path) == before


@pytest.mark.parametrize("rpc", REPORTS)
async def test_a_report_must_name_its_attempt_once_there_was_more_than_one(running: Running, rpc: str) -> None:
    await _bring_to(running, "PROCESSING, unclaimed")
    before = rows(running.path)

    refusal = await refused(ask(running, rpc, REPORTS[rpc](id="job")))

    assert refusal.brief == ("FAILED_PRECONDITION", "ATTEMPT_REQUIRED")
    assert refusal.metadata == {"job_id": "job", "attempt": "0", "current_attempt": "2", "state": "PROCESSING"}
    assert rows(running.path) == before


@pytest.mark.parametrize("state", ["FAILED", "RETRYING"])
async def test_a_report_of_an_attempt_that_failed_is_superseded(running: Running, state: str) -> None:
    await _bring_to(running, state)

    refusal = await refused(complete(running, attempt=1))

    assert refusal.brief == ("FAILED_PRECONDITION", "ATTEMPT_SUPERSEDED")
    assert refusal.metadata == {"job_id": "job", "attempt": "1", "current_attempt": "1", "state": state}


@pytest.mark.parametrize("state", ["COMPLETED", "PERMANENTLY_FAILED, exhausted", "CANCELLED"])
async def test_a_report_on_a_final_job_is_no_matter_of_attempts(running: Running, state: str) -> None:
    await _bring_to(running, state)

    refusal = await refused(complete(running, attempt=7))

    assert refusal.brief == ("FAILED_PRECONDITION", "TRANSITION_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("Create", pb.CreateRequest(job_type="other", request_id="request-1")),
        ("Cancel", pb.CancelRequest(id="job", request_id="request-1")),
        ("Cancel", pb.CancelRequest(id="nobody", request_id="request-1")),
        ("BatchCreate", pb.BatchCreateRequest(requests=[pb.CreateRequest(job_type="x", request_id="request-1")])),
    ],
    ids=["other content", "another call", "another job that does not even exist", "a batch"],
)
async def test_a_request_id_is_not_used_for_something_else(running: Running, rpc: str, request_: Message) -> None:
    await create(running, request_id="request-1")
    before = rows(running.path)

    refusal = await refused(ask(running, rpc, request_))

    assert refusal.brief == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    assert refusal.metadata == {"request_id": "request-1"}
    assert rows(running.path) == before


# Page tokens.


@pytest.fixture
async def page(running: Running) -> pb.ListResponse:
    """The first of two pages."""
    await create(running, "1")
    await create(running, "2")
    page = await running.jobs.List(pb.ListRequest(page_size=1, job_types=["default"]))
    assert page.next_page_token
    return page


@pytest.mark.parametrize(
    "filters",
    [{}, {"job_types": ["other"]}, {"states": [job_pb2.JOB_STATE_QUEUED]}, {"order": pb.LIST_ORDER_CREATE_TIME_ASC}],
    ids=["no filter", "another type", "a state more", "another order"],
)
async def test_a_page_token_is_refused_with_another_filter(
    running: Running, page: pb.ListResponse, filters: dict[str, Any]
) -> None:
    same = {} if not filters or "job_types" in filters else {"job_types": ["default"]}
    request = pb.ListRequest(page_token=page.next_page_token, **(filters | same))

    refusal = await refused(running.jobs.List(request))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": "page_token"}
    assert "another filter" in refusal.message


def _forged(token: str, change: Callable[[list[Any]], object]) -> str:
    content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    forged = json.dumps(change(content))
    return base64.urlsafe_b64encode(forged.encode()).rstrip(b"=").decode()


MANGLED: dict[str, Callable[[str], str]] = {
    "cut short": lambda token: token[:-3],
    "with a letter more": lambda token: token + "A",
    "no base64": lambda _: "!!!",
    "not ASCII": lambda _: "é",
    "no JSON": lambda _: "AAAA",
    "overlong": lambda token: token * 10,
    "of another shape": lambda token: _forged(token, lambda content: {"a": content}),
    "of too few parts": lambda token: _forged(token, lambda content: content[:2]),
    "of other kinds": lambda token: _forged(token, lambda content: [content[0], "now", 1]),
    "with a time beyond all": lambda token: _forged(token, lambda content: [content[0], 2**63, content[2]]),
    "with half a character": lambda token: _forged(token, lambda content: [*content[:2], "\ud800"]),
}


@pytest.mark.parametrize("mangle", MANGLED.values(), ids=MANGLED)
async def test_a_mangled_page_token_is_refused(
    running: Running, page: pb.ListResponse, mangle: Callable[[str], str]
) -> None:
    request = pb.ListRequest(page_token=mangle(page.next_page_token), job_types=["default"])

    refusal = await refused(running.jobs.List(request))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": "page_token"}


# Cursors.


def _ahead(cursor: Cursor) -> Cursor:
    return cursor._replace(sequence=cursor.sequence + 1)


def _of_another_history(cursor: Cursor) -> Cursor:
    return cursor._replace(check=cursor.check ^ 1)


def _of_another_log(cursor: Cursor) -> Cursor:
    return cursor._replace(log_id="0" * 12)


def _changed(change: Callable[[Cursor], Cursor]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        cursor = decode_cursor(text)
        assert cursor is not None
        return encode_cursor(change(cursor))

    return apply


UNKNOWN_CURSORS: dict[str, Callable[[str], str]] = {
    "ahead of the log": _changed(_ahead),
    "of another history": _changed(_of_another_history),
    "of another log": _changed(_of_another_log),
    "cut short": lambda text: text[:-2],
    "no base64": lambda _: "!" * 28,
    "not ASCII": lambda _: "é" * 28,
    "overlong": lambda text: text * 100,
}


@pytest.mark.parametrize("change", UNKNOWN_CURSORS.values(), ids=UNKNOWN_CURSORS)
async def test_a_cursor_of_no_place_in_this_log_is_unknown(running: Running, change: Callable[[str], str]) -> None:
    async with watching_live(running) as watch:
        await create(running)
        cursor = (await watch.response()).cursor

    refusal = await refused(ask(running, "WatchEvents", pb.WatchEventsRequest(cursor=change(cursor))))

    assert refusal.brief == ("FAILED_PRECONDITION", "CURSOR_UNKNOWN")
    assert refusal.metadata.keys() == {"oldest_cursor"}
    oldest = pb.WatchEventsRequest(cursor=refusal.metadata["oldest_cursor"])
    assert (await ask(running, "WatchEvents", oldest)).events[0].job.id == "job"


async def test_a_cursor_of_another_server_is_unknown(running: Running, tmp_path: Path) -> None:
    async with serving(tmp_path / "other.db") as other, watching_live(other) as watch:
        await create(other)
        cursor = (await watch.response()).cursor
    await create(running)

    refusal = await refused(ask(running, "WatchEvents", pb.WatchEventsRequest(cursor=cursor)))

    assert refusal.brief == ("FAILED_PRECONDITION", "CURSOR_UNKNOWN")


# Messages.


@pytest.mark.parametrize("rpc", ["Create", "List", "WatchEvents"])
@on_shared
async def test_a_message_over_8_mib_is_too_large(stored: Running, rpc: str) -> None:
    requests: dict[str, Message] = {
        "Create": pb.CreateRequest(job_type="default", metadata=struct(blob="x" * 9 * 2**20)),
        "List": pb.ListRequest(source_id="x" * 9 * 2**20),
        "WatchEvents": pb.WatchEventsRequest(cursor="x" * 9 * 2**20),
    }

    refusal = await refused(ask(stored, rpc, requests[rpc]))

    assert refusal.brief == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
    assert refusal.metadata == {"size": str(requests[rpc].ByteSize()), "size_max": str(8 * 2**20)}


@on_shared
async def test_a_message_that_grpc_itself_does_not_receive_is_refused_without_our_reason(stored: Running) -> None:
    request = pb.CreateRequest(job_type="default", metadata=struct(blob="x" * 17 * 2**20))

    refusal = await refused(stored.jobs.Create(request))

    assert refusal.brief == ("RESOURCE_EXHAUSTED", "")


GARBAGE = {"no field": b"\xff\xff\xff", "cut short": b"\x0a\x10job", "text that is not UTF-8": b"\x0a\x01\xff"}


@pytest.mark.parametrize("raw", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("rpc", ["Create", "Get", "WatchEvents"])
@on_shared
async def test_bytes_that_are_no_message_are_refused(stored: Running, rpc: str, raw: bytes) -> None:
    method = f"/jobstate.v1.JobService/{rpc}"
    channel: Any = stored.channel

    if rpc == "WatchEvents":
        refusal = await refused(anext(aiter(channel.unary_stream(method)(raw))))
    else:
        refusal = await refused(channel.unary_unary(method)(raw))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": "request"}
    assert f"jobstate.v1.{rpc}Request" in refusal.message


@pytest.mark.parametrize("method", ["/jobstate.v1.JobService/Delete", "/jobstate.v2.JobService/Get"])
@on_shared
async def test_a_method_that_there_is_not_is_unimplemented(stored: Running, method: str) -> None:
    channel: Any = stored.channel

    assert (await refused(channel.unary_unary(method)(b""))).brief == ("UNIMPLEMENTED", "")


async def test_a_bad_update_of_a_stream_is_refused_in_its_place_and_breaks_nothing(running: Running) -> None:
    updates = [
        pb.JobUpdate(create=pb.CreateRequest(id="job", job_type="default")),
        pb.JobUpdate(),
        pb.JobUpdate(progress=pb.UpdateProgressRequest(id="job", progress=101)),
        pb.JobUpdate(start=pb.StartRequest(id="nobody")),
        pb.JobUpdate(complete=pb.CompleteRequest(id="job")),
        pb.JobUpdate(start=pb.StartRequest(id="job")),
    ]
    call = running.jobs.StreamUpdates(iter([pb.StreamUpdatesRequest(batch=7, updates=updates)]))

    answer = await anext(aiter(call))

    assert answer.batch == 7
    assert [(outcome.refusal.code, outcome.refusal.reason) for outcome in answer.outcomes] == [
        (0, ""),
        (3, "INVALID_FIELD"),
        (3, "INVALID_FIELD"),
        (5, "JOB_NOT_FOUND"),
        (9, "TRANSITION_NOT_ALLOWED"),
        (0, ""),
    ]
    assert answer.outcomes[2].refusal.metadata == {"field": "progress"}
    assert (await get(running)).state == job_pb2.JOB_STATE_PROCESSING


@on_shared
async def test_a_stream_ends_on_a_batch_of_too_many_updates(stored: Running) -> None:
    request = pb.StreamUpdatesRequest(updates=[pb.JobUpdate()] * 1_001)

    refusal = await refused(anext(aiter(stored.jobs.StreamUpdates(iter([request])))))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": "updates"}


@on_shared
async def test_a_stream_ends_on_a_message_over_8_mib(stored: Running) -> None:
    large = pb.JobUpdate(create=pb.CreateRequest(job_type="default", metadata=struct(blob="x" * 9 * 2**20)))
    request = pb.StreamUpdatesRequest(updates=[large])

    refusal = await refused(anext(aiter(stored.jobs.StreamUpdates(iter([request])))))

    assert refusal.brief == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")


# What nobody foresaw.


def _assert_discreet(refusal: Refusal, error: grpc.aio.AioRpcError, caplog: pytest.LogCaptureFixture) -> None:
    told = f"{error!r} {error.details()} {list(error.trailing_metadata())} {error.debug_error_string()}"
    assert refusal.brief == ("INTERNAL", "INTERNAL")
    assert refusal.metadata.keys() == {"call_id"}
    assert refusal.details == []
    assert "hunter2" not in told
    assert "Traceback" not in told
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.__dict__["call_id"] == refusal.metadata["call_id"]
    assert record.exc_info is not None
    assert SECRET in str(record.exc_info[1])


def _planted(*_: object, **__: object) -> Any:
    raise RuntimeError(SECRET)


@pytest.mark.parametrize("rpc", ["Get", "List", "GetStats", "WatchEvents"])
@on_shared
async def test_an_exception_in_a_handler_is_told_to_the_log_alone(
    stored: Running, rpc: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests: dict[str, Message] = {
        "Get": pb.GetRequest(id="job"),
        "List": pb.ListRequest(),
        "GetStats": pb.GetStatsRequest(),
        "WatchEvents": pb.WatchEventsRequest(),
    }
    monkeypatch.setattr(stored.server.readers, "get", _planted)
    monkeypatch.setattr(stored.server.readers, "run", _planted)
    monkeypatch.setattr(stored.server.hub, "join", _planted)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(stored, rpc, requests[rpc])

    _assert_discreet(refusal_of(caught.value), caught.value, caplog)


@on_shared
async def test_an_exception_while_a_change_is_decided_is_told_to_the_log_alone(
    stored: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Decider, "decide", _planted)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await complete(stored)

    _assert_discreet(refusal_of(caught.value), caught.value, caplog)
