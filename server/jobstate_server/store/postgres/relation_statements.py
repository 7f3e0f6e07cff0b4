"""The statements of PostgreSQL's write path about needs and groups."""

from __future__ import annotations

from jobstate_server.domain.groups import GroupMove
from jobstate_server.domain.job import INT64_MAX
from jobstate_server.store.models import IS_UNFINISHED_MEMBER
from jobstate_server.store.postgres.binary_arrays import Kind
from jobstate_server.store.postgres.many_rows import FIRST, ManyRows
from jobstate_server.store.postgres.statements import WHOLE_JOBS
from jobstate_server.store.relation_checks import correct_open_needs_text
from jobstate_server.store.relation_rows import (
    GROUP_VALUES,
    add_spent_text,
    forget_needed_text,
    groups_text,
    lower_needed_text,
    update_groups_text,
)

# Names in these texts come from our models; values are bound.
GROUPS = groups_text("SELECT * FROM unnest(%(keys)s::int8[])").encode()

_SIZE = "512 + octet_length(metadata) + octet_length(result) + COALESCE(octet_length(error_details), 0) AS size"
"""``sizes.document_bytes``. PostgreSQL knows it without reading the documents."""

# The subqueries of a lateral join run once for each row before them, in turn.
OPEN_NEEDS = (
    "SELECT parent.key, edge.child_key, edge.position, edge.condition, child.id, child.size"
    " FROM unnest(%(keys)s::int8[]) WITH ORDINALITY AS parent(key, number)"
    " CROSS JOIN LATERAL (SELECT need.child_key, need.position, need.condition,"
    " row_number() OVER (ORDER BY need.child_key, need.position) AS number FROM need"
    " WHERE need.parent_key = parent.key AND need.outcome IS NULL"
    " ORDER BY need.child_key, need.position LIMIT %(share)s + 1) AS edge"
    f" LEFT JOIN LATERAL (SELECT job.id, {_SIZE} FROM job"
    " WHERE job.create_sequence = edge.child_key AND edge.number <= %(share)s FOR UPDATE SKIP LOCKED) AS child ON true"
    " ORDER BY parent.number, edge.number"
).encode()
"""The open needs of some jobs, of each its share and one more. Their jobs are locked; the id of one that others have
locked, and of the one more, is NULL."""

DUE_GROUPS = (
    "SELECT due.group_key, due.group_id, due.stopping, stored.*"
    " FROM (SELECT group_key, group_id, stopping, due_time FROM members"
    " WHERE due_time IS NOT NULL AND due_time <= %(now)s ORDER BY due_time, group_key LIMIT %(limit)s) AS due"
    f" CROSS JOIN LATERAL ({WHOLE_JOBS} WHERE job.create_sequence = due.group_key FOR UPDATE SKIP LOCKED) AS stored"
    " ORDER BY due.due_time, due.group_key"
).encode()
"""A group whose job another replica has locked is passed over; that replica handles it."""

UNFINISHED_MEMBERS = (
    "SELECT stopping.key, member.id, member.size"
    " FROM unnest(%(keys)s::int8[]) WITH ORDINALITY AS stopping(key, number)"
    f" CROSS JOIN LATERAL (SELECT job.id, {_SIZE} FROM job"
    f" WHERE group_key = stopping.key AND {IS_UNFINISHED_MEMBER.sql}"
    " ORDER BY create_sequence LIMIT %(share)s FOR UPDATE SKIP LOCKED) AS member"
    " ORDER BY stopping.number"
).encode()

CHECK_GROUPS = (
    b"SELECT 1 / (CASE WHEN EXISTS (SELECT 1 FROM unnest(%(keys)s::int8[], %(may_be_closed)s::bool[])"
    b" AS guarded(group_key, may_be_closed) JOIN members USING (group_key)"
    b" WHERE members.stopping OR members.final OR (members.closed AND NOT guarded.may_be_closed)) THEN 0 ELSE 1 END)"
)
"""Fails the transaction, as ``statements.CHECK_TYPES`` does."""

_KEYS = {"create_sequence": Kind.INT8}
_CHILDREN = "SELECT * FROM {rows}"


def _numbered(event: str, key: str) -> str:
    """The sequence of the event of this transaction with the index in this column; otherwise the key."""
    return f"COALESCE(numbered.first + new.{event}, new.{key})"


