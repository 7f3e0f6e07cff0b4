"""``jobstate create --count`` and ``--file``: many jobs, each line checked, and nothing half created unsaid."""

from __future__ import annotations

import json
import os
import signal
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from jobstate_client import Client, NeedCondition, Priority
from jobstate_client.cli.commands import create_many
from jobstate_client.cli.commands.create import create as command
from jobstate_client.core import creating
from jobstate_client.testing import JobstateServer

from .support import Result, run, started


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two."""
    monkeypatch.setattr(creating, "_BATCH_MAX", (2, *creating._BATCH_MAX[1:]))


def create(server: JobstateServer, folder: Path, *lines: Any, options: tuple[str, ...] = ()) -> Result:
    """Create what these lines say."""
    file = folder / "jobs.jsonl"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return run(server, "create", "default", "--file", str(file), *options)


def test_a_count_creates_so_many_and_writes_their_ids(server: JobstateServer, client: Client, small: None) -> None:
    result = run(server, "create", "email", "--count", "5", "--source-id", "u1", "--priority", "high")
    jobs = {job.id: job for job in client.list()}

    assert (result.code, result.err) == (0, "")
    assert set(result.out.split()) == set(jobs)
    assert {(job.job_type, job.source_id, job.priority) for job in jobs.values()} == {("email", "u1", Priority.HIGH)}
    assert len(jobs) == 5


def test_a_line_has_the_options_by_their_names_and_the_rest_is_as_they_say(
    server: JobstateServer, client: Client, tmp_path: Path
) -> None:
    result = create(
        server,
        tmp_path,
        {"id": "first", "job_type": "other", "metadata": {"to": "b"}, "delay": "10m", "attempt_timeout": 90},
        "",
        {"id": "second", "needs": ["first:FINAL"], "priority": "LOW", "source_id": ""},
        {"id": "day", "group": True, "tolerated_failures": 3},
        options=("--source-id", "u1", "--json"),
    )
    first, second, day = (client.get(name) for name in ("first", "second", "day"))

    assert [document["id"] for document in result.json_lines] == ["first", "second", "day"]
    assert (first.job_type, first.metadata, first.source_id, first.timeout) == (
        "other",
        {"to": "b"},
        "u1",
        timedelta(seconds=90),
    )
    assert (second.job_type, second.source_id, second.priority) == ("default", "", Priority.LOW)
    assert client.needs(second)[0].condition is NeedCondition.FINAL
    assert day.group is not None
    assert day.group.tolerated_failures == 3


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "this is not JSON: Expecting property name enclosed in double quotes at character 3"),
        ("[1]", "it must be a JSON object"),
        ('{"id": NaN}', "NaN is not a JSON number"),
        ("\udcff", "it is not UTF-8"),
        ({"job_typ": "x"}, "there is no field 'job_typ'; the fields are attempt_timeout, delay,"),
        ({"file": "x"}, "there is no field 'file'"),
        ({"metadata": "@/etc/passwd"}, 'metadata: it must be an object, not "@/etc/passwd"'),
        ({"max_retries": True}, "max_retries: it must be a whole number, not true"),
        ({"max_retries": -1}, "max_retries: -1 is not in the range"),
        ({"priority": "soon"}, "priority: 'soon' is not one of"),
        ({"delay": -3}, "delay: -3 is not a span"),
        ({"delay": 3, "not_before_time": "2026-01-31"}, "--delay and --not-before-time both set"),
        ({"lane": None}, "lane: it must be a text, not null"),
        ({"group": "yes"}, "group: it must be true or false"),
        ({"needs": [["a"]]}, "needs: it must be a text"),
        ({"job_type": ""}, "job_type is missing"),
    ],
)
def test_a_bad_line_is_named_and_nothing_of_the_file_is_created(
    line: Any, problem: str, server: JobstateServer, client: Client, small: None, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    file.write_bytes(b"{}\n\n{}\n{}\n" + text.encode("utf-8", "surrogateescape") + b"\n{}\n")
    result = run(server, "create", "default", "--file", str(file))

    assert (result.code, result.out) == (2, "")
    assert f"jobs.jsonl, line 5: {problem}" in result.err
    assert list(client.list()) == []


def test_a_bad_line_of_a_pipe_says_what_was_created_before_it(
    server: JobstateServer, client: Client, small: None, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=['{}\n{}\n\n{}\n{"a": 1}\n'])
    writer.start()
    result = run(server, "create", "default", "--file", str(pipe))
    writer.join()

    assert result.code == 2
    assert "pipe, line 5: there is no field 'a'" in result.err
    assert "2 created, up to line 2. With --request-id " in result.err
    assert len(result.out.split()) == len(list(client.list())) == 2


def test_a_line_that_the_server_refuses_is_named_and_a_repeat_creates_nothing_twice(
    server: JobstateServer, client: Client, small: None, tmp_path: Path
) -> None:
    lines: list[Any] = [{}, "", {}, {}, {"lane": "x" * 200}, {}]
    refused = create(server, tmp_path, *lines, options=("--request-id", "import-2026-11"))
    lines[4] = {"lane": "x"}
    repeated = create(server, tmp_path, *lines, options=("--request-id", "import-2026-11"))

    assert refused.code == 1
    assert "INVALID_FIELD: --lane: line 5: has 200 bytes" in refused.err
    assert "2 created, up to line 3. With --request-id import-2026-11 the same" in refused.err
    assert (repeated.code, repeated.err) == (0, "")
    assert repeated.out.split()[:2] == refused.out.split()
    assert len(list(client.list())) == 5


def test_jobs_that_were_there_already_are_counted(server: JobstateServer, tmp_path: Path) -> None:
    result = create(server, tmp_path, {"unique_key": "a"}, {}, {"unique_key": "a"})

    assert (result.code, len(set(result.out.split()))) == (0, 2)
    assert result.err == "jobstate: 1 of 3 were there already, with their unique key\n"


def test_a_server_that_is_away_creates_nothing_and_says_that_it_is_unknown(tmp_path: Path) -> None:
    result = run("127.0.0.1:1", "create", "default", "--count", "3", "--timeout", "200ms")

    assert result.code == 3
    assert "0 created; whether copy 1 to 3 were is unknown. With --request-id " in result.err


def test_ctrl_c_says_what_was_created(server: JobstateServer, client: Client, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (
        started("create", "default", "--file", str(pipe), "--server", server.address) as process,
        pipe.open("w") as lines,
    ):
        lines.write("{}\n" * 1_001)
        lines.flush()
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()

    assert process.returncode == 130
    assert "jobstate: 1,000 created, up to line 1,000. With --request-id " in errors
    assert client.stats().total.stored == {"QUEUED": 1_000}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "Missing argument 'JOB_TYPE'"),
        (["email", "--count", "0"], "0 is not in the range"),
        (["email", "--count", "2", "--file", "-"], "give only one"),
        (["email", "--count", "2", "--id", "first"], "--id is for one job"),
        (["--count", "2"], "job_type is missing"),
        (["email", "--file", "nowhere.jsonl"], "cannot read nowhere.jsonl: No such file"),
    ],
)
def test_what_names_no_jobs_is_wrong_usage(arguments: list[str], problem: str, server: JobstateServer) -> None:
    result = run(server, "create", *arguments)

    assert (result.code, result.out) == (2, "")
    assert problem in result.err


def test_every_option_of_a_new_job_is_a_field_of_a_line() -> None:
    options = {opt for each in command.params if each.expose_value for opt in each.opts}
    told = {name.lstrip("-").replace("-", "_") for name in options} - create_many.NOT_IN_A_LINE

    assert set(create_many.Fields(click.Context(command))._parameters) == told
