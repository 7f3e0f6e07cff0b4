-- Labels.
-- usable_from: 17
-- Older programs would create jobs without their labels, and would not delete labels with their jobs.
ALTER TABLE "job" ADD COLUMN "labels" {text};
CREATE TABLE "label" ("key" {text} NOT NULL, "value" {text} NOT NULL, "create_time" {bigint} NOT NULL, "create_sequence" {bigint} NOT NULL, PRIMARY KEY ("key", "value", "create_time", "create_sequence"));