insert_needs = ManyRows(
    "INSERT INTO need (child_key, position, parent_key, parent_id, condition, outcome)"
    f" SELECT numbered.first + new.child_event, new.position, {_numbered('parent_event', 'parent_key')},"
    " new.parent_id, new.condition, new.outcome FROM {rows}"
    f" AS new(child_event, position, parent_key, parent_event, parent_id, condition, outcome), {FIRST}",
    {
        "child_event": Kind.INT8,
        "position": Kind.INT8,
        "parent_key": Kind.INT8,
        "parent_event": Kind.INT8,
        "parent_id": Kind.TEXT,
        "condition": Kind.INT8,
        "outcome": Kind.INT8,
    },
)
add_needed = ManyRows(
    "INSERT INTO needed (parent_key, unfinished)"
    f" SELECT {_numbered('parent_event', 'parent_key')}, new.children"
    f" FROM {{rows}} AS new(parent_key, parent_event, children), {FIRST}"
    " ON CONFLICT (parent_key) DO UPDATE SET unfinished = needed.unfinished + excluded.unfinished",
    {"parent_key": Kind.INT8, "parent_event": Kind.INT8, "children": Kind.INT8},
)
resolve_needs = ManyRows(
    "UPDATE need SET outcome = new.outcome FROM {rows} AS new(child_key, position, outcome)"
    " WHERE need.child_key = new.child_key AND need.position = new.position",
    {"child_key": Kind.INT8, "position": Kind.INT8, "outcome": Kind.INT8},
)
lower_needed = ManyRows(lower_needed_text(_CHILDREN), _KEYS)
forget_counts = ManyRows(f"DELETE FROM needed WHERE unfinished <= 0 AND parent_key IN ({_CHILDREN})", _KEYS)
LOCK_JOBS = b"SELECT 1 FROM job WHERE id = ANY(%(ids)s::text[]) ORDER BY id FOR UPDATE"
correct_open_needs = ManyRows(correct_open_needs_text(_CHILDREN), _KEYS)
forget_needed = ManyRows(forget_needed_text(_CHILDREN), _KEYS)
delete_needs = ManyRows(
    "DELETE FROM need USING {rows} AS new(create_sequence) WHERE need.child_key = new.create_sequence", _KEYS
)
delete_groups = ManyRows(
    "DELETE FROM members USING {rows} AS new(create_sequence) WHERE members.group_key = new.create_sequence", _KEYS
)

insert_groups = ManyRows(
    "INSERT INTO members (group_key, group_id, parent_key, depth, tolerated_failures, on_excess)"
    f" SELECT numbered.first + new.event, new.group_id, {_numbered('parent_event', 'parent_key')}, new.depth,"
    " new.tolerated_failures, new.on_excess FROM {rows}"
    f" AS new(event, group_id, parent_key, parent_event, depth, tolerated_failures, on_excess), {FIRST}",
    {
        "event": Kind.INT8,
        "group_id": Kind.TEXT,
        "parent_key": Kind.INT8,
        "parent_event": Kind.INT8,
        "depth": Kind.INT8,
        "tolerated_failures": Kind.INT8,
        "on_excess": Kind.INT8,
    },
)

_FLAGS = {"closes", "stops", "ends"}
_CHANGE_KINDS = {
    **{name: Kind.BOOL if name in _FLAGS else Kind.INT8 for name in GROUP_VALUES},
    "event": Kind.INT8,
}
_CHANGED = (
    f"(SELECT {_numbered('event', 'group_key')} AS group_key,"
    f" {', '.join(f'new.{name}' for name in GROUP_VALUES if name != 'group_key')}"
    f" FROM {{rows}} AS new({', '.join(_CHANGE_KINDS)}), {FIRST}) AS new"
)


def _total(term: str, added: str) -> str:
    return f"LEAST({INT64_MAX}::numeric, GREATEST(0, {term}::numeric + {added}))::int8"


_UPDATE_GROUPS = update_groups_text(_CHANGED, "new.{}".format, _total, "GREATEST")
correct_groups = ManyRows(_UPDATE_GROUPS, _CHANGE_KINDS)
update_groups = ManyRows(
    f"WITH changed AS ({_UPDATE_GROUPS})"
    " SELECT due.time, pg_notify(%(channel)s, log.head::text || ' ' || due.time::text)"
    " FROM (SELECT min(due_time) AS time FROM changed HAVING min(due_time) IS NOT NULL) AS due, log",
    _CHANGE_KINDS,
)
"""Returns the earliest new due time, if there is one, and tells the other replicas of it when the transaction commits.
Rows are ``GROUP_VALUES``, then the index of the event that made the group, if this transaction has made it."""

add_spent = ManyRows(
    "WITH RECURSIVE around(group_key, tokens, cost_nano) AS ("
    "SELECT members.parent_key, new.tokens, new.cost_nano"
    f" FROM (SELECT {_numbered('event', 'group_key')} AS group_key, new.tokens, new.cost_nano"
    f" FROM {{rows}} AS new(group_key, event, tokens, cost_nano), {FIRST}) AS new JOIN members USING (group_key)"
    " UNION ALL SELECT members.parent_key, around.tokens, around.cost_nano"
    " FROM around JOIN members USING (group_key)), sums AS ("
    "SELECT group_key, sum(tokens) AS tokens, sum(cost_nano) AS cost_nano FROM around GROUP BY group_key)"
    f" {add_spent_text('sums AS new', 'new.{}'.format, _total)}",
    {"group_key": Kind.INT8, "event": Kind.INT8, "tokens": Kind.INT8, "cost_nano": Kind.INT8},
)
"""Adds the tokens and cost of changed groups to all groups around them."""

assert GroupMove._fields == GROUP_VALUES[1 : 1 + len(GroupMove._fields)], "the rows begin with the move"
