"""The tables, as peewee models. Bound to a database only where a store opens one."""

from __future__ import annotations

from peewee import SQL, BigIntegerField, BlobField, BooleanField, CompositeKey, IntegerField, Model, TextField

from jobstate_server.domain.job import JobState

# Times are microseconds since the epoch, UTC; spans are microseconds; money is nano-units.


class JobRow(Model):
    """A job. One row each, rewritten in place."""

    id = TextField(primary_key=True)
    job_type = TextField()
    source_id = TextField()
    principal = TextField()
    state = IntegerField()
    version = BigIntegerField()
    progress = IntegerField()
    progress_message = TextField()
    metadata = BlobField()
    result = BlobField()
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
    error_details = BlobField(null=True)
    error_attempt = IntegerField(null=True)
    error_time = BigIntegerField(null=True)
    claim_time = BigIntegerField(null=True)
    create_sequence = BigIntegerField(constraints=[SQL("DEFAULT 0")])

    class Meta:
        table_name = "job"
        strict_tables = True


# List pages, newest or oldest first, of everything, of a state, of a type and state, of a source.
JobRow.add_index(JobRow.create_time, JobRow.id, name="job_by_create_time")
JobRow.add_index(JobRow.state, JobRow.create_time, JobRow.id, name="job_by_state")
JobRow.add_index(JobRow.job_type, JobRow.state, JobRow.create_time, JobRow.id, name="job_by_type")
JobRow.add_index(JobRow.source_id, JobRow.create_time, JobRow.id, name="job_by_source")
# The due timer and cleanup. Partial, so that jobs with nothing due and unfinished jobs cost nothing here.
JobRow.add_index(JobRow.due_time, JobRow.id, where=SQL("due_time IS NOT NULL"), name="job_by_due_time")
JobRow.add_index(JobRow.complete_time, JobRow.id, where=SQL("complete_time IS NOT NULL"), name="job_by_complete_time")

IS_UNCLAIMED = SQL(f"state = {int(JobState.PROCESSING)} AND NOT claimed")
"""A retry that waits for its worker. Written with the very words of the index below, or it would not serve."""

# How long the oldest of them waits. A first attempt is never here: it is claimed as it begins.
JobRow.add_index(JobRow.job_type, JobRow.start_time, where=IS_UNCLAIMED, name="job_by_unclaimed")


class EventRow(Model):
    """An event of the log. Written once, removed by retention from the oldest on."""

    # Given by the log row, never by the database: a database would reuse the number of a removed last event.
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
"""The log in segments of 4,096 events: what a job has in it is found segment by segment. An index by job alone would
be written to in as many places as a commit has jobs; this one only where the log ends."""

EventRow.add_index(SQL(f'("sequence" >> {SEGMENT_BITS})'), EventRow.job_id, name="event_by_segment")


class LogRow(Model):
    """The head of the log: one row, updated by every transaction that appends, which is what orders commits.

    ``requests``: how many request ids are stored.
    """

    id = TextField(primary_key=True)
    head = BigIntegerField()
    bytes = BigIntegerField()
    create_time = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    requests = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    # The newest time of any commit; what follows it is not earlier.
    time = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    # PostgreSQL: how far the store's time was ahead of the database's clock, and when that was by the latter.
    clock_offset = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    clock_set = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    # Until when no attempt is failed after a pause, and nothing is removed by its age after a jump.
    grace_until = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    removal_suspended_until = BigIntegerField(constraints=[SQL("DEFAULT 0")])

    class Meta:
        table_name = "log"
        strict_tables = True


class HorizonRow(Model):
    """What retention has removed: one row, moved in the transaction that deletes."""

    id = TextField(primary_key=True)
    sequence = BigIntegerField()
    event_check = BigIntegerField()
    bytes = BigIntegerField()

    class Meta:
        table_name = "horizon"
        strict_tables = True


class AttemptRow(Model):
    """An ended attempt."""

    job_id = TextField()
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
    error_details = BlobField(null=True)
    error_attempt = IntegerField(null=True)
    error_time = BigIntegerField(null=True)
    claim_time = BigIntegerField(null=True)

    class Meta:
        table_name = "attempt"
        primary_key = CompositeKey("job_id", "number")
        strict_tables = True
        without_rowid = True


class RequestRow(Model):
    """A request id that was used. ``job_ids`` are separated by spaces, which no id contains.

    ``attempt`` is the one that a Start made. ``create_sequence`` is that of the first job, None where a program made
    the row that did not know of it.
    """

    principal = TextField()
    request_id = TextField()
    rpc = TextField()
    digest = BlobField()
    job_ids = TextField()
    time = BigIntegerField()
    attempt = IntegerField(constraints=[SQL("DEFAULT 1")])
    create_sequence = BigIntegerField(null=True)

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

    class Meta:
        table_name = "task_run"
        strict_tables = True


class ReplicaRow(Model):
    """A server that serves, or served, this store."""

    id = TextField(primary_key=True)
    renew_time = BigIntegerField()

    class Meta:
        table_name = "replica"
        strict_tables = True


class SchemaRow(Model):
    """Which migrations this database has had, and the oldest program that may still use it."""

    id = TextField(primary_key=True)
    version = IntegerField()
    usable_from = IntegerField()

    class Meta:
        table_name = "schema"
        strict_tables = True


TABLES: tuple[type[Model], ...] = (
    JobRow,
    EventRow,
    LogRow,
    HorizonRow,
    AttemptRow,
    RequestRow,
    TallyRow,
    TaskRunRow,
    ReplicaRow,
    SchemaRow,
)
