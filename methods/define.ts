/** The definition of a pruning method: options, needs, and a function from model, calibration data and budget to a
 * plan.
 *
 * @module
 */
import type { z } from "zod";
import type { Rng } from "../core/util/rng.ts";
import type { RunConfig, TrainingReport } from "../core/schema/schema.ts";
import type { DecoderConfig, HostTensor } from "../models/config.ts";
import type { DecoderModel } from "../models/device.ts";
import type { PrunePlan } from "../models/plan.ts";
import type { BudgetTarget } from "../models/target.ts";
import type { SnapshotPlace } from "../models/training/snapshot.ts";
import type { TrainedParts } from "../models/training/rebuild.ts";
import type { StudentOptions } from "../models/training/student.ts";

/** Named f32 arrays, such as one score vector per layer. */
export type Statistics = Record<string, HostTensor>;

/** The data of a method that learns, besides calibration data. */
export interface LearningContext {
  /** Steps, rates, loss and what trains: the run's, the same as for the recovery of other methods. */
  options: StudentOptions;
  /** `steps * batch` windows of `tokens` ids, in order: step i reads `batch` of them from `i * batch` on. */
  windows: Int32Array[];
  /** The teacher of distillation if the context's model lost layers: the model before, and the teacher layer for each
   * remaining layer. */
  teacher?: { model: DecoderModel; layers: readonly number[] };
  /** Keeps the teacher's targets, the same for every method; the context's own `remember` when absent. */
  remember?: MethodContext<unknown>["remember"];
  /** Place of the snapshots; without it a stopped run begins again. */
  snapshots?: SnapshotPlace;
  /** Tensors that make up for the units a plan removes, at dense shape; called once, when the structure is fixed. */
  compensate?(plan: PrunePlan): Promise<Statistics>;
}

/** The input of a method. */
export interface MethodContext<Options> {
  /** The dense model on the device. Its tensors must not be changed or disposed. */
  model: DecoderModel;
  /** Calibration windows, each `[T]` token ids; the same for every method of a comparison. Empty unless needed. */
  calibration: Int32Array[];
  /** Filled for methods of kind `learned`. */
  learning?: LearningContext;
  /** The budget to meet. */
  target: BudgetTarget;
  options: Options;
  seed: number;
  /** Whether the output and down maps are corrected by least squares after the cut. */
  compensates?: boolean;
  /** The method's random stream `name`. */
  rng(name: string): Rng;
  /** Computes statistics that do not depend on the budget, or returns those computed before for the same model,
   * calibration data, engine and `key`, by this method or, with `forAll`, by any. The key must name every option the
   * result depends on. */
  remember(key: string, compute: () => Promise<Statistics>, forAll?: boolean): Promise<Statistics>;
  /** Progress in words, shown on stderr. */
  report(message: string): void;
  /** Aborts when the user stops the run: check it between batches with `signal.throwIfAborted()`. */
  signal: AbortSignal;
}

/** The settings of a run that {@linkcode Method.check} gets. */
export type RunSettings = Pick<RunConfig, "training"> & Partial<Pick<RunConfig, "compensate">>;

/** The result of a method. */
export interface PruneResult {
  plan: PrunePlan;
  /** Tensors that replace the dense model's before units are cut out, by Hugging Face name and at dense shape.
   * Biases may be added this way (`…o_proj.bias`), which makes the result something other than a plain LLaMA. */
  replaced?: Statistics;
  /** Reports of a method that learns. */
  training?: TrainingReport[];
  /** Times that rounding made an inverse indefinite, so that more was added to a diagonal; absent when never. */
  raisedRidges?: number;
  /** What was trained besides the choice, at the widths of the plan: it is folded in after the cut. */
  trained?: TrainedParts;
}

/** Place of a method in tables and legends, and its colour in figures: the same in every report. */
export interface MethodDisplay {
  /** Ascending: simple baselines first, learned masks last. Methods without a `display` come after all others. */
  order: number;
  /** `#RRGGBB`. */
  colour: string;
}

