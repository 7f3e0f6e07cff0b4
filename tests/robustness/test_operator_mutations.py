"""Ways to break on purpose what operators ask for, and the validator that catches each.

As in ``test_dispatch_mutations`` every scenario is run twice: as the server is, and with the defect put in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest

from jobstate.v1 import event_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.clock import SystemClock
from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.bulk import ChangeSome
from jobstate_server.domain.caller import ANONYMOUS
from jobstate_server.domain.commands import Request
from jobstate_server.domain.errors import TransitionNotAllowed
from jobstate_server.domain.filters import JobFilter
from jobstate_server.domain.labels import to_text
from jobstate_server.domain.plan import Plan
from jobstate_server.domain.rules import bulk as bulk_rules
from jobstate_server.domain.rules import decider
from jobstate_server.domain.rules import recreate as recreate_rules
from jobstate_server.domain.rules.context import RuleContext
from jobstate_server.engine import erasing as engine_erasing
from jobstate_server.engine.bulk_runs import BulkRuns
from jobstate_server.event_log import feed
from jobstate_server.event_log.feed import EventFeed
from jobstate_server.maintenance.erase import Erase, Forgotten
from jobstate_server.rpc.requests.bulk import recreate_many
from jobstate_server.wire.events import Remains, erase_event

from .history import ANSWERED, Bulk, BulkAnswer, Erasing, History, Watcher
from .rig import Rig, cancel, complete, create, rigged, start
from .validators import broken

Defect = Callable[[pytest.MonkeyPatch], None]
"""Puts a defect into the server."""


def recreates_whatever_there_is(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether a job has ended."""
    patch.setattr(recreate_rules, "_check_ended", lambda old, now: None)


def forgets_the_terms(patch: pytest.MonkeyPatch) -> None:
    """A recreated job has no labels."""
    with_terms_of = recreate_rules._with_terms_of
    patch.setattr(recreate_rules, "_with_terms_of", lambda *args: replace(with_terms_of(*args), labels=None))


def forgets_request_ids(patch: pytest.MonkeyPatch) -> None:
    """A repeat is taken for a new call."""

    def recreates(context: RuleContext, command: c.Recreate, view: View) -> Plan:
        return recreate_rules.recreate(context, replace(command, request=None), view)

    patch.setitem(decider.PLAN_RULES, c.Recreate, recreates)


def lets_two_go_on(patch: pytest.MonkeyPatch) -> None:
    """A slice is done though another has done it."""

    def changes(context: RuleContext, command: ChangeSome, view: View) -> Plan:
        known = view.bulk_progress(command.request)
        return bulk_rules.change_some(context, command if known is None else replace(command, before=known), view)

    patch.setitem(decider.PLAN_RULES, ChangeSome, changes)


def stops_too_early(patch: pytest.MonkeyPatch) -> None:
    """Of each slice one job is left out."""
    patch.setattr(JobFilter, "still_admits", lambda wanted, job: job.id != "job-1")


def keeps_why_it_was_cancelled(patch: pytest.MonkeyPatch) -> None:
    """What an event adds to the job is not erased."""

    def erases(payload: bytes, check: int) -> Remains:
        left, event = erase_event(payload, check), event_pb2.Event.FromString(payload)
        kept = event_pb2.Event(cancelled=event.cancelled) if event.HasField("cancelled") else event_pb2.Event()
        return left._replace(payload=left.payload + kept.SerializeToString())

    patch.setattr(engine_erasing, "erase_event", erases)


def keeps_events_in_memory(patch: pytest.MonkeyPatch) -> None:
    """What a server has in memory of the log is sent as it was."""
    patch.setattr(EventFeed, "forget", lambda feed: None)


def looks_at_no_labels(patch: pytest.MonkeyPatch) -> None:
    """Whatever labels are asked for, all events pass."""
    patch.setattr(feed, "has_labels", lambda payload, labels: True)


def wakes_nobody_by_label(patch: pytest.MonkeyPatch) -> None:
    """An event is not known by its labels when it comes, so who waits for these is told nothing."""
    patch.setattr(feed, "has_labels", lambda payload, labels: False)


LABELS, OTHERS = ({"tenant": "acme"}, {"tenant": "other"})

OF_ACME = ("tenant=acme",)


def recreate(job_id: str, new_id: str, request_id: str = "") -> c.Recreate:
    """Recreate a job."""
    request = Request("", request_id, "Recreate", b"") if request_id else None
    return c.Recreate(job_id, request=request, new_id=new_id)


