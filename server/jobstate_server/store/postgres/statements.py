"""The statements of PostgreSQL's write path: one per table for a whole batch, with one array per column."""

from __future__ import annotations

from collections.abc import Sequence

from jobstate_server.domain.job import INT64_MAX, JobState
from jobstate_server.domain.statistics import Measure
from jobstate_server.store.lane_rows import (
    DISPATCH_VALUES,
    LANE_VALUES,
    forget_lanes_texts,
    lanes_text,
    reopen_lanes_text,
    sums_text,
    update_dispatch_text,
    update_lanes_text,
)
from jobstate_server.store.models import (
    HAS_UNIQUE_KEY,
    IS_LIMITED,
    IS_READY,
    IS_READY_IN_LANE,
    IS_UNCLAIMED,
    AttemptRow,
    EventRow,
    RequestRow,
    TallyRow,
    WholeJobRow,
)
from jobstate_server.store.postgres.binary_arrays import Kind
from jobstate_server.store.postgres.many_rows import FIRST, ManyRows, kinds_of
from jobstate_server.store.rows import (
    ATTEMPT_COLUMNS,
    CHANGE_COLUMNS,
    DOCUMENTS,
    EVENT_COLUMNS,
    FINISHED_COLUMNS,
    JOB_COLUMNS,
    POLICY,
    POLICY_COLUMNS,
    PROGRESS_COLUMNS,
    REPORT_COLUMNS,
    REQUEST_COLUMNS,
)

_TALLY_COLUMNS = tuple(TallyRow._meta.sorted_field_names)

_ADVANCE_LOG = (
    "UPDATE log SET head = head + %(events)s, bytes = bytes + %(bytes)s, requests = requests + %(requests)s,"
    " time = GREATEST(time, %(now)s) RETURNING head, requests, pg_current_xact_id()::xid AS transaction"
)
"""After it has moved the head, only this transaction appends until it commits. This orders the commits of all replicas.
It returns the new head, how many request ids are stored, and the number of the transaction."""


_EVENT_KINDS = {name: kind for name, kind in kinds_of(EventRow, EVENT_COLUMNS).items() if name != "sequence"}
append_events = ManyRows(
    f"WITH advanced AS ({_ADVANCE_LOG}), appended AS ("
    f"INSERT INTO event (sequence, {', '.join(_EVENT_KINDS)})"
    f" SELECT advanced.head - %(events)s + new.ordinality, {', '.join(f'new.{name}' for name in _EVENT_KINDS)}"
    f" FROM {{rows}} WITH ORDINALITY AS new({', '.join(_EVENT_KINDS)}, ordinality), advanced)"
    " SELECT head, requests, transaction FROM advanced, pg_notify(%(channel)s, head::text || ' ' || %(written)s)",
    _EVENT_KINDS,
)
"""Advances the log, numbers and appends the events, and notifies the other replicas when the transaction commits."""

ADVANCE_LOG = _ADVANCE_LOG.encode()
"""Advances the log by no events, for what must be ordered with them."""

_KEY = {"create_sequence": Kind.INT8}
_WHOLE_JOB = (*JOB_COLUMNS, *DOCUMENTS)
_JOB_KINDS = kinds_of(WholeJobRow, _WHOLE_JOB)
_VERSION = "COALESCE(numbered.first + new.last_event, new.version)"


def _numbered(event: str) -> str:
    """The sequence of the event of this transaction with the index in this column; otherwise the row's value."""
    return f"COALESCE(numbered.first + new.{event}, new.create_sequence)"


def _insert_jobs() -> ManyRows:
    names = ", ".join(_JOB_KINDS)
    numbered = {"version": _VERSION, "create_sequence": _numbered("first_event")}
    values = ", ".join(numbered.get(name, f"new.{name}") for name in _JOB_KINDS)
    text = f"INSERT INTO job ({names}) SELECT {values} FROM {{rows}} AS new({names}, last_event, first_event), {FIRST}"
    return ManyRows(text, {**_JOB_KINDS, "last_event": Kind.INT8, "first_event": Kind.INT8})


