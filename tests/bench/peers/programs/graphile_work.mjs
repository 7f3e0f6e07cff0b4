// One sample of Graphile Worker: add jobs, work them off, see that each was added, and that none is left.
//
// Usage: node graphile_work.mjs JOBS REPORTS CONCURRENCY AT_ONCE, and the database in BENCH_POSTGRES. AT_ONCE is how many
// jobs one call adds, and how many the worker fetches and completes together; with 1, 64 calls are under way, and the
// worker does each on its own. A tenth as many jobs go before, untimed. Prints a line of JSON.
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";
import { PERCENTAGES, Tally, give, metadata } from "./shared.mjs";

const [jobs, reports, concurrency, atOnce] = process.argv.slice(2).map(Number);
const LOCAL_QUEUE = 500;

const TABLE = "CREATE TABLE bench_progress (job_id bigint PRIMARY KEY, percent int NOT NULL, message text NOT NULL)";
const REPORT = {
  name: "report",
  text:
    "INSERT INTO bench_progress VALUES ($1, $2, 'half way there')" +
    " ON CONFLICT (job_id) DO UPDATE SET percent = excluded.percent, message = excluded.message",
};
const LEFT = "SELECT count(*)::int AS count FROM graphile_worker._private_jobs";

const connectionString = process.env.BENCH_POSTGRES;
const reader = new pg.Client({ connectionString });
await reader.connect();
const count = async (query) => (await reader.query(query)).rows[0].count;
const logger = new Logger(() => () => {});
const utils = await makeWorkerUtils({ connectionString, logger });
await utils.migrate();
await reader.query(TABLE);

const runs = new Map();
const tally = new Tally();
const bench = async (payload, helpers) => {
  const id = helpers.job.id;
  runs.set(id, (runs.get(id) ?? 0) + 1);
  for (const percent of PERCENTAGES.slice(0, reports)) {
    // It has no progress, so the reports go into a table of one's own.
    await helpers.withPgClient((client) => client.query({ ...REPORT, values: [id, percent] }));
  }
  tally.add();
};
const batches =
  atOnce > 1 ? { localQueue: { size: LOCAL_QUEUE }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } : {};
const runner = await run({
  logger,
  taskList: { bench },
  parsedCronItems: [],
  noHandleSignals: true,
  preset: { worker: { connectionString, concurrentJobs: concurrency, maxPoolSize: concurrency + 2, ...batches } },
});
let failed = 0;
runner.events.on("job:error", () => (failed += 1));

const added = new Set();
const add = async (numbers) => {
  const made =
    atOnce > 1
      ? await utils.addJobs(numbers.map(() => ({ identifier: "bench", payload: metadata })))
      : [await utils.addJob("bench", metadata)];
  for (const job of made) added.add(job.id);
};
const sample = async (first, jobs) => {
  const done = tally.reaches(first + jobs);
  const began = performance.now();
  await give(first, jobs, atOnce, add);
  await done;
  // The functions have returned. The jobs are done when they have left the table.
  while ((await count(LEFT)) > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  return (performance.now() - began) / 1000;
};
const before = Math.floor(jobs / 10);
await sample(0, before);
const seconds = await sample(before, jobs);

await runner.stop();
let stored = added.size - before - (await count(LEFT));
if (reports > 0) {
  const percent = PERCENTAGES[reports - 1];
  const reported = await count(`SELECT count(*)::int AS count FROM bench_progress WHERE percent = ${percent}`);
  stored = Math.min(stored, reported - before);
}
failed += [...runs.values()].filter((times) => times !== 1).length;
console.log(JSON.stringify({ jobs: runs.size - before, seconds, stored, failed }));
process.exit(0);
