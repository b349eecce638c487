/** Dynamic batch loading: the windows of a step are drawn from named domains, and a domain whose loss lags behind the
 * dense model's is drawn more often.
 *
 * Paper: Xia et al. 2024, "Sheared LLaMA", arXiv:2310.06694, section 3.2 and algorithm 1; the rule is that of the authors'
 * code (princeton-nlp/LLM-Shearing b87218b), which, unlike the paper's, also lowers the weight of a domain that is ahead
 * and mixes in a small equal part. Reference losses are the source model's, the paper's second choice: its first needs
 * models of several sizes.
 *
 * @module
 */
import { at } from "../../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import type { Rng } from "../../core/util/rng.ts";
import { mean } from "../../core/util/stats.ts";
import { forward, targetLogProbs } from "../decoder.ts";
import type { DecoderModel } from "../device.ts";
import { nextTokens, scoredRows, windowBatch } from "./batches.ts";
import { type ModelMasks, uploadHidden, uploadMasks } from "./student.ts";

/** Text of one kind. */
export interface Domain {
  /** Unique among the domains. */
  name: string;
  /** Part of the windows that are drawn from it at first; those of all domains sum to 1. */
  weight: number;
  /** Training windows, i32 [T] each, read in order and once; enough for every window of a run. */
  windows: Int32Array[];
  /** Windows that are not trained on: its loss is measured on them. */
  heldOut: Int32Array[];
}

/** Where the drawing from domains is; arrays are [domain]. Survives JSON. */
export interface DomainMix {
  /** Parts of the next windows; they sum to 1. */
  weights: number[];
  /** Windows read. */
  used: number[];
  /** Losses to reach, nats per token. */
  references: number[];
}

/** c: the part of the weights that all domains share equally. */
const SMOOTHING = 1e-4;

/** Domain weights after an update: `w_i exp(loss_i - reference_i)`, scaled to sum to 1, then `(1 - c) w_i + c / n`.
 * Losses and references are in nats per token; all arrays are [domain]. */
export function updateWeights(
  weights: readonly number[],
  losses: readonly number[],
  references: readonly number[],
): number[] {
  const exponents = weights.map((weight, i) => Math.log(weight) + at(losses, i) - at(references, i));
  // Only differences count; the largest at 0 keeps the exponential finite.
  const largest = Math.max(...exponents);
  const raised = exponents.map((exponent) => Math.exp(exponent - largest));
  const sum = raised.reduce((total, value) => total + value, 0);
  return raised.map((value) => (1 - SMOOTHING) * value / sum + SMOOTHING / weights.length);
}

/** A mix that was not drawn from yet. */
export function createMix(domains: readonly Domain[], references: number[] = []): DomainMix {
  return { weights: domains.map(({ weight }) => weight), used: domains.map(() => 0), references };
}

/** The next `count` windows; each draws its domain from the weights by itself. Moves `mix.used`.
 * @throws {RangeError} when a domain has no window left. */
export function drawWindows(mix: DomainMix, domains: readonly Domain[], count: number, rng: Rng): Int32Array[] {
  return Array.from({ length: count }, () => {
    let rest = rng.uniform();
    // Rounding may leave something of the draw; the last domain takes it.
    const found = mix.weights.findIndex((weight) => (rest -= weight) < 0);
    const i = found < 0 ? domains.length - 1 : found;
    const { name, windows } = at(domains, i);
    const used = at(mix.used, i);
    mix.used[i] = used + 1;
    const window = windows[used];
    if (!window) throw new RangeError(`Domain "${name}" has only ${windows.length} windows`);
    return window;
  });
}

/** Tokens of held-out windows at once. */
const TOKENS_AT_ONCE = 1024;

/** Mean loss of `model` on the held-out windows of each domain, nats per token: [domain].
 * @throws {NumericError} when a loss is not finite. */
export async function heldOutLosses(
  model: DecoderModel,
  domains: readonly Domain[],
  { masks = [], hidden: hiddenValues }: ModelMasks = {},
): Promise<number[]> {
  const layerMasks = uploadMasks(masks);
  const hidden = uploadHidden(hiddenValues);
  try {
    const losses: number[] = [];
    for (const { heldOut } of domains) {
      const atOnce = Math.max(1, Math.floor(TOKENS_AT_ONCE / at(heldOut, 0).length));
      const perToken: number[] = [];
      for (let first = 0; first < heldOut.length; first += atOnce) {
        const batch = windowBatch(heldOut.slice(first, first + atOnce));
        const rows = tf.tidy(() =>
          scoredRows(forward(model, batch, { hidden, ...masks.length > 0 && { masks: layerMasks } }), batch)
        );
        try {
          const { logProbs } = await targetLogProbs(model, rows, nextTokens(batch), { greedy: false });
          for (const logProb of logProbs) perToken.push(-logProb);
        } finally {
          rows.dispose();
        }
      }
      losses.push(mean(perToken));
    }
    return losses;
  } finally {
    hidden?.mask.dispose();
    tf.dispose(layerMasks.flatMap((layer) => Object.values(layer) as tf.Tensor[]));
  }
}
