"""Updates over one stream: in order, many at a time, bounded, and sent again when the stream breaks."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest

from jobstate_client import AsyncClient, Client, ClientClosed, JobExists, State, TransitionNotAllowed, Unreachable
from jobstate_client.core import update_queue
from jobstate_client.testing import JobstateServer

from .support import PATIENCE_S, Either, done, in_thread, until


async def answer(sent: Any) -> Any:
    """The answer to what either client has sent."""
    future = await sent if inspect.iscoroutine(sent) else sent
    if isinstance(future, asyncio.Future):
        async with asyncio.timeout(PATIENCE_S):
            return await future
    return future.result(PATIENCE_S)


async def test_updates_are_made_in_order_and_answered(either: Any) -> None:
    async with Either(either.updates()) as updates:
        sent = [await done(updates.create("work", id=f"job-{number}")) for number in range(2_500)]
        made = [await answer(future) for future in (sent[0], sent[-1])]
        started = await answer(updates.start(made[0], worker="me"))
        steps = [
            updates.progress(started, 50, "half way"),
            updates.complete(started, result={"text": "…"}),
            updates.cancel(made[1]),
        ]
        ended = [await answer(step) for step in steps]

    assert [(each.id, each.attempt, each.state) for each in (*made, started)] == [
        ("job-0", 0, State.QUEUED),
        ("job-2499", 0, State.QUEUED),
        ("job-0", 1, State.PROCESSING),
    ]
    assert [each.state for each in ended] == [State.PROCESSING, State.COMPLETED, State.CANCELLED]
    assert (await done(either.get("job-0"))).result == {"text": "…"}
    assert (await done(either.stats())).total.stored[State.QUEUED] == 2_498


async def test_an_update_that_is_refused_fails_alone_and_the_block_says_so(
    either: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with Either(either.updates()) as updates:
        first = await done(updates.create("work", id="first"))
        again = await done(updates.create("work", id="first"))
        early = await done(updates.complete("first"))
        for future, kind in ((again, JobExists), (early, TransitionNotAllowed)):
            with pytest.raises(kind):
                await answer(future)
        assert (await answer(first)).id == "first"

    assert "2 of 3 updates failed, the first with: " in caplog.text


async def test_the_end_of_the_block_waits_for_the_answers(either: Any) -> None:
    async with Either(either.updates()) as updates:
        sent = [await done(updates.create("work")) for _ in range(700)]

    assert all(future.done() for future in sent)
    with pytest.raises(ClientClosed):
        await done(updates.create("work"))


async def test_what_was_not_answered_is_sent_again_after_a_restart(
    either: Any, server: JobstateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobstate_server.watch.session.RECONNECT_SPREAD", 1)
    async with Either(either.updates()) as updates:
        await answer(updates.create("work", id="first"))
        server.stop()
        sent = [await done(updates.create("work", id=f"job-{number}")) for number in range(600)]
        server.start()
        assert (await answer(sent[-1])).state is State.QUEUED

    assert not [future for future in sent if future.exception()]


async def test_a_server_that_stays_away_fails_what_waits(either: Any, server: JobstateServer) -> None:
    async with Either(either.updates(patience=0)) as updates:
        server.stop()
        future = await done(updates.create("work"))
        with pytest.raises(Unreachable):
            await answer(future)


async def test_a_client_that_is_closed_fails_what_waits(server: JobstateServer) -> None:
    clients: list[Any] = [server.client(), server.async_client()]
    server.stop()
    for client in clients:
        updates = client.updates()
        future = await done(updates.create("work"))
        await done(client.close())
        with pytest.raises(ClientClosed):
            await answer(future)


def test_a_block_that_fails_does_not_wait(server: JobstateServer, client: Client) -> None:
    server.stop()
    sent = []

    def fail() -> None:
        with client.updates() as updates:
            sent.append(updates.create("work"))
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()

    assert isinstance(sent[0].exception(0), ClientClosed)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for five updates."""
    monkeypatch.setattr(update_queue, "UPDATES_WAITING_MAX", 5)


def test_a_producer_waits_while_too_much_is_not_answered(server: JobstateServer, client: Client, narrow: None) -> None:
    server.stop()
    sent: list[Any] = []
    with client.updates() as updates, in_thread(lambda: sent.extend(updates.create("work") for _ in range(20))):
        until(lambda: len(sent) == 5)
        threading.Event().wait(0.05)
        assert len(sent) == 5
        server.start()
        until(lambda: len(sent) == 20)

    assert client.stats().total.stored == {State.QUEUED: 20}


async def test_an_asyncio_producer_waits_while_too_much_is_not_answered(
    server: JobstateServer, async_client: AsyncClient, narrow: None
) -> None:
    server.stop()
    async with async_client.updates() as updates:
        for _ in range(5):
            await updates.create("work")
        waiting = asyncio.create_task(updates.create("work"))
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done
        server.start()
        async with asyncio.timeout(PATIENCE_S):
            await waiting


def test_a_callback_may_send_the_next_update(client: Client, narrow: None) -> None:
    ended = threading.Event()
    with client.updates() as updates:

        def cancel(created: Any) -> None:
            updates.cancel(created.result()).add_done_callback(lambda _: ended.set())

        for _ in range(10):
            updates.create("work").add_done_callback(cancel)
        assert ended.wait(PATIENCE_S)

    assert client.stats().total.stored == {State.CANCELLED: 10}


@pytest.mark.parametrize("arguments", [{"timeout": 3}, {"metadata": {"a": object()}}])
def test_what_cannot_be_sent_is_refused_at_once(client: Client, arguments: dict[str, Any]) -> None:
    with client.updates() as updates, pytest.raises(TypeError):
        updates.create("work", **arguments)
