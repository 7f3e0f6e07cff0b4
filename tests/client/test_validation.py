"""Arguments are validated when they are given, by the server's own rules, and none is ignored."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import (
    TLS,
    AsyncClient,
    Client,
    GroupPolicy,
    InvalidField,
    JobFailure,
    JobStateError,
    Need,
    NewJob,
    Refused,
    State,
)
from jobstate_client.core import creating, dispatch, limits, maintenance, operations, validation, watch_request
from jobstate_client.core.documents import duration, seconds, struct_from
from jobstate_client.core.job_failure import fail_requests
from jobstate_server.domain import limits as server_limits
from jobstate_server.domain.caller import ANONYMOUS
from jobstate_server.rpc.requests import attempts
from jobstate_server.wire import documents as server_documents

from .support import Either, done, items


def test_the_limits_are_the_servers() -> None:
    assert limits.BATCH_ITEMS_MAX == server_limits.BATCH_ITEMS_MAX
    assert limits.BATCH_NEEDS_MAX == server_limits.NEEDS_OF_BATCH_MAX
    assert limits.REQUEST_BYTES_MAX == server_limits.REQUEST_BYTES_MAX
    assert limits.DOCUMENT_BYTES_MAX == server_limits.METADATA_BYTES_MAX == server_limits.RESULT_BYTES_MAX
    assert limits.DETAILS_BYTES_MAX == server_limits.DETAILS_BYTES_MAX
    assert limits.NESTING_MAX == server_limits.NESTING_MAX
    assert limits.TEXT_BYTES_MAX == server_limits.TEXT_BYTES_MAX
    assert limits.CODE_BYTES_MAX == server_limits.ERROR_CODE_BYTES_MAX
    assert limits.WORKER_BYTES_MAX == server_limits.WORKER_BYTES_MAX
    assert limits.TOKENS_MAX == server_limits.TOKENS_MAX
    assert limits.COST_MAX == server_limits.COST_MAX
    assert limits.RESULT_COUNT_MAX == server_limits.RESULT_COUNT_MAX
    assert limits.RETRY_DELAY_S_MAX * 1_000_000 == server_limits.RETRY_DELAY_MAX
    assert limits.HOLD_LANE_S_MAX * 1_000_000 == server_limits.HOLD_LANE_MAX


def huge() -> int:
    """A number that has no text."""
    return int("1" + "0" * 4_000) ** 2


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=3)
    | st.binary(max_size=1)
    | st.builds(huge)
    | st.just("x" * 60_000),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec=None), max_size=2) | st.integers(), inner, max_size=3)
        | st.integers(1, 20).flatmap(lambda depth: inner.map(lambda value: wrapped(value, depth)))
    ),
    max_leaves=8,
)


def wrapped(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    return value


@given(ANYTHING)
def test_a_document_that_the_client_takes_is_taken_by_the_server(value: Any) -> None:
    try:
        taken = struct_from({"a": value}, "metadata")
    except (TypeError, ValueError, InvalidField):
        return
    server_documents.encode(taken, "metadata", server_limits.METADATA_BYTES_MAX)


def test_a_document_may_be_as_deep_as_the_server_takes_it_and_no_deeper() -> None:
    deepest = struct_from(wrapped(1, 16), "metadata")
    server_documents.encode(deepest, "metadata", server_limits.METADATA_BYTES_MAX)

    bottoms: list[Any] = [1, {}, []]
    for bottom in bottoms:
        with pytest.raises(InvalidField, match="nested deeper than 16 levels"):
            struct_from({"a": wrapped(bottom, 16)}, "metadata")


def operations_with_lists() -> list[Any]:
    """Every operation of the clients with every parameter of it that takes several values."""
    found: list[Any] = []
    for module in (creating, dispatch, maintenance, operations, watch_request):
        for name, operation in inspect.getmembers(module, inspect.isfunction):
            signature = inspect.signature(operation)
            is_call = re.match("Call|Pages|pb\\.", str(signature.return_annotation))
            if not is_call or operation.__module__ != module.__name__:
                continue
            parameters = signature.parameters.values()
            needed = {each.name: "x" for each in parameters if each.default is each.empty}
            lists = [each.name for each in parameters if re.match("Iterable|Sequence", str(each.annotation))]
            found += [pytest.param(operation, needed, each, id=f"{name}-{each}") for each in lists]
    assert found
    return found


@pytest.mark.parametrize(("operation", "needed", "name"), operations_with_lists())
@pytest.mark.parametrize("value", ["1234", b"1234", 1234])
def test_a_single_value_is_not_taken_for_a_list(operation: Any, needed: dict[str, Any], name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be a list, not {type(value).__name__}"):
        operation(**(needed | {name: value}))


async def test_nor_is_one_in_a_new_job_or_in_the_methods_of_groups_and_workers(either: Any) -> None:
    async with Either(either.group("import_day")) as day:
        calls: tuple[Callable[[], Any], ...] = (
            lambda: either.create_many([NewJob("fetch", needs="1234")]),
            lambda: day.create("fetch", needs="1234"),
            lambda: day.create_many([NewJob("fetch", needs="1234")]),
            lambda: day.create_many("1234"),
            lambda: day.create_many(NewJob("fetch")),
            lambda: either.worker(print, job_types="1234"),
            lambda: either.watch(job_types="1234"),
        )
        for call in calls:
            with pytest.raises(TypeError, match=r"^(needs|jobs|job_types) must be a list, not"):
                await done(call())
        assert (await done(either.get(day))).members.total == 0


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("needs", [7], r"needs\[0\] must be a job or its id, not int"),
        ("needs", [Need(cast(str, None))], r"needs\[0\] must be a job or its id, not NoneType"),
        ("group_id", 7, "group_id must be a job or its id, not int"),
        ("group", "day", "group must be a GroupPolicy, not str; the group that a job joins is its group_id"),
        ("group", GroupPolicy(cast(int, "1")), "tolerated_failures must be an int, not str"),
        ("by", "job-1", "by must be a job as acquire or start returned it, which has its attempt, not str"),
    ],
)
def test_what_relates_a_new_job_to_others_is_refused_by_its_name(field: str, value: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        creating.create("fetch", **{field: value})


def test_what_chooses_related_jobs_is_refused_by_its_name() -> None:
    odd: Any = 7
    with pytest.raises(TypeError, match="group must be a job or its id, not int"):
        operations.list_jobs(group=odd)
    with pytest.raises(TypeError, match="group and needs each choose jobs"):
        operations.list_jobs(group="day", needs="fetch")
    with pytest.raises(TypeError, match=r"jobs\[1\] must be a NewJob, not int"):
        list(creating.new_jobs([NewJob("fetch"), odd]))
    with pytest.raises(ValueError, match="7 is not a NeedCondition"):
        creating.create("fetch", needs=[Need("fetch", odd)])


async def test_the_servers_errors_name_the_arguments_of_the_client(either: Any) -> None:
    refusals: tuple[tuple[Callable[[], Any], str, str], ...] = (
        (lambda: either.create("a", attempt_timeout=-1.0), "attempt_timeout: ", "timeout"),
        (lambda: either.create("a", needs=["x"]), "needs[0].job_id: ", "needs[0]"),
    )
    for call, told, field in refusals:
        with pytest.raises(Refused) as refused:
            await done(call())
        assert str(refused.value).startswith(told), refused.value
        assert refused.value.metadata["field"].startswith(field)
    with pytest.raises(InvalidField, match=r"^group: "):
        await items(either.list(group="\x01"))


def test_a_group_is_named_as_other_jobs_are(client: Client) -> None:
    with client.group("import_day") as day:
        assert client.create("fetch", group_id=day).group_id == day.id
        assert day.create(NewJob("fetch", group_id=day)).group_id == day.id
        assert client.create(NewJob("fetch"), needs=[]).state is State.QUEUED


class Odd:
    """Something that fails however it is looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("repr")


