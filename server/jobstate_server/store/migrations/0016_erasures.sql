-- How often events were erased, so that servers that share the log notice it.
-- usable_from: 16
-- Older programs would refuse the cursors of erased events, and hand out what they have of them in memory.
ALTER TABLE "log" ADD COLUMN "erasures" {bigint} NOT NULL DEFAULT 0;
