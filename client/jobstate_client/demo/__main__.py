"""``python -m jobstate_client.demo``, which `make demo` runs. Exits with 0 if every outcome was as expected, else 1."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

try:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text
except ModuleNotFoundError:
    sys.exit("jobstate demo: rich is not installed; install it with: pip install 'jobstate-grpc[cli,server]'")

from jobstate_client.aio.client import AsyncClient
from jobstate_client.cli.terminal.output import Output
from jobstate_client.cli.terminal.statistics import write_statistics
from jobstate_client.cli.terminal.top_screen import Size, frame
from jobstate_client.cli.terminal.watch_printers import LinePrinter
from jobstate_client.core.states import EventType
from jobstate_client.core.values import Event
from jobstate_client.demo.checks import check_jobs, check_order, check_retries, check_stats, check_takeover
from jobstate_client.demo.producer import Producer
from jobstate_client.demo.scene import ACTS, LEASE_S
from jobstate_client.demo.server import ServerFailed, running_server
from jobstate_client.demo.tracker import Tracker
from jobstate_client.demo.workers import Unexpected, Workers, running_workers
from jobstate_client.errors import JobStateError
from jobstate_client.views.overview import Overview

TIMEOUT_S = 25.0
"""The scene takes 11 s. If it takes longer, something is wrong."""

FRAMES_PER_S = 8
FRAMES_PER_COUNT = 4
"""Frames between two refreshes of the counts."""

HEIGHT_MAX = 30
"""Lines of the screen: enough for every job and the latest events. It stays above the statistics in the end."""

CAPTION_LINES_MAX = 2
"""Lines that say what happens, each at most as wide as the terminal."""

KEYS = "Ctrl-C quits"


async def demo(output: Output, *, live: bool) -> None:
    """Play the scene and check the outcome.

    Raises:
        Unexpected: the outcome was not the expected one.
        ServerFailed: the server did not start.
    """
    with tempfile.TemporaryDirectory(prefix="jobstate-demo-") as folder:
        async with running_server(Path(folder)) as address, AsyncClient(address) as client:
            caption = Text(style="bold")
            say = partial(_set_caption, caption) if live else _print_text
            tracker = Tracker(Overview(address), _no_line if live else _print_line, say)
            async with running_workers(address, Path(folder)) as workers:
                async with _screen(tracker, client, output.console, caption) if live else _heading(address):
                    await _play(client, tracker, workers)
                await workers.stop()
            await check_jobs(client, tracker)
            check_retries(tracker)
            check_takeover(tracker, workers.killed)
            overtaken = check_order(tracker)
            statistics = await client.stats()
            check_stats(statistics)
    output.text("")
    write_statistics(output, statistics)
    output.text("")
    output.text(f"As expected: {len(ACTS)} jobs, {len(tracker.events)} events, {tracker.elapsed:.0f} s.")
    output.text(f"- The urgent job was created last and overtook {overtaken} that waited.")
    output.text(f"- {workers.killed[0]} was killed. Its lease of {LEASE_S} s ended, and another did its job.")
    output.text("- Every job was handed out in its turn, by priority and waiting time.")
    output.text("The server and its file are gone. Continue with `make serve` and the examples in README.md.")


def _no_line(event: Event) -> None:
    """Nothing: the screen shows the event."""


def _set_caption(caption: Text, text: str) -> None:
    caption.plain = text


def _print_text(text: str) -> None:
    print(f"\n{text}\n", flush=True)


def _print_line(event: Event) -> None:
    """Print an event. Progress is left out, as on a terminal."""
    if event.type is not EventType.PROGRESS:
        LinePrinter().event(event, "")
        sys.stdout.flush()


@asynccontextmanager
async def _heading(address: str) -> AsyncIterator[None]:
    print(f"A server at {address}, on a temporary file. The events of a watch, without progress:", flush=True)
    yield


@asynccontextmanager
async def _screen(tracker: Tracker, client: AsyncClient, console: Console, caption: Text) -> AsyncIterator[None]:
    """Show the same screen as ``jobstate top``, and above it what happens."""

    def picture() -> Group:
        lines = caption.wrap(console, console.width)[:CAPTION_LINES_MAX]
        lines.extend([Text()] * (CAPTION_LINES_MAX - len(lines)))
        size = Size(console.width, min(HEIGHT_MAX, console.height - 1) - CAPTION_LINES_MAX)
        return Group(*lines, *frame(tracker.overview, size, datetime.now(UTC), KEYS))

    async def refresh_counts() -> None:
        tracker.overview.set_counts(await client.stats(), datetime.now(UTC))

    with Live(picture(), console=console, auto_refresh=False) as live:

        async def draw() -> None:
            for number in range(sys.maxsize):
                if number % FRAMES_PER_COUNT == 0:
                    await refresh_counts()
                live.update(picture(), refresh=True)
                await asyncio.sleep(1 / FRAMES_PER_S)

        drawing = asyncio.create_task(draw())
        try:
            yield
            await refresh_counts()
        finally:
            drawing.cancel()
            live.update(picture(), refresh=True)


async def _play(client: AsyncClient, tracker: Tracker, workers: Workers) -> None:
    watch = asyncio.create_task(tracker.follow(client))
    producer: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await tracker.opened.wait()
            producer = asyncio.create_task(_produce(Producer(client, tracker, workers)))
            await asyncio.wait((watch, producer), return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            watch.result()
            raise Unexpected("the watch ended before the jobs did")
        producer.result()
    except TimeoutError:
        states = ", ".join(f"{job.id} is {job.state}" for job in tracker.jobs.values())
        raise Unexpected(f"it took longer than {TIMEOUT_S:.0f} s ({states or 'no job was seen'})") from None
    finally:
        tasks = [task for task in (watch, producer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _produce(producer: Producer) -> None:
    try:
        await producer.run()
    except* (Unexpected, JobStateError) as several:
        # The first error is the cause; the others follow from it.
        error: BaseException = several
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def _until_interrupted(output: Output, *, live: bool) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    await demo(output, live=live)


def main() -> int:
    """Run the demo. Returns the exit code."""
    output = Output(as_json=False)
    try:
        asyncio.run(_until_interrupted(output, live=output.is_terminal and not output.console.is_dumb_terminal))
    except (Unexpected, ServerFailed) as error:
        print(f"jobstate demo: {error}", file=sys.stderr)
        return 1
    except JobStateError as error:
        print(f"jobstate demo: a call failed: {error.reason or error.code}: {error.message}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        print("jobstate demo: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
