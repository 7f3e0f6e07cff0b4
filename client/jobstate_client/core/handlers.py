"""What a worker demands of its handler, and makes of what that returns."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any


def check_worker(handler: Callable[..., Any], job_types: list[str], concurrency: int, *, is_async: bool) -> None:
    """Judge what a worker is made of.

    Raises:
        TypeError: the handler is not a function, or not one of the kind that this worker calls.
        ValueError: there is no job type, or less than one job at a time.
    """
    if not callable(handler):
        raise TypeError(f"handler must be a function of a run, not a {type(handler).__name__}")
    is_coroutine_function = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004
    )
    if is_coroutine_function and not is_async:
        raise TypeError("handler is a coroutine function: those are for the worker of an AsyncClient")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int):
        raise TypeError(f"concurrency must be an int, not {type(concurrency).__name__}")
    if concurrency < 1:
        raise ValueError(f"concurrency must be 1 or more, not {concurrency}")
    if not job_types:
        raise ValueError("job_types must name at least one type: without any, the worker would be given every job")


def result_of(returned: Any) -> Mapping[str, Any] | None:
    """The result that a handler returned. Raises TypeError when it is none."""
    if returned is None or isinstance(returned, Mapping):
        return returned
    if inspect.iscoroutine(returned):
        # So that Python does not complain, too, that nobody awaits it.
        returned.close()
    raise TypeError(f"the handler returned a {type(returned).__name__}; a result is a dict, or None for no result")


async def awaited(returned: Awaitable[Any] | Any) -> Any:
    """What a handler for asyncio returned. Raises TypeError when it did not return an awaitable."""
    if not inspect.isawaitable(returned):
        raise TypeError(f"the handler returned a {type(returned).__name__}; it has to be a coroutine function")
    return await returned
