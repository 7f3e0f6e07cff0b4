"""A job takes every step that its state allows and refuses every other, saying what could be asked instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from google.rpc import error_details_pb2

from jobstate.v1 import job_pb2

from ..support.calls import cancel, complete, fail, refused, report, retry, start
from ..support.server import Client, Running, rows
from .support import WAYS, bring_to, on_shared, retry_immediately

TRIGGERS: dict[str, Callable[[Client, str], Awaitable[job_pb2.Job]]] = {
    "start": start,
    "progress": lambda client, job_id: report(client, job_id, progress=1),
    "complete": complete,
    "fail": fail,
    "retry": retry,
    "retry immediately": retry_immediately,
    "cancel": cancel,
}

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
    "PROCESSING": "progress,complete,fail,release,cancel",
    "PROCESSING, unclaimed": "claim,progress,complete,fail,release,cancel",
    "FAILED": "retry,cancel",
    "RETRYING": "expedite,cancel",
}
"""What the refusal says could be asked instead."""

PAIRS = [(state, trigger) for state in WAYS for trigger in TRIGGERS]

FORBIDDEN = [(state, trigger) for state, trigger in PAIRS if trigger not in ALLOWED[state]]


@pytest.mark.parametrize(("state", "trigger"), FORBIDDEN)
@on_shared
async def test_a_trigger_is_refused_in_every_state_that_does_not_allow_it(
    shared: Running, state: str, trigger: str
) -> None:
    job_id = f"{state}:{trigger}".replace(", ", ":").replace(" ", "-")
    await bring_to(shared, state, job_id)
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
    before = await bring_to(shared, state, job_id)

    if before.attempt > 1 and trigger in {"progress", "complete", "fail"}:
        refusal = await refused(TRIGGERS[trigger](shared, job_id))
        assert refusal.reason == "ATTEMPT_REQUIRED"
    else:
        after = await TRIGGERS[trigger](shared, job_id)
        unmoved = (state, trigger) == ("RETRYING", "retry")
        assert (after.version == before.version) == unmoved
