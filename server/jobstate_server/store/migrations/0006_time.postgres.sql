-- The store's own time: the newest that was stored, how far it is ahead of the database's clock, and what follows pauses.
-- A program that does not know it would let time go back, so it may not use the result.
-- usable_from: 6
ALTER TABLE "log" ADD COLUMN "time" BIGINT NOT NULL DEFAULT 0;
ALTER TABLE "log" ADD COLUMN "clock_offset" BIGINT NOT NULL DEFAULT 0;
ALTER TABLE "log" ADD COLUMN "clock_set" BIGINT NOT NULL DEFAULT 0;
ALTER TABLE "log" ADD COLUMN "grace_until" BIGINT NOT NULL DEFAULT 0;
ALTER TABLE "log" ADD COLUMN "removal_held_until" BIGINT NOT NULL DEFAULT 0;
UPDATE "log" SET "time" = COALESCE((SELECT event."time" FROM "event" WHERE event."sequence" = "log"."head"), 0);
