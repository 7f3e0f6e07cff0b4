-- When the store was made: from then on its duties are owed their instants.
-- usable_from: 1
ALTER TABLE "log" ADD COLUMN "create_time" BIGINT NOT NULL DEFAULT 0;
