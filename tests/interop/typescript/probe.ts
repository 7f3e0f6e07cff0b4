/** What the tests ask of a TypeScript program: `probe KIND HOST:PORT`. Built inside a copy of client/examples/typescript. */

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import type { JsonObject, MessageInitShape } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Client } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { EventType, JobService, JobUpdateSchema, WatchResponseKind, WatchStart } from "@jobstate/grpc";
import { BadRequestSchema, ErrorInfoSchema, ResourceInfoSchema, RetryInfoSchema } from "@jobstate/grpc/google/rpc";
import { follow } from "./watch.js";

type Jobs = Client<typeof JobService>;
type Update = MessageInitShape<typeof JobUpdateSchema>;

const MEBIBYTE = 1 << 20;

/** Prints every event, and keeps the cursor in a file if one is named. */
async function watch(jobs: Jobs, cursorFile: string | undefined, heartbeatS?: bigint): Promise<void> {
  const over = new AbortController();
  process.stdin.resume().on("end", () => over.abort());
  const kept = cursorFile !== undefined && existsSync(cursorFile) ? readFileSync(cursorFile, "utf8") : "";
  const position = kept
    ? ({ case: "cursor", value: kept } as const)
    : ({ case: "start", value: WatchStart.EARLIEST } as const);
  try {
    const heartbeatInterval = heartbeatS === undefined ? undefined : { seconds: heartbeatS };
    for await (const response of follow(jobs, { position, heartbeatInterval }, over.signal)) {
      for (const { sequence, name, type, job } of response.events) {
        console.log(`${sequence} ${name} ${job!.id}`);
        if (job!.id === "end-of-watch" && type === EventType.CANCELLED) {
          return;
        }
      }
      if (cursorFile !== undefined) {
        writeFileSync(cursorFile, response.cursor);
      }
    }
  } catch (error) {
    if (!over.signal.aborted) {
      throw error;
    }
  } finally {
    process.stdin.destroy();
  }
}

/** Prints what two bad calls are refused for. */
async function errors(jobs: Jobs): Promise<void> {
  await jobs.create({ jobType: "?", maxRetries: -1 }).catch(tell);
  await jobs.get({ id: "nobody" }).catch(tell);
}

/** Opens a watch, and prints how the server ends it. */
async function drained(jobs: Jobs): Promise<void> {
  try {
    for await (const response of jobs.watchEvents({})) {
      console.log(WatchResponseKind[response.kind]);
    }
  } catch (error) {
    tell(error);
  }
}

/** Makes a call that its deadline ends, and repeats it; before each it waits for a line. */
async function deadline(jobs: Jobs): Promise<void> {
  await jobs.listJobTypes({});
  console.log("connected");
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const request = { id: "once", jobType: "default", requestId: "the-same-both-times" };
  for (const timeoutMs of [200, 60_000]) {
    await lines.next();
    await jobs.create(request, { timeoutMs }).then((created) => console.log(`created ${created.job!.id}`), tell);
  }
  process.stdin.destroy();
}

/** Sends a message of this many MiB. */
async function large(jobs: Jobs, mebibytes: number): Promise<void> {
  await jobs.create({ jobType: "default", sourceId: "s".repeat(mebibytes * MEBIBYTE) }).catch(tell);
}

/** Reports on forty jobs in a batch with one report that no server can parse, then on that job by itself. */
async function poison(jobs: Jobs): Promise<void> {
  const ids = ["culprit", ...Array.from({ length: 40 }, (_, number) => `job-${number}`)];
  const report = (id: string, metadata?: JsonObject): Update => ({
    update: { case: "progress", value: { id, attempt: 1, progress: 50, metadata } },
  });
  const created = ids.flatMap((id): Update[] => [
    { update: { case: "create", value: { id, jobType: "default" } } },
    { update: { case: "start", value: { id } } },
  ]);
  const reports = ids.map((id) => report(id, id === "culprit" ? nested(500) : undefined));
  async function* batches(): AsyncGenerator<{ updates: Update[] }> {
    for (const updates of [created, reports, [report("culprit")]]) {
      yield { updates };
    }
  }
  for await (const { outcomes } of jobs.streamUpdates(batches())) {
    const refused = outcomes.filter(({ refusal }) => refusal !== undefined);
    const told = refused.flatMap(({ id, refusal }) => [id, refusal!.reason]);
    console.log([outcomes.length - refused.length, ...told].join(" "));
  }
}

/** Creates jobs with labels, and prints those that List finds by them, then the events that a watch finds. */
async function labels(jobs: Jobs): Promise<void> {
  const labelled: Record<string, Record<string, string>> = {
    first: { tenant: "acme", "app/release": "7.1" },
    second: { tenant: "other", "app/release": "7.1" },
    third: { tenant: "acme", "app/release": "Zoë" },
  };
  for (const [id, labels] of Object.entries(labelled)) {
    await jobs.create({ id, jobType: "default", labels });
  }
  await jobs.cancel({ id: "third" });
  const filters: Record<string, string>[] = [{ tenant: "acme" }, { tenant: "acme", "app/release": "Zoë" }];
  for (const labels of filters) {
    const found = await jobs.list({ labels });
    console.log(found.jobs.map(({ id }) => id).sort().join(" "));
  }
  const position = { case: "start", value: WatchStart.EARLIEST } as const;
  for await (const { events } of jobs.watchEvents({ labels: { "app/release": "Zoë" }, position, follow: false })) {
    for (const { name, job } of events) {
      console.log(`${name} ${job!.id} ${job!.labels["tenant"]}`);
    }
  }
  await jobs.create({ jobType: "default", labels: { "a=b": "" } }).catch(tell);
}

/** A document with this many levels. */
function nested(levels: number): JsonObject {
  let document: JsonObject = {};
  for (let level = 0; level < levels; level++) {
    document = { k: document };
  }
  return document;
}

/** Prints the code of an error, the reason, and what stands beside it. */
function tell(reason: unknown): void {
  const error = ConnectError.from(reason);
  const said = [Code[error.code]];
  for (const info of error.findDetails(ErrorInfoSchema)) {
    const facts = ["job_id", "size_max"].filter((key) => key in info.metadata);
    said.push(info.domain, info.reason, ...facts.map((key) => `${key}=${info.metadata[key]}`));
  }
  for (const { fieldViolations } of error.findDetails(BadRequestSchema)) {
    said.push(...fieldViolations.map(({ field }) => `field=${field}`));
  }
  for (const { resourceName } of error.findDetails(ResourceInfoSchema)) {
    said.push(`resource=${resourceName}`);
  }
  for (const { retryDelay } of error.findDetails(RetryInfoSchema)) {
    said.push(`retry_delay=${durationMs(retryDelay!) > 0}`);
  }
  console.log(said.join(" "));
}

const [kind, address, argument] = process.argv.slice(2);
const jobs = createClient(JobService, createGrpcTransport({ baseUrl: `http://${address}` }));
const kinds: Record<string, () => Promise<void>> = {
  watch: () => watch(jobs, argument),
  heartbeats: () => watch(jobs, undefined, 1n),
  errors: () => errors(jobs),
  drained: () => drained(jobs),
  deadline: () => deadline(jobs),
  large: () => large(jobs, Number(argument)),
  poison: () => poison(jobs),
  labels: () => labels(jobs),
};
await kinds[kind!]!();
