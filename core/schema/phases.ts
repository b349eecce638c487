/** What a cell was doing when it failed, and what makes that smaller.
 *
 * @module
 */

/** The parts of a cell that need different advice. */
type Part = "loading" | "pruning" | "learning" | "throughput" | "evaluation";

/** What a cell says that it does begins with its part; evaluation begins with a corpus or a task. */
const PARTS: readonly [begin: RegExp, part: Part][] = [
  [/^loading\b/, "loading"],
  [/^(pruning|text of the model)\b/, "pruning"],
  [/^(learning|recovery)\b/, "learning"],
  [/^throughput\b/, "throughput"],
];

/** The part that `phase` belongs to; undefined where nothing is known. */
function partOf(phase: string | undefined): Part | undefined {
  if (phase === undefined) return undefined;
  return PARTS.find(([begin]) => begin.test(phase))?.[1] ?? "evaluation";
}

const ANY = "use a smaller model";
const SMALLER: Record<Part, string> = {
  loading: "run fewer cells at once, keep the matrices of f16 and bf16 files in 16 bits (--weights stored)",
  pruning: "run fewer cells at once, calibrate on fewer or shorter windows (--calibration CORPUS:32:128), prune " +
    "--layerwise where the method can",
  learning: "run fewer cells at once, set `training` microBatch=1 or fewer tokens",
  throughput: "time fewer tokens or a smaller batch (`throughput` prefillTokens, batch)",
  evaluation: "run fewer cells at once, score shorter windows (--perplexity wikitext2:a:512)",
};
const QUICKER: Record<Part, string> = {
  loading: "give a longer --timeout",
  pruning: "give a longer --timeout, or calibrate on fewer windows",
  learning: "give a longer --timeout, or fewer `training` steps; the same command goes on from the last snapshot",
  throughput: "give a longer --timeout, or time fewer tokens (`throughput` decodeTokens, repeats)",
  evaluation: "give a longer --timeout, fewer examples (--limit) or fewer windows",
};

/** What to do where memory ran out during `phase`. */
export function lessMemory(phase: string | undefined): string {
  const part = partOf(phase);
  return `${part === undefined ? "run fewer cells at once, set `training` microBatch=1" : SMALLER[part]}, or ${ANY}`;
}

/** What to do where time ran out during `phase`. */
export function lessTime(phase: string | undefined): string {
  return QUICKER[partOf(phase) ?? "evaluation"];
}

/** `learning: step 41 of 60, loss 3.2` -> `during learning, step 41 of 60`. */
export function phaseWords(phase: string): string {
  return `during ${phase.split(", ", 1)[0]?.replace(": ", ", ")}`;
}

/** The last phase in the text of a cell's log; undefined where there is none. */
export function lastPhase(log: string): string | undefined {
  return [...log.matchAll(/^\d{4}-\d\d-\d\dT[\d:.]+Z (.+)$/gm)].at(-1)?.[1];
}
