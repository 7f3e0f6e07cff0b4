"""What the pages say is what the code does: errors, limits, settings, calls, fields, links and commands."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from jobstate.v1 import dispatch_service_pb2, error_reason_pb2, job_pb2, job_service_pb2, maintenance_service_pb2
from jobstate_server.config import JobTypeSettings, Settings, load
from jobstate_server.domain import errors, groups, limits
from jobstate_server.domain.durations import DAY, HOUR, MINUTE, SECOND
from jobstate_server.domain.events import EVENT_NAMES
from jobstate_server.engine import readers, write_queue, writer
from jobstate_server.event_log import feed, pages
from jobstate_server.maintenance import evict_inactive, task
from jobstate_server.maintenance.registry import Schedules
from jobstate_server.rpc import health, reflection
from jobstate_server.rpc import transport_limits as transport
from jobstate_server.rpc.errors import status_code
from jobstate_server.store import base as store_base
from jobstate_server.watch import session as stream

from .support import ROOT

DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md")), ROOT / "generated" / "README.md"]
PAGES_WITH_COMMANDS = [page for page in PAGES if "```sh" in page.read_text("utf-8")]
GENERATED = {DOCS / "api.md", DOCS / "benchmarks.md", DOCS / "python-api.md"}
"""Their lines are those of the protos, of the bench and of docstrings."""

WRAPPED = [page for page in PAGES if page not in GENERATED]
LINE_COLUMNS_MAX = 100

SERVICES: dict[str, ServiceDescriptor] = {
    service.full_name: service
    for module in (job_service_pb2, dispatch_service_pb2, maintenance_service_pb2, health_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def table(page: Path, *head: str) -> list[tuple[str, ...]]:
    """The rows of the first table on a page that has these heads."""
    lines = iter(page.read_text("utf-8").splitlines())
    for line in lines:
        if cells(line) == head:
            next(lines)
            return [cells(row) for row in iter(lambda: next(lines, ""), "") if row.startswith("|")]
    raise AssertionError(f"{name_of(page)} has no table of {', '.join(head)}")


def cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


def code_in(text: str) -> list[str]:
    """What stands between backticks, fenced blocks left out."""
    return re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The words of each command on a page, comments left out."""
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            if words := shlex.split(line, comments=True):
                yield words


# Errors


def kinds_of_error(kind: type[errors.JobStateError] = errors.JobStateError) -> Iterator[type[errors.JobStateError]]:
    """Every kind of error that a caller can get."""
    if hasattr(kind, "reason"):
        yield kind
    for narrower in kind.__subclasses__():
        yield from kinds_of_error(narrower)


def example_metadata() -> dict[str, set[str]]:
    """The metadata keys of each reason, from the worked examples in the contract."""
    text = (ROOT / "protos/jobstate/v1/error_reason.proto").read_text("utf-8")
    plain = re.sub(r"\n\s*// ?", " ", text)
    found = re.findall(r'\{ "reason": "(\w+)".*?"metadata": (\{.*?\}) \}', plain)
    keys: dict[str, set[str]] = {}
    for reason, metadata in found:
        keys.setdefault(reason, set()).update(json.loads(metadata))
    return keys


def test_the_table_of_errors_lists_each_reason_with_its_code() -> None:
    rows = table(DOCS / "errors.md", "reason", "code", "metadata", "what to do")
    listed = {code_in(reason)[0]: code_in(code)[0] for reason, code, *_ in rows}

    assert len(rows) == len(listed)
    assert listed == {kind.reason: status_code(kind).name for kind in kinds_of_error()}
    prefix = "ERROR_REASON_"
    assert {*listed, "UNSPECIFIED"} == {name.removeprefix(prefix) for name, _ in error_reason_pb2.ErrorReason.items()}


def test_the_table_of_errors_names_the_metadata_of_the_contracts_examples() -> None:
    rows = table(DOCS / "errors.md", "reason", "code", "metadata", "what to do")

    assert {code_in(row[0])[0]: set(code_in(row[2])) for row in rows} == example_metadata()


# Limits


def count(value: float) -> str:
    return f"{value:,.0f}"


