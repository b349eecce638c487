/** What the speed benchmarks share: sides that are measured in turns, PyTorch as one of them, and how times are said.
 *
 * @module
 */
import { choiceOf, countFlag } from "../../benchmarks/commands/command.ts";
import { type Arithmetic, ARITHMETICS } from "../../core/schema/schema.ts";
import { NumericError, UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { median } from "../../core/util/stats.ts";
import { inProject } from "../../core/util/user_folder.ts";

/** Flags of the benchmarks that have PyTorch as their peer. */
export const TORCH_FLAGS = ["model", "threads", "peer", "arithmetic", "dtype"] as const;

/** What {@linkcode TORCH_FLAGS} mean, for the help of a benchmark. */
export const TORCH_HELP = `  --model PATH   model (default: models/SmolLM2-135M.gguf)
  --threads N    threads of both sides (default: all)
  --arithmetic A exact (the default) or fast, which alternates with exact
  --peer torch   alternates with PyTorch
  --dtype D      PyTorch's: float32 (the default) or bfloat16`;

/** Reads {@linkcode TORCH_FLAGS} and sets the threads of our side. `tolerance` is `exact`, but for rounded arithmetic:
 * bfloat16 has 8 bits of mantissa, and a sum of absolute gradients grows with their noise. */
export function torchFlags(
  flags: { [name in typeof TORCH_FLAGS[number]]?: string },
  exact: number,
): { path: string; threads: number; arithmetic: Arithmetic; dtype: string; tolerance: number } {
  const threads = countFlag(flags, "threads") ?? navigator.hardwareConcurrency;
  Deno.env.set("TF_NUM_INTRAOP_THREADS", String(threads));
  if (flags.peer !== undefined) choiceOf("peer", flags.peer, ["torch"]);
  else if (flags.dtype !== undefined) throw new UsageError("--dtype needs --peer torch");
  const arithmetic = choiceOf("arithmetic", flags.arithmetic ?? "exact", ARITHMETICS);
  const dtype = choiceOf("dtype", flags.dtype ?? "float32", ["float32", "bfloat16"]);
  const tolerance = arithmetic === "fast" || dtype !== "float32" ? 0.1 : exact;
  return { path: flags.model ?? inProject("models/SmolLM2-135M.gguf"), threads, arithmetic, dtype, tolerance };
}

/** A program that does the work of a turn. */
export interface Side<Outcome> {
  name: string;
  /** Called before each turn, outside the time. */
  enter?(): Promise<unknown>;
  turn(i: number): Promise<Outcome>;
}

/** Outcomes of `timed` turns by side, after `untimed` ones: the first touch memory for the first time.
 * @throws {NumericError} when `values` of a side differ from the first side's by more than a fraction of `tolerance`, in
 * the first `compared` turns. */
export async function inTurns<Outcome>(
  sides: readonly Side<Outcome>[],
  { untimed, timed, tolerance, values, compared = Infinity }: {
    untimed: number;
    timed: number;
    tolerance: number;
    values: (outcome: Outcome) => number[];
    compared?: number;
  },
): Promise<Outcome[][]> {
  const outcomes = sides.map((): Outcome[] => []);
  for (let i = 0; i < untimed + timed; i++) {
    const now: Outcome[] = [];
    for (const side of sides) {
      await side.enter?.();
      now.push(await side.turn(i));
    }
    const own = at(now, 0);
    for (const [j, other] of now.entries()) {
      const agrees = i >= compared || values(own).every((a, k) => {
        const b = at(values(other), k);
        return Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(a), Math.abs(b));
      });
      if (!agrees) throw new NumericError(`The sides disagree at turn ${i}: ${JSON.stringify([own, other])}`);
      if (i >= untimed) at(outcomes, j).push(other);
    }
  }
  return outcomes;
}

/** `median (lowest to highest, WHAT)` */
export function spread(values: readonly number[], digits: number, what: string, unit = ""): string {
  const [low, high] = [Math.min(...values), Math.max(...values)].map((value) => value.toFixed(digits));
  return `${median([...values]).toFixed(digits)}${unit} (${low} to ${high}, ${what})`;
}

/** The spread of `a` over `b`, turn by turn. */
export const ratios = (a: readonly number[], b: readonly number[]): string =>
  spread(a.map((value, i) => value / at(b, i)), 2, "pair by pair");