def _update_jobs(columns: Sequence[str], documents: Sequence[str]) -> ManyRows:
    """Rows are the values of ``columns``, the key, the documents that have changed, and the index of the last event.

    A document that is None keeps its value, which PostgreSQL does not write again if it is long.
    """
    kinds = {**kinds_of(WholeJobRow, columns), **_KEY, **kinds_of(WholeJobRow, documents)}
    values = {name: f"new.{name}" for name in columns} | {"version": _VERSION}
    values |= {name: f"COALESCE(new.{name}, job.{name})" for name in documents}
    text = (
        f"UPDATE job SET {', '.join(f'{name} = {value}' for name, value in values.items())}"
        f" FROM {{rows}} AS new({', '.join(kinds)}, last_event), {FIRST}"
        " WHERE job.create_sequence = new.create_sequence"
    )
    return ManyRows(text, {**kinds, "last_event": Kind.INT8})


def _insert_requests() -> ManyRows:
    kinds = kinds_of(RequestRow, REQUEST_COLUMNS)
    names = ", ".join(kinds)
    values = ", ".join(_numbered("created_event") if name == "create_sequence" else f"new.{name}" for name in kinds)
    text = f"INSERT INTO request ({names}) SELECT {values} FROM {{rows}} AS new({names}, created_event), {FIRST}"
    return ManyRows(text, {**kinds, "created_event": Kind.INT8})


insert_jobs = _insert_jobs()
update_jobs = _update_jobs(CHANGE_COLUMNS, DOCUMENTS)
update_progress = _update_jobs(PROGRESS_COLUMNS, ("metadata",))
update_reports = _update_jobs(REPORT_COLUMNS, ())
"""Rows of jobs end with the index of the job's last event in this transaction, or None if its version stays. Rows of
new jobs also have the index of the first event."""

_ATTEMPT_NAMES = ", ".join(ATTEMPT_COLUMNS)
insert_attempts = ManyRows(
    # An attempt without a job would have no key, which the table refuses.
    f"INSERT INTO attempt (create_sequence, {_ATTEMPT_NAMES})"
    f" SELECT job.create_sequence, {', '.join(f'new.{name}' for name in ATTEMPT_COLUMNS)}"
    f" FROM {{rows}} AS new(job_id, {_ATTEMPT_NAMES}) LEFT JOIN job ON job.id = new.job_id",
    {"job_id": Kind.TEXT, **kinds_of(AttemptRow, ATTEMPT_COLUMNS)},
)
update_usage = ManyRows(
    "UPDATE attempt SET tokens = new.tokens, cost_nano = new.cost_nano"
    " FROM {rows} AS new(job_id, number, tokens, cost_nano) JOIN job ON job.id = new.job_id"
    " WHERE attempt.create_sequence = job.create_sequence AND attempt.number = new.number",
    {"job_id": Kind.TEXT, "number": Kind.INT8, "tokens": Kind.INT8, "cost_nano": Kind.INT8},
)
insert_requests = _insert_requests()
"""Rows end with the index of the job's first event in this transaction, or None if that is older."""
move_bulk_runs = ManyRows(
    "WITH moved AS (UPDATE request SET bulk = new.after, time = new.time"
    " FROM {rows} AS new(principal, request_id, before, after, time)"
    " WHERE request.principal = new.principal AND request.request_id = new.request_id AND request.bulk = new.before"
    " RETURNING 1) SELECT 1 / (CASE WHEN (SELECT count(*) FROM moved) < %(count)s THEN 0 ELSE 1 END)",
    {
        "principal": Kind.TEXT,
        "request_id": Kind.TEXT,
        "before": Kind.TEXT,
        "after": Kind.TEXT,
        "time": Kind.INT8,
    },
)
"""Fails, and the transaction with it, if another has moved one of them."""
add_tallies = ManyRows(
    f"INSERT INTO tally AS old ({', '.join(_TALLY_COLUMNS)}) SELECT * FROM {{rows}}"
    " ON CONFLICT (job_type, measure, bucket) DO UPDATE"
    f" SET value = LEAST({INT64_MAX}::numeric, old.value::numeric + excluded.value)::bigint",
    kinds_of(TallyRow, _TALLY_COLUMNS),
)
delete_jobs = ManyRows(
    "DELETE FROM job USING {rows} AS new(create_sequence) WHERE job.create_sequence = new.create_sequence", _KEY
)
delete_attempts = ManyRows(
    "DELETE FROM attempt USING {rows} AS new(create_sequence) WHERE attempt.create_sequence = new.create_sequence", _KEY
)

