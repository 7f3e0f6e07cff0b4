-- Columns and an index carry the names that the program uses for them.
-- usable_from: 7
-- Older programs would look for the old names.
ALTER TABLE "replica" RENAME COLUMN "heard_time" TO "renew_time";
ALTER TABLE "log" RENAME COLUMN "removal_held_until" TO "removal_suspended_until";
DROP INDEX "event_by_stretch";
CREATE INDEX "event_by_segment" ON "event" (("sequence" >> 12), "job_id");
