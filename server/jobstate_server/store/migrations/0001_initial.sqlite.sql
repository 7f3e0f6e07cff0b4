-- The first tables. What each is for stands in store/models.py.
-- usable_from: 1
CREATE TABLE "attempt" ("job_id" TEXT NOT NULL, "number" INTEGER NOT NULL, "start_time" INTEGER NOT NULL, "end_time" INTEGER NOT NULL, "outcome" INTEGER NOT NULL, "worker" TEXT NOT NULL, "tokens" INTEGER NOT NULL, "cost_nano" INTEGER NOT NULL, "error_code" TEXT, "error_message" TEXT, "error_retryable" INTEGER, "error_details" BLOB, "error_attempt" INTEGER, "error_time" INTEGER, PRIMARY KEY ("job_id", "number")) STRICT, WITHOUT ROWID;
CREATE TABLE "event" ("sequence" INTEGER NOT NULL PRIMARY KEY, "time" INTEGER NOT NULL, "job_id" TEXT NOT NULL, "job_type" TEXT NOT NULL, "source_id" TEXT NOT NULL, "principal" TEXT NOT NULL, "type" INTEGER NOT NULL, "payload" BLOB NOT NULL) STRICT;
CREATE INDEX "event_by_job" ON "event" ("job_id", "sequence");
CREATE TABLE "horizon" ("id" TEXT NOT NULL PRIMARY KEY, "sequence" INTEGER NOT NULL, "event_check" INTEGER NOT NULL, "bytes" INTEGER NOT NULL) STRICT;
CREATE TABLE "job" ("id" TEXT NOT NULL PRIMARY KEY, "job_type" TEXT NOT NULL, "source_id" TEXT NOT NULL, "principal" TEXT NOT NULL, "state" INTEGER NOT NULL, "version" INTEGER NOT NULL, "progress" INTEGER NOT NULL, "progress_message" TEXT NOT NULL, "metadata" BLOB NOT NULL, "result" BLOB NOT NULL, "result_count" INTEGER NOT NULL, "attempt" INTEGER NOT NULL, "claimed" INTEGER NOT NULL, "worker" TEXT NOT NULL, "retry_count" INTEGER NOT NULL, "max_retries" INTEGER NOT NULL, "timeout" INTEGER, "retry_delay" INTEGER, "estimated_tokens" INTEGER NOT NULL, "estimated_cost_nano" INTEGER NOT NULL, "attempt_tokens" INTEGER NOT NULL, "attempt_cost_nano" INTEGER NOT NULL, "create_time" INTEGER NOT NULL, "update_time" INTEGER NOT NULL, "start_time" INTEGER, "complete_time" INTEGER, "next_retry_time" INTEGER, "attempt_deadline" INTEGER, "due_time" INTEGER, "heard_time" INTEGER NOT NULL, "duration" INTEGER NOT NULL, "cancel_reason" TEXT NOT NULL, "error_code" TEXT, "error_message" TEXT, "error_retryable" INTEGER, "error_details" BLOB, "error_attempt" INTEGER, "error_time" INTEGER) STRICT;
CREATE INDEX "job_by_create_time" ON "job" ("create_time", "id");
CREATE INDEX "job_by_state" ON "job" ("state", "create_time", "id");
CREATE INDEX "job_by_type" ON "job" ("job_type", "state", "create_time", "id");
CREATE INDEX "job_by_source" ON "job" ("source_id", "create_time", "id");
CREATE INDEX "job_by_due_time" ON "job" ("due_time", "id") WHERE due_time IS NOT NULL;
CREATE INDEX "job_by_complete_time" ON "job" ("complete_time", "id") WHERE complete_time IS NOT NULL;
CREATE TABLE "log" ("id" TEXT NOT NULL PRIMARY KEY, "head" INTEGER NOT NULL, "bytes" INTEGER NOT NULL) STRICT;
CREATE TABLE "request" ("principal" TEXT NOT NULL, "request_id" TEXT NOT NULL, "rpc" TEXT NOT NULL, "digest" BLOB NOT NULL, "job_ids" TEXT NOT NULL, "time" INTEGER NOT NULL, PRIMARY KEY ("principal", "request_id")) STRICT, WITHOUT ROWID;
CREATE INDEX "request_by_time" ON "request" ("time");
CREATE TABLE "schema" ("id" TEXT NOT NULL PRIMARY KEY, "version" INTEGER NOT NULL, "usable_from" INTEGER NOT NULL) STRICT;
CREATE TABLE "tally" ("job_type" TEXT NOT NULL, "measure" INTEGER NOT NULL, "bucket" INTEGER NOT NULL, "value" INTEGER NOT NULL, PRIMARY KEY ("job_type", "measure", "bucket")) STRICT, WITHOUT ROWID;
CREATE TABLE "task_run" ("name" TEXT NOT NULL PRIMARY KEY, "last_due" INTEGER NOT NULL, "token" TEXT NOT NULL, "start_time" INTEGER NOT NULL, "end_time" INTEGER, "outcome" TEXT NOT NULL) STRICT;
