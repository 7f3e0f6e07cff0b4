"""Validation of requests: every problem of a request is found, and named by its field."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.filters import Position
from jobstate_server.domain.job_types import MAX_RETRIES_MAX, RETRY_DELAY_MAX, TIMEOUT_MAX
from jobstate_server.rpc import limits
from jobstate_server.rpc.page_token import decode_page_token
from jobstate_server.wire.documents import PROBLEMS_MAX
from jobstate_server.wire.requests import document_problems
from jobstate_server.wire.times import nanos_of

_ID = re.compile(limits.ID_PATTERN)
_ID_RULE = "must be 1 to 128 letters, digits or . _ : - and begin with a letter or digit"
_JOB_TYPE_RULE = "must be 1 to 64 letters, digits or . _ : - and begin with a letter or digit"
_REQUEST_ID = re.compile(rf"[\x21-\x7e]{{{limits.REQUEST_ID_LENGTH_MIN},{limits.REQUEST_ID_LENGTH_MAX}}}")
_REQUEST_ID_RULE = (
    f"must be {limits.REQUEST_ID_LENGTH_MIN} to {limits.REQUEST_ID_LENGTH_MAX} printable ASCII characters without"
    " spaces, best a random UUID"
)


class Problems:
    """The problems of one request."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def add(self, field: str, problem: str) -> None:
        """Note a problem."""
        if len(self._found) < PROBLEMS_MAX:
            self._found.append((field, problem))

    def refuse(self, *requests: tuple[Message, str]) -> None:
        """Raise InvalidField if there is any problem.

        Args:
            requests: whose free JSON is judged then too, each with the prefix of its fields. Without another problem
                that is left to its conversion, which has to encode it anyway.
        """
        if not self._found:
            return
        for request, prefix in requests:
            if len(self._found) >= PROBLEMS_MAX:
                break
            for field, problem in document_problems(request):
                self.add(prefix + field, problem)
        first, *others = self._found
        raise InvalidField(*first, others=tuple(others))

    def job_id(self, field: str, value: str) -> None:
        """A job's id."""
        if _ID.fullmatch(value) is None:
            self.add(field, _ID_RULE)

    def job_type(self, field: str, value: str) -> None:
        """A job type."""
        if len(value) > limits.JOB_TYPE_LENGTH_MAX or _ID.fullmatch(value) is None:
            self.add(field, _JOB_TYPE_RULE)

    def text(self, field: str, value: str, bytes_max: int) -> None:
        """Free text."""
        # A character has at most four bytes, so most texts need no encoding to be measured.
        if len(value) * 4 > bytes_max and len(value.encode()) > bytes_max:
            self.add(field, f"has {len(value.encode())} bytes, at most {bytes_max} are allowed")
        elif "\0" in value:
            self.add(field, "must not contain NUL")

    def request_id(self, value: str, field: str = "request_id") -> None:
        """An idempotency key, which may be absent."""
        if value and _REQUEST_ID.fullmatch(value) is None:
            self.add(field, _REQUEST_ID_RULE)

    def within(self, field: str, value: int, low: int, high: int) -> None:
        """A number with bounds."""
        if not low <= value <= high:
            self.add(field, f"is {value}, must be {low} to {high}")

    def span(self, field: str, value: Duration, low: int, high: int, rule: str) -> None:
        """A duration from 0 up with bounds, in microseconds, that ``rule`` tells in words; judged as it was sent."""
        is_valid = 0 <= value.nanos <= 999_999_999
        if not is_valid and value.seconds > 0:
            self.add(field, "must be a valid Duration, with nanos from 0 to 999,999,999")
        elif not is_valid or not low * 1_000 <= nanos_of(value) <= high * 1_000:
            self.add(field, f"must be {rule}")

    def time(self, field: str, value: Timestamp) -> None:
        """A moment between the years 1 and 9999, as Timestamp's own documentation has it."""
        if not 0 <= value.nanos <= 999_999_999 or not -62_135_596_800 <= value.seconds <= 253_402_300_799:
            self.add(field, "must be a valid Timestamp, from year 1 to 9999")

    def known(self, field: str, value: int, names: Sequence[int]) -> None:
        """A number that must be a named value of its enum, and not UNSPECIFIED."""
        if value not in names or value == 0:
            self.add(field, f"{value} is not a value of this enum that can be asked for")

    def count(self, field: str, count: int, high: int, low: int = 0) -> bool:
        """The length of a list. Returns whether it is acceptable."""
        if not low <= count <= high:
            self.add(field, f"has {count} values, {low} to {high} are allowed")
        return low <= count <= high

    def usage(self, usage: job_pb2.Usage) -> None:
        """Tokens and cost."""
        if usage.HasField("tokens"):
            self.within("usage.tokens", usage.tokens, 0, limits.TOKENS_MAX)
        if usage.HasField("cost") and not (math.isfinite(usage.cost) and 0 <= usage.cost <= limits.COST_MAX):
            self.add("usage.cost", f"is {usage.cost}, must be a number from 0 to {limits.COST_MAX:.0f}")

    def attempt(self, request: pb.UpdateProgressRequest | pb.CompleteRequest | pb.FailRequest) -> None:
        """What the calls of an attempt have in common."""
        self.job_id("id", request.id)
        if request.HasField("attempt") and request.attempt < 1:
            self.add("attempt", f"is {request.attempt}, must be 1 or more")
        if request.HasField("usage"):
            self.usage(request.usage)