_JOB_NAMES = ", ".join([*(f"job.{name}" for name in _WHOLE_JOB), POLICY])

WHOLE_JOBS = f"SELECT {_JOB_NAMES} FROM job"
"""Reads jobs with their documents, as ``rows.job_from`` wants them."""

_REQUEST_NAMES = ", ".join(f"request.{name}" for name in REQUEST_COLUMNS)

# Job rows are always locked in the order of their ids, and before the log's row, so there are no deadlocks. Here it is
# the order of the array: the subquery of a lateral join runs once for each of its elements, in turn.
JOBS = (
    f"SELECT known.id, {', '.join(f'stored.{name}' for name in (*_WHOLE_JOB, *POLICY_COLUMNS) if name != 'id')}"
    " FROM unnest(%(ids)s::text[], %(transactions)s::xid[], %(versions)s::int8[]) AS known(id, transaction, version)"
    f" LEFT JOIN LATERAL (SELECT {_JOB_NAMES}, job.xmin AS transaction FROM job WHERE job.id = known.id FOR UPDATE)"
    " AS stored ON true"
    " WHERE stored.transaction IS DISTINCT FROM known.transaction OR stored.version IS DISTINCT FROM known.version"
).encode()
"""Locks the named jobs. Returns those that are not as known; all other columns of one that was deleted are NULL."""

REQUESTS = (
    f"SELECT {_REQUEST_NAMES} FROM request"
    " JOIN unnest(%(principals)s::text[], %(request_ids)s::text[]) AS wanted(principal, request_id)"
    " USING (principal, request_id)"
).encode()

ATTEMPTS = (
    f"SELECT job.id, {', '.join(f'attempt.{name}' for name in ATTEMPT_COLUMNS)}"
    " FROM unnest(%(job_ids)s::text[], %(numbers)s::int8[]) AS wanted(job_id, number)"
    " JOIN job ON job.id = wanted.job_id"
    " JOIN attempt ON attempt.create_sequence = job.create_sequence AND attempt.number = wanted.number"
).encode()

# Hand-outs of a type take turns: an advisory lock of the transaction. Several are taken in the order of their numbers.
_TURN = "hashtextextended('hand-out ' || %(log_id)s || ' ' || name, 0)"
_TYPES = "unnest(%(names)s::text[]) AS wanted(name)"

TRY_TURNS = (
    f"SELECT name FROM (SELECT name, {_TURN} AS turn FROM {_TYPES} ORDER BY turn) AS turns"
    " WHERE pg_try_advisory_xact_lock(turn)"
).encode()
TAKE_TURNS = (
    f"SELECT pg_advisory_xact_lock(turn) FROM (SELECT {_TURN} AS turn FROM {_TYPES} ORDER BY turn OFFSET 0) AS turns"
).encode()

STORED_TYPES = b"SELECT job_type FROM dispatch WHERE job_type = ANY(%(names)s::text[])"
SUMS = sums_text("= ANY(%(names)s::text[])").encode()
LANES = lanes_text("running", "= ANY(%({})s::text[])".format, "%({})s".format).encode()
LANES_OF_JOBS = lanes_text("(running + resting)", "= ANY(%({})s::text[])".format, "%({})s".format).encode()

_LANE_KINDS = {name: Kind.TEXT if name in {"job_type", "lane", "hold_reason"} else Kind.INT8 for name in LANE_VALUES}
_DISPATCH_KINDS = {name: Kind.TEXT if name == "job_type" else Kind.INT8 for name in DISPATCH_VALUES}
insert_dispatch = ManyRows(
    "INSERT INTO dispatch (job_type) SELECT * FROM {rows} ON CONFLICT DO NOTHING", {"job_type": Kind.TEXT}
)
insert_lanes = ManyRows(
    "INSERT INTO lane (job_type, lane) SELECT * FROM {rows} ON CONFLICT DO NOTHING",
    {"job_type": Kind.TEXT, "lane": Kind.TEXT},
)
update_dispatch = ManyRows(
    update_dispatch_text(f"{{rows}} AS new({', '.join(DISPATCH_VALUES)})", "new.{}".format, "GREATEST"), _DISPATCH_KINDS
)
update_lanes = ManyRows(
    update_lanes_text(f"{{rows}} AS new({', '.join(LANE_VALUES)})", "new.{}".format, "GREATEST"), _LANE_KINDS
)
PAUSE_TYPE = b"UPDATE dispatch SET paused = %(paused)s, pause_reason = %(reason)s WHERE job_type = %(job_type)s"
PAUSE_LANE = (
    b"UPDATE lane SET paused = %(paused)s, pause_reason = %(reason)s WHERE job_type = %(job_type)s AND lane = %(lane)s"
)

