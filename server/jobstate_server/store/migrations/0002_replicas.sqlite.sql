-- Replicas: which of them serve, and which of them runs a duty.
-- usable_from: 1
CREATE TABLE "replica" ("id" TEXT NOT NULL PRIMARY KEY, "heard_time" INTEGER NOT NULL) STRICT;
ALTER TABLE "task_run" ADD COLUMN "replica" TEXT NOT NULL DEFAULT '';