def size(value: int) -> str:
    for unit, name in ((1024**2, "MiB"), (1024, "KiB")):
        if value >= unit:
            assert value % unit == 0
            return f"{value // unit} {name}"
    return f"{value} bytes"


def characters(value: int) -> str:
    return f"{value} characters"


def levels(value: int) -> str:
    return f"{value} levels"


def span(value: int) -> str:
    for unit, name in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute"), (SECOND, "second")):
        # The units in which people say it: 24 hours, and 30 seconds.
        if value >= unit and value % unit == 0 and (value, unit) != (DAY, DAY):
            return f"{value // unit} {name}{'s' if value > unit else ''}"
    raise AssertionError(f"no words for {value} µs")


LIMITS: list[tuple[str, ModuleType, str, Callable[[Any], str]]] = [
    ("`id`, at most", limits, "JOB_ID_LENGTH_MAX", characters),
    ("a request", limits, "REQUEST_BYTES_MAX", size),
    ("jobs of a `BatchCreate`, updates of a batch of `StreamUpdates`", limits, "BATCH_ITEMS_MAX", count),
    ("`job_type`, at most", limits, "JOB_TYPE_LENGTH_MAX", characters),
    ("`source_id`", limits, "SOURCE_ID_BYTES_MAX", size),
    ("`worker`", limits, "WORKER_BYTES_MAX", size),
    ("`message`, `error.message`, `reason`: each", limits, "TEXT_BYTES_MAX", size),
    ("`error.code`", limits, "ERROR_CODE_BYTES_MAX", size),
    ("`error.details`", limits, "DETAILS_BYTES_MAX", size),
    ("`metadata` of a job, after merging", limits, "METADATA_BYTES_MAX", size),
    ("`result`", limits, "RESULT_BYTES_MAX", size),
    (
        "nesting of objects and lists in these three, which are the first level themselves",
        limits,
        "NESTING_MAX",
        levels,
    ),
    ("`result_count`", limits, "RESULT_COUNT_MAX", count),
    ("`usage.tokens` of an attempt", limits, "TOKENS_MAX", count),
    ("`usage.cost` of an attempt", limits, "COST_MAX", count),
    ("`max_retries`", limits, "MAX_RETRIES_MAX", count),
    ("`timeout` of an attempt", limits, "TIMEOUT_MAX", span),
    ("`retry_delay`", limits, "RETRY_DELAY_MAX", span),
    ("`delay`, `not_before_time` and `start_within` of a `Create`: each, from now", limits, "DELAY_MAX", span),
    ("`start_within` of a `Create`, at least", limits, "START_WITHIN_MIN", span),
    ("`unique_key` of a `Create`", limits, "UNIQUE_KEY_BYTES_MAX", size),
    ("`needs` of a `Create`", limits, "NEEDS_MAX", count),
    ("`needs` of a `BatchCreate` together", limits, "NEEDS_OF_BATCH_MAX", count),
    ("`tolerated_failures` of a group", limits, "TOLERATED_FAILURES_MAX", count),
    ("needed jobs that `Explain` names", limits, "EXPLAINED_NEEDS_MAX", count),
    (
        "`limit` of a `RecreateMany`, `RetryMany` or `CancelMany`, also when it is not set",
        limits,
        "BULK_CHANGES_MAX",
        count,
    ),
    ("ids in the answer to one", limits, "BULK_IDS_RETURNED_MAX", count),
    ("calls of them under way at once; then `OVERLOADED`", limits, "BULK_CALLS_MAX", count),
    ("`max_jobs` of an `Acquire`", limits, "ACQUIRED_MAX", count),
    ("`wait` of an `Acquire`", limits, "ACQUIRE_WAIT_MAX", span),
    ("acquires of a batch of `StreamUpdates`", limits, "ACQUIRES_OF_BATCH_MAX", count),
    ("`lease` of an `Acquire` and of a job type, at least", limits, "LEASE_MIN", span),
    ("`lease` of an `Acquire` and of a job type, at most", limits, "LEASE_MAX", span),
    ("`lease` of a job type, unless the settings say otherwise", limits, "LEASE_DEFAULT", span),
    ("`priority_step` of a job type, at most", limits, "PRIORITY_STEP_MAX", span),
    ("`priority_step` of a job type, unless the settings say otherwise", limits, "PRIORITY_STEP_DEFAULT", span),
    ("releases of a job; then `RELEASE_LIMIT_REACHED`", limits, "RELEASES_MAX", count),
    ("`lane`", limits, "LANE_BYTES_MAX", size),
    ("`labels` of a job, and of a filter", limits, "LABELS_MAX", count),
    ("`labels`: a key, and a value, each", limits, "LABEL_BYTES_MAX", size),
    ("`hold_lane` of a `Release`", limits, "HOLD_LANE_MAX", span),
    ("`concurrency` and `lane_concurrency` of a job type", limits, "CONCURRENCY_MAX", count),
    ("`request_id`, at least", limits, "REQUEST_ID_LENGTH_MIN", characters),
    ("`request_id`, at most", limits, "REQUEST_ID_LENGTH_MAX", characters),
    ("how long a `request_id` is remembered", evict_inactive, "REQUEST_ID_KEPT", span),
    (
        "how long a `request_id` is remembered at least, when `request_ids_max` is reached",
        writer,
        "REQUEST_ID_KEPT_MIN",
        span,
    ),
    (
        "request ids of the last hour, unless the settings say otherwise; then `OVERLOADED` for calls with a new one",
        writer,
        "REQUEST_IDS_MAX",
        count,
    ),
    ("attempts of a `Get`, the latest; `attempts_omitted` counts the others", limits, "ATTEMPTS_MAX", count),
    ("jobs of a page, unless asked otherwise", limits, "PAGE_SIZE_DEFAULT", count),
    (
        "entries of an index that a page looks at; it may then be short or empty, with a token of the next",
        store_base,
        "ENTRIES_SCANNED_MAX",
        count,
    ),
    ("jobs of a page, at most; a larger `page_size` is lowered", limits, "PAGE_SIZE_MAX", count),
    ("bytes of a page, and of the attempts of a `Get`, which end early there", limits, "RESPONSE_BYTES_MAX", size),
    ("`page_token`", limits, "PAGE_TOKEN_LENGTH_MAX", characters),
    ("values of a filter, but for `job_ids`", limits, "FILTER_VALUES_MAX", count),
    ("`job_ids` of a watch", limits, "WATCHED_JOBS_MAX", count),
    ("events of a response of a watch, about", pages, "PAGE_EVENTS_MAX", count),
    ("bytes of a response of a watch, about", pages, "PAGE_BYTES_MAX", size),
    ("`heartbeat_interval`, at least; a shorter one is raised", limits, "HEARTBEAT_MIN", span),
    ("`heartbeat_interval`, unless asked otherwise", limits, "HEARTBEAT_DEFAULT", span),
    ("`heartbeat_interval`, at most; a longer one is lowered", limits, "HEARTBEAT_MAX", span),
    ("`reconnect_after`, at most", stream, "RECONNECT_SPREAD", span),
    (
        "bytes that the filters of all watches take, each name 450 bytes more than its own; then `OVERLOADED`",
        feed,
        "FILTERS_BYTES_MAX",
        size,
    ),
    ("watchers of the health of one server; then `RESOURCE_EXHAUSTED`", health, "WATCHERS_MAX", count),
    ("watchers of the health over one connection; then `RESOURCE_EXHAUSTED`", health, "WATCHERS_CONNECTION_MAX", count),
    ("reflection streams; then `RESOURCE_EXHAUSTED`", reflection, "STREAMS_MAX", count),
    (
        "connections of one server, unless the system allows fewer files; more are closed as they come",
        transport,
        "CONNECTIONS_MAX",
        count,
    ),
    (
        "calls and streams of one connection at once; the client's gRPC lets the next one wait",
        transport,
        "CONNECTION_STREAMS_MAX",
        count,
    ),
    ("calls under way at once, until their answers are read; then `OVERLOADED`", transport, "CALLS_MAX", count),
    (
        "calls of `Acquire`, watches and streams open at once; then `OVERLOADED`",
        transport,
        "OPEN_STREAMS_MAX",
        count,
    ),
    ("bytes of requests on their way and of batches in hand; then they wait", transport, "REQUESTS_BYTES_MAX", size),
    ("bytes of answers that have not been read; then no more are prepared", transport, "ANSWERS_BYTES_MAX", size),
    ("`StreamUpdates` streams at once; then `OVERLOADED`", transport, "STREAMS_MAX", count),
    (
        "bytes of batches under way and unread answers, of one connection; then its streams wait",
        transport,
        "STREAMS_CONNECTION_BYTES_MAX",
        size,
    ),
    (
        "bytes of batches under way and unread answers, of all streams; then they wait",
        transport,
        "STREAMS_BYTES_MAX",
        size,
    ),
    ("changes waiting to be written; then `OVERLOADED`", write_queue, "QUEUE_ROWS_MAX", count),
    ("bytes of changes waiting to be written; then `OVERLOADED`", write_queue, "QUEUE_BYTES_MAX", size),
    ("reads waiting; then `OVERLOADED`", readers, "READS_WAITING_MAX", count),
    ("`older_than` of a `Cleanup`, at least, unless forced", limits, "CLEANUP_AGE_MIN", span),
    ("`older_than` of a `Cleanup`, at most", limits, "CLEANUP_AGE_MAX", span),
    (
        "`job_ids` returned by `CheckStale` and `RetryFailed`, and `unfinished_job_ids` by `Erase`",
        task,
        "JOB_IDS_RETURNED_MAX",
        count,
    ),
]
"""What the table of limits says of each, the constant behind it, and how its value is written."""

