"""The statements of SQLite's write path, each built once."""

from __future__ import annotations

from peewee import SQL, Query, SqliteDatabase, Tuple

from jobstate_server.domain.job import INT64_MAX
from jobstate_server.store.models import (
    HAS_UNIQUE_KEY,
    IS_LIMITED,
    IS_READY,
    AttemptRow,
    EventRow,
    HorizonRow,
    JobRow,
    LogRow,
    RequestRow,
    TallyRow,
)
from jobstate_server.store.reading.expressions import is_kept
from jobstate_server.store.relation_models import MembersRow
from jobstate_server.store.rows import (
    ATTEMPT_COLUMNS,
    CHANGE_COLUMNS,
    EVENT_COLUMNS,
    FINISHED_COLUMNS,
    JOB_COLUMNS,
    NEW_COLUMNS,
    NEW_CONSTANTS,
    PLAIN_CHANGE_COLUMNS,
    PROGRESS_COLUMNS,
    REPORT_COLUMNS,
    REQUEST_COLUMNS,
)
from jobstate_server.store.sqlite.documents import WHOLE_JOBS
from jobstate_server.store.sqlite.many_rows import ManyRows, insert, update
from jobstate_server.store.step_rows import LATER_STEP_COLUMNS, STEP_COLUMNS

_TALLY_COLUMNS = tuple(TallyRow._meta.sorted_field_names)

_IS_DUE = "job.due_time IS NOT NULL"


def _insert_attempts() -> ManyRows:
    """Rows begin with the id of the job. An attempt without a job would have no key, which the table refuses."""
    values = ", ".join(f"new.column{number}" for number in range(2, len(ATTEMPT_COLUMNS) + 2))
    return ManyRows(
        f"INSERT INTO attempt (create_sequence, {', '.join(ATTEMPT_COLUMNS)})"
        f" SELECT job.create_sequence, {values} FROM ({{rows}}) AS new LEFT JOIN job ON job.id = new.column1",
        len(ATTEMPT_COLUMNS) + 1,
    )


