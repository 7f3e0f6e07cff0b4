"""A worker has a handler for all types or one for each, stops by itself when asked to, and logs what it did."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from jobstate_client import AsyncClient, Client, NewJob, NonRetryable, Release, Run, State
from jobstate_client.testing import JobstateServer

from .support import done


def handlers_for(client: Any, handlers: Mapping[str, Callable[[Run], Any]]) -> dict[str, Callable[[Run], Any]]:
    """These functions as the client calls them."""

    def awaited(handler: Callable[[Run], Any]) -> Callable[[Run], Any]:
        async def handle(run: Run) -> Any:
            return handler(run)

        return handle

    is_async = isinstance(client, AsyncClient)
    return {name: awaited(handler) if is_async else handler for name, handler in handlers.items()}


async def test_each_type_has_its_handler(either: Any) -> None:
    handlers = handlers_for(either, {"clean": lambda run: {"by": "clean"}, "post": lambda run: {"by": "post"}})
    for name in ("clean", "post"):
        await done(either.create(name, id=name))

    await done(either.worker(handlers=handlers).run(until_empty=True))

    assert [(await done(either.get(name))).result for name in ("clean", "post")] == [{"by": "clean"}, {"by": "post"}]


@pytest.mark.parametrize(
    ("arguments", "kind", "problem"),
    [
        ({}, TypeError, "give a handler and its job_types, or handlers"),
        ({"handler": print}, TypeError, "give a handler and its job_types, or handlers"),
        ({"handler": print, "job_types": ["a"], "handlers": {"a": print}}, TypeError, "without handler and job_types"),
        ({"job_types": ["a"], "handlers": {"a": print}}, TypeError, "without handler and job_types"),
        ({"handlers": [print]}, TypeError, "handlers must be a dict of functions by job type, not a list"),
        ({"handlers": {}}, ValueError, "job_types must name at least one type"),
        ({"handlers": {"a": None}}, TypeError, "handler must be a function of a run"),
        ({"handlers": {1: print}}, TypeError, "handlers[0] must be a text, not int"),
        ({"handler": print, "job_types": "abc"}, TypeError, "job_types must be a list"),
    ],
)
def test_a_worker_without_one_clear_handler_for_each_type_is_refused(
    client: Client, arguments: dict[str, Any], kind: type[Exception], problem: str
) -> None:
    with pytest.raises(kind, match=re.escape(problem)):
        client.worker(**arguments)


async def test_an_attempt_is_logged_in_one_line(either: Any, caplog: pytest.LogCaptureFixture) -> None:
    def work(run: Run) -> None:
        if run.id == "bad":
            raise NonRetryable("no such file")
        if run.id == "busy":
            raise Release(delay=3_600, reason="the service says 429")

    for job_id in ("good", "bad", "busy"):
        await done(either.create("clean", id=job_id))
    with caplog.at_level(logging.INFO, "jobstate_client"):
        await done(either.worker(handlers=handlers_for(either, {"clean": work})).run(until_empty=True))

    told = [(r.levelname, re.sub(r"[\d.]+ s\b", "N s", r.getMessage())) for r in caplog.records]
    assert [line for line in told if "attempt" in line[1]] == [
        ("INFO", "clean: attempt 1 of job good completed after N s"),
        ("WARNING", "clean: attempt 1 of job bad failed after N s"),
        ("INFO", "clean: attempt 1 of job busy was released after N s: the service says 429"),
    ]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_worker_stops_after_so_many_jobs(either: Any, concurrency: int) -> None:
    await done(either.create_many(NewJob("work") for _ in range(5)))
    worker = either.worker(handlers=handlers_for(either, {"work": lambda run: None}), concurrency=concurrency)

    await done(worker.run(max_jobs=4))

    stats = (await done(either.stats(["work"]))).total
    assert (stats.stored[State.COMPLETED], stats.stored[State.QUEUED], stats.released) == (4, 1, 0)


async def test_a_worker_until_empty_does_what_its_jobs_create(client: Client, either: Any) -> None:
    def work(run: Run) -> None:
        if run.job.source_id:
            client.create("work", source_id=run.job.source_id[1:])

    client.create("work", source_id="xxx")
    worker = either.worker(handlers=handlers_for(either, {"work": work}), concurrency=2)

    await done(worker.run(until_empty=True))

    assert client.stats(["work"]).total.stored == {State.COMPLETED: 4}


async def test_a_worker_until_empty_ends_at_once_when_nothing_is_ready(either: Any) -> None:
    await done(either.create("work", delay=3_600))
    worker = either.worker(handlers=handlers_for(either, {"work": lambda run: None}))

    await done(worker.run(until_empty=True, max_jobs=1))


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "3"])
def test_a_number_of_jobs_that_is_none_is_refused(client: Client, number: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_jobs must be"):
        client.worker(lambda run: None, job_types=["work"]).run(max_jobs=number)


def test_a_worker_until_empty_fails_while_there_is_no_server(server: JobstateServer) -> None:
    client = server.client(timeout=0.2)
    server.stop()

    with pytest.raises(Exception, match=r"UNAVAILABLE|DEADLINE"):
        client.worker(lambda run: None, job_types=["work"]).run(until_empty=True)
