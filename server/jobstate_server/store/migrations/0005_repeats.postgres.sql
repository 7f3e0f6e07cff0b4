-- Repeats: what a call with a request id did, so that its repeat answers for nothing else; and how many ids are kept.
-- What older programs write is answered for as far as it tells: every Start before made attempt 1 or a later one, and
-- of a call whose job's first event is not known, its time tells whether the job is older.
-- usable_from: 5
-- Older programs would not count.
ALTER TABLE "job" ADD COLUMN "create_sequence" BIGINT NOT NULL DEFAULT 0;
ALTER TABLE "request" ADD COLUMN "attempt" INTEGER NOT NULL DEFAULT 1;
ALTER TABLE "request" ADD COLUMN "create_sequence" BIGINT;
ALTER TABLE "log" ADD COLUMN "requests" BIGINT NOT NULL DEFAULT 0;
UPDATE "log" SET "requests" = (SELECT count(*) FROM "request");