def _create_problems(request: pb.CreateRequest, problems: Problems, prefix: str = "") -> None:
    if request.id:
        problems.job_id(prefix + "id", request.id)
    problems.job_type(prefix + "job_type", request.job_type)
    problems.text(prefix + "source_id", request.source_id, limits.SOURCE_ID_BYTES_MAX)
    if request.HasField("max_retries"):
        problems.within(prefix + "max_retries", request.max_retries, 0, MAX_RETRIES_MAX)
    if request.HasField("timeout"):
        problems.span(prefix + "timeout", request.timeout, 0, TIMEOUT_MAX, "0 (none) to 30 days")
    problems.request_id(request.request_id, prefix + "request_id")


def create(request: pb.CreateRequest) -> None:
    """Refuse a bad Create."""
    problems = Problems()
    _create_problems(request, problems)
    problems.refuse((request, ""))


def batch_create(request: pb.BatchCreateRequest) -> None:
    """Refuse a bad BatchCreate."""
    problems = Problems()
    if problems.count("requests", len(request.requests), limits.BATCH_ITEMS_MAX, low=1):
        for index, item in enumerate(request.requests):
            _create_problems(item, problems, f"requests[{index}].")
    problems.refuse(*((item, f"requests[{index}].") for index, item in enumerate(request.requests)))


def get(request: pb.GetRequest) -> None:
    """Refuse a bad Get."""
    problems = Problems()
    problems.job_id("id", request.id)
    problems.refuse()


def list_jobs(request: pb.ListRequest) -> Position | None:
    """Refuse a bad List. Returns where its page begins, None at the start."""
    problems = Problems()
    _known_values(problems, "states", request.states, job_pb2.JobState.values())
    _values(problems, "job_types", request.job_types, limits.FILTER_VALUES_MAX, problems.job_type)
    problems.text("source_id", request.source_id, limits.SOURCE_ID_BYTES_MAX)
    if request.HasField("create_time_from"):
        problems.time("create_time_from", request.create_time_from)
    if request.HasField("create_time_to"):
        problems.time("create_time_to", request.create_time_to)
    if request.page_size < 0:
        problems.add("page_size", f"is {request.page_size}, must not be negative")
    if request.order not in pb.ListOrder.values():
        problems.add("order", f"{request.order} is not a value of this enum that can be asked for")
    after = None
    try:
        after = decode_page_token(request)
    except InvalidField as refusal:
        problems.add(refusal.field, refusal.problem)
    problems.refuse()
    return after


def start(request: pb.StartRequest) -> None:
    """Refuse a bad Start."""
    problems = Problems()
    problems.job_id("id", request.id)
    problems.text("worker", request.worker, limits.WORKER_BYTES_MAX)
    problems.request_id(request.request_id)
    problems.refuse()


def update_progress(request: pb.UpdateProgressRequest) -> None:
    """Refuse a bad UpdateProgress."""
    problems = Problems()
    problems.attempt(request)
    if request.HasField("progress"):
        problems.within("progress", request.progress, 0, 100)
    problems.text("message", request.message, limits.TEXT_BYTES_MAX)
    problems.refuse((request, ""))


def complete(request: pb.CompleteRequest) -> None:
    """Refuse a bad Complete."""
    problems = Problems()
    problems.attempt(request)
    problems.within("result_count", request.result_count, 0, limits.RESULT_COUNT_MAX)
    problems.request_id(request.request_id)
    problems.refuse((request, ""))


