// One sample of BullMQ's flows: a parent with so many children, worked off, until the parent has been worked off too.
//
// Usage: node bullmq_flow.mjs PORT CHILDREN CONCURRENCY. A tenth as many children go before, untimed. Prints a line of
// JSON.
import { FlowProducer, Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { Tally, metadata } from "./shared.mjs";

const [port, children, concurrency] = process.argv.slice(2).map(Number);
const connect = () => new Redis({ port, host: "127.0.0.1", maxRetriesPerRequest: null });
const connection = connect();
const queues = { members: new Queue("members", { connection }), groups: new Queue("groups", { connection }) };
const flows = new FlowProducer({ connection });
await flows.waitUntilReady();

let failed = 0;
const tally = new Tally();
const workers = [
  new Worker("members", async () => ({ result_count: 12 }), { connection: connect(), concurrency }),
  new Worker("groups", async () => ({ result_count: 12 }), { connection: connect() }),
];
for (const worker of workers) {
  await worker.waitUntilReady();
  worker.on("failed", () => (failed += 1));
  worker.on("error", () => (failed += 1));
}
workers[1].on("completed", () => tally.add());

const sample = async (number, count) => {
  const done = tally.reaches(number);
  const began = performance.now();
  await flows.add({
    name: "group",
    queueName: "groups",
    children: Array.from({ length: count }, () => ({ name: "member", queueName: "members", data: metadata })),
  });
  await done;
  return (performance.now() - began) / 1000;
};
const before = Math.floor(children / 10);
await sample(1, before);
const seconds = await sample(2, children);

const stored = (await queues.members.getCompletedCount()) - before;
const ended = await queues.groups.getCompletedCount();
for (const worker of workers) await worker.close();
console.log(JSON.stringify({ jobs: children, seconds, stored: ended === 2 ? stored : 0, failed }));
process.exit(0);