INTERNAL = {"TRANSPORT_BYTES_MAX", "PROBLEMS_MAX"}
"""Limits that no user meets, for one lies beyond another, and limits of what we tell."""


@pytest.mark.parametrize("page", ["dispatch.md", "groups.md"])
def test_the_limits_of_a_page_are_rows_of_the_table_of_limits(page: str) -> None:
    rows = table(DOCS / page, "what", "limit")

    assert rows
    assert not set(rows) - set(table(DOCS / "errors.md", "what", "limit"))


def test_the_page_on_groups_has_the_numbers_of_the_code() -> None:
    text = " ".join((DOCS / "groups.md").read_text("utf-8").split())

    assert {int(depth) for depth in re.findall(r"(\d+) deep", text)} == {groups.DEPTH_MAX}
    slices = re.findall(r"commits of up to (\d+)", text) + re.findall(r"up to (\d+) in a commit", text)
    assert {int(jobs) for jobs in slices} == {limits.NEEDS_AT_ONCE, limits.MEMBERS_AT_ONCE}
    assert "once a second at most" in text
    assert groups.PROGRESS_INTERVAL == SECOND


def test_the_table_of_limits_has_the_numbers_of_the_code() -> None:
    rows = table(DOCS / "errors.md", "what", "limit")
    longest_id = "a" * limits.JOB_ID_LENGTH_MAX
    found = [(what, write(getattr(module, name))) for what, module, name, write in LIMITS]

    assert re.compile(limits.ID_PATTERN).fullmatch(longest_id) is not None
    assert re.compile(limits.ID_PATTERN).fullmatch(longest_id + "a") is None
    assert rows == found


