/** The targets of distillation: the dense model's most probable next tokens, small enough to keep.
 *
 * @module
 */
import { giveWay } from "../../core/engine/give_way.ts";
import { at } from "../../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import { createHash } from "node:crypto";
import { softmaxCrossEntropy } from "../../core/engine/ops.ts";
import type { HostTensor } from "../config.ts";
import { forward } from "../decoder.ts";
import type { DecoderModel } from "../device.ts";
import type { TokenBatch } from "../layers.ts";
import { logits, vocabularyRows } from "../vocabulary.ts";
import { scoredRows, windowBatch } from "./batches.ts";

/** The teacher's k most probable tokens after each of S positions; the rest of the vocabulary is one more category. */
export interface TeacherTargets {
  /** k. */
  topK: number;
  /** Token ids: i32 [S, k]. */
  ids: Int32Array;
  /** Natural-log probabilities: f32 [S, k]. */
  logProbs: Float32Array;
}

interface TeacherOptions {
  /** Tokens kept for each position; at most the vocabulary. */
  topK: number;
  /** Logits are divided by this; 1 by default. */
  temperature?: number;
}

/** Targets from `model` for all positions but the last of each row: S = B (T - 1). */
export async function teacherTargets(
  model: DecoderModel,
  batch: TokenBatch,
  { topK, temperature = 1 }: TeacherOptions,
): Promise<TeacherTargets> {
  const hidden = forward(model, batch);
  const scored = tf.tidy(() => scoredRows(hidden, batch));
  hidden.dispose();
  const s = scored.shape[0];
  const k = Math.min(topK, model.config.vocabSize);
  const ids = new Int32Array(s * k);
  const logProbs = new Float32Array(s * k);
  const step = vocabularyRows(model.config.vocabSize);
  try {
    for (let start = 0; start < s; start += step) {
      const { values, indices } = tf.tidy(() => {
        const rows = tf.slice(scored, [start, 0], [Math.min(step, s - start), -1]);
        const scores = logits(model, rows);
        const soft = temperature === 1 ? scores : tf.div(scores, temperature) as tf.Tensor2D;
        const top = tf.topk(soft, k);
        const first = (all: tf.Tensor) => tf.slice(all, [0, 0], [-1, 1]);
        // The logarithm of the sum is the loss of a token plus its score.
        const { losses } = softmaxCrossEntropy(soft, tf.reshape(first(top.indices), [-1]) as tf.Tensor1D);
        const values: tf.Tensor = tf.sub(top.values, tf.add(tf.reshape(losses, [-1, 1]), first(top.values)));
        return { values, indices: top.indices as tf.Tensor };
      });
      logProbs.set(await values.data<"float32">(), start * k);
      ids.set(await indices.data<"int32">(), start * k);
      tf.dispose([values, indices]);
    }
  } finally {
    scored.dispose();
  }
  return { topK: k, ids, logProbs };
}

/** Targets of several batches one after the other. */
export function joinTargets(parts: readonly TeacherTargets[]): TeacherTargets {
  const { topK } = at(parts, 0);
  const rows = parts.reduce((sum, { ids }) => sum + ids.length, 0);
  const joined: TeacherTargets = { topK, ids: new Int32Array(rows), logProbs: new Float32Array(rows) };
  let start = 0;
  for (const { ids, logProbs } of parts) {
    joined.ids.set(ids, start);
    joined.logProbs.set(logProbs, start);
    start += ids.length;
  }
  return joined;
}

/** Targets of windows; `first` is the place of the first of them in the training order. */
export type TeacherFeed = (first: number, windows: readonly Int32Array[]) => Promise<TeacherTargets[]>;

/** Most bytes of targets that are computed beforehand and kept. */
const KEPT_BYTES = 512 * 1024 * 1024;

/** Windows of the teacher at once, by tokens. */
const TOKENS_AT_ONCE = 1024;

/** What {@linkcode openTeacher} reads. */
export interface TeacherSource {
  model: DecoderModel;
  /** Windows of one length, in the order of training. */
  windows: readonly Int32Array[];
  options: TeacherOptions;
  /** Keeps results from one run to the next. */
  remember?(key: string, compute: () => Promise<Record<string, HostTensor>>): Promise<Record<string, HostTensor>>;
  report(message: string): void;
  signal: AbortSignal;
}

/** The teacher's targets of all windows: computed once and kept when they are small enough, else batch by batch. */
export async function openTeacher(source: TeacherSource): Promise<TeacherFeed> {
  const { model, windows, options, remember, report, signal } = source;
  const rows = at(windows, 0).length - 1;
  const k = Math.min(options.topK, model.config.vocabSize);
  const cut = (ids: Int32Array | Float32Array, logProbs: Float32Array, first: number, count: number) =>
    Array.from({ length: count }, (_, i): TeacherTargets => {
      const [from, to] = [(first + i) * rows * k, (first + i + 1) * rows * k];
      return { topK: k, ids: Int32Array.from(ids.subarray(from, to)), logProbs: logProbs.slice(from, to) };
    });
  if (windows.length * rows * k * 8 > KEPT_BYTES) {
    return async (_first, asked) => {
      const { ids, logProbs } = await teacherTargets(model, windowBatch(asked), options);
      return cut(ids, logProbs, 0, asked.length);
    };
  }
  const compute = async () => {
    const shape = [windows.length, rows, k];
    const ids = new Float32Array(windows.length * rows * k);
    const logProbs = new Float32Array(ids.length);
    const atOnce = Math.max(1, Math.floor(TOKENS_AT_ONCE / at(windows, 0).length));
    for (let first = 0; first < windows.length; first += atOnce) {
      await giveWay(signal);
      report(`teacher: window ${first + 1} of ${windows.length}`);
      const targets = await teacherTargets(model, windowBatch(windows.slice(first, first + atOnce)), options);
      ids.set(targets.ids, first * rows * k);
      logProbs.set(targets.logProbs, first * rows * k);
    }
    return { ids: { shape, data: ids }, logProbs: { shape, data: logProbs } };
  };
  const key = `teacher top ${k} temperature ${options.temperature ?? 1} windows ${hashWindows(windows)}`;
  const { ids, logProbs } = await (remember ? remember(key, compute) : compute());
  return (first, asked) => Promise.resolve(cut(ids.data, logProbs.data, first, asked.length));
}

/** SHA-256 of token windows, hex, shortened. */
export function hashWindows(windows: readonly Int32Array[]): string {
  const hash = createHash("sha256");
  for (const ids of windows) {
    hash.update(`${ids.length}:`).update(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength));
  }
  return hash.digest("hex").slice(0, 16);
}
