"""Only the current attempt may report: what an earlier one says, or one that is not named, is refused."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2

from ..support.calls import ask, complete, refused
from ..support.server import Running, rows
from .support import REPORTS, bring_to


@pytest.mark.parametrize("rpc", REPORTS)
async def test_a_report_of_an_old_attempt_is_superseded(running: Running, rpc: str) -> None:
    await bring_to(running, "PROCESSING, unclaimed")
    before = rows(running.path)

    refusal = await refused(ask(running, rpc, REPORTS[rpc](id="job", attempt=1)))

    assert refusal.brief == ("FAILED_PRECONDITION", "ATTEMPT_SUPERSEDED")
    assert refusal.metadata == {"job_id": "job", "attempt": "1", "current_attempt": "2", "state": "PROCESSING"}
    assert refusal.detail(error_details_pb2.PreconditionFailure).violations[0].subject == "job"
    assert rows(running.path) == before


@pytest.mark.parametrize("rpc", REPORTS)
async def test_a_report_must_name_its_attempt_once_there_was_more_than_one(running: Running, rpc: str) -> None:
    await bring_to(running, "PROCESSING, unclaimed")
    before = rows(running.path)

    refusal = await refused(ask(running, rpc, REPORTS[rpc](id="job")))

    assert refusal.brief == ("FAILED_PRECONDITION", "ATTEMPT_REQUIRED")
    assert refusal.metadata == {"job_id": "job", "attempt": "0", "current_attempt": "2", "state": "PROCESSING"}
    assert rows(running.path) == before


@pytest.mark.parametrize("state", ["FAILED", "RETRYING"])
async def test_a_report_of_an_attempt_that_failed_is_superseded(running: Running, state: str) -> None:
    await bring_to(running, state)

    refusal = await refused(complete(running, attempt=1))

    assert refusal.brief == ("FAILED_PRECONDITION", "ATTEMPT_SUPERSEDED")
    assert refusal.metadata == {"job_id": "job", "attempt": "1", "current_attempt": "1", "state": state}


@pytest.mark.parametrize("state", ["COMPLETED", "PERMANENTLY_FAILED, exhausted", "CANCELLED"])
async def test_a_report_on_a_final_job_is_no_matter_of_attempts(running: Running, state: str) -> None:
    await bring_to(running, state)

    refusal = await refused(complete(running, attempt=7))

    assert refusal.brief == ("FAILED_PRECONDITION", "TRANSITION_NOT_ALLOWED")