@pytest.mark.parametrize("module", [limits, transport], ids=lambda module: module.__name__)
def test_the_table_of_limits_leaves_none_out(module: ModuleType) -> None:
    listed = {name for _, owner, name, _ in LIMITS if owner is module}
    named = {name for name in vars(module) if re.fullmatch(r"[A-Z_]+_(MAX|MIN|DEFAULT)", name)}

    assert named - INTERNAL == listed


# Settings


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*Settings.model_fields, "config"]:
        monkeypatch.delenv(f"JOBSTATE_{name.upper()}", raising=False)


@pytest.mark.usefixtures("bare_environment")
def test_the_table_of_settings_lists_each_with_its_default(tmp_path: Path) -> None:
    rows = table(DOCS / "operations.md", "setting", "default", "meaning")
    names = [code_in(row[0])[0] for row in rows]
    written = [f"{code_in(row[0])[0]} = {code_in(row[1])[0]}\n" for row in rows if code_in(row[1])]
    unset = {name for name, row in zip(names, rows, strict=True) if row[1] == "unset"}
    file = tmp_path / "defaults.toml"
    file.write_text("".join(written), encoding="utf-8")

    assert names == list(Settings.model_fields)
    assert load(file, {}) == load(None, {})
    assert unset == {name for name in names if getattr(load(None, {}), name) is None}


