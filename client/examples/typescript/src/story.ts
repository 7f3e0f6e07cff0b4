/**
 * The life of a job, in TypeScript: create, start, report and complete it, with a watch that resumes by itself when the
 * server restarts, and an error that the program reads.
 *
 *     npm ci && npm start -- 127.0.0.1:50051
 *
 * Every change has a requestId, so that it may be repeated when a connection breaks. Every report names the attempt
 * that start returned, so that it is never counted for another worker. watch.ts and connection.ts are made to be copied.
 * worker.ts is a worker that the server hands its jobs to.
 */

import { randomUUID } from "node:crypto";
import { ConnectError, createClient, type Client } from "@connectrpc/connect";
import { JobService, WatchStart } from "@jobstate/grpc";
import { ErrorInfoSchema } from "@jobstate/grpc/google/rpc";
import { connect } from "./connection.js";
import { follow } from "./watch.js";

async function story(address: string): Promise<void> {
  const jobs = createClient(JobService, connect(address));

  const created = await jobs.create({
    jobType: "clean_transcript",
    sourceId: "episode-12",
    metadata: { language: "en" },
    requestId: randomUUID(),
  });
  const id = created.job!.id;
  console.log(`created ${id}`);

  const watching = namesOf(jobs, id);

  const started = await jobs.start({ id, worker: "worker-1", requestId: randomUUID() });
  const attempt = started.job!.attempt;
  console.log(`started attempt ${attempt}`);

  // A report has no requestId: a repeat reports the same again.
  const reported = await jobs.updateProgress({ id, attempt, progress: 50, message: "half way" });
  console.log(`progress ${reported.job!.progress} ${reported.job!.progressMessage}`);

  await jobs.complete({ id, attempt, resultCount: 12n, requestId: randomUUID() });
  console.log("completed");

  try {
    await jobs.cancel({ id, reason: "too late", requestId: randomUUID() });
    throw new Error("a completed job was cancelled");
  } catch (error) {
    printRefusal(error);
  }

  console.log(`events: ${(await watching).join(", ")}`);
}

/** The names of the events of a job, up to its end. */
async function namesOf(jobs: Client<typeof JobService>, id: string): Promise<string[]> {
  const names: string[] = [];
  const position = { case: "start", value: WatchStart.EARLIEST } as const;
  for await (const response of follow(jobs, { jobIds: [id], position, untilFinal: true })) {
    names.push(...response.events.map((event) => event.name));
  }
  return names;
}

/**
 * Prints why a step was not allowed. Any other error is thrown on.
 *
 * A worker whose report is refused like this, or with ATTEMPT_SUPERSEDED, discards the work. Usage in that report is
 * not counted: send it with `jobs.reportUsage({ id, attempt, usage })`, which is accepted in any state of the job.
 */
function printRefusal(error: unknown): void {
  const [info] = ConnectError.from(error).findDetails(ErrorInfoSchema);
  if (info?.reason !== "TRANSITION_NOT_ALLOWED") {
    throw error;
  }
  // Triggers with commas between; none in a final state.
  console.log(`refused ${info.reason}: ${info.metadata["state"]} allows ${info.metadata["allowed"] || "nothing"}`);
}

const [address] = process.argv.slice(2);
if (address === undefined) {
  console.error("usage: npm start -- HOST:PORT");
  process.exit(2);
}
await story(address);
