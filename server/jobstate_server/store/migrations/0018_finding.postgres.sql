-- Pages of what a worker has, of what failed in one way, and of what waits.
-- usable_from: 17
CREATE INDEX "job_by_worker" ON "job" ("worker", "create_time", "create_sequence") WHERE worker <> '';
CREATE INDEX "job_by_error" ON "job" ("error_code", "create_time", "create_sequence") WHERE error_code IS NOT NULL;
CREATE INDEX "job_held" ON "job" ("create_time", "create_sequence") WHERE held;
