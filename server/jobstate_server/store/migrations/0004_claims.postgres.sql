-- When attempts are claimed, from where all clocks run. Of attempts claimed before, their beginning is the nearest known.
-- usable_from: 4
-- Older programs would fail attempts for waiting.
ALTER TABLE "job" ADD COLUMN "claim_time" BIGINT;
ALTER TABLE "attempt" ADD COLUMN "claim_time" BIGINT;
UPDATE "job" SET "claim_time" = "start_time" WHERE "claimed";
UPDATE "attempt" SET "claim_time" = "start_time";
CREATE INDEX "job_by_unclaimed" ON "job" ("job_type", "start_time") WHERE state = 2 AND NOT claimed;
