/**
 * A pipeline of jobs that wait for jobs: clean the transcript of an episode, extract insights from it, make ten posts of
 * these, and say so when all that has ended, however it went.
 *
 *     npm ci && npm run pipeline -- 127.0.0.1:50051 episode-12
 *
 * It creates the jobs and prints them. Workers get each when what it needs is COMPLETED.
 */

import { randomUUID } from "node:crypto";
import { createClient } from "@connectrpc/connect";
import { JobService, NeedCondition } from "@jobstate/grpc";
import { connect } from "./connection.js";

const POSTS = 10;

async function pipeline(address: string, sourceId: string): Promise<void> {
  const jobs = createClient(JobService, connect(address));

  const created = await jobs.create({ jobType: "episode", sourceId, group: {}, requestId: randomUUID() });
  const groupId = created.job!.id;

  // In a batch, a job may need those before it. Ids of our own name them.
  const [clean, extract] = [`${groupId}.clean`, `${groupId}.extract`];
  const member = (jobType: string, id: string, ...needs: string[]) => ({
    ...{ id, jobType, sourceId, groupId, requestId: randomUUID() },
    needs: needs.map((jobId) => ({ jobId })),
  });
  const posts = Array.from({ length: POSTS }, (_, number) =>
    member("generate_posts", `${groupId}.post-${number}`, extract),
  );
  const requests = [member("clean_transcript", clean), member("extract_insights", extract, clean), ...posts];
  await jobs.batchCreate({ requests });
  await jobs.closeGroup({ id: groupId });

  const needs = [{ jobId: groupId, condition: NeedCondition.FINAL }];
  const last = await jobs.create({ jobType: "notify", sourceId, needs, requestId: randomUUID() });
  console.log(`${groupId} ${requests.length} ${last.job!.id}`);
}

const [address, episode] = process.argv.slice(2);
if (address === undefined || episode === undefined) {
  console.error("usage: npm run pipeline -- HOST:PORT EPISODE");
  process.exit(2);
}
await pipeline(address, episode);
