/** What a cell will take, counted from shapes alone: parameters, bytes on the device, floating-point operations.
 *
 * Shape legend: D width, H query heads, G key/value groups, K head size, F FFN channels, V vocabulary, L layers.
 *
 * @module
 */
import type { Cell, EngineName } from "../../core/schema/schema.ts";
import type { Method } from "../../methods/define.ts";
import { type DecoderConfig, expectedTensors, LINEAR_NAMES, linearShape } from "../../models/config.ts";
import { queryHeads } from "../../models/units.ts";
import { layerMacs, modelMacs, totalParameters } from "../../models/count.ts";
import { bytesPerToken } from "../../models/scoring.ts";
import { resolveTarget } from "../../models/target.ts";
import { vocabularyRows } from "../../models/vocabulary.ts";
import { at } from "../../core/util/indexing.ts";
import { levelSteps } from "./ladder.ts";
import { FIRST_TOKENS } from "../evaluation/batch_trials.ts";

/** Tokens that a cell's measurements read. */
export interface EvaluationWork {
  /** Through perplexity windows, every position scored. */
  windowTokens: number;
  /** Through the questions of tasks, of which few positions are scored. */
  taskTokens: number;
}

/** One part of a cell. */
export interface PlannedPhase {
  phase: "calibration" | "learning" | "evaluation" | "throughput";
  /** Multiply and add counted as two. */
  flops: number;
  /** Weights that are read from the device's memory, at least once for every batch. */
  bytesRead: number;
}

/** What a cell takes. */
export interface CellPlan {
  /** Of the model that is left. */
  parameters: number;
  /** Weights of all models that the cell holds at once, adapters and their moments with them. */
  weightBytes: number;
  /** The largest batch on its way through a model. */
  activationBytes: number;
  /** What is kept about calibration data. */
  statisticsBytes: number;
  /** All of these on the device at the worst moment. */
  deviceBytes: number;
  phases: PlannedPhase[];
}

const F32 = 4;
/** Tokens of calibration that go through a model at once. */
const CALIBRATION_TOKENS = 2048;
/** Allocators round up, and keep what is freed for a while. */
const SLACK = 1.15;

const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0);

/** Bytes of a model's weights; matrices take two bytes a number where the run holds them as stored. */
export function weightBytes(config: DecoderConfig, form?: Cell["weights"]): number {
  return sum(
    expectedTensors(config).values().map((shape) => {
      const size = shape.reduce((a, b) => a * b, 1);
      return size * (form === "stored" && shape.length > 1 ? 2 : F32);
    }),
  );
}

/** Bytes of a batch while it is scored: its widest layer, and some rows of logits with what becomes of them. */
export function scoringBytes(config: DecoderConfig, tokens: number): number {
  const { vocabSize } = config;
  const rows = Math.min(tokens, 256, 2 * vocabularyRows(vocabSize));
  return tokens * bytesPerToken(config) + 3 * F32 * rows * vocabSize;
}

/** Bytes that a training step keeps for its gradient: of every layer the outputs of its linear maps with adapter and sum
 * (three of each), norms and residual streams (5 D), the activation and its product (2 F); some rows of logits. */
export function trainingBytes(config: DecoderConfig, tokens: number): number {
  const { width, headSize, vocabSize } = config;
  const floats = config.layers.map((shape) => {
    const attention = (queryHeads(shape) + 2 * shape.kvGroups) * headSize;
    return 3 * (attention + 2 * width + 2 * shape.ffnChannels) + 5 * width + 2 * shape.ffnChannels;
  });
  return F32 * (tokens * sum(floats) + 4 * Math.min(tokens, vocabularyRows(vocabSize)) * vocabSize);
}

/** Adapters of rank `rank` on all linear maps, their gradients and two moments. */
export function adapterBytes(config: DecoderConfig, rank: number): number {
  return 4 * F32 * rank * sum(config.layers.flatMap((shape) =>
    LINEAR_NAMES.map((name) => {
      const [out, input] = linearShape(config, shape, name);
      return out + input;
    })
  ));
}

/** Means, variances and fluctuations of the inputs of output and down maps, and, to compensate, their Gram matrices. */
function statisticsBytes({ layers, headSize }: DecoderConfig, withGram: boolean): number {
  return F32 *
    sum(
      layers.flatMap((shape) =>
        [queryHeads(shape) * headSize, shape.ffnChannels].map((n) => 3 * n + (withGram ? n * n : 0))
      ),
    );
}

/** The shape that a cell leaves: the uniform widths of its budget, whatever the method makes of it; at most the dense one
 * for a model that was pruned elsewhere. */
export function leftShape(
  dense: DecoderConfig,
  { method, checkpoint, sparsity, units, ffnMultiple }: Cell,
): DecoderConfig {
  if (method === null || checkpoint) return dense;
  return { ...dense, layers: resolveTarget(dense, { sparsity, units, ffnMultiple }).uniform };
}

