"""The order in which groups end, so that no jobs ever wait for each other.

A job names as needed only jobs that exist already, which alone makes no circle. Groups could: a group waits for members
that are added later, and such a member could need a job that waits for the group. So all groups have one order, which
never changes: the groups in a group come before it, and of two groups side by side the older one comes first. A group
then waits only for groups before it, whatever stands between them.

Each group is compared by its path. Nothing is searched, and replicas need not agree on anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GroupPath = tuple[int, ...]
"""The ``create_sequence`` of a group, after those of the groups around it from the outermost on. At most
``groups.DEPTH_MAX``."""

PROVISIONAL = 1 << 62
"""Added to the number of groups that the transaction makes before it, it stands for the ``create_sequence`` of a group
that the transaction makes. It is above all that are stored, as that sequence will be."""

_AFTER_ALL = (1 << 63,)
"""Ends a path in comparisons, so that a group comes after the groups in it."""


def is_before(first: GroupPath, second: GroupPath) -> bool:
    """Whether the first group comes before the second."""
    return first + _AFTER_ALL < second + _AFTER_ALL


def latest(paths: Iterable[GroupPath | None]) -> GroupPath | None:
    """The last of these groups. None if there is none."""
    return max((path for path in paths if path), key=lambda path: path + _AFTER_ALL, default=None)


def may_wait(group: GroupPath, awaited: GroupPath | None) -> bool:
    """Whether a group may have a member that waits for this group at the latest, itself or through what it needs."""
    return awaited is None or is_before(awaited, group)


def is_settled(path: GroupPath) -> bool:
    """Whether all groups of the path are stored."""
    return path[-1] < PROVISIONAL


def settled(path: GroupPath, made: Sequence[int]) -> GroupPath:
    """The path once the groups that the transaction makes have these keys."""
    return tuple(key if key < PROVISIONAL else made[key - PROVISIONAL] for key in path)


def to_text(path: GroupPath) -> str:
    """The path as it is stored."""
    return "/".join(map(str, path))


def from_text(stored: str) -> GroupPath:
    """The path that was stored."""
    return tuple(map(int, stored.split("/")))
