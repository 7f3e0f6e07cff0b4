// What the programs on Node.js share: the data of a job, and how the jobs are given away.

export const metadata = Object.fromEntries(Array.from({ length: 8 }, (_, key) => [`key-${key}`, "v".repeat(12)]));
export const PERCENTAGES = [25, 50, 75];

const IN_FLIGHT = 64;

/** The numbers from `first`, as many as there are jobs, in parts of `atOnce`; with 1, 64 calls are under way. */
export async function give(first, jobs, atOnce, add) {
  let next = 0;
  const caller = async () => {
    while (next < jobs) {
      const numbers = Array.from({ length: Math.min(atOnce, jobs - next) }, (_, index) => first + next + index);
      next += numbers.length;
      await add(numbers);
    }
  };
  await Promise.all(Array.from({ length: atOnce > 1 ? 1 : IN_FLIGHT }, caller));
}

/** A count of what has ended, and a promise that it reaches a number. */
export class Tally {
  #ended = 0;
  #waiting = [];

  add() {
    this.#ended += 1;
    for (const { number, resolve } of this.#waiting) if (this.#ended === number) resolve();
  }

  reaches(number) {
    return new Promise((resolve) => this.#waiting.push({ number, resolve }));
  }
}
