"""The handlers of a worker, and what they return."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from jobstate_client.core.validation import names


class Handlers:
    """The functions of a worker: one for all its job types, or one for each."""

    def __init__(
        self,
        handler: Callable[..., Any] | None,
        job_types: Iterable[str] | None,
        handlers: Mapping[str, Callable[..., Any]] | None,
        *,
        is_async: bool,
    ) -> None:
        """Check the arguments of a worker.

        Raises:
            TypeError: neither a handler with job types nor ``handlers`` is given, or both are; a handler is not a
                function, or not of the kind that this worker calls; a job type is no text.
            ValueError: no job type is named.
        """
        self._handlers = _by_type(handler, job_types, handlers)
        if not self._handlers:
            raise ValueError("job_types must name at least one type: without any, the worker would get every job")
        for each in self._handlers.values():
            _check_handler(each, is_async=is_async)

    @property
    def job_types(self) -> list[str]:
        """What the worker asks for."""
        return list(self._handlers)

    def of(self, job_type: str) -> Callable[..., Any]:
        """The function that does the attempts of a type."""
        return self._handlers[job_type]


def _by_type(
    handler: Callable[..., Any] | None,
    job_types: Iterable[str] | None,
    handlers: Mapping[str, Callable[..., Any]] | None,
) -> dict[str, Callable[..., Any]]:
    if handlers is not None:
        if handler is not None or job_types is not None:
            raise TypeError("handlers has a function for each job type: give it without handler and job_types")
        if not isinstance(handlers, Mapping):
            raise TypeError(f"handlers must be a dict of functions by job type, not a {type(handlers).__name__}")
        by_type = dict(handlers)
    else:
        if handler is None or job_types is None:
            raise TypeError("give a handler and its job_types, or handlers: a dict of functions by job type")
        by_type = dict.fromkeys(_texts(names(job_types, "job_types"), "job_types"), handler)
    _texts(list(by_type), "handlers")
    return by_type


def _texts(values: list[Any], name: str) -> list[str]:
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(f"{name}[{index}] must be a text, not {type(value).__name__}")
    return values


def _check_handler(handler: Any, *, is_async: bool) -> None:
    if not callable(handler):
        raise TypeError(f"handler must be a function of a run, not a {type(handler).__name__}")
    is_coroutine_function = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - not a test for callability: it finds async __call__ methods
    )
    if is_coroutine_function and not is_async:
        raise TypeError("handler is a coroutine function: only the worker of an AsyncClient can call it")


def check_count(value: Any, name: str) -> int:
    """A number of 1 or more. Raises TypeError or ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
    return value


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
