-- Recurring entries: of what schedule the instants are, and the job of the last one.
-- usable_from: 12
ALTER TABLE "task_run" ADD COLUMN "definition" {text} NOT NULL DEFAULT '';
ALTER TABLE "task_run" ADD COLUMN "job_id" {text} NOT NULL DEFAULT '';