FORGET_LANES, *FORGET_TYPES = (text.encode() for text in forget_lanes_texts("%({})s".format))
REOPEN_LANES = reopen_lanes_text("%({})s".format).encode()

NOTIFY = b"SELECT pg_notify(%(channel)s, (SELECT head::text FROM log) || ' ' || %(written)s)"

# What hand-outs rely on, once the log is locked and nobody else writes lanes and tallies. If it does not hold, the
# statement fails, and the transaction with it: so the commit can be sent in the same round trip.
_STORED, _UNCLAIMED = int(Measure.STORED), int(Measure.UNCLAIMED)
_IS_RUNNING = f"(measure = {_UNCLAIMED} OR (measure = {_STORED} AND bucket = {int(JobState.PROCESSING)}))"
_IS_RESTING = f"(measure = {_STORED} AND bucket IN ({int(JobState.RETRYING)}, {int(JobState.FAILED)}))"
_SUM = f"SELECT sum(CASE WHEN measure = {_UNCLAIMED} THEN -value ELSE value END) FROM tally"
_OF_TYPE = f"({_SUM} WHERE job_type = guarded.job_type AND {_IS_RUNNING})"
_OF_EMPTY_LANE = (
    f"(({_SUM} WHERE job_type = guarded.job_type AND ({_IS_RUNNING} OR (guarded.holds_jobs AND {_IS_RESTING})))"
    " - COALESCE((SELECT running + CASE WHEN guarded.holds_jobs THEN resting ELSE 0 END FROM dispatch"
    " WHERE dispatch.job_type = guarded.job_type), 0))"
)
CHECK_TYPES = (
    "SELECT 1 / (CASE WHEN EXISTS (SELECT 1 FROM"
    " unnest(%(job_types)s::text[], %(running)s::int8[], %(even)s::int8[])"
    " AS guarded(job_type, running_max, next_even_max) LEFT JOIN dispatch USING (job_type)"
    " WHERE dispatch.paused OR dispatch.next_even_time > guarded.next_even_max"
    f" OR (guarded.running_max < {INT64_MAX} AND {_OF_TYPE} > guarded.running_max)) THEN 0 ELSE 1 END)"
).encode()
CHECK_LANES = (
    "SELECT 1 / (CASE WHEN EXISTS (SELECT 1 FROM unnest(%(job_types)s::text[], %(lanes)s::text[], %(running)s::int8[],"
    " %(holds)s::bool[], %(even)s::int8[]) AS guarded(job_type, lane, running_max, holds_jobs, next_even_max)"
    " LEFT JOIN lane USING (job_type, lane)"
    " WHERE lane.paused OR lane.held_until > %(now)s OR lane.next_even_time > guarded.next_even_max"
    f" OR (guarded.running_max < {INT64_MAX} AND CASE WHEN guarded.lane = '' THEN {_OF_EMPTY_LANE}"
    " ELSE lane.running + CASE WHEN guarded.holds_jobs THEN lane.resting ELSE 0 END END > guarded.running_max))"
    " THEN 0 ELSE 1 END)"
).encode()


def _places(condition: str) -> bytes:
    """Reads the first jobs of each of some lanes and priorities."""
    return (
        "SELECT wanted.number, picked.id, picked.ready_time, picked.create_sequence, picked.attempt, picked.level"
        " FROM unnest(%(names)s::text[], %(lanes)s::text[], %(levels)s::int8[], %(limits)s::int8[],"
        " %(numbers)s::int8[]) AS wanted(name, lane, level, up_to, number)"
        " CROSS JOIN LATERAL (SELECT id, ready_time, create_sequence, attempt, level FROM job"
        f" WHERE job_type = wanted.name AND lane = wanted.lane AND level = wanted.level AND {condition}"
        " ORDER BY ready_time, create_sequence LIMIT wanted.up_to) AS picked"
    ).encode()


