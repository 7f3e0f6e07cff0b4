-- The first tables. What each is for stands in store/models.py.
-- usable_from: 1
-- Texts compare by their bytes (COLLATE "C"), as in Python: pages are merged there. Rows that are rewritten in place leave
-- room in their pages, so that an update touches no index.
CREATE TABLE "attempt" ("job_id" TEXT COLLATE "C" NOT NULL, "number" INTEGER NOT NULL, "start_time" BIGINT NOT NULL, "end_time" BIGINT NOT NULL, "outcome" INTEGER NOT NULL, "worker" TEXT COLLATE "C" NOT NULL, "tokens" BIGINT NOT NULL, "cost_nano" BIGINT NOT NULL, "error_code" TEXT COLLATE "C", "error_message" TEXT COLLATE "C", "error_retryable" BOOLEAN, "error_details" BYTEA, "error_attempt" INTEGER, "error_time" BIGINT, PRIMARY KEY ("job_id", "number"));
CREATE TABLE "event" ("sequence" BIGINT NOT NULL PRIMARY KEY, "time" BIGINT NOT NULL, "job_id" TEXT COLLATE "C" NOT NULL, "job_type" TEXT COLLATE "C" NOT NULL, "source_id" TEXT COLLATE "C" NOT NULL, "principal" TEXT COLLATE "C" NOT NULL, "type" INTEGER NOT NULL, "payload" BYTEA NOT NULL);
CREATE INDEX "event_by_job" ON "event" ("job_id", "sequence");
CREATE TABLE "horizon" ("id" TEXT COLLATE "C" NOT NULL PRIMARY KEY, "sequence" BIGINT NOT NULL, "event_check" BIGINT NOT NULL, "bytes" BIGINT NOT NULL);
CREATE TABLE "job" ("id" TEXT COLLATE "C" NOT NULL PRIMARY KEY, "job_type" TEXT COLLATE "C" NOT NULL, "source_id" TEXT COLLATE "C" NOT NULL, "principal" TEXT COLLATE "C" NOT NULL, "state" INTEGER NOT NULL, "version" BIGINT NOT NULL, "progress" INTEGER NOT NULL, "progress_message" TEXT COLLATE "C" NOT NULL, "metadata" BYTEA NOT NULL, "result" BYTEA NOT NULL, "result_count" BIGINT NOT NULL, "attempt" INTEGER NOT NULL, "claimed" BOOLEAN NOT NULL, "worker" TEXT COLLATE "C" NOT NULL, "retry_count" INTEGER NOT NULL, "max_retries" INTEGER NOT NULL, "timeout" BIGINT, "retry_delay" BIGINT, "estimated_tokens" BIGINT NOT NULL, "estimated_cost_nano" BIGINT NOT NULL, "attempt_tokens" BIGINT NOT NULL, "attempt_cost_nano" BIGINT NOT NULL, "create_time" BIGINT NOT NULL, "update_time" BIGINT NOT NULL, "start_time" BIGINT, "complete_time" BIGINT, "next_retry_time" BIGINT, "attempt_deadline" BIGINT, "due_time" BIGINT, "heard_time" BIGINT NOT NULL, "duration" BIGINT NOT NULL, "cancel_reason" TEXT COLLATE "C" NOT NULL, "error_code" TEXT COLLATE "C", "error_message" TEXT COLLATE "C", "error_retryable" BOOLEAN, "error_details" BYTEA, "error_attempt" INTEGER, "error_time" BIGINT) WITH (fillfactor = 70);
CREATE INDEX "job_by_create_time" ON "job" ("create_time", "id");
CREATE INDEX "job_by_state" ON "job" ("state", "create_time", "id");
CREATE INDEX "job_by_type" ON "job" ("job_type", "state", "create_time", "id");
CREATE INDEX "job_by_source" ON "job" ("source_id", "create_time", "id");
CREATE INDEX "job_by_due_time" ON "job" ("due_time", "id") WHERE due_time IS NOT NULL;
CREATE INDEX "job_by_complete_time" ON "job" ("complete_time", "id") WHERE complete_time IS NOT NULL;
CREATE TABLE "log" ("id" TEXT COLLATE "C" NOT NULL PRIMARY KEY, "head" BIGINT NOT NULL, "bytes" BIGINT NOT NULL) WITH (fillfactor = 10);
CREATE TABLE "request" ("principal" TEXT COLLATE "C" NOT NULL, "request_id" TEXT COLLATE "C" NOT NULL, "rpc" TEXT COLLATE "C" NOT NULL, "digest" BYTEA NOT NULL, "job_ids" TEXT COLLATE "C" NOT NULL, "time" BIGINT NOT NULL, PRIMARY KEY ("principal", "request_id"));
CREATE INDEX "request_by_time" ON "request" ("time");
CREATE TABLE "schema" ("id" TEXT COLLATE "C" NOT NULL PRIMARY KEY, "version" INTEGER NOT NULL, "usable_from" INTEGER NOT NULL);
CREATE TABLE "tally" ("job_type" TEXT COLLATE "C" NOT NULL, "measure" INTEGER NOT NULL, "bucket" INTEGER NOT NULL, "value" BIGINT NOT NULL, PRIMARY KEY ("job_type", "measure", "bucket")) WITH (fillfactor = 50);
CREATE TABLE "task_run" ("name" TEXT COLLATE "C" NOT NULL PRIMARY KEY, "last_due" BIGINT NOT NULL, "token" TEXT COLLATE "C" NOT NULL, "start_time" BIGINT NOT NULL, "end_time" BIGINT, "outcome" TEXT COLLATE "C" NOT NULL);
