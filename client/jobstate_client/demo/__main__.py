"""``python -m jobstate_client.demo``, which `make demo` runs. Exits 0 when all came out as told, and 1 when not."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import job_service_pb2_grpc as rpc

try:
    from rich.console import Console
    from rich.live import Live
except ModuleNotFoundError:
    sys.exit("jobstate demo: rich is not installed; install it with: pip install 'jobstate-grpc[cli,server]'")

from jobstate_client.demo.board import Overview, state_name
from jobstate_client.demo.checks import check_jobs, check_retries, check_stats
from jobstate_client.demo.scene import ACTS
from jobstate_client.demo.screen import Lines, Screen, stats_table
from jobstate_client.demo.server import ServerTrouble, running_server
from jobstate_client.demo.workers import NotAsTold, Worker, reason_of

DONE_WITHIN_S = 25.0
"""The scene takes half of this. What takes longer has gone wrong."""

FRAMES_PER_S = 12

_CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0),)
"""The server is on loopback, where no proxy leads."""


async def demo(console: Console, *, live: bool) -> None:
    """Play the scene and check what came of it.

    Raises:
        NotAsTold: something came out otherwise.
        ServerTrouble: the server did not come up.
    """
    with tempfile.TemporaryDirectory(prefix="jobstate-demo-") as folder:
        async with (
            running_server(Path(folder)) as address,
            grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel,
        ):
            board = Overview()
            async with _shown(board, address, console, live=live):
                await _play(channel, board)
            await check_jobs(channel, board)
            check_retries(board)
            stats = await rpc.JobServiceStub(channel).GetStats(pb.GetStatsRequest())
            check_stats(stats)
    console.print()
    console.print(stats_table(stats, plain=not live))
    told = f"All as told: {len(ACTS)} jobs, {len(board.events)} events, {board.elapsed:.0f} s."
    console.print(f"{told} The server and its file are gone.")
    console.print("Go on with `make serve`, and the grpcurl lines in README.md.")


@asynccontextmanager
async def _shown(board: Overview, address: str, console: Console, *, live: bool) -> AsyncIterator[None]:
    if not live:
        console.print(
            f"A server at {address}, on a temporary file. What a watch on it tells, of progress the milestones:",
            highlight=False,
        )
        board.on_event = Lines(board, console)
        yield
        return
    screen = Screen(board, address)
    with Live(screen.frame(console), console=console, auto_refresh=False) as picture:

        async def draw() -> None:
            while True:
                await asyncio.sleep(1 / FRAMES_PER_S)
                picture.update(screen.frame(console), refresh=True)

        drawing = asyncio.create_task(draw())
        try:
            yield
        finally:
            drawing.cancel()
            picture.update(screen.frame(console), refresh=True)


async def _play(channel: grpc.aio.Channel, board: Overview) -> None:
    watch = asyncio.create_task(board.follow(channel))
    workers: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(DONE_WITHIN_S):
            await board.watching.wait()
            workers = asyncio.create_task(_work(channel, board))
            await asyncio.wait((watch, workers), return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            watch.result()
            raise NotAsTold("the watch ended before the jobs did")
        workers.result()
    except TimeoutError:
        states = ", ".join(f"{job.id} is {state_name(job.state)}" for job in board.jobs.values())
        raise NotAsTold(f"it took longer than {DONE_WITHIN_S:.0f} s ({states or 'no job was seen'})") from None
    finally:
        tasks = [task for task in (watch, workers) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _work(channel: grpc.aio.Channel, board: Overview) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for act in ACTS:
                group.create_task(Worker(channel, board, act).run())
    except* (NotAsTold, grpc.aio.AioRpcError) as several:
        # The first one tells what went wrong; the others follow from it.
        error: BaseException = several
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def _until_interrupted(console: Console, *, live: bool) -> None:
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, this.cancel)
    await demo(console, live=live)


def main() -> int:
    """Run the demo. Returns the exit code."""
    live = sys.stdout.isatty()
    console = Console(highlight=False, force_terminal=live, width=None if live else 100)
    live = live and not console.is_dumb_terminal
    try:
        asyncio.run(_until_interrupted(console, live=live))
    except (NotAsTold, ServerTrouble) as error:
        print(f"jobstate demo: {error}", file=sys.stderr)
        return 1
    except grpc.aio.AioRpcError as error:
        print(f"jobstate demo: a call failed with {reason_of(error)}: {error.details()}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        print("jobstate demo: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