class Statements:
    """Every statement of the write path, bound by name or, for rows, by position."""

    # To set or to bind a column costs about a sixth of a microsecond, and there are 37.
    insert_jobs = insert("job", JOB_COLUMNS)
    insert_new_jobs = insert("job", NEW_COLUMNS, NEW_CONSTANTS)
    update_step = update("job", STEP_COLUMNS, "create_sequence")
    update_later_step = update("job", LATER_STEP_COLUMNS, "create_sequence")
    update_jobs = update("job", CHANGE_COLUMNS, "create_sequence")
    update_plain_change = update("job", PLAIN_CHANGE_COLUMNS, "create_sequence")
    update_progress = update("job", PROGRESS_COLUMNS, "create_sequence")
    update_report = update("job", REPORT_COLUMNS, "create_sequence")
    insert_events = insert("event", EVENT_COLUMNS)
    insert_attempts = _insert_attempts()
    insert_requests = insert("request", REQUEST_COLUMNS)
    add_tallies = ManyRows(
        # "WHERE true" tells the parser that ON does not start a join. A sum that overflows becomes a float, and MIN
        # makes it an integer again.
        f"INSERT INTO tally ({', '.join(_TALLY_COLUMNS)}) SELECT * FROM ({{rows}}) WHERE true"
        " ON CONFLICT (job_type, measure, bucket) DO UPDATE"
        f" SET value = MIN({INT64_MAX}, tally.value + excluded.value)",
        len(_TALLY_COLUMNS),
    )
    delete_jobs = ManyRows("DELETE FROM job WHERE create_sequence IN ({rows})", 1)
    delete_attempts = ManyRows("DELETE FROM attempt WHERE create_sequence IN ({rows})", 1)
    update_usage = ManyRows(
        "UPDATE attempt SET tokens = new.column3, cost_nano = new.column4"
        " FROM ({rows}) AS new JOIN job ON job.id = new.column1"
        " WHERE attempt.create_sequence = job.create_sequence AND attempt.number = new.column2",
        4,
    )
    move_bulk_runs = ManyRows(
        "UPDATE request SET bulk = new.column4, time = new.column5 FROM ({rows}) AS new"
        " WHERE request.principal = new.column1 AND request.request_id = new.column2 AND request.bulk = new.column3",
        5,
    )
    delete_requests = ManyRows("DELETE FROM request WHERE (principal, request_id) IN ({rows})", 2)

    def __init__(self, database: SqliteDatabase) -> None:
        """Build the statements that peewee generates, in this database's dialect."""
        self._database = database
        self._build_jobs()
        self._build_ready()
        self._build_requests()
        self._build_log()

    def _sql(self, query: Query) -> str:
        text, parameters = self._database.get_sql_context().sql(query).query()
        assert not parameters, "statements of the write path must name all their values"
        return str(text)

    def _build_jobs(self) -> None:
        self.jobs = f"{WHOLE_JOBS} WHERE job.id IN (SELECT value FROM json_each(:ids))"
        self.due = (
            f"{WHOLE_JOBS} WHERE {_IS_DUE} AND job.due_time <= :now"
            " ORDER BY job.due_time, job.create_sequence LIMIT :limit"
        )
        is_due = JobRow.due_time.is_null(False)
        ended = JobRow.complete_time.is_null(False) & (JobRow.complete_time < SQL(":before"))
        follows = Tuple(JobRow.complete_time, JobRow.create_sequence) > Tuple(SQL(":after_time"), SQL(":after_key"))
        self.finished = self._sql(
            JobRow.select(*[getattr(JobRow, name) for name in FINISHED_COLUMNS], is_kept())
            .where(ended, follows)
            .order_by(JobRow.complete_time, JobRow.create_sequence)
            .limit(SQL(":limit"))
        )
        self.named = self._sql(
            JobRow.select(*[getattr(JobRow, name) for name in FINISHED_COLUMNS], is_kept())
            .where(SQL("id IN (SELECT value FROM json_each(:ids))"))
            .order_by(JobRow.id)
        )
        first_job = JobRow.select(JobRow.due_time).where(is_due).order_by(JobRow.due_time).limit(SQL("1"))
        first_group = MembersRow.select(MembersRow.due_time).where(MembersRow.due_time.is_null(False))
        first_group = first_group.order_by(MembersRow.due_time).limit(SQL("1"))
        both = f"SELECT * FROM ({self._sql(first_job)}) UNION ALL SELECT * FROM ({self._sql(first_group)})"
        self.next_due = f"SELECT MIN(due_time) FROM ({both})"
        self.postpone = self._sql(
            JobRow.update({JobRow.due_time: SQL(":until")}).where(is_due, JobRow.due_time < SQL(":until"), IS_LIMITED)
        )

    def _build_ready(self) -> None:
        of_level = [JobRow.job_type == SQL(":job_type"), JobRow.lane == SQL("''"), JobRow.level == SQL(":level")]
        after = SQL("(ready_time, create_sequence) > (:ready_time, :create_sequence)")
        self.ready = self._sql(
            JobRow.select(JobRow.id, JobRow.ready_time, JobRow.create_sequence)
            .where(*of_level, IS_READY, after)
            .order_by(JobRow.ready_time, JobRow.create_sequence)
            .limit(SQL(":limit"))
        )
        # A join from the keys to the index: otherwise SQLite would read every unfinished job.
        self.unique = (
            f"{WHOLE_JOBS} WHERE job.create_sequence IN ("
            "SELECT create_sequence FROM json_each(:keys) AS wanted CROSS JOIN job INDEXED BY job_unique"
            " ON principal = json_extract(wanted.value, '$[0]') AND job_type = json_extract(wanted.value, '$[1]')"
            f" AND unique_key = json_extract(wanted.value, '$[2]') WHERE {HAS_UNIQUE_KEY.sql})"
        )

    def _build_requests(self) -> None:
        fields = [getattr(RequestRow, name) for name in REQUEST_COLUMNS]
        # The whole key: with the id alone SQLite would scan the table and find requests of other principals.
        wanted = SQL("(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:keys))")
        self.requests = self._sql(
            RequestRow.select(*fields).where(Tuple(RequestRow.principal, RequestRow.request_id).in_(wanted))
        )
        attempt_fields = [getattr(AttemptRow, name) for name in ATTEMPT_COLUMNS]
        self.attempts = self._sql(
            AttemptRow.select(JobRow.id, *attempt_fields)
            .join(JobRow, on=(JobRow.create_sequence == AttemptRow.create_sequence))
            .where(Tuple(JobRow.id, AttemptRow.number).in_(wanted))
        )
        old = RequestRow.select(RequestRow.principal, RequestRow.request_id).order_by(RequestRow.time)
        self.old_requests = self._sql(old.where(RequestRow.time < SQL(":older_than")).limit(SQL(":limit")))

    def _build_log(self) -> None:
        advance = {
            LogRow.head: LogRow.head + SQL(":count"),
            LogRow.bytes: LogRow.bytes + SQL(":bytes"),
            LogRow.requests: LogRow.requests + SQL(":requests"),
            LogRow.time: SQL("MAX(time, :now)"),
        }
        self.advance_log = self._sql(LogRow.update(advance).returning(LogRow.head, LogRow.requests))
        self.trim_events = self._sql(EventRow.delete().where(EventRow.sequence <= SQL(":through")))
        self.move_horizon = self._sql(
            HorizonRow.update(
                {
                    HorizonRow.sequence: SQL(":through"),
                    HorizonRow.event_check: SQL(":event_check"),
                    HorizonRow.bytes: HorizonRow.bytes + SQL(":bytes"),
                }
            )
        )