/** Plans one cell on the dense model's shape. A method's own statistics besides the shared ones are not known here. */
export function planCell(
  cell: Cell,
  dense: DecoderConfig,
  { method, evaluation, layerwise = false }: { method: Method | null; evaluation: EvaluationWork; layerwise?: boolean },
): CellPlan {
  const left = leftShape(dense, cell);
  const { compensate, weights, calibration } = cell;
  const training = trainingOf(cell, method);
  const whole = weightBytes(dense, weights);
  // A pruned model shares embedding, head and final norm with the dense one.
  const ofLayers = (config: DecoderConfig) =>
    weightBytes(config, weights) - weightBytes({ ...config, layers: [] }, weights);
  const one = (config: DecoderConfig) => ({ ...config, layers: [at(config.layers, 0)] });
  const readsData = method !== null && (method.needs.calibration || compensate !== undefined);
  const learned = method?.kind === "learned";
  const held = method === null
    ? whole
    : (layerwise ? whole - ofLayers(dense) + ofLayers(one(dense)) : whole) + ofLayers(left) +
      (training ? adapterBytes(learned ? dense : left, training.rank) : 0);
  const stepTokens = training ? (training.microBatch ?? training.batch) * training.tokens : 0;
  const calibrationTokens = Math.min(calibration.sequences * calibration.tokens, CALIBRATION_TOKENS);
  const activations = Math.max(
    scoringBytes(left, FIRST_TOKENS),
    readsData ? calibrationTokens * bytesPerToken(dense) : 0,
    training ? trainingBytes(learned ? dense : left, stepTokens) : 0,
  );
  const statistics = readsData ? statisticsBytes(dense, compensate !== undefined) : 0;
  return {
    parameters: totalParameters(left),
    weightBytes: held,
    activationBytes: activations,
    statisticsBytes: statistics,
    deviceBytes: held + SLACK * activations + statistics,
    phases: phasesOf({ ...cell, training }, { dense, left, readsData, learned, evaluation }),
  };
}

/** A cell's training as its method does it. */
const trainingOf = ({ training, method: chosen }: Cell, method: Method | null): Cell["training"] =>
  training && chosen && method?.trainsWith ? method.trainsWith(training, chosen.options) : training;

/** Operations of each part of a cell: one pass over calibration; for a training step a pass forward and one back to the
 * inputs, the dense model's where it is distilled from, and once more for its hidden states, for the steps of the cell's own
 * level where several share a training; measurements once. */
function phasesOf(
  cell: Cell,
  { dense, left, readsData, learned, evaluation }: {
    dense: DecoderConfig;
    left: DecoderConfig;
    readsData: boolean;
    learned: boolean;
    evaluation: EvaluationWork;
  },
): PlannedPhase[] {
  const { calibration, training, throughput, ladder, weights } = cell;
  const [whole, pruned] = [weightBytes(dense, weights), weightBytes(left, weights)];
  const phases: PlannedPhase[] = [];
  const add = (phase: PlannedPhase["phase"], macs: number, bytesRead: number) =>
    phases.push({ phase, flops: 2 * macs, bytesRead });
  if (readsData) {
    const passes = Math.ceil(calibration.sequences * calibration.tokens / CALIBRATION_TOKENS);
    add("calibration", calibration.sequences * modelMacs(dense, calibration.tokens), passes * whole);
  }
  if (training) {
    const { tokens, batch, distillation, hidden } = training;
    const steps = ladder ? levelSteps({ ladder, sparsity: cell.sparsity }, training.steps) : training.steps;
    const student = 2 * modelMacs(learned ? dense : left, tokens);
    const teachers = (distillation > 0 ? 1 : 0) + (hidden > 0 ? 1 : 0);
    const teacher = teachers * modelMacs(dense, tokens);
    const read = 2 * (learned ? whole : pruned) + teachers * whole;
    add("learning", steps * batch * (student + teacher), steps * read);
  }
  const { windowTokens, taskTokens } = evaluation;
  if (windowTokens + taskTokens > 0) {
    const perToken = sum(left.layers.map((shape) => layerMacs(left, shape, 1)));
    const head = left.width * left.vocabSize;
    const batches = Math.ceil((windowTokens + taskTokens) / FIRST_TOKENS);
    add("evaluation", windowTokens * (perToken + head) + taskTokens * perToken, batches * pruned);
  }
  if (throughput) {
    const { prefillTokens, decodeTokens, batch, repeats } = throughput;
    const models = [left, dense];
    const macs = sum(
      models.map((config) => batch * (modelMacs(config, prefillTokens) + modelMacs(config, decodeTokens))),
    );
    add("throughput", (repeats + 1) * macs, (repeats + 1) * (1 + decodeTokens) * (whole + pruned));
  }
  return phases;
}

/** Seconds that `phases` take at least: arithmetic at the peak rate, or memory at its bandwidth, whichever is longer. */
export function leastSeconds(
  phases: readonly PlannedPhase[],
  { flopsPerS, bytesPerS = Infinity }: { flopsPerS: number; bytesPerS?: number },
): number {
  return sum(phases.map(({ flops, bytesRead }) => Math.max(flops / flopsPerS, bytesRead / bytesPerS)));
}

/** Resident set of a cell's process besides its tensors: the runtime, libraries, code and heaps. */
const PROCESS_BYTES: Record<EngineName, number> = { tensorflow: 560e6, wasm: 315e6, cpu: 315e6, webgpu: 560e6 };

/** What a cell's process takes at the worst moment where tensors lie in the machine's own memory; `deviceBytes` elsewhere. */
export function processBytes({ deviceBytes }: CellPlan, engine: EngineName): number {
  return PROCESS_BYTES[engine] + deviceBytes;
}
