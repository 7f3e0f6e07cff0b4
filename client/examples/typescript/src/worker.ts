/**
 * A worker, in TypeScript: it takes jobs, does them, keeps their leases, and stops on SIGTERM.
 *
 *     npm ci && npm run worker -- 127.0.0.1:50051
 *
 * It is made to be copied, with connection.ts and watch.ts: `work` is yours, all else is what a worker has to do.
 */

import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { setTimeout as pause } from "node:timers/promises";
import type { JsonObject } from "@bufbuild/protobuf";
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Client } from "@connectrpc/connect";
import { EventType, JobService, type Job } from "@jobstate/grpc";
import { connect } from "./connection.js";
import { follow } from "./watch.js";

const JOB_TYPE = "clean_transcript";

/** Jobs at a time. */
const HANDS = 4;

/** How long to wait for the next job. A stop takes no longer. */
const WAIT_MS = 10_000;

/** How long a report may take. Later the lease is over anyway. */
const PATIENCE_MS = 60_000;

/**
 * Thrown by `work`, gives the job back: it counts neither as a failure nor as a retry. While the job is delayed, no
 * other job of its lane is handed out, for it would get the same answer.
 */
class Release extends Error {
  constructor(
    reason: string,
    readonly delayMs = 0,
  ) {
    super(reason);
  }
}

/** Ends a run whose attempt is over: the job was cancelled, or another worker has it. */
const OVER = new Error("the attempt is over");

/** Does a job and returns its result. It should end soon once the signal is aborted. */
async function work(job: Job, signal: AbortSignal): Promise<JsonObject> {
  const { seconds = 0, status = 200 } = job.metadata ?? {};
  await pause(Number(seconds) * 1_000, undefined, { signal });
  if (status === 429) {
    throw new Release("the service says 429", 20_000);
  }
  if (status === 500) {
    throw new Error("the service is broken");
  }
  return { text: "…" };
}

/** The running attempts. */
const running = new Map<string, AbortController>();

const nameOf = (job: Job): string => `${job.id} ${job.attempt}`;

/** Does jobs until stop, and then gives back those that have not ended. */
async function takeJobs(jobs: Client<typeof JobService>, stop: AbortSignal): Promise<void> {
  const giveBack = new AbortController();
  const runs = new Set<Promise<void>>();
  const stopped = new Promise<void>((resolve) => stop.addEventListener("abort", () => resolve()));
  for (let job; (job = await acquire(jobs, stop)); ) {
    const { id } = job;
    const ended = run(jobs, job, giveBack.signal).then((how) => {
      console.log(`${id}: ${how}`);
      runs.delete(ended);
    });
    runs.add(ended);
    if (runs.size === HANDS) {
      await Promise.race([stopped, ...runs]);
    }
  }
  // Not before: what is given back while we ask for work may come to us again.
  giveBack.abort();
  await Promise.all(runs);
}

/** The next job, or undefined once stop has come. */
async function acquire(jobs: Client<typeof JobService>, stop: AbortSignal): Promise<Job | undefined> {
  let requestId = randomUUID();
  while (!stop.aborted) {
    const request = { jobTypes: [JOB_TYPE], wait: durationFromMs(WAIT_MS), worker: hostname(), requestId };
    try {
      // A stop does not break off the call, for which the server may have a job by now.
      const answer = await jobs.acquire(request, { timeoutMs: WAIT_MS + PATIENCE_MS });
      if (answer.jobs.length > 0) {
        return answer.jobs[0];
      }
      requestId = randomUUID();
    } catch (error) {
      // Again with the same requestId: the job of an answer that was lost is still ours.
      console.error(String(error));
      await pause(1_000);
    }
  }
  return undefined;
}

/** Does a job, reports how it ended, and returns that in a word. */
async function run(jobs: Client<typeof JobService>, job: Job, giveBack: AbortSignal): Promise<string> {
  const over = new AbortController();
  running.set(nameOf(job), over);
  const heartbeats = keepLease(jobs, job, over);
  const attempt = { id: job.id, attempt: job.attempt, requestId: randomUUID() };
  const options = { timeoutMs: PATIENCE_MS };
  let ended = "completed";
  try {
    let report: () => Promise<unknown>;
    try {
      const result = await work(job, AbortSignal.any([giveBack, over.signal]));
      report = () => jobs.complete({ ...attempt, result }, options);
    } catch (error) {
      if (error instanceof Release || giveBack.aborted) {
        ended = "released";
        const back = error instanceof Release ? error : new Release("the worker stops");
        const delay = durationFromMs(back.delayMs);
        report = () => jobs.release({ ...attempt, delay, holdLane: delay, reason: back.message }, options);
      } else {
        ended = "failed";
        const message = String(error).slice(0, 1_000); // At most 4 KiB.
        report = () => jobs.fail({ ...attempt, error: { message } }, options);
      }
    }
    if (over.signal.aborted) {
      return "over";
    }
    await report();
    return ended;
  } catch (error) {
    // Refused, for the attempt is over, or not answered: then the lease ends it.
    console.error(`${job.id} is not ${ended}: ${String(error)}`);
    return "over";
  } finally {
    clearInterval(heartbeats);
    running.delete(nameOf(job));
  }
}

/** Sends a heartbeat every third of the lease, and ends the run when the attempt is over. */
function keepLease(jobs: Client<typeof JobService>, job: Job, over: AbortController): NodeJS.Timeout {
  const everyMs = Math.floor(durationMs(job.lease!) / 3);
  const beat = (): void => {
    jobs.updateProgress({ id: job.id, attempt: job.attempt }, { timeoutMs: everyMs }).catch((error: unknown) => {
      if ([Code.FailedPrecondition, Code.NotFound].includes(ConnectError.from(error).code)) {
        over.abort(OVER);
      }
    });
  };
  beat(); // At once, for the job may have been cancelled before we knew of it.
  return setInterval(beat, everyMs);
}

/**
 * Ends the runs of jobs that are cancelled, sooner than their next heartbeat would. Calls `watching` once the watch is
 * open, or cannot be.
 */
async function dropCancelled(jobs: Client<typeof JobService>, stop: AbortSignal, watching: () => void): Promise<void> {
  try {
    for await (const response of follow(jobs, { jobTypes: [JOB_TYPE], types: [EventType.CANCELLED] }, stop)) {
      watching();
      for (const event of response.events) {
        running.get(nameOf(event.job!))?.abort(OVER);
      }
    }
  } catch (error) {
    if (!stop.aborted) {
      console.error(`cancelled jobs are noticed by their heartbeats only: ${String(error)}`);
    }
  } finally {
    watching();
  }
}

const [address] = process.argv.slice(2);
if (address === undefined) {
  console.error("usage: npm run worker -- HOST:PORT");
  process.exit(2);
}
const stop = new AbortController();
process.once("SIGTERM", () => stop.abort());
process.once("SIGINT", () => stop.abort());
const jobs = createClient(JobService, connect(address));
// Before the first job, of which no cancellation is to be missed.
await new Promise<void>((watching) => void dropCancelled(jobs, stop.signal, watching));
await takeJobs(jobs, stop.signal);
process.exit(); // An idle connection would keep the process.
