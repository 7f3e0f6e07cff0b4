-- Needs and groups.
-- usable_from: 12
-- Older programs would hand out jobs whose needs are not met, and would not count the members of groups.
ALTER TABLE "job" ADD COLUMN "cancel_cause_id" {text};
ALTER TABLE "job" ADD COLUMN "needs_count" {smallint} NOT NULL DEFAULT 0;
ALTER TABLE "job" ADD COLUMN "open_needs" {smallint} NOT NULL DEFAULT 0;
ALTER TABLE "job" ADD COLUMN "needed" {boolean} NOT NULL DEFAULT false;
ALTER TABLE "job" ADD COLUMN "group_id" {text};
ALTER TABLE "job" ADD COLUMN "group_key" {bigint};
ALTER TABLE "job" ADD COLUMN "awaited_group" {text};
ALTER TABLE "job" ADD COLUMN "group_depth" {smallint} NOT NULL DEFAULT 0;
CREATE TABLE "need" ("child_key" {bigint} NOT NULL, "position" {integer} NOT NULL, "parent_key" {bigint} NOT NULL, "parent_id" {text} NOT NULL, "condition" {integer} NOT NULL, "outcome" {integer}, PRIMARY KEY ("child_key", "position"));
CREATE TABLE "needed" ("parent_key" {bigint} NOT NULL PRIMARY KEY, "unfinished" {bigint} NOT NULL);
CREATE TABLE "members" ("group_key" {bigint} NOT NULL PRIMARY KEY, "group_id" {text} NOT NULL, "parent_key" {bigint}, "depth" {integer} NOT NULL, "tolerated_failures" {bigint} NOT NULL, "on_excess" {integer} NOT NULL, "total" {bigint} NOT NULL DEFAULT 0, "completed" {bigint} NOT NULL DEFAULT 0, "permanently_failed" {bigint} NOT NULL DEFAULT 0, "cancelled" {bigint} NOT NULL DEFAULT 0, "progress" {bigint} NOT NULL DEFAULT 0, "tokens" {bigint} NOT NULL DEFAULT 0, "cost_nano" {bigint} NOT NULL DEFAULT 0, "closed" {boolean} NOT NULL DEFAULT false, "stopping" {boolean} NOT NULL DEFAULT false, "final" {boolean} NOT NULL DEFAULT false, "progress_time" {bigint} NOT NULL DEFAULT 0, "due_time" {bigint}) WITH (fillfactor = 50);
CREATE INDEX "need_by_parent" ON "need" ("parent_key", "child_key");
CREATE INDEX "need_open" ON "need" ("parent_key", "child_key") WHERE outcome IS NULL;
CREATE INDEX "members_due" ON "members" ("due_time") WHERE due_time IS NOT NULL;
CREATE INDEX "job_by_group" ON "job" ("group_key", "create_time", "create_sequence") WHERE group_key IS NOT NULL;
CREATE INDEX "job_unfinished_member" ON "job" ("group_key", "create_sequence") WHERE group_key IS NOT NULL AND state IN (1, 2, 4, 5);
