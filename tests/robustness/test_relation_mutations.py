"""Ways to break needs and groups on purpose, and the validator that catches each.

As in ``test_dispatch_mutations`` every scenario is run twice: as the server is, and with the defect put in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobstate_server.domain import groups as group_values
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import GroupClosed
from jobstate_server.domain.groups import Group, GroupMove, GroupPolicy, GroupStep, OnExcess, move_of
from jobstate_server.domain.job import Job
from jobstate_server.domain.needs import NeedCondition, Standing
from jobstate_server.domain.rules import groups as group_rules
from jobstate_server.domain.rules import needs as need_rules
from jobstate_server.domain.rules import ready as ready_rules
from jobstate_server.domain.rules import relations as relation_rules
from jobstate_server.domain.rules.context import Draft
from jobstate_server.engine import relations as engine_relations
from jobstate_server.engine.relations import BatchRelations

from .history import History
from .rig import Rig, cancel, close, complete, create, related, rigged, start
from .validators import broken

Defect = Callable[[pytest.MonkeyPatch], None]
"""Puts a defect into the server."""


def is_content_with_one(patch: pytest.MonkeyPatch) -> None:
    """With the first need that is met a job is ready."""

    def meets(draft: Draft) -> None:
        draft.move_quietly().open_needs = 1
        ready_rules.meet_need(draft)

    patch.setattr(need_rules, "meet_need", meets)


def forgets_to_wait(patch: pytest.MonkeyPatch) -> None:
    """A job with needs can be begun at once."""
    patch.setattr(relation_rules, "wait_for_needs", lambda job, count: None)


def takes_any_end_for_the_right_one(patch: pytest.MonkeyPatch) -> None:
    """However a needed job ends, the need is met."""
    patch.setattr(need_rules, "is_met", lambda condition, state: True)


def forgets_what_has_ended(patch: pytest.MonkeyPatch) -> None:
    """A need on a job that has ended waits for its end."""
    waits = lambda needs: Standing(tuple(range(len(list(needs)))))  # noqa: E731
    patch.setattr(relation_rules, "standing", waits)


def tells_nobody_of_an_end(patch: pytest.MonkeyPatch) -> None:
    """The end of a needed job does not make it due."""
    emit = Draft.emit

    def emits(draft: Draft, *args: Any, **fields: Any) -> None:
        if draft.after.state.is_final:
            draft.after.due_time = None
        emit(draft, *args, **fields)

    patch.setattr(Draft, "emit", emits)


def ends_a_group_at_the_first_look(patch: pytest.MonkeyPatch) -> None:
    """Whatever its members do, a group that is looked at has ended."""
    patch.setattr(group_rules, "next_step", lambda group: GroupStep.COMPLETE)


def tolerates_everything(patch: pytest.MonkeyPatch) -> None:
    """A group completes however many members have failed."""
    step = group_values.next_step

    def steps(group: Group) -> GroupStep | None:
        found = step(group)
        return GroupStep.COMPLETE if found is GroupStep.FAIL else found

    patch.setattr(group_rules, "next_step", steps)


def hands_out_members_of_what_stops(patch: pytest.MonkeyPatch) -> None:
    """A hand-out does not look at the group."""
    patch.setattr(BatchRelations, "stopping_group", lambda self, member: "")


def leaves_the_door_open(patch: pytest.MonkeyPatch) -> None:
    """A closed group takes members."""
    patch.setattr(group_values, "refusal_to_add", lambda group, by_member: "")


def miscounts_members(patch: pytest.MonkeyPatch) -> None:
    """What completes is counted as cancelled."""

    def moves(before: Job | None, after: Job, **kind: Any) -> GroupMove:
        move = move_of(before, after, **kind)
        return move._replace(completed=0, cancelled=move.cancelled + move.completed)

    patch.setattr(engine_relations, "move_of", moves)


COMPLETED = NeedCondition.COMPLETED


async def has_a_job_that_needs_two(rig: Rig) -> None:
    """One of them is completed, and then the other."""
    for job_id in ("one", "other"):
        await rig.call(create(job_id))
    await rig.call(related("child", {"one": COMPLETED, "other": COMPLETED}))
    for job_id in ("one", "other"):
        await rig.call(start(job_id))
        await rig.call(complete(job_id))
        await rig.settle()


async def has_a_job_that_needs_what_is_cancelled(rig: Rig) -> None:
    """It needs that to be completed."""
    await rig.call(create("parent"))
    await rig.call(related("child", {"parent": COMPLETED}))
    await rig.call(cancel("parent"))
    await rig.settle()


async def has_a_job_that_needs_what_is_over(rig: Rig) -> None:
    """It can begin at once."""
    await rig.call(create("parent"))
    await rig.call(start("parent"))
    await rig.call(complete("parent"))
    await rig.call(related("child", {"parent": COMPLETED}))
    await rig.settle()


async def has_a_group_of_two(rig: Rig) -> None:
    """One member completes, the group is looked at, and the other does."""
    await rig.call(related("group", group=GroupPolicy()))
    for job_id in ("one", "other"):
        await rig.call(related(job_id, group_id="group"))
    await rig.call(close("group"))
    for job_id in ("one", "other"):
        await rig.call(start(job_id))
        await rig.call(complete(job_id))
        rig.clock.advance(2 * SECOND)
        await rig.settle()


async def has_a_group_that_stays_open(rig: Rig) -> None:
    """Its member completes."""
    await rig.call(related("group", group=GroupPolicy()))
    await rig.call(related("member", group_id="group"))
    await rig.call(start("member"))
    await rig.call(complete("member"))
    await rig.settle()


async def has_a_group_with_a_failure(rig: Rig) -> None:
    """It tolerates none."""
    await rig.call(related("group", group=GroupPolicy()))
    await rig.call(related("member", group_id="group"))
    await rig.call(close("group"))
    await rig.call(cancel("member"))
    await rig.settle()


async def has_a_group_that_is_cancelled(rig: Rig) -> None:
    """A worker asks before its members are cancelled."""
    await rig.call(related("group", group=GroupPolicy(0, OnExcess.CANCEL)))
    await rig.call(related("member", group_id="group"))
    await rig.call(cancel("group"))
    await rig.acquire("worker")
    await rig.settle()


async def has_a_group_that_is_closed(rig: Rig) -> None:
    """Somebody adds to it all the same."""
    await rig.call(related("group", group=GroupPolicy()))
    await rig.call(related("member", group_id="group"))
    await rig.call(close("group"))
    with suppress(GroupClosed):
        await rig.call(related("late", group_id="group"))
    await rig.settle()


@dataclass(frozen=True)
class RelationMutation:
    """A defect, what brings it out, and who catches it."""

    name: str
    scenario: Callable[[Rig], Awaitable[None]]
    defect: Defect
    caught_by: set[str]


MUTATIONS = [
    RelationMutation("P12: be content with one", has_a_job_that_needs_two, is_content_with_one, {"needs_met"}),
    RelationMutation("P12: forget to wait", has_a_job_that_needs_two, forgets_to_wait, {"needs_met"}),
    RelationMutation(
        "P12: take any end for the right one",
        has_a_job_that_needs_what_is_cancelled,
        takes_any_end_for_the_right_one,
        {"needs_met", "resolved"},
    ),
    RelationMutation(
        "P12: forget what has ended",
        has_a_job_that_needs_what_is_over,
        forgets_what_has_ended,
        {"needs_met", "resolved", "tallied"},
    ),
    RelationMutation(
        "P12: tell nobody of an end", has_a_job_that_needs_two, tells_nobody_of_an_end, {"resolved", "tallied"}
    ),
    RelationMutation(
        "P13: end a group at the first look", has_a_group_of_two, ends_a_group_at_the_first_look, {"ends_last"}
    ),
    RelationMutation("P13: tolerate everything", has_a_group_with_a_failure, tolerates_everything, {"ends_last"}),
    RelationMutation(
        "P13: hand out members of what stops",
        has_a_group_that_is_cancelled,
        hands_out_members_of_what_stops,
        {"stopped"},
    ),
    RelationMutation("P13: leave the door open", has_a_group_that_is_closed, leaves_the_door_open, {"ends_last"}),
    RelationMutation("P20: miscount members", has_a_group_that_stays_open, miscounts_members, {"summed", "tallied"}),
    RelationMutation("P13: miscount members", has_a_group_of_two, miscounts_members, {"ends_last", "summed"}),
]

OF_EACH = pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])


async def history_of(path: Path, mutation: RelationMutation) -> History:
    """What a scenario leaves, as a server started again on the same file finds it."""
    async with rigged(path) as rig:
        await mutation.scenario(rig)
    return rig.history()


@OF_EACH
async def test_the_server_as_it_is_keeps_every_promise_about_needs_and_groups_when_it(
    mutation: RelationMutation, tmp_path: Path
) -> None:
    assert broken(await history_of(tmp_path / "jobs.db", mutation)) == {}


@OF_EACH
async def test_validators_of_needs_and_groups_catch_a_server_made_to(
    mutation: RelationMutation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation.defect(monkeypatch)

    assert set(broken(await history_of(tmp_path / "jobs.db", mutation))) == mutation.caught_by
