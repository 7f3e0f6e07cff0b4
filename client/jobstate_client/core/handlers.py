"""Checks the handler of a worker, and what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any


def check_worker(handler: Callable[..., Any], job_types: list[str], concurrency: int, *, is_async: bool) -> None:
    """Check the arguments of a worker.

    Raises:
        TypeError: the handler is not a function, or not of the kind that this worker calls; a job type is no text.
        ValueError: no job type is named, or the concurrency is below 1.
    """
    if not callable(handler):
        raise TypeError(f"handler must be a function of a run, not a {type(handler).__name__}")
    is_coroutine_function = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - not a test for callability: it finds async __call__ methods
    )
    if is_coroutine_function and not is_async:
        raise TypeError("handler is a coroutine function: only the worker of an AsyncClient can call it")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int):
        raise TypeError(f"concurrency must be an int, not {type(concurrency).__name__}")
    if concurrency < 1:
        raise ValueError(f"concurrency must be 1 or more, not {concurrency}")
    if not job_types:
        raise ValueError("job_types must name at least one type: without any, the worker would get every job")
    for index, name in enumerate(job_types):
        if not isinstance(name, str):
            raise TypeError(f"job_types[{index}] must be a text, not {type(name).__name__}")


def result_of(returned: Any) -> Mapping[str, Any] | None:
    """The result that a handler returned. Raises TypeError if it is neither a dict nor None."""
    if returned is None or isinstance(returned, Mapping):
        return returned
    if inspect.iscoroutine(returned):
        # Otherwise Python would also warn that it was never awaited.
        returned.close()
    raise TypeError(f"the handler returned a {type(returned).__name__}; a result is a dict, or None for no result")


async def awaited(returned: Awaitable[Any] | Any) -> Any:
    """Await what an asyncio handler returned. Raises TypeError if it is not an awaitable."""
    if not inspect.isawaitable(returned):
        raise TypeError(f"the handler returned a {type(returned).__name__}; it has to be a coroutine function")
    return await returned