def test_the_table_of_schedules_lists_each_with_its_default() -> None:
    rows = table(DOCS / "operations.md", "setting in `[schedules]`", "default", "does")

    assert {code_in(row[0])[0]: code_in(row[1])[0] for row in rows} == Schedules().model_dump()


def test_the_table_of_job_type_settings_lists_each() -> None:
    rows = table(DOCS / "operations.md", "setting", "meaning")

    assert [code_in(row[0])[0] for row in rows] == list(JobTypeSettings.model_fields)


@pytest.mark.usefixtures("bare_environment")
def test_the_example_of_a_settings_file_is_accepted(tmp_path: Path) -> None:
    (example,) = blocks(DOCS / "operations.md", "toml")
    file = tmp_path / "jobstate.toml"
    file.write_text(example, encoding="utf-8")

    assert set(tomllib.loads(example)["job_types"]) <= {policy.name for policy in load(file, {}).policies().all()}


# The contract


@pytest.mark.parametrize("service", [name for name in SERVICES if name.startswith("jobstate.")])
def test_every_call_is_in_the_readme(service: str) -> None:
    mentioned = set(code_in(README.read_text("utf-8")))

    assert {method.name for method in SERVICES[service].methods} <= mentioned


ORIGINAL_FIELDS = """
    id jobType sourceId status progress progressMessage resultCount error errorMessage isRetryable retryCount maxRetries
    estimatedTokens estimatedCost metadata startedAt completedAt createdAt updatedAt nextRetryAt processingDurationMs
    cancelReason timeoutMs
"""


def test_every_field_of_the_original_has_its_place() -> None:
    rows = table(DOCS / "fields.md", "there", "here", "notes")
    fields = set(job_pb2.Job.DESCRIPTOR.fields_by_name)

    assert [name for row in rows for name in code_in(row[0])] == ORIGINAL_FIELDS.split()
    assert {code_in(row[1])[0].partition(".")[0] for row in rows} <= fields


def test_every_event_of_the_original_has_its_type() -> None:
    rows = table(DOCS / "fields.md", "name", "type")
    names = {f"EVENT_TYPE_{kind.name}": name for kind, name in EVENT_NAMES.items()}

    assert rows
    assert not [row for row in rows if names[code_in(row[1])[0]] != code_in(row[0])[0]]


# Links and commands


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"\w+://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)

    assert not dead


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=name_of)
def test_every_shell_snippet_parses(page: Path) -> None:
    for block in blocks(page, "sh"):
        result = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)

        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", WRAPPED, ids=name_of)
def test_prose_is_wrapped_at_100_columns(page: Path) -> None:
    """What cannot be wrapped is left out: tables, headings, and what stands in fences."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in prose.splitlines() if " " in line.strip() and not line.startswith(("|", "#"))]

    assert not [line for line in lines if len(line) > LINE_COLUMNS_MAX]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_snippet_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, name_of(page), "exec")


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=name_of)
def test_every_call_in_a_snippet_names_an_rpc_and_fits_its_request(page: Path) -> None:
    for words in shell_lines(page):
        if words[0] != "grpcurl" and words[1:2] != ["curl"]:
            continue
        service, _, method = re.sub(r"^http://[^/]+/", "", words[-1]).partition("/")
        request = GetMessageClass(SERVICES[service].methods_by_name[method].input_type)()
        json_format.Parse(words[words.index("-d") + 1] if "-d" in words else "{}", request)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_that_is_mentioned_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    snippets = [
        *code_in(page.read_text("utf-8")),
        *(line for block in blocks(page, "sh") for line in block.splitlines()),
    ]
    mentioned = {found[1] for text in snippets if (found := re.match(r"make ([a-z][a-z-]*)", text))}

    assert mentioned <= targets
