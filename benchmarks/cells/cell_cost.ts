/** What a cell takes, counted from shapes alone: parameters, bytes, floating-point operations.
 *
 * Shape legend: D width, H query heads, G key/value groups, K head size, F FFN channels, V vocabulary, L layers.
 *
 * @module
 */
import type { Cell, EngineName } from "../../core/schema/schema.ts";
import type { Method } from "../../methods/define.ts";
import { type DecoderConfig, expectedTensors, LINEAR_NAMES, linearShape } from "../../models/config.ts";
import { layerMacs, modelMacs, totalParameters } from "../../models/count.ts";
import { bytesPerToken, FAST_TOKENS } from "../../models/scoring.ts";
import type { Resource } from "../../models/resource.ts";
import { resolveTarget } from "../../models/target.ts";
import { queryHeads } from "../../models/units.ts";
import { vocabularyRows } from "../../models/vocabulary.ts";

/** Tokens that a cell's measurements read. */
export interface EvaluationTokens {
  /** In perplexity windows, where every position is scored. */
  windows: number;
  /** In the questions of tasks, where few positions are scored. */
  tasks: number;
}

/** What a cell takes. */
export interface CellCost {
  /** Of the model that is left. */
  parameters: number;
  /** Weights of all models that the cell holds at once, with adapters and their moments. */
  weightBytes: number;
  /** Weights, activations and statistics at the worst moment. */
  deviceBytes: number;
  /** Multiply and add counted as two. Throughput tests are not counted. */
  flops: number;
}

const F32 = 4;
/** Tokens of calibration that go through a model at once. */
const CALIBRATION_TOKENS = 2048;
/** Allocators round up, and keep freed memory for a while. */
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

/** Bytes of a batch while it is scored: its widest layer, and some rows of logits in three copies. */
export function scoringBytes(config: DecoderConfig, tokens: number): number {
  const { vocabSize } = config;
  const rows = Math.min(tokens, 256, 2 * vocabularyRows(vocabSize));
  return tokens * bytesPerToken(config) + 3 * F32 * rows * vocabSize;
}

/** Bytes that a training step keeps for its gradient: of every layer the outputs of its linear maps with adapter and
 * sum (three of each), norms and residual streams (5 D), the activation and its product (2 F); some rows of logits. */
export function trainingBytes(config: DecoderConfig, tokens: number): number {
  const { width, headSize, vocabSize } = config;
  const floats = config.layers.map((shape) => {
    const attention = (queryHeads(shape) + 2 * shape.kvGroups) * headSize;
    return 3 * (attention + 2 * width + 2 * shape.ffnChannels) + 5 * width + 2 * shape.ffnChannels;
  });
  return F32 * (tokens * sum(floats) + 4 * Math.min(tokens, vocabularyRows(vocabSize)) * vocabSize);
}

/** Adapters of rank `rank` on all linear maps, their gradients and two moments. */
function adapterBytes(config: DecoderConfig, rank: number): number {
  const rows = config.layers.flatMap((shape) => LINEAR_NAMES.map((name) => sum(linearShape(config, shape, name))));
  return 4 * F32 * rank * sum(rows);
}

/** Means, variances and fluctuations of the inputs of output and down maps; to compensate, also their Gram matrices. */
function statisticsBytes({ layers, headSize }: DecoderConfig, withGram: boolean): number {
  const inputs = layers.flatMap((shape) => [queryHeads(shape) * headSize, shape.ffnChannels]);
  return F32 * sum(inputs.map((n) => 3 * n + (withGram ? n * n : 0)));
}

/** The uniform widths of a cell's budget, for every method; the dense widths for a foreign checkpoint. */
function leftShape(
  dense: DecoderConfig,
  { method, checkpoint, sparsity, units, dropLayers, ffnMultiple }: Cell,
  resource?: Resource,
): DecoderConfig {
  if (method === null || checkpoint) return dense;
  return { ...dense, layers: resolveTarget(dense, { sparsity, units, dropLayers, ffnMultiple, resource }).uniform };
}

/** What one cell takes, from the dense model's shape. Statistics of a method's own are not known here. */
export function cellCost(
  cell: Cell,
  dense: DecoderConfig,
  { method, tokens, layerwise = false, resource }: {
    method: Method | null;
    tokens: EvaluationTokens;
    layerwise?: boolean;
    /** What the budget counts; parameters when absent. */
    resource?: Resource;
  },
): CellCost {
  const left = leftShape(dense, cell, resource);
  const { compensate, weights, calibration, training, recover } = cell;
  const readsData = method !== null && (method.needs.calibration || compensate !== undefined);
  const trained = method?.kind === "learned" ? dense : left;
  // A pruned model shares embedding, head and final norm with the dense one.
  const ofLayers = (layers: DecoderConfig["layers"]) =>
    weightBytes({ ...dense, layers }, weights) - weightBytes({ ...dense, layers: [] }, weights);
  const notHeld = layerwise ? ofLayers(dense.layers.slice(1)) : 0;
  const held = method === null ? weightBytes(dense, weights) : weightBytes(dense, weights) - notHeld +
    ofLayers(left.layers) + (training && recover === "lora" ? adapterBytes(trained, training.rank) : 0);
  const calibrationTokens = Math.min(calibration.sequences * calibration.tokens, CALIBRATION_TOKENS);
  const stepTokens = training ? (training.microBatch ?? training.batch) * training.tokens : 0;
  const activations = Math.max(
    scoringBytes(left, FAST_TOKENS[cell.engine]),
    readsData ? calibrationTokens * bytesPerToken(dense) : 0,
    training ? trainingBytes(trained, stepTokens) : 0,
  );
  const statistics = readsData ? statisticsBytes(dense, compensate !== undefined) : 0;
  return {
    parameters: totalParameters(left),
    weightBytes: held,
    deviceBytes: held + SLACK * activations + statistics,
    flops: 2 * sum([
      readsData ? calibration.sequences * modelMacs(dense, calibration.tokens) : 0,
      training ? trainingMacs(training, { dense, trained }) : 0,
      evaluationMacs(left, tokens),
    ]),
  };
}

/** A step is one pass forward and one back to the inputs, and a pass of the dense model for each of distillation and
 * the loss of hidden states. */
function trainingMacs(
  { steps, batch, tokens, distillation, hidden }: NonNullable<Cell["training"]>,
  { dense, trained }: { dense: DecoderConfig; trained: DecoderConfig },
): number {
  const teachers = (distillation > 0 ? 1 : 0) + (hidden > 0 ? 1 : 0);
  return steps * batch * (2 * modelMacs(trained, tokens) + teachers * modelMacs(dense, tokens));
}

function evaluationMacs(config: DecoderConfig, { windows, tasks }: EvaluationTokens): number {
  const perToken = sum(config.layers.map((shape) => layerMacs(config, shape, 1)));
  return windows * (perToken + config.width * config.vocabSize) + tasks * perToken;
}

/** Resident set of a cell's process without its tensors: the runtime, libraries, code and heaps. */
const PROCESS_BYTES: Record<EngineName, number> = { tensorflow: 560e6, wasm: 315e6, cpu: 315e6, webgpu: 560e6 };

/** Peak memory of a cell's process if tensors are in the machine's own memory. */
export function processBytes({ deviceBytes }: Pick<CellCost, "deviceBytes">, engine: EngineName): number {
  return PROCESS_BYTES[engine] + deviceBytes;
}