PICK_PLACES = _places(IS_READY.sql)
PICK_RETURNED = _places(IS_UNCLAIMED.sql)

PICK_READY = (
    "SELECT picked.id, picked.ready_time, picked.create_sequence, wanted.level, wanted.step, wanted.name"
    " FROM unnest(%(names)s::text[], %(levels)s::int8[], %(steps)s::int8[], %(marks)s::int8[])"
    " AS wanted(name, level, step, mark)"
    " CROSS JOIN LATERAL (SELECT id, ready_time, create_sequence FROM job"
    f" WHERE job_type = wanted.name AND lane = '' AND level = wanted.level AND {IS_READY.sql}"
    " AND ready_time >= wanted.mark ORDER BY ready_time, create_sequence LIMIT %(limit)s) AS picked"
).encode()

HAS_READY = (
    "SELECT EXISTS (SELECT FROM unnest(%s::text[]) AS type(name) CROSS JOIN unnest(%s::int8[]) AS priority(level)"
    " CROSS JOIN LATERAL (SELECT FROM job WHERE job_type = type.name AND lane = '' AND level = priority.level"
    f" AND {IS_READY.sql} ORDER BY ready_time, create_sequence LIMIT 1) AS ready)"
    " OR EXISTS (SELECT FROM unnest(%s::text[]) AS type(name) CROSS JOIN LATERAL (SELECT FROM job"
    f" WHERE job_type = type.name AND {IS_READY_IN_LANE.sql} ORDER BY ready_time LIMIT 1) AS ready)"
    " OR EXISTS (SELECT FROM request JOIN unnest(%s::text[], %s::text[]) AS wanted(principal, request_id)"
    " USING (principal, request_id))"
)
"""Of the reader. The order leads to the index, however many jobs the planner takes for ready."""

LOCK_READY = (
    f"{WHOLE_JOBS} WHERE id = ANY(%(ids)s::text[]) AND {IS_READY.sql} ORDER BY id FOR UPDATE SKIP LOCKED"
).encode()

# Not locked: the job is returned as it is, and nothing is decided on it.
UNIQUE_HOLDERS = (
    f"{WHOLE_JOBS} JOIN unnest(%(principals)s::text[], %(job_types)s::text[], %(keys)s::text[])"
    " AS wanted(principal, job_type, unique_key) USING (principal, job_type, unique_key)"
    f" WHERE {HAS_UNIQUE_KEY.sql}"
).encode()

# A job that another replica has locked is skipped; that replica handles what is due.
_IS_DUE = "due_time IS NOT NULL"
DUE = (
    f"{WHOLE_JOBS} WHERE {_IS_DUE} AND due_time <= %(now)s"
    " ORDER BY due_time, create_sequence LIMIT %(limit)s FOR UPDATE SKIP LOCKED"
).encode()
_IS_KEPT = (
    "(job.needed AND COALESCE((SELECT true FROM needed AS held WHERE held.parent_key = job.create_sequence), false))"
    " OR COALESCE((SELECT NOT final FROM members WHERE members.group_key = job.group_key), false)"
    " OR (group_depth > 0 AND COALESCE((SELECT total > completed + permanently_failed + cancelled FROM members"
    " WHERE members.group_key = job.create_sequence), false))"
)
"""``reading.expressions.is_kept``."""
FINISHED = (
    f"SELECT {', '.join(FINISHED_COLUMNS)}, {_IS_KEPT} FROM job"
    " WHERE complete_time IS NOT NULL AND complete_time < %(before)s"
    " AND (complete_time, create_sequence) > (%(after_time)s::int8, %(after_key)s::int8)"
    " ORDER BY complete_time, create_sequence LIMIT %(limit)s FOR UPDATE SKIP LOCKED"
).encode()
NAMED = (
    f"SELECT {', '.join(FINISHED_COLUMNS)}, {_IS_KEPT} FROM job"
    " WHERE id = ANY(%(ids)s::text[]) ORDER BY id FOR UPDATE SKIP LOCKED"
).encode()
# Not locked: the job may be ready, and a hand-out would pass over it until this transaction ends.
NEXT_DUE = (
    f"SELECT LEAST((SELECT due_time FROM job WHERE {_IS_DUE} ORDER BY due_time LIMIT 1),"
    f" (SELECT due_time FROM members WHERE {_IS_DUE} ORDER BY due_time LIMIT 1))"
).encode()
POSTPONE = (
    "UPDATE job SET due_time = %(until)s FROM ("
    f"SELECT create_sequence FROM job WHERE {_IS_DUE} AND due_time < %(until)s AND {IS_LIMITED.sql}"
    " ORDER BY id FOR UPDATE) AS late WHERE job.create_sequence = late.create_sequence"
).encode()