def fail(request: pb.FailRequest) -> None:
    """Refuse a bad Fail."""
    problems = Problems()
    problems.attempt(request)
    problems.text("error.code", request.error.code, limits.ERROR_CODE_BYTES_MAX)
    problems.text("error.message", request.error.message, limits.TEXT_BYTES_MAX)
    if request.HasField("retry_delay"):
        problems.span("retry_delay", request.retry_delay, 0, RETRY_DELAY_MAX, "0 to 7 days")
        if request.HasField("retryable") and not request.retryable:
            problems.add("retry_delay", "must not be given together with retryable = false")
    problems.request_id(request.request_id)
    problems.refuse((request, ""))


def report_usage(request: pb.ReportUsageRequest) -> None:
    """Refuse a bad ReportUsage."""
    problems = Problems()
    problems.job_id("id", request.id)
    if request.attempt < 1:
        problems.add("attempt", f"is {request.attempt}, must be 1 or more")
    if not (request.usage.HasField("tokens") or request.usage.HasField("cost")):
        problems.add("usage", "must have tokens, cost or both")
    problems.usage(request.usage)
    problems.refuse()


def retry(request: pb.RetryRequest) -> None:
    """Refuse a bad Retry."""
    problems = Problems()
    problems.job_id("id", request.id)
    problems.request_id(request.request_id)
    problems.refuse()


def cancel(request: pb.CancelRequest) -> None:
    """Refuse a bad Cancel."""
    problems = Problems()
    problems.job_id("id", request.id)
    problems.text("reason", request.reason, limits.TEXT_BYTES_MAX)
    problems.request_id(request.request_id)
    problems.refuse()


def watch_events(request: pb.WatchEventsRequest) -> None:
    """Refuse a bad WatchEvents, but for its cursor."""
    problems = Problems()
    _values(problems, "job_ids", request.job_ids, limits.WATCHED_JOBS_MAX, problems.job_id)
    _values(problems, "job_types", request.job_types, limits.FILTER_VALUES_MAX, problems.job_type)
    _values(problems, "source_ids", request.source_ids, limits.FILTER_VALUES_MAX, _source_id(problems))
    _known_values(problems, "types", request.types, event_pb2.EventType.values())
    if request.WhichOneof("position") == "cursor" and not request.cursor:
        problems.add("cursor", "must not be empty; leave it unset to begin at the end of the log")
    if request.start not in pb.WatchStart.values():
        problems.add("start", f"{request.start} is not a value of this enum that can be asked for")
    if request.progress not in pb.WatchProgress.values():
        problems.add("progress", f"{request.progress} is not a value of this enum that can be asked for")
    if request.snapshot and request.start == pb.WATCH_START_EARLIEST:
        problems.add("snapshot", "must not be given together with start = EARLIEST")
    if request.until_final and not request.job_ids:
        problems.add("until_final", "needs job_ids")
    if request.until_final and request.HasField("follow") and not request.follow:
        problems.add("until_final", "must not be given together with follow = false")
    if request.HasField("heartbeat_interval"):
        # Whatever is asked for is brought within our bounds.
        problems.span("heartbeat_interval", request.heartbeat_interval, 0, 2**63, "0 or more")
    problems.refuse()


def get_stats(request: pb.GetStatsRequest) -> None:
    """Refuse a bad GetStats."""
    problems = Problems()
    _values(problems, "job_types", request.job_types, limits.FILTER_VALUES_MAX, problems.job_type)
    problems.refuse()


def cleanup(request: mpb.CleanupRequest) -> None:
    """Refuse a bad Cleanup."""
    problems = Problems()
    if request.HasField("older_than"):
        low, rule = (
            (0, "0 or more") if request.force else (limits.CLEANUP_AGE_MIN, "1 hour or more, unless force is set")
        )
        problems.span("older_than", request.older_than, low, limits.CLEANUP_AGE_MAX, rule + ", at most 10 years")
    problems.refuse()


def _source_id(problems: Problems) -> Callable[[str, str], None]:
    return lambda field, value: problems.text(field, value, limits.SOURCE_ID_BYTES_MAX)


def _values(
    problems: Problems, field: str, values: Sequence[str], high: int, check: Callable[[str, str], None]
) -> None:
    if problems.count(field, len(values), high):
        for index, value in enumerate(values):
            check(f"{field}[{index}]", value)


def _known_values(problems: Problems, field: str, values: Sequence[int], names: Sequence[int]) -> None:
    if problems.count(field, len(values), limits.FILTER_VALUES_MAX):
        for index, value in enumerate(values):
            problems.known(f"{field}[{index}]", value, names)
