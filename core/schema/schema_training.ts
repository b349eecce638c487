/** Settings and reports of training.
 *
 * @module
 */
import { z } from "zod";

/** What a method may remove; `models/units.ts` says what each is. */
export const UNIT_TYPES = ["ffn", "query-heads", "kv-groups"] as const;
/** One of {@linkcode UNIT_TYPES}. */
export type UnitType = (typeof UNIT_TYPES)[number];

/** What a run may remove: units of layers, and whole layers. */
export const RUN_UNITS = [...UNIT_TYPES, "layers"] as const;
/** One of {@linkcode RUN_UNITS}. */
export type RunUnit = (typeof RUN_UNITS)[number];

/** What the sparsity of a run is a part of: a count, or a measured time, of the layers. */
export const BUDGETS = ["parameters", "macs", "prefill-ms", "decode-ms"] as const;
/** One of {@linkcode BUDGETS}. */
export type Budget = (typeof BUDGETS)[number];

/** What is counted as removed: units of a layer, and layers and hidden dimensions of the model. */
export const REMOVED_TYPES = [...UNIT_TYPES, "layer", "hidden"] as const;
/** One of {@linkcode REMOVED_TYPES}. */
export type RemovedType = (typeof REMOVED_TYPES)[number];

const fraction = z.number().min(0).lt(1);
const positiveInt = z.number().int().positive();

/** Corrections of the output and down maps without training: with statistics of the dense model, or of what is left. */
export const COMPENSATIONS = ["least-squares", "least-squares-in-turn"] as const;
/** One of {@linkcode COMPENSATIONS}. */
export type Compensation = (typeof COMPENSATIONS)[number];

/** What recovery trains: nothing; one scale per kept unit, weights frozen; or LoRA adapters and scales. */
export const RECOVERIES = ["none", "scales", "lora"] as const;
/** One of {@linkcode RECOVERIES}. */
export type Recovery = (typeof RECOVERIES)[number];

/** Settings of training, the same for learned methods and for the recovery of all others. */
export const trainingSchema = z.strictObject({
  corpus: z.string().optional().describe(
    "corpus (its calibration split), file:PATH, or self (text of the dense model); default: that of calibration",
  ),
  steps: positiveInt.default(100).describe("optimiser steps; learned methods use the first of them for their choice"),
  batch: positiveInt.default(2).describe("windows in a step"),
  tokens: z.number().int().min(2).default(256).describe("window length in tokens"),
  microBatch: positiveInt.optional().describe(
    "windows on the device at once (default: all); the hidden-state term is averaged over micro-batches",
  ),
  rank: positiveInt.default(8).describe("rank of the LoRA adapters on all linear maps"),
  alpha: z.number().positive().default(16).describe("adapters are scaled by alpha / rank"),
  learningRate: z.number().positive().default(5e-3).describe("peak rate of the adapters (AdamW, betas 0.9 and 0.99)"),
  scaleRate: z.number().positive().optional().describe(
    "peak rate of the scales (AdamW, betas 0.9 and 0.99); default: 0.05, with adapters 0.01",
  ),
  warmup: fraction.default(0.06).describe("fraction of the steps over which the rates rise; cosine decay follows"),
  finalRate: z.number().min(0).max(1).default(0.1).describe("rates at the end as a fraction of the peak"),
  clipNorm: z.number().positive().default(1).describe("largest global norm of the gradient of adapters and scales"),
  crossEntropy: z.number().min(0).default(0.5).describe("weight of the cross entropy with the next token"),
  distillation: z.number().min(0).default(0.5).describe("weight of KL(dense model || student)"),
  temperature: z.number().positive().default(1).describe("temperature of both distributions in the KL"),
  hidden: z.number().min(0).default(0).describe(
    "weight of the relative error of the hidden states in the first step; it falls linearly to 0 over the run",
  ),
  teacherTokens: positiveInt.default(64).describe(
    "number of the dense model's most probable tokens that distillation uses",
  ),
}).refine(({ crossEntropy, distillation, hidden }) => Math.max(crossEntropy, distillation, hidden) > 0, {
  path: ["crossEntropy"],
  error: "one of the weights crossEntropy, distillation and hidden must be above 0, or nothing trains",
});
/** What learns and how. */
export type TrainingOptions = z.infer<typeof trainingSchema>;

/** Peak rate of the scales. The rates were chosen on validation text of SmolLM2-135M. */
export const scaleRateOf = ({ scaleRate }: TrainingOptions, recover: Recovery): number =>
  scaleRate ?? (recover === "lora" ? 0.01 : 0.05);

const curveRowSchema = z.strictObject({
  step: z.number(),
  loss: z.number(),
  crossEntropy: z.number().describe("nats per token"),
  distillation: z.number().describe("nats per token"),
  hidden: z.number().describe("relative squared error"),
  gradientNorm: z.number().describe("of adapters and scales, before clipping"),
  seconds: z.number().describe("since the stage began"),
  memoryBytes: z.number().describe("resident memory"),
  budget: z.number().optional().describe("fraction of the resource that may stay"),
  retained: z.number().optional().describe("fraction that stays"),
  removed: z.partialRecord(z.enum(REMOVED_TYPES), z.number()).optional().describe(
    "units removed per layer, mean over layers; layers and hidden dimensions of the model",
  ),
  duals: z.record(z.string(), z.number()).optional(),
  swaps: z.number().optional().describe("units that came back in this step"),
  residual: z.number().optional().describe("largest bottom-k of a layer as a fraction of its importance"),
});
/** One step of training. */
export type CurveRow = z.infer<typeof curveRowSchema>;

/** A stretch of training that ended. */
export const trainingReportSchema = z.strictObject({
  stage: z.enum(["search", "learning", "recovery"]),
  steps: z.number(),
  tokens: z.number().describe("tokens read in these steps"),
  seconds: z.number(),
  curve: z.array(curveRowSchema).describe("every step; of more than 5000 so many, evenly spaced"),
});
/** A stretch of training that ended. */
export type TrainingReport = z.infer<typeof trainingReportSchema>;
