"""The commands that read: get, list, stats, types."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import takewhile

import pytest

from jobstate.v1 import dispatch_service_pb2, event_pb2, job_pb2, job_service_pb2, maintenance_service_pb2
from jobstate_client import Client, NewJob, State
from jobstate_client.cli.commands.queries import TERMINAL_LIMIT
from jobstate_client.cli.terminal.json_output import int64_fields
from jobstate_client.cli.terminal.output import ROWS_AT_ONCE
from jobstate_client.testing import JobstateServer

from .support import Result, run

NASTY = "\x1b[2J\x1b]0;owned\x07 [bold]日本語[/bold]\nsecond\tline \u202e\x9b31m"
SAFE = r"\x1b[2J\x1b]0;owned\x07 [bold]日本語[/bold]\nsecond\tline \u202e\x9b31m"


def assert_inert(text: str) -> None:
    """Nothing that a terminal obeys, but for colours, whose sequences are taken out first."""
    assert not [character for character in text if not (character.isprintable() or character == "\n")]


@pytest.fixture
def nasty(client: Client) -> None:
    """A job whose texts try to take over the terminal."""
    job = client.start(client.create("resting", id="first", source_id="\x1b[31m", metadata={"\x1b[5m": "\x1b[6n"}))
    client.progress(job, 40, NASTY)
    client.fail(job, "\x1b[7m", NASTY, details={"\x07": "\x1b[8m"})


def test_get_shows_everything_that_is_set(server: JobstateServer, client: Client) -> None:
    client.progress(client.start(client.create("clean_transcript", id="first"), worker="me"), 40, "busy", tokens=7)
    lines = run(server, "get", "first").out.splitlines()
    told = {line[:11].strip(): line[11:].strip() for line in lines}

    assert told["id"] == "first"
    assert told["state"] == "PROCESSING"
    assert told["progress"] == "40 %, busy"
    assert (told["worker"], told["tokens"], told["timeout"]) == ("me", "7", "1m")
    assert "result" not in told


def fields_of(told: Result) -> dict[str, str]:
    """What a job's lines tell, by their names."""
    return dict(re.split(r"  +", line, maxsplit=1) for line in told.out.splitlines() if re.search(r"\S  +\S", line))


def test_get_shows_how_long_a_job_has_waited_and_never_counts_that_as_work(
    server: JobstateServer, client: Client
) -> None:
    client.create("clean_transcript", id="first")
    queued = fields_of(run(server, "get", "first"))
    server.advance(90)
    client.fail(client.start("first"), "RATE")
    server.advance(1)
    unclaimed = fields_of(run(server, "get", "first"))
    server.advance(600)
    job = client.start("first", worker="me")
    server.advance(30)
    client.complete(job)
    done = run(server, "get", "first", "--include-attempts")

    assert re.fullmatch(r"0s|<1ms|\d+ms|[0-9.]+s", queued["waiting for"])
    assert "waits for a worker" in unclaimed["note"]
    assert ("waiting for" in unclaimed, "waited" in unclaimed, "claimed" in unclaimed) == (True, False, False)
    told = fields_of(done)
    assert (told["waited"], told["duration"], "waiting for" in told) == ("10m", "30s", False)
    columns = [line.split() for line in done.out.splitlines()[-2:]]
    assert [row[:2] for row in columns] == [["1", "FAILED"], ["2", "COMPLETED"]]
    assert [row[4:6] for row in columns] == [["1m30s", "0s"], ["10m", "30s"]]


def test_get_shows_ended_attempts_on_request(server: JobstateServer, client: Client) -> None:
    client.fail(client.start(client.create("resting", id="first"), worker="me"), "RATE", "slow down")
    told = run(server, "get", "first", "--include-attempts")
    as_json = run(server, "get", "first", "--include-attempts", "--json").json

    assert [line.split()[:2] for line in told.out.splitlines()[-2:]] == [["ATTEMPT", "OUTCOME"], ["1", "FAILED"]]
    assert told.out.rstrip().endswith("RATE: slow down")
    assert (as_json["state"], [each["worker"] for each in as_json["attempts"]]) == ("FAILED", ["me"])
    assert "attempts" not in run(server, "get", "first", "--json").json