HEAD = b"SELECT head, requests, pg_current_xact_id()::xid AS transaction FROM log"
LOCK_LOG = b"SELECT 1 FROM log FOR UPDATE"

DELETE_REQUEST = b"DELETE FROM request WHERE principal = %(principal)s AND request_id = %(request_id)s"

CLAIM_TASK = (
    b"INSERT INTO task_run AS held (name, last_due, token, start_time, end_time, outcome, replica)"
    b" VALUES (%(name)s, %(due)s, %(token)s, %(now)s, NULL, '', %(replica)s)"
    b" ON CONFLICT (name) DO UPDATE SET last_due = excluded.last_due, token = excluded.token,"
    b" start_time = excluded.start_time, end_time = NULL, outcome = '', replica = excluded.replica"
    b" WHERE held.last_due < excluded.last_due OR held.last_due > %(absurd)s"
    b" OR (held.last_due = excluded.last_due AND held.end_time IS NULL"
    b" AND NOT EXISTS (SELECT 1 FROM replica WHERE replica.id = held.replica AND renew_time > %(alive_since)s))"
    b" RETURNING 1"
)
TASK_IS_OURS = b"SELECT 1 FROM task_run WHERE name = %(name)s AND token = %(token)s"
FINISH_TASK = (
    b"UPDATE task_run SET end_time = %(now)s, outcome = %(outcome)s WHERE name = %(name)s AND token = %(token)s"
)
NOTE_RECURRING = (
    b"INSERT INTO task_run AS held (name, last_due, token, start_time, outcome, definition)"
    b" SELECT name, %(wall)s, '', %(now)s, '', definition"
    b" FROM unnest(%(names)s, %(definitions)s) AS noted (name, definition) ORDER BY name"
    b" ON CONFLICT (name) DO UPDATE SET definition = excluded.definition,"
    b" last_due = GREATEST(held.last_due, excluded.last_due) WHERE held.definition <> excluded.definition"
)
RETIRE_RECURRING = (
    b"UPDATE task_run SET definition = '' WHERE name LIKE %(recurring)s AND definition <> ''"
    b" AND NOT name = ANY(%(names)s)"
)
FORGET_RECURRING = (
    b"DELETE FROM task_run WHERE name LIKE %(recurring)s AND last_due < %(before)s AND NOT name = ANY(%(names)s)"
)
LOCK_INSTANTS = b"SELECT name, last_due FROM task_run WHERE name = ANY(%(names)s) ORDER BY name FOR UPDATE SKIP LOCKED"
TAKE_INSTANT = (
    b"UPDATE task_run SET last_due = %(due)s, start_time = %(now)s, end_time = %(now)s, outcome = %(outcome)s,"
    b" replica = %(replica)s, job_id = %(job_id)s WHERE name = %(name)s"
)
RENEW = (
    b"INSERT INTO replica (id, renew_time) VALUES (%(replica)s, %(now)s)"
    b" ON CONFLICT (id) DO UPDATE SET renew_time = excluded.renew_time"
)
FORGET_REPLICAS = b"DELETE FROM replica WHERE renew_time < %(before)s"
LEAVE = b"DELETE FROM replica WHERE id = %(replica)s"
LAST_RENEWED = b"SELECT max(renew_time) FROM replica WHERE id <> %(besides)s"
