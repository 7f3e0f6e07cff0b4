"""The commands that change a job: what they do, print and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobstate_client import Client, State
from jobstate_client.testing import JobstateServer

from .support import run

CHANGES = {
    "start": ["start", "first"],
    "progress": ["progress", "first", "--progress", "10"],
    "complete": ["complete", "first"],
    "fail": ["fail", "first"],
    "retry": ["retry", "first"],
    "cancel": ["cancel", "first"],
}


def test_create_makes_a_job_of_everything_it_was_given(server: JobstateServer, client: Client) -> None:
    result = run(
        server, "create", "clean_transcript", "--id", "first", "--source-id", "ep-1", "--max-retries", "7",
        "--attempt-timeout", "1m30s", "--metadata", '{"language": "en", "pages": [1, 2]}',
    )  # fmt: skip
    job = client.get("first")

    assert (result.code, result.out, result.err) == (0, "first is QUEUED\n", "")
    assert (job.job_type, job.source_id, job.max_retries) == ("clean_transcript", "ep-1", 7)
    assert job.timeout is not None
    assert job.timeout.total_seconds() == 90
    assert job.metadata == {"language": "en", "pages": [1, 2]}


def test_a_whole_life_is_shown_in_sentences(server: JobstateServer) -> None:
    run(server, "create", "clean_transcript", "--id", "first")
    told = [
        run(server, "start", "first", "--worker", "me").out,
        run(server, "progress", "first", "--progress", "50", "--message", "half way").out,
        run(server, "complete", "first", "--result-count", "3", "--result", '{"text": "…"}').out,
    ]

    assert told == [
        "first is PROCESSING, attempt 1\n",
        "first is PROCESSING, attempt 1, 50 %, half way\n",
        "first is COMPLETED, attempt 1, 3 results\n",
    ]


def test_usage_of_an_ended_attempt_is_reported(server: JobstateServer, client: Client) -> None:
    job = client.start(client.create("clean_transcript", id="first"))
    client.cancel(job)

    told = run(server, "report-usage", "first", "--attempt", "1", "--tokens", "1200", "--cost", "0.024")

    assert (told.code, told.out, told.err) == (0, "first is CANCELLED, attempt 1\n", "")
    assert (client.get(job).estimated_tokens, client.get(job).estimated_cost) == (1_200, 0.024)
    lines = run(server, "watch", "first", "--from-earliest", "--no-follow").out.splitlines()
    assert "attempt 1 used 1,200 tokens, cost 0.024" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tokens", "1"], "--attempt"),
        (["--attempt", "1"], "Give --tokens, --cost or both"),
        (["--attempt", "0", "--tokens", "1"], "--attempt"),
    ],
)
def test_usage_without_an_attempt_or_a_number_is_refused_before_any_call(
    server: JobstateServer, arguments: list[str], says: str
) -> None:
    result = run(server, "report-usage", "first", *arguments)

    assert result.code == 2
    assert says in result.err


def test_usage_of_an_attempt_that_never_was_is_refused_by_its_option(server: JobstateServer, client: Client) -> None:
    client.create("clean_transcript", id="first")

    result = run(server, "report-usage", "first", "--attempt", "2", "--tokens", "1")

    assert result.code
    assert "--attempt" in result.err


def test_a_failure_says_what_follows(server: JobstateServer, client: Client) -> None:
    client.start(client.create("clean_transcript", id="first"))
    client.start(client.create("clean_transcript", id="second"))
    failed = run(
        server, "fail", "first", "--code", "RATE", "--message", "slow down", "--retry-delay", "2h",
        "--details", '{"status": 429}', "--tokens", "12", "--cost", "0.5",
    )  # fmt: skip
    given_up = run(server, "fail", "second", "--not-retryable", "--code", "BAD_FILE")
    job = client.get("first")

    assert failed.out.startswith("first is RETRYING, attempt 1, retry 1 of 3 in ")
    assert failed.out.endswith(", RATE: slow down\n")
    assert given_up.out == "second is PERMANENTLY_FAILED, attempt 1, BAD_FILE\n"
    assert job.last_error is not None
    assert (job.last_error.details, job.estimated_tokens, job.estimated_cost) == ({"status": 429}, 12, 0.5)


def test_retry_immediately_resumes_the_job_and_start_claims_it(server: JobstateServer, client: Client) -> None:
    client.fail(client.start(client.create("resting", id="first")), "RATE")

    assert run(server, "get", "first").out.splitlines()[3].split() == ["note", "RATE"]
    assert run(server, "retry", "first", "--immediately").out == "first is PROCESSING, attempt 2, waits for a worker\n"
    assert run(server, "start", "first").out == "first is PROCESSING, attempt 2\n"
    assert run(server, "complete", "first", "--attempt", "2").code == 0


def test_cancel_keeps_the_reason(server: JobstateServer, client: Client) -> None:
    client.create("clean_transcript", id="first")

    assert (
        run(server, "cancel", "first", "--reason", "no longer needed").out == "first is CANCELLED, no longer needed\n"
    )
    assert client.get("first").cancel_reason == "no longer needed"


def test_progress_with_nothing_says_that_the_attempt_is_alive(server: JobstateServer, client: Client) -> None:
    started = client.start(client.create("clean_transcript", id="first"))
    result = run(server, "progress", "first")

    assert result.code == 0
    assert client.get("first").version == started.version


def test_progress_reports_usage_and_merges_metadata(server: JobstateServer, client: Client) -> None:
    client.start(client.create("clean_transcript", id="first", metadata={"language": "en", "page": 1}))
    run(server, "progress", "first", "--metadata", '{"page": null, "line": 3}', "--tokens", "1200", "--cost", "0.02")
    job = client.get("first")

    assert job.metadata == {"language": "en", "line": 3}
    assert (job.estimated_tokens, job.estimated_cost) == (1_200, 0.02)


@pytest.mark.parametrize("name", ["create", *CHANGES])
def test_a_change_answers_with_the_whole_job_as_json(name: str, server: JobstateServer, client: Client) -> None:
    if name != "create":
        client.create("resting", id="first")
    if name in {"progress", "complete", "fail", "retry"}:
        client.start("first")
    if name == "retry":
        client.fail("first", "RATE")
    result = run(server, *CHANGES.get(name, ["create", "resting", "--id", "first"]), "--json")
    job = client.get("first")

    assert (result.code, result.err) == (0, "")
    assert (result.json["id"], result.json["state"], result.json["version"]) == (
        "first",
        job.state.value,
        str(job.version),
    )


@pytest.mark.parametrize("name", CHANGES)
def test_a_refused_change_exits_with_1_and_says_why_and_what_to_do(name: str, server: JobstateServer) -> None:
    result = run(server, *CHANGES[name])

    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("jobstate: JOB_NOT_FOUND: ")
    assert "Check the id with `jobstate list`" in result.err


def test_a_create_that_is_refused_names_the_job_that_is_there(server: JobstateServer, client: Client) -> None:
    client.create("clean_transcript", id="first")
    result = run(server, "create", "clean_transcript", "--id", "first")

    assert result.code == 1
    assert result.err.startswith("jobstate: JOB_EXISTS: ")
    assert "`jobstate get first`" in result.err


def test_a_refusal_is_json_on_standard_error_for_programs(server: JobstateServer, client: Client) -> None:
    client.cancel(client.create("clean_transcript", id="first"))
    result = run(server, "--json", "start", "first")
    (line,) = result.err.splitlines()
    error = json.loads(line)["error"]

    assert (result.code, result.out) == (1, "")
    assert (error["reason"], error["code"]) == ("TRANSITION_NOT_ALLOWED", "FAILED_PRECONDITION")
    assert error["metadata"]["state"] == State.CANCELLED
    assert error["message"]
    assert error["hint"]


def test_every_invalid_field_is_shown(server: JobstateServer) -> None:
    result = run(server, "create", "bad type", "--id", "bad id")

    assert result.code == 1
    assert "\n  --id: " in result.err
    assert "\n  JOB_TYPE: " in result.err


def test_a_repeat_with_the_same_request_id_changes_nothing_twice(server: JobstateServer, client: Client) -> None:
    command = ["create", "clean_transcript", "--request-id", "nightly-2026-01-31", "--json"]
    first, repeat = run(server, *command), run(server, *command)

    assert first.json["id"] == repeat.json["id"]
    assert len(list(client.list())) == 1


def test_json_is_read_from_a_file(server: JobstateServer, client: Client, tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text('{"title": "größer", "n": 1}', encoding="utf-8")
    run(server, "create", "clean_transcript", "--id", "first", "--metadata", f"@{tmp_path}/metadata.json")

    assert client.get("first").metadata == {"title": "größer", "n": 1}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "this is not JSON"),
        ("[1]", "it must be a JSON object"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 12345678901234567890}', "metadata.a: 12345678901234567890 cannot be kept exactly"),
        ("@/nowhere/at/all.json", "cannot read /nowhere/at/all.json"),
        ("[" * 100_000, "this is not JSON"),
    ],
)
def test_what_is_no_json_object_is_refused_before_anything_is_sent(
    text: str, problem: str, server: JobstateServer, client: Client
) -> None:
    result = run(server, "create", "clean_transcript", "--metadata", text)

    assert result.code == 2
    assert problem in result.err
    assert "See: jobstate create --help" in result.err
    assert list(client.list()) == []


def test_a_retry_delay_of_what_is_not_retried_is_wrong_usage(server: JobstateServer) -> None:
    result = run(server, "fail", "first", "--not-retryable", "--retry-delay", "5s")

    assert result.code == 2
    assert "--retry-delay" in result.err


@pytest.mark.parametrize(
    "option", [["--progress", "101"], ["--tokens", "-1"], ["--attempt", "0"], ["--tokens", "9" * 30]]
)
def test_a_number_out_of_bounds_is_wrong_usage(option: list[str], server: JobstateServer) -> None:
    assert run(server, "progress", "first", *option).code == 2


def test_an_argument_that_is_not_utf_8_is_wrong_usage(server: JobstateServer) -> None:
    result = run(server, "cancel", "first", "--reason", "\udcff")

    assert result.code == 2
    assert "is not UTF-8" in result.err
