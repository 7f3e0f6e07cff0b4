// One sample of BullMQ: add jobs, work them off, see that they can be read.
//
// Usage: node bullmq_work.mjs PORT JOBS REPORTS CONCURRENCY PIPELINING AT_ONCE. AT_ONCE is how many jobs one call adds;
// with 1, 64 calls are under way. A tenth as many jobs go before, untimed. Prints a line of JSON.
import { Job, Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { PERCENTAGES, Tally, give, metadata } from "./shared.mjs";

const [port, jobs, reports, concurrency, pipelining, atOnce] = process.argv.slice(2).map(Number);
const READ_BACK = 50;

const connect = () =>
  new Redis({ port, host: "127.0.0.1", maxRetriesPerRequest: null, enableAutoPipelining: pipelining === 1 });
const reporting = connect();
const queue = new Queue("bench", { connection: reporting });
await queue.waitUntilReady();

const work = async (job) => {
  for (const percent of PERCENTAGES.slice(0, reports)) {
    await job.updateProgress({ percent, message: "half way there" });
  }
  return { result_count: 12 };
};
const worker = new Worker("bench", work, { connection: connect(), concurrency, autorun: false });
await worker.waitUntilReady();
const ended = [];
const tally = new Tally();
let failed = 0;
worker.on("completed", (job) => {
  ended.push(job.id);
  tally.add();
});
worker.on("failed", () => (failed += 1));
worker.on("error", () => (failed += 1));
const running = worker.run();

const add = (numbers) =>
  atOnce > 1
    ? queue.addBulk(numbers.map(() => ({ name: "bench", data: metadata })))
    : queue.add("bench", metadata);
const sample = async (first, count) => {
  const done = tally.reaches(first + count);
  const began = performance.now();
  await give(first, count, atOnce, add);
  await done;
  return (performance.now() - began) / 1000;
};
const before = Math.floor(jobs / 10);
await sample(0, before);
const seconds = await sample(before, jobs);

let stored = (await queue.getCompletedCount()) - before;
for (const id of ended.slice(-READ_BACK)) {
  const job = await Job.fromId(queue, id);
  const reported = reports === 0 || job.progress.percent === PERCENTAGES[reports - 1];
  if ((await job.getState()) !== "completed" || !reported || job.returnvalue.result_count !== 12) stored -= 1;
}
await worker.close();
await running;
await queue.close();
console.log(JSON.stringify({ jobs: new Set(ended).size - before, seconds, stored, failed }));
process.exit(0);
