"""Turns operations into methods of the two clients, so that no operation is written twice."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from jobstate_client.core.batches import Batches
from jobstate_client.core.bulk import BulkCall
from jobstate_client.core.calls import Call, Pages
from jobstate_client.core.update_queue import request_of

if TYPE_CHECKING:
    from jobstate_client.core.inspection import BulkProgress

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def sync_method(build: Callable[P, Call[R]]) -> Callable[Concatenate[Any, P], R]:
    """A method that makes the call and returns its result."""
    return _method(build, lambda client, call: client._invoke(call))


def sync_listing(build: Callable[P, Pages[T]]) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """A method that iterates over the items of all pages."""
    return _method(build, lambda client, pages: client._iterate(pages))


def sync_batches(build: Callable[P, Batches[T]]) -> Callable[Concatenate[Any, P], tuple[T, ...]]:
    """A method that makes all calls and returns their results together."""
    return _method(build, lambda client, batches: client._invoke_all(batches))


def async_method(build: Callable[P, Call[R]]) -> Callable[Concatenate[Any, P], Awaitable[R]]:
    """A method whose result is awaited."""
    return _method(build, lambda client, call: client._invoke(call))


def async_listing(build: Callable[P, Pages[T]]) -> Callable[Concatenate[Any, P], AsyncIterator[T]]:
    """A method that iterates over the items of all pages."""
    return _method(build, lambda client, pages: client._iterate(pages))


def async_batches(build: Callable[P, Batches[T]]) -> Callable[Concatenate[Any, P], Awaitable[tuple[T, ...]]]:
    """A method whose results are awaited together."""
    return _method(build, lambda client, batches: client._invoke_all(batches))


def update_method(build: Callable[P, Call[Any]]) -> Callable[Concatenate[Any, P], Any]:
    """A method that sends the request over the stream of updates, and returns what its client returns for that."""
    return _method(build, lambda updates, call: updates._send(request_of(call)))


def sync_bulk(build: Callable[P, BulkCall]) -> Callable[Concatenate[Any, P], BulkProgress]:
    """A method that repeats its call until there is no more to do, and returns what was done in all."""

    def run(client: Any, bulk: BulkCall) -> BulkProgress:
        call: Call[BulkProgress] | None = bulk.call
        progress: BulkProgress | None = None
        while call is not None:
            answer = client._invoke(call)
            progress, call = bulk.after(progress, answer), bulk.next(answer)
        assert progress is not None
        return progress

    return _method(build, run)


def async_bulk(build: Callable[P, BulkCall]) -> Callable[Concatenate[Any, P], Awaitable[BulkProgress]]:
    """The same, whose result is awaited."""

    async def run(client: Any, bulk: BulkCall) -> BulkProgress:
        call: Call[BulkProgress] | None = bulk.call
        progress: BulkProgress | None = None
        while call is not None:
            answer = await client._invoke(call)
            progress, call = bulk.after(progress, answer), bulk.next(answer)
        assert progress is not None
        return progress

    return _method(build, run)


def _method(build: Callable[..., Any], run: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    @functools.wraps(build)
    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return run(self, build(*args, **kwargs))

    # The signature for help() and editors: self and the operation's own parameters.
    signature = inspect.signature(build)
    self_parameter = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    shown = signature.replace(
        parameters=[self_parameter, *signature.parameters.values()], return_annotation=signature.empty
    )
    method.__signature__ = shown  # type: ignore[attr-defined]
    return method
