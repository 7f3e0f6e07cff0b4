"""The tables, as peewee models. They are not bound to a database."""

from __future__ import annotations

from peewee import (
    SQL,
    BigIntegerField,
    BlobField,
    BooleanField,
    CompositeKey,
    Field,
    IntegerField,
    Model,
    SmallIntegerField,
    TextField,
)

from jobstate_server.domain.job import JobState
from jobstate_server.store.label_models import LabelRow
from jobstate_server.store.lane_models import DispatchRow, LaneRow
from jobstate_server.store.relation_models import MembersRow, NeededRow, NeedRow

# Times are microseconds since the epoch, UTC; spans are microseconds; money is nano-units.


class JobColumns(Model):
    """The columns of a job besides its documents: one row, changed in place.

    The key is a small number that grows with time, so each index costs little and new rows are written at one end.
    """

    # The sequence of the event that created the job; negative for jobs that were made before this was kept.
    create_sequence = BigIntegerField(primary_key=True)
    id = TextField()
    job_type = TextField()
    source_id = TextField()
    principal = TextField()
    state = IntegerField()
    version = BigIntegerField()
    progress = IntegerField()
    progress_message = TextField()
    result_count = BigIntegerField()
    attempt = IntegerField()
    claimed = BooleanField()
    worker = TextField()
    retry_count = IntegerField()
    max_retries = IntegerField()
    timeout = BigIntegerField(null=True)
    retry_delay = BigIntegerField(null=True)
    estimated_tokens = BigIntegerField()
    estimated_cost_nano = BigIntegerField()
    attempt_tokens = BigIntegerField()
    attempt_cost_nano = BigIntegerField()
    create_time = BigIntegerField()
    update_time = BigIntegerField()
    start_time = BigIntegerField(null=True)
    claim_time = BigIntegerField(null=True)
    complete_time = BigIntegerField(null=True)
    next_retry_time = BigIntegerField(null=True)
    attempt_deadline = BigIntegerField(null=True)
    due_time = BigIntegerField(null=True)
    heard_time = BigIntegerField()
    duration = BigIntegerField()
    cancel_reason = TextField()
    error_code = TextField(null=True)
    error_message = TextField(null=True)
    error_retryable = BooleanField(null=True)
    error_attempt = IntegerField(null=True)
    error_time = BigIntegerField(null=True)
    level = IntegerField(constraints=[SQL("DEFAULT 3")])
    lane = TextField(constraints=[SQL("DEFAULT ''")])
    held = BooleanField(constraints=[SQL("DEFAULT false")])
    ready_time = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    start_within = BigIntegerField(null=True)
    lease = BigIntegerField(null=True)
    unique_key = TextField(null=True)
    unique_until = IntegerField(constraints=[SQL("DEFAULT 0")])
    cancel_cause = IntegerField(constraints=[SQL("DEFAULT 0")])
    cancel_cause_id = TextField(null=True)
    needs_count = SmallIntegerField(constraints=[SQL("DEFAULT 0")])
    open_needs = SmallIntegerField(constraints=[SQL("DEFAULT 0")])
    needed = BooleanField(constraints=[SQL("DEFAULT false")])
    group_id = TextField(null=True)
    group_key = BigIntegerField(null=True)
    awaited_group = TextField(null=True)
    group_depth = SmallIntegerField(constraints=[SQL("DEFAULT 0")])
    recreated_from = TextField(null=True)
    labels = TextField(null=True)


class JobRow(JobColumns):
    """A job. On SQLite its documents are in tables of their own, so that a change of state does not rewrite them."""

    class Meta:
        table_name = "job"
        strict_tables = True


class WholeJobRow(JobColumns):
    """A job on PostgreSQL, which itself keeps long values apart and does not rewrite those that an update leaves."""

    metadata = BlobField()
    result = BlobField()
    error_details = BlobField(null=True)

    class Meta:
        table_name = "job"


class DocumentRow(Model):
    """A document of a job on SQLite. A job that has none has no row."""

    create_sequence = BigIntegerField(primary_key=True)
    content = BlobField()


class MetadataRow(DocumentRow):
    """The metadata of a job."""

    class Meta:
        table_name = "job_metadata"
        strict_tables = True


class ResultRow(DocumentRow):
    """The result of a job."""

    class Meta:
        table_name = "job_result"
        strict_tables = True


class ErrorDetailsRow(DocumentRow):
    """The details of a job's last error."""

    class Meta:
        table_name = "job_error_details"
        strict_tables = True


IS_UNCLAIMED = SQL(f"state = {int(JobState.PROCESSING)} AND NOT claimed")
"""A retry that waits for a worker. Queries must use exactly this text, or SQLite does not use the index below."""


IS_LIMITED = SQL(f"(state = {int(JobState.PROCESSING)} OR (state = {int(JobState.QUEUED)} AND NOT held))")
"""Jobs whose ``due_time`` is a limit for workers: it is postponed when workers could not reach the server."""

