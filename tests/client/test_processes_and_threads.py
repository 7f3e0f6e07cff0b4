"""A client belongs to the process that uses it, and leaves no thread behind when it is garbage collected."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from jobstate_client import Client, State
from jobstate_client.sync import report_sender
from jobstate_client.testing import JobstateServer

from .processes import child, server_process
from .support import until

FORKED = """
import asyncio, os, sys
from jobstate_client import AsyncClient, Client, ClientForked, NewJob

def say(*words):
    print(*words, flush=True)

def child(work):
    # In a process of its own, which must not hang.
    number = os.fork()
    if not number:
        try:
            work()
        except ClientForked as error:
            say("ClientForked", "make a client after the fork" in str(error))
        except BaseException as error:
            say("unexpected", repr(error))
        finally:
            os._exit(0)
    os.waitpid(number, 0)

def leave(running):
    running.__exit__(None, None, None)

client = Client(sys.argv[1])
child(lambda: say("unused", Client.create(client, "default", id="by-the-child").id))
client.create("default", id="first")
running = client.run("first")
run = running.__enter__()
run.progress(10)
watch = client.watch()
child(lambda: client.create("default"))
child(lambda: run.progress(20))
child(lambda: leave(running))
child(lambda: next(watch))
child(lambda: client.worker(print, job_types=["x"]).run())
child(lambda: say("closed", client.close()))
run.progress(30, "the parent's")
leave(running)
say(client.get("first").state)
client.close()

async def main():
    async with AsyncClient(sys.argv[1]) as client:
        await client.create("default", id="second")
        async with client.run("second") as run:
            child(lambda: run.progress(10))
            child(lambda: client.watch())
        say((await client.get("second")).state)

asyncio.run(main())
"""


def test_a_client_that_was_used_before_a_fork_says_so_in_the_child_and_works_in_the_parent(tmp_path: Path) -> None:
    with (
        server_process(tmp_path / "jobs.db") as (_, address),
        child("-W", "ignore::DeprecationWarning", "-c", FORKED, address) as program,
    ):
        said = [program.hear() for _ in range(11)]

    assert said == [
        "unused by-the-child",
        *["ClientForked True"] * 5,
        "closed None",
        State.COMPLETED,
        *["ClientForked True"] * 2,
        State.COMPLETED,
    ]


def left_over(before: set[threading.Thread]) -> list[threading.Thread]:
    """The threads that have come since, and that are there although nobody needs them."""
    gc.collect()
    return [thread for thread in threading.enumerate() if thread not in before]


def test_a_client_that_nobody_has_any_more_ends_its_threads(
    server: JobstateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_sender, "IDLE_S", 0.05)
    before = set(threading.enumerate())

    def use() -> None:
        client = Client(server.address)
        with client.run(client.create("default")) as run:
            run.progress(50)
        list(client.watch(start="earliest", follow=False))

    for _ in range(3):
        use()

    until(lambda: not left_over(before))


def test_a_run_keeps_its_client(server: JobstateServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_sender, "IDLE_S", 0.05)
    job = client.create("default")
    with Client(server.address).run(job) as run:
        gc.collect()
        threading.Event().wait(0.2)
        run.progress(50, "half way")

    assert client.get(job).state is State.COMPLETED


def test_a_forgotten_client_of_a_server_that_is_away_ends_its_threads_too(
    server: JobstateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_sender, "IDLE_S", 0.05)
    before = set(threading.enumerate())
    client: Any = Client(server.address)
    with client.run(client.create("default")) as run:
        run.progress(50)
    client._report_sender._wanted.set()
    server.stop()
    del client, run

    # Those of asyncio are the server's.
    until(lambda: not [thread for thread in left_over(before) if not thread.name.startswith("asyncio")])
