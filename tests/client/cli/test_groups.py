"""Needs and groups on the command line: create, list, get, close-group, and what is said of them."""

from __future__ import annotations

from jobstate_client import Client, GroupPolicy, Need, NewJob, OnExcess
from jobstate_client.testing import JobstateServer

from .support import run
from .test_lanes import rows, told


def test_a_pipeline_is_created_and_followed(server: JobstateServer, client: Client) -> None:
    told(server, "create", "fetch", "--id", "fetch-1")
    created = told(server, "create", "clean", "--id", "clean-1", "--needs", "fetch-1")
    told(server, "create", "notify", "--id", "notify-1", "--needs", "clean-1:final", "--needs", "fetch-1")

    assert created == "clean-1 is QUEUED, waits for what it needs\n"
    assert ["note", "waits", "for", "what", "it", "needs"] in rows(server, "get", "clean-1")
    assert rows(server, "get", "notify-1", "--include-needs")[-3:] == [
        ["NEEDS", "CONDITION", "MET", "STATE"],
        ["clean-1", "FINAL", "no"],
        ["fetch-1", "COMPLETED", "no"],
    ]
    assert [need["job_id"] for need in run(server, "get", "notify-1", "--include-needs", "--json").json["needs"]] == [
        "clean-1",
        "fetch-1",
    ]
    assert [row[0] for row in rows(server, "list", "--needed-by", "notify-1")[1:]] == ["clean-1", "fetch-1"]
    assert [row[0] for row in rows(server, "list", "--needs", "clean-1")[1:]] == ["notify-1"]
    assert {row[0] for row in rows(server, "list", "--wait-reason", "needs")[1:]} == {"clean-1", "notify-1"}

    client.cancel("fetch-1")
    server.advance(0)

    assert ["cancelled", "for", "fetch-1"] in rows(server, "get", "clean-1")
    assert "it needs fetch-1, which ended otherwise" in told(server, "list", "--state", "cancelled")
    assert "it needs fetch-1, which ended otherwise" in told(
        server, "watch", "clean-1", "--from-earliest", "--no-follow"
    )


def test_a_group_is_created_filled_closed_and_followed(server: JobstateServer, client: Client) -> None:
    told(server, "create", "import_day", "--id", "day", "--group", "--tolerated-failures", "1", "--on-excess", "cancel")
    for name in ("first", "second", "third"):
        told(server, "create", "fetch", "--id", name, "--group-id", "day")
    assert client.get("day").group == GroupPolicy(1, OnExcess.CANCEL)
    client.complete(client.start("first"))
    client.cancel("second")

    assert told(server, "close-group", "day") == "day is PROCESSING, attempt 1, 1 completed, 1 cancelled of 3\n"

    client.progress(client.start("third"), tokens=1_200, cost=0.25)
    server.advance(1.0)
    found = rows(server, "get", "day")
    assert ["members", "used", "1,200", "tokens,", "cost", "0.2500"] in found
    assert ["progress", "66", "%"] in found
    assert "━━━━━━━━━━━━━━━━──────── 66 %" in run(server, "get", "day", terminal=True).out
    assert ["members", "1", "completed,", "1", "cancelled", "of", "3"] in found
    assert ["closed", "yes"] in found
    assert ["tolerates", "1", "failures"] in found
    assert ["group", "day"] in rows(server, "get", "third")
    assert [row[0] for row in rows(server, "list", "--group-id", "day", "--oldest-first")[1:]] == [
        "first",
        "second",
        "third",
    ]


def test_ids_with_colons_are_needed_too(server: JobstateServer, client: Client) -> None:
    client.create_many([NewJob("fetch", id="run:1"), NewJob("fetch", id="run")])
    told(server, "create", "clean", "--id", "clean", "--needs", "run:1", "--needs", "run:not_completed")

    assert [(need.job_id, need.condition.value) for need in client.needs("clean")] == [
        ("run:1", "COMPLETED"),
        ("run", "NOT_COMPLETED"),
    ]


def test_what_cannot_be_is_refused(server: JobstateServer, client: Client) -> None:
    client.create("fetch", id="job")
    for command, code, words in (
        (["create", "fetch", "--on-excess", "cancel"], 2, "need --group"),
        (["create", "fetch", "--needs", "nobody"], 1, "--needs: no job has the id 'nobody'"),
        (["create", "fetch", "--needs", "job", "--needs", "job:final"], 1, "--needs"),
        (["create", "fetch", "--group-id", "job"], 1, "--group-id: job 'job' is not a group"),
        (["close-group", "job"], 1, "ID: job 'job' is not a group"),
        (["list", "--needs", "job", "--needed-by", "job"], 2, "--needed-by and --needs each"),
        (["list", "--needs", "job", "--group-id", "job"], 2, "--group-id and --needs each"),
        (["create", "fetch", "--id", "\x01", "--group-id", "\x01"], 1, "  --group-id: "),
        (["report-usage", "job", "--attempt", "1", "--cost", "nan"], 2, "--cost must be a finite number"),
    ):
        result = run(server, *command)
        assert (result.code, words in result.err) == (code, True), result


def test_a_group_that_was_cancelled_says_so_of_its_members(server: JobstateServer, client: Client) -> None:
    with client.group("import_day", id="day") as day:
        day.create("fetch", id="member", needs=[Need(client.create("fetch"))])
    told(server, "cancel", "day")
    server.advance(0)

    assert "its group day is stopping" in told(server, "list", "--state", "cancelled")
