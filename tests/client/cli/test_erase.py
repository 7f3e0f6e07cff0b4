"""``jobstate erase``: what it prints, asks and refuses."""

from __future__ import annotations

from jobstate_client import Client
from jobstate_client.testing import JobstateServer

from .support import run


def test_erase_tells_what_it_erased_and_what_is_left(server: JobstateServer, client: Client) -> None:
    for job_id in ("first", "second"):
        client.create("resting", id=job_id, source_id="talk", metadata={"text": "x"}, request_id=f"request-{job_id}")
    client.cancel("first", "no longer wanted")
    some = run(server, "erase", "--source-id", "talk", "--yes")
    client.cancel("second")
    rest = run(server, "erase", "--source-id", "talk", "--yes", "--json")

    assert (some.code, some.out) == (
        3,
        "1 job and 2 events erased, 2 request ids forgotten.\n1 job left, not final or still needed:\n  second\n",
    )
    assert rest.code == 0
    assert rest.json == {"jobs": "1", "events": "2", "request_ids": "2", "unfinished": "0", "unfinished_job_ids": []}
    again = run(server, "erase", "--id", "first", "--yes")
    assert (again.code, again.out) == (0, "0 jobs and 0 events erased, 0 request ids forgotten.\n")
    assert "erased" in run(server, "watch", "first", "--no-follow", "--from-earliest").out


def test_erase_refuses_what_is_not_final_and_asks_nobody_who_is_not_there(
    server: JobstateServer, client: Client
) -> None:
    client.create("resting", id="running")
    refused = run(server, "erase", "--id", "running", "--yes")
    unasked = run(server, "erase", "--id", "running")
    neither = run(server, "erase", "--yes")

    assert refused.code == 1
    assert "TRANSITION_NOT_ALLOWED" in refused.err
    assert (unasked.code, "give --yes" in unasked.err) == (2, True)
    assert (neither.code, "Give --id, --source-id or --label" in neither.err) == (2, True)


def test_erase_by_label_erases_the_jobs_that_have_all_of_them(server: JobstateServer, client: Client) -> None:
    jobs = {"both": {"tenant": "acme", "customer": "=1 2"}, "one": {"tenant": "acme"}, "open": {"tenant": "open"}}
    for job_id, labels in jobs.items():
        client.create("resting", id=job_id, labels=labels)
    client.cancel("both")
    client.cancel("one")
    erased = run(server, "erase", "--label", "tenant=acme", "--label", "customer==1 2", "--yes")
    left = run(server, "erase", "--label", "tenant=open", "--yes")

    assert (erased.code, erased.out) == (0, "1 job and 2 events erased, 2 request ids forgotten.\n")
    assert (left.code, left.out.splitlines()[1:]) == (3, ["1 job left, not final or still needed:", "  open"])
    assert [job.id for job in client.list(labels={"tenant": "acme"})] == ["one"]
    for wrong in (["tenant"], ["tenant=a", "--label", "tenant=b"], ["tenant=a", "--id", "one"]):
        assert run(server, "erase", "--yes", "--label", *wrong).code == 2
    assert "a b" in run(server, "erase", "--yes", "--label", "a b=1").err
