/** What a method is given in a test.
 *
 * @module
 */
import { createRng } from "../../core/util/rng.ts";
import { trainingSchema } from "../../core/schema/schema.ts";
import type { LearningContext, MethodContext, PruneResult, Statistics } from "../../methods/define.ts";
import type { DecoderModel } from "../../models/device.ts";
import type { RunUnit } from "../../core/schema/schema.ts";
import { pruneModel } from "../../models/surgery.ts";
import { resolveTarget } from "../../models/target.ts";
import { foldParts } from "../../models/training/rebuild.ts";
import type { StudentOptions } from "../../models/training/student.ts";
import { toyTokens } from "./toy.ts";

/** Who calls and neither listens nor stops. */
export const QUIET = { report: () => {}, signal: new AbortController().signal };

/** Options of {@linkcode methodContext}. */
export interface ContextOptions<Options> {
  model: DecoderModel;
  /** Parsed options of the method. */
  options: Options;
  calibration?: Int32Array[];
  /** For methods that learn. */
  learning?: LearningContext;
  sparsity?: number;
  units?: readonly RunUnit[];
  ffnMultiple?: number;
  seed?: number;
  signal?: AbortSignal;
  report?: (message: string) => void;
  /** Statistics computed before; new ones are added. */
  cache?: Map<string, Statistics>;
}

/** A context as the harness makes it. */
export function methodContext<Options>(given: ContextOptions<Options>): MethodContext<Options> {
  const { model, options, calibration = [], sparsity = 0.25, units = ["ffn", "kv-groups"], ffnMultiple = 1 } = given;
  const { seed = 0, cache = new Map(), report = () => {}, signal = new AbortController().signal } = given;
  return {
    model,
    options,
    calibration,
    ...given.learning && { learning: given.learning },
    seed,
    report,
    signal,
    target: resolveTarget(model.config, { sparsity, units, ffnMultiple }),
    rng: (name) => createRng(seed, name),
    remember: async (key, compute) => {
      const known = cache.get(key);
      if (known) return known;
      const computed = await compute();
      cache.set(key, computed);
      return computed;
    },
  };
}

/** Settings of a training in which adapters and scales learn, unless said otherwise. */
export function learningOptions({ recover = "lora", ...given }: Partial<StudentOptions>): StudentOptions {
  return { ...trainingSchema.parse(given), recover };
}

/** The model that a method's result makes. */
export async function modelOf(dense: DecoderModel, { plan, replaced, trained }: PruneResult): Promise<DecoderModel> {
  const model = await pruneModel(dense, plan, replaced);
  if (trained) foldParts(model, trained);
  return model;
}

/** `count` windows of `length` tokens of the toy stream. */
export function toyWindows(count: number, length: number, vocabSize = 61): Int32Array[] {
  const tokens = toyTokens({ count: count * length, vocabSize, seed: 7 });
  return Array.from({ length: count }, (_, i) => tokens.slice(i * length, (i + 1) * length));
}
