/** The training loss at the vocabulary: cross entropy with the next token and divergence from a teacher. The gradient
 * to the hidden states is computed in the same pass, a few rows at a time, so that no tensor of size rows x vocabulary
 * is kept.
 *
 * Shape legend: B batch, T tokens, S = B (T - 1) scored rows, D width, V vocabulary, k tokens kept of the teacher.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "../../core/engine/engine.ts";
import { softmaxCrossEntropy, withGradient } from "../../core/engine/ops.ts";
import type { DecoderModel } from "../device.ts";
import { type HeadTable, headTable, logits, vocabularyRows } from "../vocabulary.ts";
import type { TeacherTargets } from "./teacher.ts";

/** Weights of the terms: `a CE + b T^2 KL(teacher || student) + c mean over layers of the relative hidden error`. */
export interface LossWeights {
  /** a. */
  crossEntropy: number;
  /** b. */
  distillation: number;
  /** T: softens both distributions of the divergence. */
  temperature: number;
  /** c. */
  hidden: number;
}

/** Loss terms, each a mean over scored tokens, in nats; `hidden` is relative and without unit. */
export interface LossTerms {
  /** Weighted sum of the others. */
  total: number;
  crossEntropy: number;
  /** KL(teacher || student) at the temperature, not multiplied by its square. */
  distillation: number;
  /** Mean over layers of mean square error over mean square of the teacher's hidden states. */
  hidden: number;
}

/** Least probability that the student's rest category may have; below it f32 sums lose all digits. */
const LEAST_REST = 1e-6;

/** Product of a gradient [R, V] with the head's rows after corrections on a few tokens of each row:
 * `(gradient * factor + scatter(corrections at ids)) rows`; factor [R, 1], corrections and ids [R, n] -> [R, D]. */
function correctedProduct(
  gradient: tf.Tensor2D,
  { factor, corrections, ids, table }: {
    factor: tf.Tensor2D;
    corrections: tf.Tensor2D;
    ids: tf.Tensor2D;
    table: HeadTable;
  },
): tf.Tensor2D {
  const [rows, n] = ids.shape;
  if (currentEngine().namedOps && table.rows) {
    // n rows of the head in place of another pass over the whole vocabulary.
    const taken = tf.reshape(tf.gather(table.rows, tf.reshape(ids, [-1])), [rows, n, -1]) as tf.Tensor3D;
    const sparse = tf.reshape(tf.matMul(tf.reshape(corrections, [rows, 1, n]) as tf.Tensor3D, taken), [rows, -1]);
    return tf.add(tf.mul(table.product(gradient), factor), sparse);
  }
  // The other engines gather rows slowly, and their vocabularies are small.
  const row = tf.reshape(tf.range(0, rows, 1, "int32"), [rows, 1]);
  const places = tf.stack([tf.reshape(tf.tile(row, [1, n]), [-1]), tf.reshape(ids, [-1])], 1);
  const scattered = tf.scatterND(places, tf.reshape(corrections, [-1]), gradient.shape) as tf.Tensor2D;
  return table.product(tf.add(tf.mul(gradient, factor), scattered));
}

/** The teacher's probabilities in one chunk: i32 and f32 [R, k]. */
type ChunkTeacher = Record<"ids" | "logProbs", tf.Tensor2D>;

/** Sums of both terms over rows with logits `scores` [R, V], scalars, and the gradient of `a CE + b KL` to the hidden
 * states, [R, D].
 *
 * With p the teacher's k probabilities and r = 1 - sum p, and q the student's, the divergence over k + 1 categories is
 * sum p (log p - log q) + r (log r - log q_rest). Its gradient is q - t, where t = p on the kept tokens and q r /
 * q_rest on all others. So `a CE + b KL` has the gradient `(q - onehot) s`, a row factor s = a + b (1 - r / q_rest),
 * plus a correction on k + 1 tokens of each row, which goes through k + 1 rows of the head instead of all. */