def test_get_of_an_unknown_job_is_refused(server: JobstateServer) -> None:
    result = run(server, "get", "nobody")

    assert (result.code, result.out) == (1, "")
    assert "JOB_NOT_FOUND" in result.err


def test_json_has_times_as_rfc_3339_and_spans_as_seconds(server: JobstateServer, client: Client) -> None:
    job = client.create("clean_transcript", id="first")
    told = run(server, "get", "first", "--json").json

    assert datetime.fromisoformat(told["create_time"]) == job.create_time
    assert told["timeout"] == 60.0
    assert told["start_time"] is None


@pytest.mark.usefixtures("nasty")
@pytest.mark.parametrize(
    "command", [["get", "first", "--include-attempts"], ["list"], ["watch", "--from-earliest", "--no-follow"]]
)
@pytest.mark.parametrize("form", ["pipe", "json", "terminal"])
def test_texts_of_a_job_never_reach_the_terminal_as_they_are(
    command: list[str], form: str, server: JobstateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    # A watch at a real terminal moves the cursor itself: test_live.py looks at that.
    monkeypatch.setenv("TERM", "dumb" if command[0] == "watch" else "xterm")
    monkeypatch.setenv("COLUMNS", "400")
    result = run(server, *command, *(["--json"] if form == "json" else []), terminal=form == "terminal")

    assert result.code == 0
    assert_inert(re.sub(r"\x1b\[[12]?m|\x1b\[0m", "", result.out))
    if form != "json":
        assert SAFE in result.out


@pytest.mark.usefixtures("nasty")
def test_texts_of_an_error_never_reach_the_terminal_as_they_are(server: JobstateServer) -> None:
    result = run(server, "get", "\x1b[2J")

    assert result.code == 1
    assert_inert(result.err)


def ids(result: Result) -> list[str]:
    return [each["id"] for each in result.json_lines]


def test_list_obeys_every_filter(server: JobstateServer, client: Client) -> None:
    for number, job_type in enumerate(["resting", "resting", "default"]):
        client.create(job_type, id=f"job-{number}", source_id=f"ep-{number}")
        server.advance(10)
    client.cancel("job-1")
    middle = client.get("job-1").create_time
    assert middle is not None

    assert ids(run(server, "list", "--json")) == ["job-2", "job-1", "job-0"]
    assert ids(run(server, "list", "--json", "--oldest-first")) == ["job-0", "job-1", "job-2"]
    assert ids(run(server, "list", "--json", "--state", "queued", "--job-type", "resting")) == ["job-0"]
    assert ids(run(server, "list", "--json", "--state", "QUEUED", "--state", "CANCELLED", "--limit", "2")) == [
        "job-2",
        "job-1",
    ]
    assert ids(run(server, "list", "--json", "--source-id", "ep-2")) == ["job-2"]
    assert ids(run(server, "list", "--json", "--create-time-to", middle.isoformat())) == ["job-0"]
    assert ids(run(server, "list", "--json", "--create-time-from", middle.isoformat())) == ["job-2", "job-1"]


def test_a_listing_for_a_pipe_has_aligned_columns(server: JobstateServer, client: Client) -> None:
    client.create("default", id="a", source_id="日本")
    client.create("default", id="a-long-one", source_id="ep")
    head, *rows = run(server, "list", "--oldest-first").out.splitlines()

    assert head.split() == ["ID", "JOB", "TYPE", "STATE", "DONE", "ATTEMPT", "AGE", "SOURCE", "NOTE"]
    assert [row.index("default") for row in rows] == [head.index("JOB TYPE")] * 2
    assert not [line for line in (head, *rows) if line != line.rstrip()]


def test_a_pipe_gets_all_jobs_and_a_person_the_newest(server: JobstateServer, client: Client) -> None:
    number = ROWS_AT_ONCE + 2
    client.create_many(NewJob("default") for _ in range(number))
    piped, shown = run(server, "list"), run(server, "list", terminal=True)

    assert len(piped.out.splitlines()) == 1 + number
    assert piped.err == ""
    assert len(shown.out.splitlines()) == 1 + TERMINAL_LIMIT
    assert "--limit 0 lists all" in shown.err
    assert len(run(server, "list", "--limit", "0", terminal=True).out.splitlines()) == 1 + number


def test_a_limit_that_was_asked_for_is_not_remarked_upon(server: JobstateServer, client: Client) -> None:
    client.create_many(NewJob("default") for _ in range(3))
    result = run(server, "list", "--limit", "2", terminal=True)

    assert len(result.out.splitlines()) == 1 + 2
    assert result.err == ""


def test_64_bit_numbers_are_text_in_json_in_all_commands_and_others_are_numbers(
    server: JobstateServer, client: Client
) -> None:
    most, number = 10**15, 10
    for job_id in ("first", *map(str, range(1, number))):
        client.complete(client.start(client.create("resting", id=job_id)), tokens=most - (job_id == "first"))
    tokens, sum_of_tokens = str(most - 1), str(most * number - 1)
    got = run(server, "get", "first", "--include-attempts", "--json").json
    stats = run(server, "stats", "--json").json
    (*_, event) = run(server, "watch", "--from-earliest", "--no-follow", "--json").json_lines

    assert (got["estimated_tokens"], got["attempts"][0]["tokens"]) == (tokens, tokens)
    assert (got["attempt"], got["progress"]) == (1, 100)
    assert int(sum_of_tokens) > 2**53
    assert (stats["total"]["tokens"], stats["total"]["stored"]["COMPLETED"]) == (sum_of_tokens, "10")
    assert event["event"]["sequence"] == event["event"]["job"]["version"] == "30"


def test_what_is_text_in_json_is_what_the_contract_has_in_64_bits() -> None:
    kinds: dict[bool, set[str]] = {True: set(), False: set()}
    for file in (dispatch_service_pb2, job_pb2, event_pb2, job_service_pb2, maintenance_service_pb2):
        for message in file.DESCRIPTOR.message_types_by_name.values():
            for field in message.fields:
                if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64):
                    kinds[field.cpp_type == field.CPPTYPE_INT64].add(field.name)

    assert not kinds[True] & kinds[False]
    assert kinds[True] == int64_fields()


