-- How far a change of many jobs has come.
-- usable_from: 12
-- Older programs take its request id for that of another call, and refuse it.
ALTER TABLE "request" ADD COLUMN "bulk" {text};
