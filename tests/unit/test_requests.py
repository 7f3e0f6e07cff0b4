"""What a request says becomes the command, also where it says a field's default."""

from __future__ import annotations

import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.job import Usage
from jobstate_server.domain.labels import from_text
from jobstate_server.domain.reach import EVERYTHING
from jobstate_server.rpc.requests import attempts, create, reads

CALLER = Caller(principal="somebody")


def new_id() -> str:
    return "new"


def test_absent_fields_of_a_report_are_none() -> None:
    command = attempts.update_progress(pb.UpdateProgressRequest(id="job"), CALLER, new_id)
    assert command == c.UpdateProgress(job_id="job", caller=CALLER)
    assert command.is_heartbeat


def test_defaults_that_a_report_gives_are_given() -> None:
    request = pb.UpdateProgressRequest(id="job", progress=0, message="")
    command = attempts.update_progress(request, CALLER, new_id)
    assert command == c.UpdateProgress(job_id="job", caller=CALLER, progress=0, message="")
    assert not command.is_heartbeat


def test_all_fields_of_a_report_reach_the_command() -> None:
    request = pb.UpdateProgressRequest(id="job", attempt=2, progress=50, message="half way")
    request.usage.tokens = 7
    request.metadata["page"] = 1
    command = attempts.update_progress(request, CALLER, new_id)
    assert command == c.UpdateProgress(
        job_id="job",
        caller=CALLER,
        attempt=2,
        usage=Usage(tokens=7),
        progress=50,
        message="half way",
        metadata=request.metadata.SerializeToString(),
    )


@pytest.mark.parametrize("attempt", [0, -1])
def test_an_attempt_below_1_is_refused_by_its_name(attempt: int) -> None:
    with pytest.raises(InvalidField) as refusal:
        attempts.update_progress(pb.UpdateProgressRequest(id="job", attempt=attempt), CALLER, new_id)
    assert refusal.value.field == "attempt"


@pytest.mark.parametrize("progress", [-1, 101])
def test_progress_out_of_bounds_is_refused_by_its_name(progress: int) -> None:
    with pytest.raises(InvalidField) as refusal:
        attempts.update_progress(pb.UpdateProgressRequest(id="job", progress=progress), CALLER, new_id)
    assert refusal.value.field == "progress"


@pytest.mark.parametrize("count", [None, 0, 12])
def test_a_result_count_is_given_or_none(count: int | None) -> None:
    command = attempts.complete(pb.CompleteRequest(id="job", attempt=1, result_count=count), CALLER, new_id)
    assert command == c.Complete(job_id="job", caller=CALLER, attempt=1, result_count=count)


@pytest.mark.parametrize(("given", "retryable"), [(None, True), (False, False), (True, True)])
def test_a_failure_is_retryable_unless_it_says_otherwise(given: bool | None, retryable: bool) -> None:
    request = pb.FailRequest(id="job", attempt=1, retryable=given)
    request.error.code, request.error.message = "NO_ROOM", "the disk is full"
    request.error.details["path"] = "/data"
    assert attempts.fail(request, CALLER, new_id) == c.Fail(
        job_id="job",
        caller=CALLER,
        attempt=1,
        code="NO_ROOM",
        message="the disk is full",
        details=request.error.details.SerializeToString(),
        retryable=retryable,
    )


@pytest.mark.parametrize("max_retries", [None, 0, 3])
def test_the_retries_of_a_new_job_are_given_or_the_type_s(max_retries: int | None) -> None:
    request = pb.CreateRequest(job_type="clean", source_id="episode", max_retries=max_retries)
    assert create.create(request, CALLER, new_id) == c.Create(
        job_id="new", caller=CALLER, job_type="clean", source_id="episode", max_retries=max_retries
    )


@pytest.mark.parametrize("seconds", [None, 0, 60])
def test_the_timeout_of_a_new_job_is_none_only_when_it_says_so(seconds: int | None) -> None:
    request = pb.CreateRequest(id="job", job_type="clean")
    if seconds is not None:
        request.timeout.FromSeconds(seconds)
    command = create.create(request, CALLER, new_id)
    assert (command.timeout, command.no_timeout) == ((seconds or 0) * 1_000_000 or None, seconds == 0)


def test_a_start_names_its_worker_and_its_request() -> None:
    command = attempts.start(pb.StartRequest(id="job", worker="w-1", request_id="0123456789abcdef"), CALLER, new_id)
    assert (command.job_id, command.caller, command.worker) == ("job", CALLER, "w-1")
    assert command.request is not None
    assert (command.request.request_id, command.request.rpc) == ("0123456789abcdef", "Start")


def labelled(labels: dict[str, str]) -> str | None:
    return create.create(pb.CreateRequest(id="job", job_type="clean", labels=labels), CALLER, new_id).labels


def test_equal_labels_are_one_text_whatever_their_order() -> None:
    assert labelled({"b": "2", "a": "1"}) == labelled({"a": "1", "b": "2"}) == '{"a":"1","b":"2"}'
    assert from_text(labelled({"b": '"', "a": "\U0001d518"})) == (("a", "\U0001d518"), ("b", '"'))
    assert labelled({}) is None


@pytest.mark.parametrize(
    ("labels", "field", "problem"),
    [
        ({"": "x"}, "labels", "the key '' must be"),
        ({"-a": "x"}, "labels", "the key '-a' must be"),
        ({"a=b": "x"}, "labels", "the key 'a=b' must be"),
        ({"é": "x"}, "labels", "the key 'é' must be"),
        ({"a\n": "x"}, "labels", "the key 'a\\n' must be"),
        ({"k" * 65: "x"}, "labels", f"the key '{'k' * 65}' must be 1 to 64"),
        ({"k" * 100_000: "x"}, "labels", f"the key '{'k' * 80}' must be 1 to 64"),
        ({"k": "v" * 65}, "labels[k]", "has 65 bytes, at most 64 are allowed"),
        ({"k": "é" * 33}, "labels[k]", "has 66 bytes, at most 64 are allowed"),
        ({"k": "a\0"}, "labels[k]", "must not contain NUL"),
        ({str(n): "" for n in range(9)}, "labels", "has 9 values, 0 to 8 are allowed"),
    ],
)
def test_bad_labels_are_refused_by_their_name_in_a_create_and_in_a_list(
    labels: dict[str, str], field: str, problem: str
) -> None:
    with pytest.raises(InvalidField) as refusal:
        labelled(labels)
    assert refusal.value.field == field
    assert refusal.value.problem.startswith(problem)
    with pytest.raises(InvalidField) as refusal:
        reads.list_jobs(pb.ListRequest(labels=labels), EVERYTHING, 0)
    assert refusal.value.field == field


def test_labels_at_their_bounds_are_accepted() -> None:
    labels = {f"{number}{'/' * 63}": "é" * 32 for number in range(7)} | {"a.b/c:d-e_F9": ""}
    assert from_text(labelled(labels)) == tuple(sorted(labels.items()))
    assert reads.list_jobs(pb.ListRequest(labels=labels), EVERYTHING, 0).wanted.labels == tuple(sorted(labels.items()))