/** A pruning method. Made with {@linkcode defineMethod}. */
export interface Method<Schema extends z.ZodType = z.ZodType> {
  /** `kebab-case` name, unique in the registry. */
  id: string;
  /** From 1; raised by every change of what the method chooses or changes. It is part of a cell's id and of the key of
   * kept statistics. */
  version: number;
  /** One sentence for `bench ls methods`. */
  summary: string;
  /** Its description: authors, year, arXiv id, equation. */
  source: string;
  /** Place and colour in reports. Methods without one get a spare colour. */
  display?: MethodDisplay;
  /** `one-shot`: scores and cuts. `learned`: trains masks, and reports the tokens that it read. */
  kind: "one-shot" | "learned";
  /** The inputs that `prune` depends on. */
  needs: {
    /** Whether `calibration` is filled. */
    calibration: boolean;
    /** Whether the choice depends on the seed; if not, a run has one cell for all seeds. True when absent. */
    seed?: boolean;
  };
  /** `layer` for a method that removes whole layers: it meets the budget within one layer. When absent, it removes
   * units of the run's types. */
  granularity?: "layer";
  /** Whether it chooses how many whole layers go, where the run leaves that open. */
  ownDepth?: boolean;
  /** Whether it reads layers only through `eachLayer` and the shared statistics, so that `--layerwise` can hold one at
   * a time. */
  layerwise?: boolean;
  /** Strict schema of the options; each has a description and a default. */
  options: Schema;
  /** Whether these options always give equal widths in every layer. */
  uniformLayers(options: z.infer<Schema>): boolean;
  /** Whether these options set a target, such as a shape, that may remove more than the budget asks for. All others
   * meet the budget to one unit, or their cell fails. */
  ownTarget?(options: z.infer<Schema>): boolean;
  /** Option sets that the conformance tests of methods that learn run besides the defaults. */
  variants?: readonly z.input<Schema>[];
  /** Called for each level before the first cell of a run.
   * @throws {UsageError} when the options do not fit the model or the run, or cannot meet the budget on it. */
  check?(config: DecoderConfig, target: BudgetTarget, options: z.infer<Schema>, run: RunSettings): void;
  /** Decides what stays.
   * @throws {UsageError} when the options cannot meet the budget on this model. */
  prune(context: MethodContext<z.infer<Schema>>): Promise<PruneResult>;
}

/** Checks a method's definition and returns it with its option types.
 * @throws {TypeError} when the id is not kebab-case, the colour is not `#RRGGBB`, a field is missing, or an option has
 *   no default. */
export function defineMethod<Schema extends z.ZodType>(method: Method<Schema>): Method<Schema> {
  if (!/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/.test(method.id)) {
    throw new TypeError(`Method id must be kebab-case: current "${method.id}"`);
  }
  if (method.display && !/^#[0-9A-F]{6}$/i.test(method.display.colour)) {
    throw new TypeError(`The colour of method "${method.id}" must be #RRGGBB: current "${method.display.colour}"`);
  }
  const { options, needs, kind, prune, uniformLayers } = method as Partial<Method<Schema>>;
  const lacking = [
    kind !== "one-shot" && kind !== "learned" && 'kind: "one-shot" or "learned"',
    typeof needs?.calibration !== "boolean" && "needs: { calibration: true or false }",
    options?.safeParse === undefined && "options: z.strictObject({ … })",
    typeof uniformLayers !== "function" && "uniformLayers: () => true or false",
    typeof prune !== "function" && "prune(context) { … }",
  ].find((field) => field);
  if (lacking) throw new TypeError(`Method "${method.id}" must have the field ${lacking}`);
  if (!method.options.safeParse({}).success) {
    throw new TypeError(`Every option of method "${method.id}" must have a default`);
  }
  return method;
}
