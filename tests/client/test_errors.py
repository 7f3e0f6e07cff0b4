"""Every reason of the contract is an error class, with its metadata as attributes; every error is exported."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

import jobstate_client
from jobstate.v1 import error_reason_pb2
from jobstate_client import errors
from jobstate_client.core.rpc_errors import BY_REASON, error_for_reason, error_from_rpc

PROTO = Path(__file__).resolve().parents[2] / "protos/jobstate/v1/error_reason.proto"
PREFIX = "ERROR_REASON_"
REASONS = [
    name.removeprefix(PREFIX) for name, _ in error_reason_pb2.ErrorReason.items() if not name.endswith("UNSPECIFIED")
]


def kinds(kind: type[errors.JobStateError] = errors.JobStateError) -> Iterator[type[errors.JobStateError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from kinds(narrower)


def examples() -> dict[str, dict[str, str]]:
    """The metadata of each reason's worked example in the contract."""
    plain = re.sub(r"\n\s*// ?", " ", PROTO.read_text("utf-8"))
    found = re.findall(r'\{ "reason": "(\w+)".*?"metadata": (\{.*?\}) \}', plain)
    return {reason: json.loads(metadata) for reason, metadata in found}


def text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


class FailedCall(grpc.RpcError):
    """What gRPC raises."""

    def __init__(self, code: grpc.StatusCode, details: str = "", trailing: tuple[tuple[str, Any], ...] = ()) -> None:
        self._told = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._told[0]

    def details(self) -> str:
        return self._told[1]

    def trailing_metadata(self) -> Any:
        return self._told[2]


def test_every_reason_has_its_error_and_no_other_exists() -> None:
    assert sorted(BY_REASON) == sorted(REASONS)
    assert len({kind.__name__ for kind in BY_REASON.values()}) == len(REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_every_fact_of_a_reason_is_an_attribute(reason: str) -> None:
    metadata = examples()[reason]

    error = error_for_reason(reason, "it is so", metadata)

    assert {key: text(getattr(error, key)) for key in metadata} == metadata
    assert (error.reason, error.message, error.metadata) == (reason, "it is so", metadata)


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_every_error_is_exported_drawn_in_the_tree_and_survives_pickling(kind: type[errors.JobStateError]) -> None:
    error = kind("it is so", {"job_id": "first"})

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301

    assert getattr(jobstate_client, kind.__name__) is kind
    assert kind.__name__ in (errors.__doc__ or "")
    assert (type(copy), copy.message, copy.metadata) == (kind, error.message, error.metadata)


def test_facts_that_are_numbers_states_and_lists_are_typed() -> None:
    superseded = error_for_reason(
        "ATTEMPT_SUPERSEDED", "", {"attempt": "1", "current_attempt": "2", "state": "PROCESSING"}
    )
    refused = error_for_reason("TRANSITION_NOT_ALLOWED", "", {"state": "RETRYING", "allowed": "expedite,cancel"})

    assert isinstance(superseded, errors.AttemptSuperseded)
    assert (superseded.attempt, superseded.current_attempt) == (1, 2)
    assert superseded.state is jobstate_client.State.PROCESSING
    assert isinstance(refused, errors.TransitionNotAllowed)
    assert refused.allowed == ("expedite", "cancel")


def test_a_refusal_because_the_job_is_cancelled_has_a_kind_of_its_own() -> None:
    cancelled = error_for_reason("TRANSITION_NOT_ALLOWED", "", {"state": "CANCELLED"})
    completed = error_for_reason("TRANSITION_NOT_ALLOWED", "", {"state": "COMPLETED"})

    assert type(cancelled) is errors.JobCancelled
    assert type(completed) is errors.TransitionNotAllowed


def test_facts_of_a_later_server_are_kept_and_missing_ones_are_empty() -> None:
    unknown = error_for_reason("MOON_IS_FULL", "tonight", {"moon": "full"})
    bare = error_for_reason("ATTEMPT_SUPERSEDED", "", {"state": "DREAMING"})

    assert type(unknown) is errors.Refused
    assert unknown.metadata == {"moon": "full"}
    assert isinstance(bare, errors.AttemptSuperseded)
    assert (bare.job_id, bare.attempt, bare.state) == ("", 0, "DREAMING")
    assert error_for_reason("ATTEMPT_SUPERSEDED", "", {}).state is jobstate_client.State.UNKNOWN  # type: ignore[attr-defined]


def trailer(*details: Any) -> tuple[tuple[str, bytes], ...]:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return (("grpc-status-details-bin", status_pb2.Status(details=packed).SerializeToString()),)


def test_retry_info_and_bad_fields_are_read() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1_500)
    info = error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="jobstate")
    fields = error_details_pb2.BadRequest()
    fields.field_violations.add(field="id", description="is too long")

    error = error_from_rpc(
        FailedCall(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", trailer(info, retry, fields)), "r" * 8
    )

    assert isinstance(error, errors.Overloaded)
    assert error.retry_after == timedelta(seconds=1.5)
    assert error.violations == (("id", "is too long"),)
    assert error.request_id == "r" * 8
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(error.__cause__, FailedCall)


@pytest.mark.parametrize(
    "trailing",
    [
        (),
        (("grpc-status-details-bin", b"\xff\xff\xff"),),
        (("grpc-status-details-bin", "a text"),),
        trailer(error_details_pb2.ErrorInfo(reason="JOB_NOT_FOUND", domain="another.example")),
        trailer(error_details_pb2.RetryInfo()),
    ],
    ids=["none", "mangled", "no bytes", "of another domain", "without ErrorInfo"],
)
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unreachable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.UNIMPLEMENTED, errors.TransportError),
    ],
)
def test_a_status_that_is_not_the_services_own_goes_by_its_code(
    trailing: tuple[tuple[str, Any], ...], code: grpc.StatusCode, kind: type[errors.JobStateError]
) -> None:
    error = error_from_rpc(FailedCall(code, "somewhere on the way", trailing))

    assert type(error) is kind
    assert error.code is code
    assert "somewhere on the way" in str(error)


def test_all_names_are_exported_sorted_and_there() -> None:
    names = [name for name in jobstate_client.__all__ if not name[1].isupper()]

    assert names == sorted(names)
    assert len(set(jobstate_client.__all__)) == len(jobstate_client.__all__)
    assert all(hasattr(jobstate_client, name) for name in jobstate_client.__all__)
    assert set(jobstate_client.__all__) <= set(dir(jobstate_client))
    assert {kind.__name__ for kind in get_args(jobstate_client.WatchItem)} <= set(jobstate_client.__all__)
