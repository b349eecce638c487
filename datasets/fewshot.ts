/** Few-shot examples, drawn as by lm-evaluation-harness's default sampler: separately for each scored example, with
 * Python's generator and the harness's seed, from the training split.
 *
 * @module
 */
import { UsageError } from "../core/util/errors.ts";
import { at } from "../core/util/indexing.ts";
import { createPythonRandom } from "../core/util/python_random.ts";
import type { Example, LoadedTask } from "./define.ts";

/** The harness's default `--seed` for few-shot examples. */
export const FEWSHOT_SEED = 1234;
/** The split of the solved examples. */
export const FEWSHOT_SPLIT = "train";
const DELIMITER = "\n\n";

/** Examples, each with its record. */
type Pool = Pick<LoadedTask, "examples" | "records">;

interface DrawOptions {
  count: number;
  /** Whether a record's own example in the pool is excluded, and one more is drawn: the harness's rule if the pool may
   * be the scored split. */
  excludes: boolean;
  /** `first_n`: the first of the pool, the same for every record. */
  sampler?: "default" | "first_n";
}

/** Indices into `pool` of the examples before each of `records`.
 * @throws {UsageError} when the pool is too small. */
export function drawFewshot(
  records: readonly unknown[],
  pool: readonly unknown[],
  { count, excludes, sampler = "default" }: DrawOptions,
): number[][] {
  const needed = count + (excludes ? 1 : 0);
  if (pool.length < needed) {
    throw new UsageError(`${count} few-shot examples need a pool of ${needed}: current ${pool.length}`);
  }
  const random = createPythonRandom(FEWSHOT_SEED);
  const all = [...pool.keys()];
  const keys = excludes ? pool.map((record) => JSON.stringify(record)) : [];
  return records.map((record) => {
    const own = excludes ? JSON.stringify(record) : undefined;
    const isOther = (index: number) => !excludes || keys[index] !== own;
    const drawn = (sampler === "first_n" ? all : random.sample(pool.length, needed)).filter(isOther).slice(0, count);
    if (drawn.length === count) return drawn;
    const others = all.filter(isOther);
    if (others.length < count) {
      throw new UsageError(`${count} few-shot examples need as many different ones: current ${others.length}`);
    }
    return random.sample(others.length, count).map((index) => at(others, index));
  });
}

/** `examples` with solved examples of `pool` as prefix.
 * @throws {UsageError} when the pool is too small. */
export function withFewshot(
  { examples, records }: Pool,
  pool: Pool,
  options: DrawOptions,
): Example[] {
  const draws = drawFewshot(records, pool.records, options);
  const solved = pool.examples.map(({ choices, gold }) => {
    const { context, continuation } = at(choices, gold);
    return context + continuation + DELIMITER;
  });
  return examples.map((example, i) => ({
    ...example,
    prefix: at(draws, i).map((index) => at(solved, index)).join(""),
  }));
}
