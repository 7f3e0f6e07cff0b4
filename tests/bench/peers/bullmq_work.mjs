// One sample of BullMQ: add jobs, work them off with three progress reports each, see that they can be read.
// Usage: node bullmq_work.mjs PORT JOBS CONCURRENCY PIPELINING. Prints one line of JSON.
import { Job, Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const [port, jobs, concurrency, pipelining] = process.argv.slice(2).map(Number);
const ADDED_AT_ONCE = 1000;
const READ_BACK = 50;

const connect = () =>
  new Redis({ port, host: "127.0.0.1", maxRetriesPerRequest: null, enableAutoPipelining: pipelining === 1 });
const metadata = Object.fromEntries(Array.from({ length: 8 }, (_, key) => [`key-${key}`, "v".repeat(12)]));
const ended = [];
const reporting = connect();
const queue = new Queue("bench", { connection: reporting });
await queue.waitUntilReady();

const work = async (job) => {
  for (const percent of [25, 50, 75]) await job.updateProgress({ percent, message: "half way there" });
  return { result_count: 12 };
};
const worker = new Worker("bench", work, { connection: connect(), concurrency, autorun: false });
await worker.waitUntilReady();
let failed = 0;
const done = new Promise((resolve) => {
  worker.on("completed", (job) => ended.push(job.id) === jobs && resolve());
  worker.on("failed", () => (failed += 1));
  worker.on("error", () => (failed += 1));
});

const began = performance.now();
const running = worker.run();
for (let first = 0; first < jobs; first += ADDED_AT_ONCE) {
  const some = Array.from({ length: Math.min(ADDED_AT_ONCE, jobs - first) }, () => ({ name: "bench", data: metadata }));
  await queue.addBulk(some);
}
await done;
const seconds = (performance.now() - began) / 1000;

let readable = await queue.getCompletedCount();
for (const id of ended.slice(-READ_BACK)) {
  const job = await Job.fromId(queue, id);
  if ((await job.getState()) !== "completed" || job.progress.percent !== 75) readable -= 1;
}
await worker.close();
await running;
await queue.close();
console.log(JSON.stringify({ jobs: ended.length, seconds, readable, failed }));
process.exit(0);
