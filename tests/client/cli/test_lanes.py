"""Lanes, limits and pauses: pause, unpause, lanes, and what create, release, explain and types say of them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from jobstate_client import Client, NewJob
from jobstate_client.testing import JobstateServer, serving

from .support import run
from .test_completion import completed

LIMITED: dict[str, dict[str, Any]] = {
    "each": {"lane_concurrency": 1},
    "one": {"concurrency": 1},
    "paced": {"rate": "600/1m", "burst": 1},
    "paced-each": {"lane_rate": "6/1m", "lane_burst": 1},
    "by-source": {"lane_from": "source_id"},
    "sequence": {"lane_concurrency": 1, "lane_holds": "job"},
}


@pytest.fixture
def server() -> Iterator[JobstateServer]:
    """A server whose job types have limits."""
    with serving(job_types=LIMITED) as server:
        yield server


def told(server: JobstateServer, *arguments: str) -> str:
    """What a command that succeeds writes."""
    result = run(server, *arguments)
    assert (result.code, result.err) == (0, "")
    return result.out


def rows(server: JobstateServer, *arguments: str) -> list[list[str]]:
    return [line.split() for line in told(server, *arguments).splitlines()]


def test_a_job_is_created_in_a_lane(server: JobstateServer, client: Client) -> None:
    told(server, "create", "each", "--id", "first", "--lane", "tenant 7")
    told(server, "create", "by-source", "--id", "second", "--source-id", "episode-12", "--lane", "")

    assert (client.get("first").lane, client.get("second").lane) == ("tenant 7", "")
    assert ["lane", "tenant", "7"] in rows(server, "get", "first")
    events = told(server, "watch", "first", "--from-earliest", "--no-follow")
    assert events.endswith("  queued              first  each  lane tenant 7\n")
    assert "lane" not in told(server, "get", "second")


def test_a_lane_that_is_too_long_names_the_option(server: JobstateServer) -> None:
    for command in (["create", "each"], ["pause", "each"], ["unpause", "each"]):
        result = run(server, *command, "--lane", "x" * 129)

        assert result.code == 1
        assert "INVALID_FIELD: --lane: " in result.err


def test_a_type_is_paused_and_says_so_until_it_is_unpaused(server: JobstateServer, client: Client) -> None:
    client.create_many(NewJob("default", id=name) for name in ("first", "second", "third"))
    client.acquire(["default"])

    assert told(server, "pause", "default", "--reason", "disk full") == "default is paused: 2 jobs ready, 1 running\n"
    explained = told(server, "explain", "second")
    assert re.search(r"^TYPE_PAUSED +its type default is paused: disk full$", explained, re.MULTILINE)
    assert "`jobstate unpause default` ends the pause" in explained
    assert told(server, "lanes", "default").endswith("\nThe whole type default is paused: disk full.\n")
    assert run(server, "acquire", "default").err == "jobstate: no job is ready\n"
    assert told(server, "unpause", "default") == "default is not paused: 2 jobs ready\n"
    assert told(server, "acquire", "default").startswith("second is PROCESSING")
    assert "whole type" not in told(server, "lanes", "default")


def test_a_lane_is_paused_by_its_name_and_the_command_that_ends_it_can_be_pasted(
    server: JobstateServer, client: Client
) -> None:
    client.create("default", id="first", lane="it's")
    paused = told(server, "pause", "default", "--lane", "it's", "--reason", "\x1b[2J")
    explained = told(server, "explain", "first")
    (command,) = re.findall(r"`jobstate (unpause .*)` ends the pause", explained)

    assert paused == "lane 'it's' of default is paused: 1 job ready, 0 running\n"
    assert re.search(r"^LANE_PAUSED +its lane .* is paused: \\x1b\[2J$", explained, re.MULTILINE)
    assert told(server, *shlex.split(command)) == "lane 'it's' of default is not paused: 1 job ready\n"
    assert told(server, "acquire", "default").startswith("first is PROCESSING")


def test_the_empty_lane_is_paused_apart_from_its_type(server: JobstateServer, client: Client) -> None:
    client.create_many([NewJob("default", id="plain"), NewJob("default", id="a", lane="a")])
    told(server, "pause", "default", "--lane", "")

    assert "`jobstate unpause default --lane ''` ends the pause" in told(server, "explain", "plain")
    assert told(server, "acquire", "default", "--max-jobs", "9").startswith("a is PROCESSING")


def test_pauses_are_the_contracts_answers_in_json(server: JobstateServer, client: Client) -> None:
    job = client.create("default", lane="a")
    paused = run(server, "pause", "default", "--lane", "a", "--json").json
    unpaused = run(server, "unpause", "default", "--lane", "a", "--json").json

    assert paused == {"ready": "1", "running": "0", "head": str(job.version)}
    assert unpaused == {"ready": "1", "head": str(job.version)}


def test_lanes_are_shown_in_the_order_of_their_turns_with_what_stops_them(
    server: JobstateServer, client: Client
) -> None:
    client.create_many(NewJob("each", lane=lane) for lane in ("a", "a", "b", "c", "d", "", " ", "\x1b[2J"))
    client.pause("each", lane="b", reason="invoice")
    held = next(job for job in client.acquire(["each"], max_jobs=4) if job.lane == "a")
    client.release(held, "429", hold_lane=3_600)
    out = told(server, "lanes", "each")

    assert out.splitlines()[0].split() == ["LANE", "READY", "RUNNING", "OLDEST", "TURN", "NOTE"]
    by_lane = {line.split("  ")[0]: line for line in out.splitlines()[1:]}
    assert set(by_lane) == {"a", "b", "c", "d", "''", "' '", "\\x1b[2J"}
    assert re.search(r"  2   0 of 1 .* held for (1h|59m\d\ds)$", by_lane["a"])
    assert re.search(r"  1   0 of 1 .* paused: invoice$", by_lane["b"])
    assert sum(line.endswith("full") for line in by_lane.values()) == 3


def test_all_lanes_are_listed_page_by_page_and_as_many_as_were_asked_for(
    server: JobstateServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobstate_client.cli.commands.lanes.PAGE_SIZE_MAX", 2)
    monkeypatch.setattr("jobstate_client.cli.commands.lanes.TERMINAL_LIMIT", 4)
    client.create_many(NewJob("default", lane=f"lane-{number}") for number in range(5))
    at_terminal = run(server, "lanes", "default", terminal=True)

    assert [row[0] for row in rows(server, "lanes", "default")[1:]] == [f"lane-{number}" for number in range(5)]
    assert len(rows(server, "lanes", "default", "--limit", "3")) == 4
    assert len(at_terminal.out.splitlines()) == 5
    assert "there are more than these 4; --limit 0 lists all" in at_terminal.err
    assert rows(server, "lanes", "other") == [["LANE", "READY", "RUNNING", "OLDEST", "TURN", "NOTE"]]


def test_lanes_are_the_contracts_in_json(server: JobstateServer, client: Client) -> None:
    client.create("default", lane="a")
    client.pause("default", lane="a", reason="invoice")
    (line,) = told(server, "lanes", "default", "--json").splitlines()
    lane = json.loads(line)

    assert (lane["lane"], lane["ready"], lane["running"]) == ("a", "1", "0")
    assert (lane["paused"], lane["pause_reason"], lane["held_until_time"], lane["turn_time"]) == (
        True, "invoice", None, None,
    )  # fmt: skip


def test_a_release_holds_its_lane_and_says_so(server: JobstateServer, client: Client) -> None:
    client.create_many(NewJob("default", id=name, lane="a") for name in ("first", "second"))
    client.acquire(["default"])
    told(server, "release", "first", "--attempt", "1", "--delay", "20s", "--hold-lane", "30s", "--reason", "429")
    explained = told(server, "explain", "second")

    assert "attempt 1 given back, 429, again in 20s, its lane held for 30s" in told(
        server, "watch", "first", "--from-earliest", "--no-follow"
    )
    until = f"{server.now + timedelta(seconds=30):%Y-%m-%d %H:%M:%S}Z"
    assert re.search(rf"^LANE_HELD +a Release holds its lane 'a': 429, {until} \(in ", explained, re.MULTILINE)
    assert ["lane", "a"] in [line.split() for line in explained.splitlines()]
    assert run(server, "release", "first", "--hold-lane", "2h").code == 1


@pytest.mark.parametrize(
    ("job_type", "reason", "setting"),
    [
        ("one", "TYPE_CONCURRENCY", "concurrency"),
        ("each", "LANE_CONCURRENCY", "lane_concurrency"),
        ("paced", "TYPE_RATE", "rate"),
        ("paced-each", "LANE_RATE", "lane_rate"),
    ],
)
def test_explain_names_the_limit_that_a_job_waits_for_and_its_setting(
    job_type: str, reason: str, setting: str, server: JobstateServer, client: Client
) -> None:
    client.create_many(NewJob(job_type, id=name, lane="a") for name in ("first", "second"))
    client.acquire([job_type])
    explained = told(server, "explain", "second")

    assert re.search(rf"^{reason} ", explained, re.MULTILINE)
    assert f"the limit is `{setting}` in the settings\n" in explained


def test_explain_counts_the_lanes_that_come_before(server: JobstateServer, client: Client) -> None:
    client.create_many(NewJob("default", id=lane, lane=lane) for lane in ("a", "b", "c"))

    assert ["lanes", "before", "it", "2"] in rows(server, "explain", "c")
    assert ["jobs", "before", "it", "0", "of", "its", "lane"] in rows(server, "explain", "c")
    assert "lanes before it" not in told(server, "explain", "a")


def test_types_shows_the_limits_of_those_that_have_any(server: JobstateServer) -> None:
    out = told(server, "types")
    limits = out[out.index("LIMITS OF") :].splitlines()

    assert [line.split() for line in limits[1:-2]] == [
        ["by-source", "SOURCE_ID"],
        ["each", "1", "ATTEMPT"],
        ["one", "1"],
        ["paced", "600/1m", "1"],
        ["paced-each", "6/1m", "1"],
        ["sequence", "1", "JOB"],
    ]
    with serving() as plain:
        assert "LIMITS OF" not in told(plain, "types")


def test_types_has_limits_in_json(server: JobstateServer) -> None:
    types = {each["name"]: each for each in run(server, "types", "--json").json["job_types"]}

    assert types["paced"]["rate"] == {"count": "600", "period": 60.0, "burst": 1}
    assert (types["one"]["concurrency"], types["one"]["rate"], types["one"]["lane_from"]) == (1, None, "NONE")


def test_what_pauses_is_completed(server: JobstateServer, client: Client) -> None:
    client.create_many(NewJob("each", lane=lane) for lane in ("tenant-7", "tenant 8", "other", ""))

    assert completed(server.address, "pause", "ea") == completed(server.address, "lanes", "ea") == ["each"]
    # A name with a blank would need quotes, which the shells do not add.
    assert completed(server.address, "unpause", "each", "--lane", "te") == ["tenant-7"]
    assert completed(server.address, "pause", "--lane", "te") == []
