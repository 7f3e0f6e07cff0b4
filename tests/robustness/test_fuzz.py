"""Whatever bytes come to whatever RPC: the server stays up, and answers as documented."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from functools import reduce
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.rpc.server import SERVICES

from ..support.calls import complete, create, fail, get, report
from ..support.calls import start as start_job
from ..support.server import Running, serving
from .messages import KNOWN_IDS, Texts, encodings, neat_messages
from .recording import ending_of

METHODS = [method for service in SERVICES for method in service.methods]

EXAMPLES = 120
"""For each RPC; ``HYPOTHESIS_SEED`` and longer runs are pytest's and Hypothesis's own options."""

FOUND_BY = ("labels", "worker", "error_code", "complete_time_from", "complete_time_to")

REACHED = [
    ("Create", "labels"),
    *(("List", field) for field in (*FOUND_BY, "wait_reasons")),
    ("WatchEvents", "labels"),
    ("Recreate", "id"),
    *((name, f"filter.{field}") for name in ("RecreateMany", "RetryMany", "CancelMany") for field in FOUND_BY),
    *((name, "dry_run") for name in ("RecreateMany", "RetryMany", "CancelMany")),
    ("Erase", "source_id"),
    ("Erase", "id"),
]
"""Fields of calls: whether chance finds them is not left to chance."""

TRIES_MAX = 2_000

RESPONSES_MAX = 3
"""Responses read of a stream before it is broken off."""

SOON_S = 0.05

PATIENCE_S = 30.0

DOCUMENTED = {
    ("INVALID_ARGUMENT", "INVALID_FIELD"),
    ("INVALID_ARGUMENT", "UNKNOWN_JOB_TYPE"),
    ("NOT_FOUND", "JOB_NOT_FOUND"),
    ("ALREADY_EXISTS", "JOB_EXISTS"),
    ("ALREADY_EXISTS", "REQUEST_ID_REUSED"),
    ("FAILED_PRECONDITION", "TRANSITION_NOT_ALLOWED"),
    ("FAILED_PRECONDITION", "RETRY_NOT_ALLOWED"),
    ("FAILED_PRECONDITION", "ATTEMPT_SUPERSEDED"),
    ("FAILED_PRECONDITION", "ATTEMPT_REQUIRED"),
    ("FAILED_PRECONDITION", "CURSOR_UNKNOWN"),
    ("FAILED_PRECONDITION", "GROUP_CLOSED"),
    ("FAILED_PRECONDITION", "NOT_A_GROUP"),
    ("OUT_OF_RANGE", "CURSOR_EXPIRED"),
    ("RESOURCE_EXHAUSTED", "OVERLOADED"),
    ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE"),
    ("UNIMPLEMENTED", "NOT_IMPLEMENTED"),
}
"""What a caller may be told, of a server that is well. INTERNAL is not among it."""


class Target:
    """A live server, and the loop that it runs on while it is asked something."""

    def __init__(self, path: Path) -> None:
        self.texts = Texts()
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self.running: Running = self.run(self._stack.enter_async_context(serving(path)))
        self.run(self._prepare())

    def run(self, doing: Any) -> Any:
        """Let the server run while this is done."""
        return self._runner.run(doing)

    def close(self) -> None:
        """Stop the server."""
        self.run(self._stack.aclose())
        self._runner.close()

    async def _prepare(self) -> None:
        for job_id in KNOWN_IDS[2:]:
            await create(self.running, job_id, source_id="source-1", labels={"tenant": "acme"})
        await self.end_some()
        page = await self.running.jobs.List(pb.ListRequest(page_size=1))
        self.texts.give(page.next_page_token)
        watch = self.running.jobs.WatchEvents(pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST, follow=False))
        async for response in watch:
            self.texts.give(response.cursor)

    async def end_some(self) -> None:
        """Have jobs that can be recreated and erased, and be found by who failed them, and with what."""
        for job_id in KNOWN_IDS[:2]:
            for change in (
                create(self.running, job_id, source_id="source-1", labels={"tenant": "acme"}),
                start_job(self.running, job_id, worker="worker-1"),
                fail(self.running, job_id, attempt=1, error=pb.FailureReport(code="E1"), retryable=False),
            ):
                # Whoever was there before may have done it, or something else.
                with suppress(grpc.aio.AioRpcError):
                    await change

    async def send(self, method: MethodDescriptor, raw: list[bytes]) -> tuple[str, str]:
        """Send these bytes. Returns the code and reason of what came of it."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        channel = self.running.channel
        try:
            async with asyncio.timeout(PATIENCE_S):
                if method.client_streaming:
                    many: Any = channel.stream_stream(path)
                    answered = asyncio.Semaphore()
                    await _read(many(_each(raw, answered)), answered.release)
                elif method.server_streaming:
                    one: Any = channel.unary_stream(path)
                    await _read(one(raw[0]))
                else:
                    unary: Any = channel.unary_unary(path)
                    await unary(raw[0])
        except grpc.aio.AioRpcError as error:
            ending = ending_of(error)
            # Without a reason it came from gRPC, whose words are then what there is to go by.
            return ending.code, ending.reason or str(error.details())
        return "OK", ""


