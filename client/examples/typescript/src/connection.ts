/** Connects to a jobstate server in the way that a program needs which outlives restarts of it. */

import { setTimeout as pause } from "node:timers/promises";
import type { Interceptor, Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { passes } from "./watch.js";

const PAUSE_MAX_MS = 2_000;

/** Repeats calls whose connection breaks, or that find no server, until their deadline. A requestId makes that safe. */
const repeating: Interceptor = (next) => async (request) => {
  for (let boundMs = 100; ; boundMs = Math.min(2 * boundMs, PAUSE_MAX_MS)) {
    try {
      return await next(request);
    } catch (error) {
      if (request.stream || request.signal.aborted || !passes(error)) {
        throw error;
      }
    }
    await pause(Math.random() * boundMs, undefined, { signal: request.signal });
  }
};

/** A transport, which connects when the first call needs it. */
export function connect(address: string): Transport {
  return createGrpcTransport({
    baseUrl: `http://${address}`,
    defaultTimeoutMs: 30_000,
    interceptors: [repeating],
    // An idle watch or acquire sends nothing: only pings notice that the other machine is gone.
    pingIntervalMs: 30_000,
  });
}
