-- The key of a job is the sequence of the event that created it, in place of its id, and its documents are in tables of
-- their own. Jobs made before that sequence was kept get negative keys, in the order of their creation.
-- usable_from: 8
-- Older programs would look for the documents in the job.
UPDATE "job" SET "create_sequence" = -old.number FROM (SELECT "id", row_number() OVER (ORDER BY "create_time" DESC, "id" DESC) AS number FROM "job" WHERE "create_sequence" = 0) AS old WHERE "job"."id" = old."id";
UPDATE "request" SET "create_sequence" = NULL WHERE "create_sequence" = 0;
CREATE TABLE "job_metadata" ("create_sequence" INTEGER NOT NULL PRIMARY KEY, "content" BLOB NOT NULL) STRICT;
INSERT INTO "job_metadata" ("create_sequence", "content") SELECT "create_sequence", "metadata" FROM "job" WHERE length("metadata") > 0;
CREATE TABLE "job_result" ("create_sequence" INTEGER NOT NULL PRIMARY KEY, "content" BLOB NOT NULL) STRICT;
INSERT INTO "job_result" ("create_sequence", "content") SELECT "create_sequence", "result" FROM "job" WHERE length("result") > 0;
CREATE TABLE "job_error_details" ("create_sequence" INTEGER NOT NULL PRIMARY KEY, "content" BLOB NOT NULL) STRICT;
INSERT INTO "job_error_details" ("create_sequence", "content") SELECT "create_sequence", "error_details" FROM "job" WHERE length("error_details") > 0;
CREATE TABLE "new_attempt" ("create_sequence" INTEGER NOT NULL, "number" INTEGER NOT NULL, "start_time" INTEGER NOT NULL, "end_time" INTEGER NOT NULL, "outcome" INTEGER NOT NULL, "worker" TEXT NOT NULL, "tokens" INTEGER NOT NULL, "cost_nano" INTEGER NOT NULL, "error_code" TEXT, "error_message" TEXT, "error_retryable" INTEGER, "error_attempt" INTEGER, "error_time" INTEGER, "error_details" BLOB, "claim_time" INTEGER, PRIMARY KEY ("create_sequence", "number")) STRICT, WITHOUT ROWID;
-- Read in the order in which the jobs were made, so that new rows are added at the end.
INSERT INTO "new_attempt" ("create_sequence", "number", "start_time", "end_time", "outcome", "worker", "tokens", "cost_nano", "error_code", "error_message", "error_retryable", "error_attempt", "error_time", "error_details", "claim_time") SELECT job."create_sequence", attempt."number", attempt."start_time", attempt."end_time", attempt."outcome", attempt."worker", attempt."tokens", attempt."cost_nano", attempt."error_code", attempt."error_message", attempt."error_retryable", attempt."error_attempt", attempt."error_time", attempt."error_details", attempt."claim_time" FROM "job" CROSS JOIN "attempt" ON attempt."job_id" = job."id";
DROP TABLE "attempt";
ALTER TABLE "new_attempt" RENAME TO "attempt";
CREATE TABLE "new_job" ("create_sequence" INTEGER NOT NULL PRIMARY KEY, "id" TEXT NOT NULL, "job_type" TEXT NOT NULL, "source_id" TEXT NOT NULL, "principal" TEXT NOT NULL, "state" INTEGER NOT NULL, "version" INTEGER NOT NULL, "progress" INTEGER NOT NULL, "progress_message" TEXT NOT NULL, "result_count" INTEGER NOT NULL, "attempt" INTEGER NOT NULL, "claimed" INTEGER NOT NULL, "worker" TEXT NOT NULL, "retry_count" INTEGER NOT NULL, "max_retries" INTEGER NOT NULL, "timeout" INTEGER, "retry_delay" INTEGER, "estimated_tokens" INTEGER NOT NULL, "estimated_cost_nano" INTEGER NOT NULL, "attempt_tokens" INTEGER NOT NULL, "attempt_cost_nano" INTEGER NOT NULL, "create_time" INTEGER NOT NULL, "update_time" INTEGER NOT NULL, "start_time" INTEGER, "claim_time" INTEGER, "complete_time" INTEGER, "next_retry_time" INTEGER, "attempt_deadline" INTEGER, "due_time" INTEGER, "heard_time" INTEGER NOT NULL, "duration" INTEGER NOT NULL, "cancel_reason" TEXT NOT NULL, "error_code" TEXT, "error_message" TEXT, "error_retryable" INTEGER, "error_attempt" INTEGER, "error_time" INTEGER) STRICT;
INSERT INTO "new_job" ("create_sequence", "id", "job_type", "source_id", "principal", "state", "version", "progress", "progress_message", "result_count", "attempt", "claimed", "worker", "retry_count", "max_retries", "timeout", "retry_delay", "estimated_tokens", "estimated_cost_nano", "attempt_tokens", "attempt_cost_nano", "create_time", "update_time", "start_time", "claim_time", "complete_time", "next_retry_time", "attempt_deadline", "due_time", "heard_time", "duration", "cancel_reason", "error_code", "error_message", "error_retryable", "error_attempt", "error_time") SELECT "create_sequence", "id", "job_type", "source_id", "principal", "state", "version", "progress", "progress_message", "result_count", "attempt", "claimed", "worker", "retry_count", "max_retries", "timeout", "retry_delay", "estimated_tokens", "estimated_cost_nano", "attempt_tokens", "attempt_cost_nano", "create_time", "update_time", "start_time", "claim_time", "complete_time", "next_retry_time", "attempt_deadline", "due_time", "heard_time", "duration", "cancel_reason", "error_code", "error_message", "error_retryable", "error_attempt", "error_time" FROM "job";
DROP TABLE "job";
ALTER TABLE "new_job" RENAME TO "job";
CREATE UNIQUE INDEX "job_by_id" ON "job" ("id");
CREATE INDEX "job_by_create_time" ON "job" ("create_time");
CREATE INDEX "job_by_state" ON "job" ("state", "create_time");
CREATE INDEX "job_by_type" ON "job" ("job_type", "state", "create_time");
CREATE INDEX "job_by_source" ON "job" ("source_id", "create_time");
CREATE INDEX "job_by_due_time" ON "job" ("due_time") WHERE due_time IS NOT NULL;
CREATE INDEX "job_by_complete_time" ON "job" ("complete_time") WHERE complete_time IS NOT NULL;
CREATE INDEX "job_by_unclaimed" ON "job" ("job_type", "start_time") WHERE state = 2 AND NOT claimed;
