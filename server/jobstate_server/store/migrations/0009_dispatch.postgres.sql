-- Dispatch: priorities, delays, leases, unique keys, and the order in which jobs are handed out.
-- usable_from: 9
-- Older programs would begin jobs that are delayed, and would not count what nobody has claimed.
ALTER TABLE "job" ADD COLUMN "level" INTEGER NOT NULL DEFAULT 3;
ALTER TABLE "job" ADD COLUMN "lane" TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE "job" ADD COLUMN "held" BOOLEAN NOT NULL DEFAULT false;
ALTER TABLE "job" ADD COLUMN "ready_time" BIGINT NOT NULL DEFAULT 0;
ALTER TABLE "job" ADD COLUMN "start_within" BIGINT;
ALTER TABLE "job" ADD COLUMN "lease" BIGINT;
ALTER TABLE "job" ADD COLUMN "unique_key" TEXT COLLATE "C";
ALTER TABLE "job" ADD COLUMN "unique_until" INTEGER NOT NULL DEFAULT 0;
ALTER TABLE "job" ADD COLUMN "cancel_cause" INTEGER NOT NULL DEFAULT 0;
ALTER TABLE "request" ADD COLUMN "attempts" TEXT COLLATE "C";
ALTER TABLE "request" ADD COLUMN "existing" BOOLEAN NOT NULL DEFAULT false;
UPDATE "job" SET "ready_time" = CASE WHEN "attempt" <= 1 OR "start_time" IS NULL THEN "create_time" ELSE "start_time" END;
CREATE INDEX "job_ready" ON "job" ("job_type", "lane", "level", "ready_time", "create_sequence") WHERE NOT held AND NOT claimed AND state IN (1, 2);
CREATE UNIQUE INDEX "job_unique" ON "job" ("principal", "job_type", "unique_key") WHERE unique_key IS NOT NULL AND state IN (1, 2, 4, 5) AND NOT (unique_until = 2 AND attempt > 0);
INSERT INTO "tally" ("job_type", "measure", "bucket", "value") SELECT "job_type", 11, 0, count(*) FROM "job" WHERE "state" = 2 AND NOT "claimed" GROUP BY "job_type";
