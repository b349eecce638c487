/** Examples in the prompt, drawn as lm-evaluation-harness's default sampler draws them: for each scored example anew, with
 * Python's generator and the harness's seed, from the training split. So the choices of one example share the whole
 * prompt, but prompts of two examples share nothing.
 *
 * @module
 */
import { UsageError } from "../core/errors.ts";
import { at } from "../core/indexing.ts";
import { createPythonRandom } from "../core/python_random.ts";
import type { Example } from "./define.ts";

/** The harness's default `--seed` for few-shot examples. */
export const FEWSHOT_SEED = 1234;
/** The split that they are drawn from. */
export const FEWSHOT_SPLIT = "train";
/** What stands between two examples. */
const DELIMITER = "\n\n";

/** Names of the file of the task `id` that they are drawn from, in a folder of the user. */
export function fewshotFiles(id: string): string[] {
  return [`${id}-train.jsonl`];
}

/** An example and its record. */
export interface ExampleWithRecord {
  example: Example;
  record: unknown;
}

/** An example with its right answer, as it stands in a prompt. */
function solved({ choices, gold }: Example): string {
  const { context, continuation } = at(choices, gold);
  return context + continuation + DELIMITER;
}

/** `examples` with `count` solved examples of `pool` as prefix.
 *
 * `excludes`: whether an example that is in the pool itself is left out, which the harness does for tasks without a test
 * split; one more is drawn then.
 * @throws {UsageError} when the pool is too small. */
export function withFewshot(
  examples: readonly ExampleWithRecord[],
  pool: readonly ExampleWithRecord[],
  { count, excludes, seed = FEWSHOT_SEED }: { count: number; excludes: boolean; seed?: number },
): Example[] {
  const needed = count + (excludes ? 1 : 0);
  if (pool.length < needed) {
    throw new UsageError(`${count} examples in the prompt need ${needed} to draw from: current ${pool.length}`);
  }
  const random = createPythonRandom(seed);
  const keys = excludes ? pool.map(({ record }) => JSON.stringify(record)) : [];
  return examples.map(({ example, record }): Example => {
    const own = excludes ? JSON.stringify(record) : undefined;
    let drawn = random.sample(pool.length, needed).filter((index) => keys[index] !== own || !excludes).slice(0, count);
    if (drawn.length < count) {
      const others = [...pool.keys()].filter((index) => keys[index] !== own);
      if (others.length < count) {
        throw new UsageError(`${count} examples in the prompt need as many others: current ${others.length}`);
      }
      drawn = random.sample(others.length, count).map((index) => at(others, index));
    }
    return { ...example, prefix: drawn.map((index) => solved(at(pool, index).example)).join("") };
  });
}
