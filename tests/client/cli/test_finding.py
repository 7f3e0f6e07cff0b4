"""The command line finds jobs by labels, workers, errors and ends, and does one thing with several jobs."""

from __future__ import annotations

import pytest

from jobstate_client import Client
from jobstate_client.testing import JobstateServer

from .support import run


def test_a_job_is_created_listed_and_watched_by_labels(server: JobstateServer) -> None:
    run(server, "create", "default", "--id", "one", "--label", "tenant=acme", "--label", "url=a=b")
    run(server, "create", "default", "--id", "two", "--label", "tenant=acme", "--label", "empty=")
    run(server, "create", "default", "--id", "three")

    listed = run(server, "list", "--label", "tenant=acme", "-o", "ids", "--oldest-first")
    assert listed.out == "one\ntwo\n"
    assert run(server, "list", "--label", "tenant=acme", "--label", "url=a=b", "-o", "ids").out == "one\n"
    assert run(server, "list", "--label", "empty=", "-o", "ids").out == "two\n"
    assert "tenant=acme, url=a=b" in run(server, "get", "one").out
    assert run(server, "get", "one", "--json").json["labels"] == {"tenant": "acme", "url": "a=b"}
    watched = run(server, "watch", "--label", "url=a=b", "--from-earliest", "--no-follow")
    assert ["one" in line for line in watched.out.splitlines()] == [True]


@pytest.mark.parametrize("text", ["tenant", "=acme", ""])
def test_what_is_no_label_is_wrong_usage(server: JobstateServer, text: str) -> None:
    told = run(server, "list", "--label", text)

    assert (told.code, told.out) == (2, "")
    assert "write KEY=VALUE" in told.err


def test_one_key_with_two_values_is_wrong_usage(server: JobstateServer) -> None:
    told = run(server, "create", "default", "--label", "a=1", "--label", "a=2")

    assert told.code == 2
    assert "a is given twice" in told.err


def test_jobs_are_listed_by_worker_error_and_end(server: JobstateServer, client: Client) -> None:
    for job_id in ("failed", "done", "new"):
        client.create("resting", id=job_id, max_retries=0, labels={"\x1b[31m"[2:]: "\x1b[31m"})
    client.fail(client.start("failed", worker="w-1"), "BAD_MODEL", retryable=False)
    client.complete(client.start("done", worker="w-2"))

    assert run(server, "list", "--worker", "w-2", "-o", "ids").out == "done\n"
    assert run(server, "list", "--error-code", "BAD_MODEL", "-o", "ids").out == "failed\n"
    assert run(server, "list", "--completed-since", "2d", "-o", "ids").out == "done\nfailed\n"
    assert run(server, "list", "--completed-since", "2100-01-01", "-o", "ids").out == ""
    assert run(server, "list", "--complete-time-to", "2020-01-01", "-o", "ids").out == ""
    heading, *rows = run(server, "list", "--completed-since", "2d", "--output", "wide").out.splitlines()
    assert heading.split()[-6:] == ["WORKER", "LANE", "ENDED", "ERROR", "LABELS", "NOTE"]
    assert "w-2" in rows[0]
    assert "BAD_MODEL" in rows[1]
    assert "\x1b" not in "".join(rows)
    assert run(server, "list", "-o", "ids", "--json").code == 2


def test_several_jobs_are_shown_cancelled_and_retried_at_once(server: JobstateServer, client: Client) -> None:
    for job_id in ("a", "b", "c"):
        client.create("resting", id=job_id)
    for job_id in ("a", "b"):
        client.fail(client.start(job_id), "E")

    assert [job["id"] for job in run(server, "get", "a", "b", "a", "--json").json_lines] == ["a", "b"]
    assert run(server, "get", "a", "b").out.count("\n\n") == 1
    retried = run(server, "retry", "a", "c", "b")
    assert (retried.code, [line.split()[0] for line in retried.out.splitlines()]) == (1, ["a", "b"])
    assert "TRANSITION_NOT_ALLOWED" in retried.err
    cancelled = run(server, "cancel", "a", "none", "b", "c", "--reason", "over")
    assert (cancelled.code, len(cancelled.out.splitlines())) == (1, 3)
    assert "JOB_NOT_FOUND" in cancelled.err
    assert run(server, "cancel", "a", "b", "--request-id", "request-1").code == 2
    assert run(server, "cancel").code == 2


def test_wait_returns_when_all_are_final_and_says_whether_all_completed(server: JobstateServer, client: Client) -> None:
    for job_id in ("good", "bad"):
        client.create("resting", id=job_id)
    client.complete(client.start("good"))
    client.cancel("bad")

    good = run(server, "wait", "good", "good")
    assert (good.code, good.out) == (0, "good is COMPLETED\n")
    both = run(server, "wait", "bad", "good", "--json")
    assert (both.code, both.json_lines) == (
        4,
        [{"id": "bad", "state": "CANCELLED"}, {"id": "good", "state": "COMPLETED"}],
    )
    missing = run(server, "wait", "good", "none")
    assert missing.code == 1
    assert "JOB_NOT_FOUND" in missing.err


def test_all_jobs_with_a_label_are_cancelled_at_once(server: JobstateServer, client: Client) -> None:
    for job_id, tenant in (("a", "acme"), ("b", "acme"), ("c", "other")):
        client.create("resting", id=job_id, labels={"tenant": tenant})

    told = run(server, "cancel", "--label", "tenant=acme", "--yes")

    assert told.code == 0
    assert [job.id for job in client.list(states=["CANCELLED"], oldest_first=True)] == ["a", "b"]
    assert client.cancel_many(dry_run=True, error_code="NONE").done == 0
    assert client.cancel_many(dry_run=True, labels={"tenant": "other"}, worker="").done == 1
