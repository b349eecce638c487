/** Runs work N at a time, with turns in which everything else stands still: what is timed must not share the machine.
 *
 * @module
 */

/** A worker's way to be alone on the machine. */
export interface Turns {
  /** Resolves when no other worker is working; until {@linkcode Turns.give} none will be. */
  take(): Promise<void>;
  /** Lets the others go on. */
  give(): void;
}

/** Runs `work` for every item, at most `jobs` at once, in order. A worker that waits for its turn keeps its place, so
 * nothing new is started until it had it. No item is started after `signal` aborts; those that run are waited for.
 * @throws whatever `work` throws first, after the others have ended. */
export async function runConcurrently<T>(
  items: readonly T[],
  options: { jobs: number; signal: AbortSignal },
  work: (item: T, turns: Turns) => Promise<void>,
): Promise<void> {
  const queue = [...items];
  const waiting: (() => void)[] = [];
  const failures: unknown[] = [];
  let active = 0;
  let working = 0;
  let taken = false;
  const { promise, resolve } = Promise.withResolvers<void>();

  const start = async (item: T) => {
    const worker: { state: "working" | "waiting" | "alone"; enter: () => void } = { state: "working", enter: () => {} };
    active++;
    working++;
    const turns: Turns = {
      take: () => {
        const { promise, resolve } = Promise.withResolvers<void>();
        worker.state = "waiting";
        working--;
        worker.enter = () => {
          worker.state = "alone";
          resolve();
        };
        waiting.push(worker.enter);
        advance();
        return promise;
      },
      give: () => {
        if (worker.state !== "alone") return;
        worker.state = "working";
        taken = false;
        working++;
        advance();
      },
    };
    try {
      await work(item, turns);
    } catch (error) {
      failures.push(error);
      queue.length = 0;
    }
    if (worker.state === "working") working--;
    if (worker.state === "waiting") waiting.splice(waiting.indexOf(worker.enter), 1);
    if (worker.state === "alone") taken = false;
    active--;
    advance();
  };

  const advance = () => {
    if (options.signal.aborted) queue.length = 0;
    if (!taken && working === 0 && waiting.length > 0) {
      taken = true;
      waiting.shift()!();
      return;
    }
    while (queue.length > 0 && active < options.jobs && waiting.length === 0 && !taken) start(queue.shift()!);
    if (active === 0 && queue.length === 0) resolve();
  };

  advance();
  await promise;
  if (failures.length > 0) throw failures[0];
}