def test_a_listing_of_nothing_has_its_heading(server: JobstateServer) -> None:
    assert run(server, "list").out.startswith("ID  JOB TYPE")
    assert run(server, "list", "--json").out == ""


def test_a_table_fits_the_terminal(server: JobstateServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    client.fail(client.start(client.create("resting", id="first", source_id="s" * 100)), "RATE", "x" * 500)
    out = run(server, "list", terminal=True).out

    assert "first" in out
    assert "RATE: xxx" in out
    assert "…" in out
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in out.splitlines()) <= 80


def test_a_narrow_terminal_loses_the_columns_that_matter_least(
    server: JobstateServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create("resting", id="i" * 36, source_id="s" * 100)
    client.cancel("i" * 36, "no longer needed, says who asked")
    heads = {}
    for columns in ("200", "80", "70"):
        monkeypatch.setenv("COLUMNS", columns)
        heads[columns] = re.sub(r"\x1b\[[0-9;]*m", "", run(server, "list", terminal=True).out).splitlines()[0].split()

    assert heads["200"] == ["ID", "JOB", "TYPE", "STATE", "DONE", "ATTEMPT", "AGE", "SOURCE", "NOTE"]
    assert heads["80"] == ["ID", "JOB", "TYPE", "STATE", "DONE", "AGE", "NOTE"]
    assert heads["70"] == ["ID", "JOB", "TYPE", "STATE", "NOTE"]


def test_colour_is_for_terminals_and_no_color_is_obeyed(
    server: JobstateServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create("default", id="first")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in run(server, "list", terminal=True).out
    assert "\x1b[" not in run(server, "list").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in run(server, "list", terminal=True).out


def test_stats_count_what_is_stored_and_sum_up_what_was(server: JobstateServer, client: Client) -> None:
    client.create("resting")
    client.complete(client.start(client.create("clean_transcript")), tokens=1_200, cost=0.5)
    told = run(server, "stats").out.splitlines()
    as_json = run(server, "stats", "--json").json

    assert [line.split()[0] for line in told if line] == [
        *("NOT", "clean_transcript", "resting", "all"),
        *("NOW", "clean_transcript", "resting", "all"),
        *("FINAL,", "clean_transcript", "resting", "all"),
        *("WAITED", "clean_transcript", "resting", "all"),
        *("COMPLETED", "clean_transcript", "resting", "all"),
        *("EVER", "clean_transcript", "resting", "all"),
    ]
    assert "1,200" in told[-1]
    assert as_json["total"]["stored"] == {state.value: "0" for state in State if state != "UNKNOWN"} | {
        "QUEUED": "1",
        "COMPLETED": "1",
    }
    assert as_json["job_types"]["clean_transcript"]["success_rate"] == 1.0
    assert list(run(server, "stats", "--json", "--job-type", "resting").json["job_types"]) == ["resting"]
    assert "clean_transcript" in run(server, "stats", terminal=True).out


def rows_of(out: str, title: str) -> dict[str, list[str]]:
    """The numbers of one table of stats, by the name of the line."""
    lines = iter(out.splitlines())
    heads = next(line for line in lines if line.startswith(title)).removeprefix(title).split()
    rows = {line.split()[0]: line.split()[1:] for line in takewhile(bool, lines)}
    assert all(len(numbers) <= len(heads) for numbers in rows.values())
    return rows


def test_stats_tell_what_waits_for_a_worker_from_what_is_delayed(server: JobstateServer, client: Client) -> None:
    client.create("default", delay=60.0)
    client.create("default", id="ready")
    client.create("default", start_within=5.0, priority="LOW")
    client.release(client.acquire(["default"])[0], delay=60.0)
    client.acquire(["default"])
    client.create("default", start_within=5.0)
    server.advance(10.0)
    client.create("default")
    told, total = run(server, "stats").out, run(server, "stats", "--json").json["total"]

    waiting, _oldest, *others = rows_of(told, "NOW")["default"]
    assert (waiting, *others) == ("1", "1", "0", "1")
    assert rows_of(told, "EVER")["default"] == ["0", "1", "1", "0", "0.00"]
    assert total["waiting"] == {"TURN": "1", "TIME": "2", "NEEDS": "0"}
    assert (total["running"], total["released"], total["expired"]) == ("1", "1", "1")


def test_stats_tell_of_groups_and_of_jobs_that_wait_for_others(server: JobstateServer, client: Client) -> None:
    with client.group("import_day") as day:
        client.create("report", needs=[day])
        client.create("report", needs=[day], delay=60.0)
    now = rows_of(run(server, "stats").out, "NOW")

    assert (now["import_day"], now["report"]) == (["0", "0", "0", "0"], ["0", "0", "2", "0"])
    assert rows_of(run(server, "stats", "--job-type", "import_day").out, "NOW")["all"] == ["0", "0", "0", "0"]


def test_a_listing_says_what_a_job_waits_for(server: JobstateServer, client: Client) -> None:
    client.create("default", id="later", delay=7_200.0)
    client.create("default", id="expiring", start_within=7_200.0, priority="HIGH")
    client.release(client.start(client.create("default", id="again")), delay=7_200.0)
    client.release(client.start(client.create("default", id="at-once")))
    notes = {line.split()[0]: line[line.index("%") :] for line in run(server, "list").out.splitlines()[1:]}

    assert "delayed for " in notes["later"]
    assert "priority HIGH, expires in " in notes["expiring"]
    assert "given back, again in " in notes["again"]
    assert "attempt 2 waits for a worker, " in notes["at-once"]


def test_get_shows_what_decides_when_a_job_begins(server: JobstateServer, client: Client) -> None:
    client.create("default", id="first", delay=60.0, start_within=60.0, priority="HIGH", unique_key="episode-12")
    delayed = fields_of(run(server, "get", "first"))
    server.advance(60.0)
    ready = fields_of(run(server, "get", "first"))
    client.release(client.acquire(["default"], lease=30.0)[0])
    client.acquire(["default"], lease=30.0)
    running = fields_of(run(server, "get", "first"))
    client.create("default", id="second", start_within=5.0)
    server.advance(10.0)
    expired = fields_of(run(server, "get", "second"))

    assert (delayed["priority"], delayed["unique key"]) == ("HIGH", "episode-12")
    assert "delayed until" in delayed
    assert "ready" not in delayed
    assert delayed["delayed until"] == ready["ready"] == running["ready"]
    assert "expires" in delayed
    assert "expires" in ready
    assert "expires" not in running
    assert (running["lease"], running["retries"], running["releases"]) == ("30s", "0 of 3", "1")
    assert (expired["note"], expired["cancelled by"]) == ("nobody began it in time", "the server")
    client.cancel("first")
    assert fields_of(run(server, "get", "first"))["cancelled by"] == "a caller"


def test_stats_of_a_bad_job_type_are_refused(server: JobstateServer) -> None:
    assert run(server, "stats", "--job-type", "no such type").code == 1


def test_types_lists_the_policies(server: JobstateServer, client: Client) -> None:
    told, as_json = run(server, "types").out, run(server, "types", "--json").json
    row = next(line for line in told.splitlines() if line.startswith("resting"))

    assert row.split() == ["resting", "3", "none", "1s", "1m", "0%", "15m", "1m", "10m", "no"]
    assert told.splitlines()[-1] == "A job type that is not listed follows the policy named default."
    assert as_json["strict_job_types"] is False
    assert {each["name"] for each in as_json["job_types"]} == {each.name for each in client.job_types().types}


def test_types_on_a_narrow_terminal_leave_out_what_matters_least(
    server: JobstateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    head = re.sub(r"\x1b\[[0-9;]*m", "", run(server, "types", terminal=True).out).splitlines()[0].split()

    assert head == ["JOB", "TYPE", "RETRIES", "TIMEOUT", "BASE", "MAX", "STALE", "LEASE", "STEP", "AUTO", "RETRY"]


def test_a_time_may_be_a_span_ago(server: JobstateServer, client: Client) -> None:
    client.create("default", id="first")

    assert ids(run(server, "list", "--json", "--create-time-from", "1h")) == ["first"]
    assert ids(run(server, "list", "--json", "--create-time-to", "1h")) == []


def test_attempts_that_are_left_out_are_counted(server: JobstateServer, client: Client) -> None:
    job = client.create("default", id="first", max_retries=200)
    client.start(job)
    for number in range(1, 103):
        client.fail(job.id, attempt=number)
        client.retry(job, immediately=True)

    told = run(server, "get", "first", "--include-attempts")
    as_json = run(server, "get", "first", "--include-attempts", "--json").json

    assert told.out.splitlines()[-1] == "2 older attempts not shown"
    assert (as_json["attempts_omitted"], len(as_json["attempts"])) == (2, 100)


@pytest.mark.parametrize("state", ["processing", "PROCESSING", "Processing"])
def test_a_list_of_running_jobs_shows_their_workers_and_how_long_they_run(
    state: str, server: JobstateServer, client: Client
) -> None:
    client.start(client.create("resting", id="first"), worker="worker-1")
    client.fail(client.start(client.create("clean_transcript", id="resumed"), worker="worker-2"), "RATE")
    server.advance(10)
    client.create("resting", id="queued")
    some, others = (run(server, "list", "--state", each).out for each in (state, "queued"))
    rows = {line.split()[0]: line.split() for line in some.splitlines()}

    assert rows["ID"][-3:] == ["RUNNING", "WORKER", "NOTE"]
    assert rows["first"][-1] == "worker-1"
    assert re.fullmatch(r"\d+[smhd]", rows["first"][-2])
    assert "worker-2" not in some
    assert "WORKER" not in others
