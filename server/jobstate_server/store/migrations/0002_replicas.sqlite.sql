-- Replicas: which of them serve, and which of them runs a duty. And the index of a job's events, written to at one end.
-- usable_from: 1
CREATE TABLE "replica" ("id" TEXT NOT NULL PRIMARY KEY, "heard_time" INTEGER NOT NULL) STRICT;
ALTER TABLE "task_run" ADD COLUMN "replica" TEXT NOT NULL DEFAULT '';
DROP INDEX "event_by_job";
CREATE INDEX "event_by_stretch" ON "event" (("sequence" >> 12), "job_id");