IS_READY = SQL("NOT held AND NOT claimed AND state IN (1, 2)")
"""What can be handed out: ``waiting.is_ready``. Queries must use exactly this text."""

IS_READY_IN_LANE = SQL(f"lane <> '' AND {IS_READY.sql}")
"""Those of them that are not in the empty lane, which is found out first. Queries must use exactly this text."""

HAS_UNIQUE_KEY = SQL("unique_key IS NOT NULL AND state IN (1, 2, 4, 5) AND NOT (unique_until = 2 AND attempt > 0)")
"""``waiting.has_unique_key``. Queries must use exactly this text."""

IS_MEMBER = SQL("group_key IS NOT NULL")

IS_UNFINISHED_MEMBER = SQL(f"{IS_MEMBER.sql} AND state IN (1, 2, 4, 5)")
"""What a stopping group cancels. Queries must use exactly this text."""

IS_HELD, HAS_WORKER = SQL("held"), SQL("worker <> ''")
"""Queries must use exactly these texts."""


def _add_job_indexes(job: type[JobColumns], *key: Field) -> None:
    """``key``: the key as the last column of each index that a page is read from. SQLite appends it by itself."""
    job.add_index(job.id, unique=True, name="job_by_id")
    # For pages of jobs, newest or oldest first: of all jobs, of a state, of a type and state, of a source.
    job.add_index(job.create_time, *key, name="job_by_create_time")
    job.add_index(job.state, job.create_time, *key, name="job_by_state")
    job.add_index(job.job_type, job.state, job.create_time, *key, name="job_by_type")
    job.add_index(job.source_id, job.create_time, *key, name="job_by_source")
    # For the due timer and cleanup. Partial, so that jobs with nothing due and unfinished jobs cost nothing.
    job.add_index(job.due_time, *key, where=SQL("due_time IS NOT NULL"), name="job_by_due_time")
    job.add_index(job.complete_time, *key, where=SQL("complete_time IS NOT NULL"), name="job_by_complete_time")
    # For the age of the oldest one. A first attempt is never here: it is claimed when it starts.
    job.add_index(job.job_type, job.start_time, where=IS_UNCLAIMED, name="job_by_unclaimed")
    # The order of hand-outs within a type and priority. Every other order is merged from these.
    job.add_index(job.job_type, job.lane, job.level, job.ready_time, *key, where=IS_READY, name="job_ready")
    # Jobs that come back for another attempt: where jobs hold their place in a lane, they go before all others of it.
    job.add_index(job.job_type, job.lane, job.level, job.ready_time, *key, where=IS_UNCLAIMED, name="job_returned")
    # For the age of the oldest one over all lanes but the empty one, of which most jobs are.
    job.add_index(job.job_type, job.ready_time, where=IS_READY_IN_LANE, name="job_ready_in_lanes")
    job.add_index(job.principal, job.job_type, job.unique_key, unique=True, where=HAS_UNIQUE_KEY, name="job_unique")
    # The members of a group: a page of them, and those that it must cancel.
    job.add_index(job.group_key, job.create_time, *key, where=IS_MEMBER, name="job_by_group")
    job.add_index(job.group_key, *key, where=IS_UNFINISHED_MEMBER, name="job_unfinished_member")
    job.add_index(job.create_time, *key, where=IS_HELD, name="job_held")
    job.add_index(job.worker, job.create_time, *key, where=HAS_WORKER, name="job_by_worker")
    job.add_index(job.error_code, job.create_time, *key, where=SQL("error_code IS NOT NULL"), name="job_by_error")


_add_job_indexes(JobRow)
_add_job_indexes(WholeJobRow, WholeJobRow.create_sequence)


class EventRow(Model):
    """An event of the log. Written once; retention removes the oldest."""

    # From the row of the log, never from the database, which would reuse the number of a removed last event.
    sequence = BigIntegerField(primary_key=True)
    time = BigIntegerField()
    job_id = TextField()
    job_type = TextField()
    source_id = TextField()
    principal = TextField()
    type = IntegerField()
    payload = BlobField()

    class Meta:
        table_name = "event"
        strict_tables = True


SEGMENT_BITS = 12
"""The log has segments of 4,096 events, and the events of a job are found segment by segment. A commit writes to this
index only at the end of the log; to an index by job alone it would write in as many places as it has jobs."""

EventRow.add_index(SQL(f'("sequence" >> {SEGMENT_BITS})'), EventRow.job_id, name="event_by_segment")


