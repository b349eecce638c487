/** Runs work N at a time.
 *
 * @module
 */

/** Runs `work` for every item, at most `jobs` at once, in order. No item is started after `signal` aborts; running ones
 * are waited for.
 * @throws whatever `work` throws first, after the others have ended. */
export async function runConcurrently<T>(
  items: readonly T[],
  { jobs, signal }: { jobs: number; signal: AbortSignal },
  work: (item: T) => Promise<void>,
): Promise<void> {
  const queue = items.values();
  const failures: unknown[] = [];
  const runOneByOne = async () => {
    while (!signal.aborted && failures.length === 0) {
      const { value, done } = queue.next();
      if (done) return;
      try {
        await work(value);
      } catch (error) {
        failures.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(jobs, items.length) }, runOneByOne));
  if (failures.length > 0) throw failures[0];
}