ODD = ANYTHING | st.builds(Odd) | st.builds(object) | st.just(Decimal("NaN"))


@given(ODD, ODD, ODD, ODD, ODD)
def test_any_failure_becomes_a_request_that_the_server_takes(
    message: Any, code: Any, retryable: Any, delay: Any, details: Any
) -> None:
    error = JobFailure(message, code=code, retryable=retryable, retry_delay=delay, details=details)
    job: Any = SimpleNamespace(id="first", attempt=1)

    for request in fail_requests(job, "the-same-1", error, None):
        sent = pb.FailRequest.FromString(request.SerializeToString())
        attempts.fail(sent, ANONYMOUS, lambda: "id")
        assert sent.error.code
        if type(code) is str and code and "\0" not in code and code.isascii() and len(code) <= 128:
            assert sent.error.code == code


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (math.nan, ValueError),
        (math.inf, ValueError),
        (-0.1, ValueError),
        (1e9 + 1, ValueError),
        (10**400, ValueError),
        ("1", TypeError),
        (True, TypeError),
        (None, TypeError),
        (1j, TypeError),
    ],
)
def test_a_cost_that_cannot_be_is_refused_where_it_is_given(value: Any, problem: type[Exception]) -> None:
    with pytest.raises(problem, match="cost must be a"):
        validation.cost(value)


