/** Follows the events of jobstate over lost connections and restarts of the server. */

import { setTimeout as pause } from "node:timers/promises";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type Client } from "@connectrpc/connect";
import { WatchEventsRequestSchema, type JobService, type WatchEventsResponse } from "@jobstate/grpc";
import { ErrorInfoSchema } from "@jobstate/grpc/google/rpc";

// How long to wait before a broken watch is resumed: a random time below a bound that doubles with each failure.
const WAIT_MIN_MS = 200;
const WAIT_MAX_MS = 5_000;

// The server sends something at least this often, unless the request sets another interval.
const HEARTBEAT_MS = 30_000;

// How long the first response may take.
const FIRST_ANSWER_MS = 30_000;

const TRY_LATER = new Set(["DRAINING", "OVERLOADED", "STORE_UNAVAILABLE"]);

// The codes of a connection that broke; InvalidArgument if a message was cut in two.
const BROKEN = new Set([
  Code.Unavailable,
  Code.Aborted,
  Code.Canceled,
  Code.Internal,
  Code.InvalidArgument,
  Code.Unknown,
]);

/** Whether to try again after this: the server stops, is away or overloaded, or the connection broke. */
export function passes(error: unknown): boolean {
  if (!(error instanceof ConnectError)) {
    return false;
  }
  const [info] = error.findDetails(ErrorInfoSchema);
  return info ? TRY_LATER.has(info.reason) : BROKEN.has(error.code);
}

/**
 * Opens a watch and yields every response. When the stream breaks, it resumes from the newest cursor, so that no event
 * is missed and none comes twice. It does the same when three heartbeats are missing, because a proxy may keep a
 * connection to a server that is gone. To continue after a restart of your own, store `response.cursor` after you have
 * processed a response, and set it as the position of the request.
 *
 * Ends when the watch has reached its end (`untilFinal`, or `follow: false`). Throws the reason of `signal`, or a
 * ConnectError after which resuming would not help, such as CURSOR_EXPIRED. Leaving the loop over it closes the stream.
 */
export async function* follow(
  jobs: Client<typeof JobService>,
  request: MessageInitShape<typeof WatchEventsRequestSchema>,
  signal?: AbortSignal,
): AsyncGenerator<WatchEventsResponse, void, undefined> {
  const left = new AbortController();
  const over = signal ? AbortSignal.any([signal, left.signal]) : left.signal;
  const next = create(WatchEventsRequestSchema, { ...request });
  const silenceMs = 3 * (next.heartbeatInterval ? durationMs(next.heartbeatInterval) : HEARTBEAT_MS);
  let boundMs = WAIT_MIN_MS;
  try {
    for (;;) {
      let waitMs = 0;
      try {
        for await (const response of received(jobs, next, silenceMs, over)) {
          yield response;
          if (response.cursor !== "") {
            next.position = { case: "cursor", value: response.cursor };
          }
          // A server that stops says how long to wait, so that its watchers do not all come back at once.
          waitMs = response.reconnectAfter ? durationMs(response.reconnectAfter) : 0;
          boundMs = WAIT_MIN_MS;
        }
        return;
      } catch (error) {
        signal?.throwIfAborted();
        if (!passes(error)) {
          throw error;
        }
      }
      if (waitMs === 0) {
        waitMs = Math.random() * boundMs;
        boundMs = Math.min(2 * boundMs, WAIT_MAX_MS);
      }
      await pause(waitMs, undefined, { signal: over });
    }
  } finally {
    left.abort();
  }
}

/** The responses of one stream, until it ends or the next one takes too long. */
async function* received(
  jobs: Client<typeof JobService>,
  request: MessageInitShape<typeof WatchEventsRequestSchema>,
  silenceMs: number,
  over: AbortSignal,
): AsyncGenerator<WatchEventsResponse, void, undefined> {
  const silent = new AbortController();
  // A watch has no deadline, whatever the other calls have.
  const options = { signal: AbortSignal.any([over, silent.signal]), timeoutMs: 0 };
  const responses = jobs.watchEvents(request, options)[Symbol.asyncIterator]();
  let limitMs = FIRST_ANSWER_MS;
  try {
    for (;;) {
      // Runs only while this waits for a response, not while it is processed.
      const timer = setTimeout(() => silent.abort(), limitMs);
      const { done, value } = await responses.next().finally(() => clearTimeout(timer));
      if (done) {
        return;
      }
      yield value;
      limitMs = silenceMs;
    }
  } finally {
    silent.abort();
  }
}