@dataclass
class Asked:
    """What was asked of the rig besides single calls."""

    rig: Rig
    bulks: list[Bulk]
    erasings: list[Erasing]

    async def recreate(self, job_id: str, new_id: str, request_id: str = "") -> None:
        """Call Recreate, and note of which job."""
        await self.rig.call(recreate(job_id, new_id, request_id))
        self.rig.calls[-1].names, self.rig.calls[-1].request_id = (job_id,), request_id
        self.rig.calls[-1].changes = False

    async def recreate_many(self, times: int) -> None:
        """Recreate the jobs with the labels, by several calls at once."""
        request = pb.RecreateManyRequest(filter=pb.JobFilter(labels=LABELS), request_id="request-many")
        bulk = Bulk("RecreateMany", request.request_id, labels=OF_ACME, is_alone=True, invoked=_now())
        self.bulks.append(bulk)
        numbers = count()
        runs = [BulkRuns(self.rig.committer, self.rig.readers, SystemClock()) for _ in range(times)]
        change = recreate_many(request, ANONYMOUS, lambda: f"new-{next(numbers)}", 0)
        for answer in await asyncio.gather(*(run.run(change, 0, "") for run in runs)):
            told = answer.progress
            skipped = sum(told.skipped.values())
            bulk.answers.append(BulkAnswer(bulk.invoked, _now(), told.matched, told.done, skipped, answer.more))
        bulk.outcome, bulk.returned = ANSWERED, _now()

    async def erase(self, job_id: str) -> None:
        """Erase a job."""
        erasing = Erasing(job_id=job_id, tries=1, invoked=_now())
        self.erasings.append(erasing)
        task = Erase(self.rig.committer, self.rig.readers, self.rig.clock, self.rig.feed.forget)
        done = await task.run(Forgotten(job_id=job_id), ANONYMOUS)
        erasing.outcome, erasing.returned, erasing.jobs = ANSWERED, _now(), done.jobs


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _ended(rig: Rig, *job_ids: str) -> None:
    for job_id in job_ids:
        await rig.call(create(job_id, labels=to_text(LABELS), source_id="episode"))
        await rig.call(cancel(job_id))


async def is_asked_to_recreate_what_runs(asked: Asked) -> None:
    """And again when it has ended."""
    await asked.rig.call(create("job", labels=to_text(LABELS)))
    await asked.rig.call(start("job"))
    with suppress(TransitionNotAllowed):
        await asked.recreate("job", "early")
    await asked.rig.call(complete("job"))
    await asked.recreate("job", "new")


async def is_asked_twice_to_recreate(asked: Asked) -> None:
    """With one request id, and somebody watches the jobs of the label."""
    await _ended(asked.rig, "job")
    for new_id in ("new", "other"):
        await asked.recreate("job", new_id, "request-1")


async def is_asked_by_two_to_recreate_many(asked: Asked) -> None:
    """Both go on with the same work."""
    await _ended(asked.rig, "job-0", "job-1", "job-2")
    await asked.recreate_many(times=2)


async def is_asked_to_forget(asked: Asked) -> None:
    """A watch is opened before, and another afterwards."""
    await _ended(asked.rig, "job", "other")
    before = asked.rig.follow("before", earliest=True)
    await before.through(4)
    await asked.erase("job")
    await before.through(5)
    await asked.rig.follow("after", earliest=True, follow=False).rest()


async def is_watched_by_label(asked: Asked) -> None:
    """Jobs with the label and others change while two watch: one is told as it happens, one reads the log."""
    watcher = Watcher("live", labels=OF_ACME)
    live = asked.rig.follow(watcher, heartbeat_interval=BEAT)
    await live.next()
    waiting = asyncio.create_task(live.through(4))
    await asked.rig.clock.armed(BEAT)
    asked.rig.write(create("job", labels=to_text(LABELS)), create("other", labels=to_text(OTHERS)))
    asked.rig.write(cancel("job"), cancel("other"))
    asked.rig.clock.advance(BEAT)
    await waiting
    await asked.rig.follow(Watcher("log", labels=OF_ACME), earliest=True, follow=False).rest()


BEAT = 7_000_000
"""How long a watch by label is silent."""


@dataclass(frozen=True)
class OperatorMutation:
    """A defect, what brings it out, and who catches it."""

    name: str
    scenario: Callable[[Asked], Awaitable[None]]
    defect: Defect
    caught_by: set[str]


MUTATIONS = [
    OperatorMutation(
        "recreate whatever there is", is_asked_to_recreate_what_runs, recreates_whatever_there_is, {"recreated"}
    ),
    OperatorMutation("forget the terms", is_asked_to_recreate_what_runs, forgets_the_terms, {"recreated"}),
    OperatorMutation("forget request ids", is_asked_twice_to_recreate, forgets_request_ids, {"recreated"}),
    OperatorMutation("let two go on", is_asked_by_two_to_recreate_many, lets_two_go_on, {"recreated", "in_bulk"}),
    OperatorMutation("leave a job out", is_asked_by_two_to_recreate_many, stops_too_early, {"in_bulk"}),
    OperatorMutation("keep why it was cancelled", is_asked_to_forget, keeps_why_it_was_cancelled, {"erased"}),
    OperatorMutation("keep events in memory", is_asked_to_forget, keeps_events_in_memory, {"erased"}),
    OperatorMutation("look at no labels", is_watched_by_label, looks_at_no_labels, {"reliable"}),
    OperatorMutation("wake nobody by label", is_watched_by_label, wakes_nobody_by_label, {"reliable", "bookmarkable"}),
]

OF_EACH = pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])


async def history_of(path: Path, mutation: OperatorMutation) -> History:
    """What a scenario leaves, as a server started again on the same file finds it."""
    async with rigged(path) as rig:
        asked = Asked(rig, [], [])
        await mutation.scenario(asked)
    history = rig.history()
    history.bulks, history.erasings = asked.bulks, asked.erasings
    return history


@OF_EACH
async def test_the_server_as_it_is_keeps_every_promise_to_operators_when_it(
    mutation: OperatorMutation, tmp_path: Path
) -> None:
    assert broken(await history_of(tmp_path / "jobs.db", mutation)) == {}


@OF_EACH
async def test_validators_of_operators_catch_a_server_made_to(
    mutation: OperatorMutation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation.defect(monkeypatch)

    assert set(broken(await history_of(tmp_path / "jobs.db", mutation))) == mutation.caught_by