function chunkLoss(
  { scores, targets, teacher, table, a, b }: {
    scores: tf.Tensor2D;
    targets: tf.Tensor1D;
    teacher: ChunkTeacher | null;
    table: HeadTable;
    a: number;
    b: number;
  },
): { crossEntropy: tf.Tensor; distillation: tf.Tensor; gradient: tf.Tensor2D } {
  const { losses, gradient } = softmaxCrossEntropy(scores, targets);
  const crossEntropy = tf.sum(losses);
  if (!teacher) {
    return { crossEntropy, distillation: tf.scalar(0), gradient: tf.mul(table.product(gradient), a) };
  }
  const [rows, vocab] = scores.shape;
  const ids = tf.concat2d([teacher.ids, tf.reshape(targets, [rows, 1])], 1);
  const first = tf.tensor2d(Int32Array.from({ length: rows }, (_, i) => i * vocab), [rows, 1], "int32");
  const flat: tf.Tensor = tf.reshape(scores, [-1]);
  const chosen = tf.gather(flat, tf.add(ids, first)) as tf.Tensor2D;
  const k = teacher.ids.shape[1];
  const normaliser = tf.add(tf.reshape(losses, [rows, 1]), tf.slice(chosen, [0, k], [rows, 1]));
  const logQ = tf.sub(tf.slice(chosen, [0, 0], [rows, k]), normaliser);
  const p = tf.exp(teacher.logProbs);
  const q = tf.exp(logQ);
  const rest = tf.maximum(tf.sub(1, tf.sum(p, 1, true)), 0);
  const restQ = tf.maximum(tf.sub(1, tf.sum(q, 1, true)), LEAST_REST);
  const ratio = tf.div(rest, restQ);
  const restTerm = tf.mul(rest, tf.log(tf.maximum(ratio, 1e-30)));
  const distillation = tf.add(tf.sum(tf.mul(p, tf.sub(teacher.logProbs, logQ))), tf.sum(restTerm));
  const factor = tf.add(a + b, tf.mul(ratio, -b)) as tf.Tensor2D;
  const corrections = tf.concat2d([tf.mul(tf.sub(tf.mul(q, ratio), p), b) as tf.Tensor2D, tf.sub(factor, a)], 1);
  return { crossEntropy, distillation, gradient: correctedProduct(gradient, { factor, corrections, ids, table }) };
}

/** `scale` times the sum over rows of `a CE + b T^2 KL`, with its gradient to `hidden`; a frozen head gets none.
 *
 * hidden [S, D] after the final norm; `ids` are the next tokens, i32 [S]; `teacher` is not needed when `distillation`
 * is 0. `onTerms` gets the sums of the two terms, [2]; the tensor is the receiver's to
 * free. The gradient is made in the forward pass and multiplied by the incoming slope later. */
export function vocabularyLoss(
  model: DecoderModel,
  hidden: tf.Tensor2D,
  { ids, teacher }: { ids: Int32Array; teacher?: TeacherTargets },
  { weights, scale, onTerms }: { weights: LossWeights; scale: number; onTerms(sums: tf.Tensor1D): void },
): tf.Scalar {
  const { crossEntropy: a, distillation, temperature } = weights;
  const distils = distillation > 0 && teacher !== undefined;
  return withGradient(
    { hidden },
    () => {
      const table = headTable(model);
      const [s, width] = hidden.shape;
      const step = vocabularyRows(model.config.vocabSize);
      const gradients: tf.Tensor2D[] = [];
      const sums: tf.Tensor1D[] = [];
      for (let start = 0; start < s; start += step) {
        const rows = Math.min(step, s - start);
        const [sum, gradient] = tf.tidy(() => {
          const targets = tf.tensor1d(ids.subarray(start, start + rows), "int32");
          const scores = logits(model, tf.slice(hidden, [start, 0], [rows, width]));
          const kept = distils ? chunkTeacher(teacher, start, rows) : null;
          const b = distils ? distillation * temperature ** 2 : 0;
          const at = (a: number, b: number, kept: ChunkTeacher | null, scores: tf.Tensor2D) =>
            chunkLoss({ scores, targets, teacher: kept, table, a, b });
          if (!kept || temperature === 1) {
            const all = at(a, b, kept, scores);
            return [tf.stack([all.crossEntropy, all.distillation]), all.gradient];
          }
          const hard = at(a, 0, null, scores);
          const soft = at(0, b, kept, tf.div(scores, temperature));
          return [
            tf.stack([hard.crossEntropy, soft.distillation]),
            tf.add(hard.gradient, tf.div(soft.gradient, temperature)),
          ];
        });
        sums.push(sum as tf.Tensor1D);
        gradients.push(gradient as tf.Tensor2D);
      }
      table.free();
      const terms = tf.keep(tf.addN(sums)) as tf.Tensor1D;
      onTerms(terms);
      const gradient = tf.mul(tf.concat2d(gradients, 0), scale);
      const factors = tf.tensor1d([a * scale, distils ? distillation * temperature ** 2 * scale : 0]);
      return { out: tf.sum(tf.mul(terms, factors)), saved: [gradient] };
    },
    (dy, [gradient]) => ({ hidden: () => tf.mul(gradient, dy) }),
  ) as tf.Scalar;
}

function chunkTeacher({ ids, logProbs, topK }: TeacherTargets, start: number, rows: number): ChunkTeacher {
  const part = <A extends Int32Array | Float32Array>(all: A) => all.slice(start * topK, (start + rows) * topK) as A;
  return { ids: tf.tensor2d(part(ids), [rows, topK], "int32"), logProbs: tf.tensor2d(part(logProbs), [rows, topK]) };
}