class LogRow(Model):
    """The head of the log: one row. Every transaction that appends updates it, which puts commits in order.

    ``requests``: how many request ids are stored.
    """

    id = TextField(primary_key=True)
    head = BigIntegerField()
    bytes = BigIntegerField()
    create_time = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    requests = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    # The newest time of any commit. No later commit has an earlier time.
    time = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    # PostgreSQL: how far the store's time was ahead of the database's clock, and what that clock showed then.
    clock_offset = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    clock_set = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    # Until when no attempt fails after a pause, and nothing is removed because of its age after a clock jump.
    grace_until = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    removal_suspended_until = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    # How often events were erased.
    erasures = BigIntegerField(constraints=[SQL("DEFAULT 0")])

    class Meta:
        table_name = "log"
        strict_tables = True


class HorizonRow(Model):
    """How far retention has removed events: one row, updated in the transaction that deletes."""

    id = TextField(primary_key=True)
    sequence = BigIntegerField()
    event_check = BigIntegerField()
    bytes = BigIntegerField()

    class Meta:
        table_name = "horizon"
        strict_tables = True


class AttemptRow(Model):
    """An ended attempt of the job with this ``create_sequence``."""

    create_sequence = BigIntegerField()
    number = IntegerField()
    start_time = BigIntegerField()
    end_time = BigIntegerField()
    outcome = IntegerField()
    worker = TextField()
    tokens = BigIntegerField()
    cost_nano = BigIntegerField()
    error_code = TextField(null=True)
    error_message = TextField(null=True)
    error_retryable = BooleanField(null=True)
    error_attempt = IntegerField(null=True)
    error_time = BigIntegerField(null=True)
    error_details = BlobField(null=True)
    claim_time = BigIntegerField(null=True)

    class Meta:
        table_name = "attempt"
        primary_key = CompositeKey("create_sequence", "number")
        strict_tables = True
        without_rowid = True


class RequestRow(Model):
    """A used request id. Spaces separate ``job_ids``; no id contains one.

    ``attempt`` is the one that a Start made. ``create_sequence`` is that of the first job; None in rows of older
    programs. ``attempts`` are those that an Acquire claimed, in the order of its jobs; None for other calls.
    ``existing``: a Create was answered with a job that was there before. ``bulk``: how far a bulk run has come.
    """

    principal = TextField()
    request_id = TextField()
    rpc = TextField()
    digest = BlobField()
    job_ids = TextField()
    time = BigIntegerField()
    attempt = IntegerField(constraints=[SQL("DEFAULT 1")])
    create_sequence = BigIntegerField(null=True)
    attempts = TextField(null=True)
    existing = BooleanField(constraints=[SQL("DEFAULT false")])
    bulk = TextField(null=True)

    class Meta:
        table_name = "request"
        primary_key = CompositeKey("principal", "request_id")
        strict_tables = True
        without_rowid = True


RequestRow.add_index(RequestRow.time, name="request_by_time")


class TallyRow(Model):
    """A sum by job type, measure and bucket; see ``domain.statistics``."""

    job_type = TextField()
    measure = IntegerField()
    bucket = IntegerField()
    value = BigIntegerField()

    class Meta:
        table_name = "tally"
        primary_key = CompositeKey("job_type", "measure", "bucket")
        strict_tables = True
        without_rowid = True


class TaskRunRow(Model):
    """The last run of a maintenance task."""

    name = TextField(primary_key=True)
    last_due = BigIntegerField()
    token = TextField()
    start_time = BigIntegerField()
    end_time = BigIntegerField(null=True)
    outcome = TextField()
    replica = TextField(constraints=[SQL("DEFAULT ''")])
    definition = TextField(constraints=[SQL("DEFAULT ''")])
    job_id = TextField(constraints=[SQL("DEFAULT ''")])

    class Meta:
        table_name = "task_run"
        strict_tables = True


class ReplicaRow(Model):
    """The lease of a server on this store."""

    id = TextField(primary_key=True)
    renew_time = BigIntegerField()

    class Meta:
        table_name = "replica"
        strict_tables = True


class SchemaRow(Model):
    """Which migrations this database has had, and the oldest program version that can still use it."""

    id = TextField(primary_key=True)
    version = IntegerField()
    usable_from = IntegerField()

    class Meta:
        table_name = "schema"
        strict_tables = True


DOCUMENT_TABLES: tuple[type[DocumentRow], ...] = (MetadataRow, ResultRow, ErrorDetailsRow)
"""Where SQLite has the documents of jobs, in the order of ``rows.DOCUMENTS``."""

_COMMON: tuple[type[Model], ...] = (
    EventRow,
    LogRow,
    HorizonRow,
    AttemptRow,
    RequestRow,
    TallyRow,
    DispatchRow,
    LaneRow,
    NeedRow,
    NeededRow,
    MembersRow,
    LabelRow,
    TaskRunRow,
    ReplicaRow,
    SchemaRow,
)

TABLES: dict[str, tuple[type[Model], ...]] = {
    "sqlite": (JobRow, *DOCUMENT_TABLES, *_COMMON),
    "postgres": (WholeJobRow, *_COMMON),
}
"""The tables of each dialect."""
