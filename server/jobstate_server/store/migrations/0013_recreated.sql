-- The job that another was made from.
-- usable_from: 12
-- Older programs leave it NULL.
ALTER TABLE "job" ADD COLUMN "recreated_from" {text};
