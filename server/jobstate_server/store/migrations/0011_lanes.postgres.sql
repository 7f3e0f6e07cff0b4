-- Lanes: turns, limits, rates and pauses.
-- usable_from: 11
-- Older programs would not count what is in lanes, and would hand out what is paused.
CREATE TABLE "dispatch" ("job_type" {text} NOT NULL PRIMARY KEY, "ready" {bigint} NOT NULL DEFAULT 0, "returned" {bigint} NOT NULL DEFAULT 0, "running" {bigint} NOT NULL DEFAULT 0, "resting" {bigint} NOT NULL DEFAULT 0, "turn_time" {bigint} NOT NULL DEFAULT 0, "next_even_time" {bigint} NOT NULL DEFAULT 0, "paused" {boolean} NOT NULL DEFAULT false, "pause_reason" {text} NOT NULL DEFAULT '') WITH (fillfactor = 50);
CREATE TABLE "lane" ("job_type" {text} NOT NULL, "lane" {text} NOT NULL, "ready" {bigint} NOT NULL DEFAULT 0, "returned" {bigint} NOT NULL DEFAULT 0, "running" {bigint} NOT NULL DEFAULT 0, "resting" {bigint} NOT NULL DEFAULT 0, "turn_time" {bigint} NOT NULL DEFAULT 0, "next_even_time" {bigint} NOT NULL DEFAULT 0, "held_until" {bigint} NOT NULL DEFAULT 0, "hold_reason" {text} NOT NULL DEFAULT '', "closed_until" {bigint} NOT NULL DEFAULT 0, "paused" {boolean} NOT NULL DEFAULT false, "pause_reason" {text} NOT NULL DEFAULT '', PRIMARY KEY ("job_type", "lane"));
CREATE INDEX "lane_turn" ON "lane" ("job_type", "running", "turn_time", "lane") WHERE ready > 0 AND closed_until = 0 AND NOT paused;
CREATE INDEX "lane_turn_of_jobs" ON "lane" ("job_type", (running + resting), "turn_time", "lane") WHERE ready > 0 AND closed_until = 0 AND NOT paused;
CREATE INDEX "lane_closed" ON "lane" ("job_type", "closed_until") WHERE ready > 0 AND closed_until > 0 AND NOT paused;
CREATE INDEX "job_returned" ON "job" ("job_type", "lane", "level", "ready_time", "create_sequence") WHERE state = 2 AND NOT claimed;
CREATE INDEX "job_ready_in_lanes" ON "job" ("job_type", "ready_time") WHERE lane <> '' AND NOT held AND NOT claimed AND state IN (1, 2);