@pytest.mark.parametrize(
    ("value", "problem"), [(-1, ValueError), (2**70, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)]
)
def test_tokens_that_cannot_be_are_refused_where_they_are_given(value: Any, problem: type[Exception]) -> None:
    with pytest.raises(problem, match="tokens must be"):
        validation.tokens(value)


def test_what_can_be_is_taken() -> None:
    assert (validation.cost(Decimal("0.02")), validation.cost(0), validation.cost(1e9)) == (0.02, 0.0, 1e9)
    assert (validation.tokens(0), validation.tokens(10**15)) == (0, 10**15)
    assert (validation.percent(0), validation.percent(33.9), validation.percent(100)) == (0, 33, 100)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 100.5, "50", True, 10**400])
def test_a_percentage_that_cannot_be_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="percent must be"):
        validation.percent(value)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 1e300, pytest.param(10**5_000, id="huge"), "5", True, None, [1]]
)
def test_a_span_that_is_none_is_refused(value: Any) -> None:
    for judge in (seconds, duration):
        with pytest.raises((TypeError, ValueError), match="patience must be"):
            judge(value, "patience")


async def test_bad_usage_is_refused_in_calls_too(either: Any) -> None:
    job = await done(either.start(await done(either.create("default"))))

    for method in (either.progress, either.complete, either.fail):
        with pytest.raises(ValueError, match="cost must be"):
            await done(method(job, cost=math.nan))
        with pytest.raises(ValueError, match="tokens must be"):
            await done(method(job, tokens=-1))
    with pytest.raises(ValueError, match="result_count must be"):
        await done(either.complete(job, result_count=2**70))
    with pytest.raises(InvalidField, match="details: has more than 8192 bytes"):
        await done(either.fail(job, details={"a": "x" * 9_000}))


@pytest.mark.parametrize(
    "beside",
    [
        {"id": "mine"},
        {"source_id": "x"},
        {"metadata": {}},
        {"max_retries": 0},
        {"attempt_timeout": 0},
        {"request_id": "the-same-1"},
    ],
    ids=str,
)
async def test_nothing_that_describes_a_job_may_stand_beside_its_description(either: Any, beside: Any) -> None:
    with pytest.raises(TypeError, match="a NewJob has all the fields of a job"):
        await done(either.create(NewJob("default"), **beside))

    assert (await done(either.create(NewJob("default", request_id="the-same-1"), timeout=10.0))).id


async def test_one_text_is_not_taken_for_a_list_of_names(either: Any) -> None:
    uses: list[Callable[[], Any]] = [
        lambda: either.watch(job_types="clean_transcript"),
        lambda: either.watch(job_ids="first"),
        lambda: either.watch(source_ids="episode"),
        lambda: either.watch(types="QUEUED"),
        lambda: either.list(job_types="clean_transcript"),
        lambda: either.list(states="QUEUED"),
        lambda: either.stats("clean_transcript"),
        lambda: either.worker(print, job_types="clean_transcript"),
    ]
    for use in uses:
        with pytest.raises(TypeError, match="must be a list, not str"):
            await done(use())


async def test_two_ways_to_say_where_a_watch_begins_are_refused(either: Any) -> None:
    with pytest.raises(TypeError, match="cursor and start both"):
        either.watch(cursor="abc", start="earliest")


async def test_what_a_channel_has_already_is_refused_beside_it() -> None:
    channel, aio_channel = grpc.insecure_channel("127.0.0.1:1"), grpc.aio.insecure_channel("127.0.0.1:1")
    besides: list[dict[str, Any]] = [
        {"target": "127.0.0.1:2"},
        {"tls": TLS()},
        {"options": [("grpc.enable_retries", 0)]},
    ]
    for beside in besides:
        with pytest.raises(TypeError, match="a channel already has its target, tls and options"):
            Client(channel=channel, **beside)
        with pytest.raises(TypeError, match="a channel already has its target, tls and options"):
            AsyncClient(channel=aio_channel, **beside)
    channel.close()
    await aio_channel.close()


@pytest.mark.parametrize(
    "terms",
    [
        {"heartbeat": math.nan},
        {"heartbeat": 0},
        {"heartbeat": -1},
        {"heartbeat": "5"},
        {"patience": math.inf},
        {"patience": -1},
        {"patience": None},
        {"worker": "x" * 129},
        {"worker": 5},
        {"is_retryable": True},
    ],
    ids=str,
)
async def test_the_options_of_a_run_are_validated_when_it_is_made(either: Any, terms: Any) -> None:
    makes: list[Callable[[], Any]] = [
        lambda: either.run("first", **terms),
        lambda: either.worker(print, job_types=["work"], **terms),
    ]
    for make in makes:
        with pytest.raises((TypeError, ValueError, JobStateError), match=r"must be|has 129 bytes"):
            make()
