-- The key of a job is the sequence of the event that created it, in place of its id. Jobs made before that sequence was
-- kept get negative keys, in the order of their creation.
-- usable_from: 8
-- Older programs would write attempts by the id of the job.
UPDATE "job" SET "create_sequence" = -old.number FROM (SELECT "id", row_number() OVER (ORDER BY "create_time" DESC, "id" DESC) AS number FROM "job" WHERE "create_sequence" = 0) AS old WHERE "job"."id" = old."id";
UPDATE "request" SET "create_sequence" = NULL WHERE "create_sequence" = 0;
CREATE TABLE "new_attempt" ("create_sequence" BIGINT NOT NULL, "number" INTEGER NOT NULL, "start_time" BIGINT NOT NULL, "end_time" BIGINT NOT NULL, "outcome" INTEGER NOT NULL, "worker" TEXT COLLATE "C" NOT NULL, "tokens" BIGINT NOT NULL, "cost_nano" BIGINT NOT NULL, "error_code" TEXT COLLATE "C", "error_message" TEXT COLLATE "C", "error_retryable" BOOLEAN, "error_attempt" INTEGER, "error_time" BIGINT, "error_details" BYTEA, "claim_time" BIGINT);
INSERT INTO "new_attempt" ("create_sequence", "number", "start_time", "end_time", "outcome", "worker", "tokens", "cost_nano", "error_code", "error_message", "error_retryable", "error_attempt", "error_time", "error_details", "claim_time") SELECT job."create_sequence", attempt."number", attempt."start_time", attempt."end_time", attempt."outcome", attempt."worker", attempt."tokens", attempt."cost_nano", attempt."error_code", attempt."error_message", attempt."error_retryable", attempt."error_attempt", attempt."error_time", attempt."error_details", attempt."claim_time" FROM "attempt" JOIN "job" ON attempt."job_id" = job."id";
DROP TABLE "attempt";
ALTER TABLE "new_attempt" RENAME TO "attempt";
ALTER TABLE "attempt" ADD PRIMARY KEY ("create_sequence", "number");
ALTER TABLE "job" DROP CONSTRAINT "job_pkey";
ALTER TABLE "job" ADD PRIMARY KEY ("create_sequence");
ALTER TABLE "job" ALTER COLUMN "create_sequence" DROP DEFAULT;
DROP INDEX "job_by_create_time";
DROP INDEX "job_by_state";
DROP INDEX "job_by_type";
DROP INDEX "job_by_source";
DROP INDEX "job_by_due_time";
DROP INDEX "job_by_complete_time";
CREATE UNIQUE INDEX "job_by_id" ON "job" ("id");
CREATE INDEX "job_by_create_time" ON "job" ("create_time", "create_sequence");
CREATE INDEX "job_by_state" ON "job" ("state", "create_time", "create_sequence");
CREATE INDEX "job_by_type" ON "job" ("job_type", "state", "create_time", "create_sequence");
CREATE INDEX "job_by_source" ON "job" ("source_id", "create_time", "create_sequence");
CREATE INDEX "job_by_due_time" ON "job" ("due_time", "create_sequence") WHERE due_time IS NOT NULL;
CREATE INDEX "job_by_complete_time" ON "job" ("complete_time", "create_sequence") WHERE complete_time IS NOT NULL;