async def _each(raw: list[bytes], answered: asyncio.Semaphore) -> AsyncIterator[bytes]:
    """Each message once the one before it is answered: a write that meets the end of a stream fails in the client."""
    for message in raw:
        await answered.acquire()
        yield message


async def _read(call: Any, on_response: Callable[[], None] = lambda: None) -> None:
    """The first responses of a stream, if any come soon."""
    responses = aiter(call)
    try:
        for _ in range(RESPONSES_MAX):
            waiting = asyncio.ensure_future(anext(responses))
            done, _ = await asyncio.wait([waiting], timeout=SOON_S)
            if not done:
                # A watch that has caught up has nothing to say for a while; that it was accepted is what counts.
                waiting.cancel()
                await asyncio.wait([waiting])
                return
            if isinstance(waiting.exception(), StopAsyncIteration):
                return
            waiting.result()
            on_response()
    finally:
        call.cancel()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    target = Target(tmp_path_factory.mktemp("fuzz") / "jobs.db")
    yield target
    target.close()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_any_bytes_are_answered_as_documented(method: MethodDescriptor, target: Target) -> None:
    raw = st.lists(encodings(method.input_type, target.texts), min_size=1, max_size=3)

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(raw=raw)
    def answers(raw: list[bytes]) -> None:
        answer = target.run(target.send(method, raw))
        assert answer == ("OK", "") or answer in DOCUMENTED

    answers()


@pytest.mark.parametrize(("name", "field"), REACHED, ids=[".".join(each) for each in REACHED])
def test_chance_finds_a_request_that_is_taken_with(name: str, field: str, target: Target) -> None:
    method = next(method for method in METHODS if method.name == name)

    def is_taken(message: Any) -> bool:
        *around, last = field.split(".")
        inner = reduce(getattr, around, message)
        is_set = any(described.name == last for described, _ in inner.ListFields())
        return is_set and target.run(target.send(method, [message.SerializeToString()])) == ("OK", "")

    target.run(target.end_some())
    only_tries = settings(max_examples=TRIES_MAX, deadline=None, database=None, phases=[Phase.generate])
    find(neat_messages(method.input_type), is_taken, settings=only_tries)


def test_every_bent_cursor_and_page_token_is_refused_or_taken_but_never_a_failure(target: Target) -> None:
    list_jobs, watch = (next(method for method in METHODS if method.name == name) for name in ("List", "WatchEvents"))
    answers = set()
    for text in target.texts.given:
        listing, watching = pb.ListRequest(page_token=text), pb.WatchEventsRequest(cursor=text)
        answers.add(target.run(target.send(list_jobs, [listing.SerializeToString()])))
        answers.add(target.run(target.send(watch, [watching.SerializeToString()])))

    assert answers == {("OK", ""), ("INVALID_ARGUMENT", "INVALID_FIELD"), ("FAILED_PRECONDITION", "CURSOR_UNKNOWN")}


def test_after_all_that_a_job_lives_as_ever(target: Target) -> None:
    async def live() -> list[int]:
        running = target.running
        await create(running, "after-all")
        await start_job(running, "after-all")
        await report(running, "after-all", progress=50)
        await complete(running, "after-all")
        job = await get(running, "after-all")
        return [job.state, job.progress, running.server.feed.watchers]

    state, done, watchers = target.run(live())

    assert (state, done, watchers) == (3, 100, 0)
