"""The commands that change one job, or all that match a filter."""

from __future__ import annotations

import pytest

from jobstate_client import Client, State
from jobstate_client.testing import JobstateServer

from .support import run


def failed(client: Client, *job_ids: str) -> None:
    """Make jobs that are PERMANENTLY_FAILED."""
    for job_id in job_ids:
        client.fail(client.start(client.create("clean_transcript", id=job_id)), retryable=False)


def test_jobs_with_these_ids_are_changed_one_by_one(server: JobstateServer, client: Client) -> None:
    failed(client, "first", "second")

    result = run(server, "recreate", "first", "second")

    assert (result.code, result.err) == (0, "")
    assert [line.split()[1:] for line in result.out.splitlines()] == [["is", "QUEUED"]] * 2
    assert {job.recreated_from for job in client.list(states=["QUEUED"])} == {"first", "second"}


def test_all_that_match_are_counted_and_then_recreated(server: JobstateServer, client: Client) -> None:
    failed(client, "first", "second")
    wanted = ("recreate", "--failed", "--job-type", "clean_transcript")

    dry = run(server, *wanted, "--dry-run")
    wet = run(server, *wanted, "--yes", "--request-id", "request-1")
    again = run(server, *wanted, "--yes", "--request-id", "request-1", "--json")

    assert (dry.code, dry.out) == (0, "2 jobs would be recreated.\n  first\n  second\n")
    assert (wet.code, wet.out) == (0, "2 jobs were recreated.\n  first\n  second\n")
    assert (again.json["done"], again.json["job_ids"], again.json["request_id"]) == (2, [], "request-1")
    assert sum(1 for _ in client.list(states=["QUEUED"])) == 2


def test_where_nobody_can_be_asked_it_must_be_said(server: JobstateServer, client: Client) -> None:
    client.create("clean_transcript", id="first")

    result = run(server, "cancel", "--all")

    assert (result.code, result.out) == (2, "")
    assert "give --yes" in result.err
    assert client.get("first").state is State.QUEUED


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "Give an ID, a filter, or --all"),
        (("first", "--all"), "ID names jobs"),
        (("first", "--state", "QUEUED"), "ID names jobs"),
        (("first", "second", "--request-id", "request-1"), "more than one ID"),
        (("--needs", "a", "--group-id", "b", "--yes"), "give only one"),
        (("--limit", "3", "--yes"), "Give an ID, a filter, or --all"),
    ],
)
@pytest.mark.parametrize("command", ["cancel", "retry", "recreate"])
def test_what_names_too_little_or_too_much_is_wrong_usage(
    server: JobstateServer, command: str, arguments: tuple[str, ...], why: str
) -> None:
    result = run(server, command, *arguments)

    assert result.code == 2
    assert why in result.err


def test_what_is_skipped_is_told(server: JobstateServer, client: Client) -> None:
    failed(client, "first")
    client.create("clean_transcript", id="second")

    result = run(server, "retry", "--state", "PERMANENTLY_FAILED", "--state", "QUEUED", "--yes")

    assert (
        result.out == "0 jobs were retried.\n  skipped: 1 job in a state that does not allow it\n"
        "  skipped: 1 job not to be retried\n"
    )
