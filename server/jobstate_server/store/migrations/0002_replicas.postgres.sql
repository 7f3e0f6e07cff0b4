-- Replicas: which of them serve, and which of them runs a duty.
-- usable_from: 1
CREATE TABLE "replica" ("id" TEXT COLLATE "C" NOT NULL PRIMARY KEY, "heard_time" BIGINT NOT NULL);
ALTER TABLE "task_run" ADD COLUMN "replica" TEXT COLLATE "C" NOT NULL DEFAULT '';
