/** Scaled dot-product attention with grouped queries and rotary positions, and its own gradient.
 *
 * Shape legend: B batch, N rows (B T flattened), H query heads, G key/value groups, R = H / G, K head size,
 * T query positions, S key positions. All tensors are f32.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "./engine.ts";
import { decoderOp } from "./native_ops.ts";
import { batchMatMul, matMul2d, withGradient } from "./ops.ts";

/** Rotary tables of a batch. */
export interface RotaryTables {
  /** cos of the angles, both halves: [N, 1, K]. */
  cos: tf.Tensor3D;
  /** sin of the angles, both halves: [N, 1, K]. */
  sin: tf.Tensor3D;
  /** The half rotation as a matrix: x rotate = concat(-x2, x1); [K, K]. */
  rotate: tf.Tensor2D;
}

/** Rotary position embedding in the half-split layout of Hugging Face; x [N, heads K] -> [N, heads K].
 * `back` applies the transposed map, which is the gradient. */
function rotate(x: tf.Tensor2D, tables: RotaryTables, back: boolean): tf.Tensor2D {
  const { cos, sin, rotate } = tables;
  const [n, columns] = x.shape;
  const headSize = rotate.shape[0];
  const as3d = (t: tf.Tensor) => tf.reshape(t, [n, -1, headSize]);
  const asRows = (t: tf.Tensor) => tf.reshape(t, [-1, headSize]) as tf.Tensor2D;
  const turned = back
    ? as3d(matMul2d(asRows(tf.mul(as3d(x), sin)), rotate, false, true))
    : tf.mul(as3d(matMul2d(asRows(x), rotate)), sin);
  return tf.reshape(tf.add(tf.mul(as3d(x), cos), turned), [n, columns]);
}

/** Sizes and tables of one attention call. */
export interface AttentionLayout {
  /** B. */
  batch: number;
  /** G. */
  kvGroups: number;
  /** R: query heads per group. */
  queryHeadsPerGroup: number;
  /** K. */
  headSize: number;
  tables: RotaryTables;
  /** Added to the scores: 0 for visible keys and a large negative number for others, [B or 1, 1, T, S].
   * Null: everything is visible, unless `segments` is given. */
  mask: tf.Tensor4D | null;
  /** Replaces the mask on engines with `decoderOps`: token j sees token i <= j of its row iff i is in segment 0 or in
   * j's own. i32 [B T], or [0] if all are in segment 0. */
  segments?: tf.Tensor1D;
  /** The rotation of one position as a matrix, if all rows are at that position (decoding): both [K, K], the query's
   * divided by sqrt(K). The number of operations limits decoding, and this saves six per layer. */
  turn?: { query: tf.Tensor2D; key: tf.Tensor2D };
}

/** Keys and values of past positions: both [B, G, S, K], keys already rotated. */
export interface KeyValues {
  keys: tf.Tensor4D;
  values: tf.Tensor4D;
}

/** [B T, heads K] -> [B, heads, T, K]. */
function splitHeads(x: tf.Tensor, batch: number, headSize: number): tf.Tensor4D {
  const [n, columns] = x.shape as [number, number];
  return tf.transpose(tf.reshape(x, [batch, n / batch, columns / headSize, headSize]), [0, 2, 1, 3]);
}

/** [B, heads, T, K] -> [B T, heads K]. */
function mergeHeads(x: tf.Tensor): tf.Tensor2D {
  const [b, h, t, k] = x.shape as [number, number, number, number];
  return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [b * t, h * k]);
}

/** Rotated queries (divided by sqrt(K)) and keys and the values of a packed projection, heads split. */
function splitPacked(packed: tf.Tensor2D, layout: AttentionLayout): { q: tf.Tensor4D; k: tf.Tensor4D; v: tf.Tensor4D } {
  const { batch, headSize, kvGroups: g, queryHeadsPerGroup, tables } = layout;
  const n = packed.shape[0];
  const h = g * queryHeadsPerGroup;
  const turned = rotate(tf.slice(packed, [0, 0], [n, (h + g) * headSize]), tables, false);
  return {
    q: tf.mul(splitHeads(tf.slice(turned, [0, 0], [n, h * headSize]), batch, headSize), 1 / Math.sqrt(headSize)),
    k: splitHeads(tf.slice(turned, [0, h * headSize], [n, g * headSize]), batch, headSize),
    v: splitHeads(tf.slice(packed, [0, (h + g) * headSize], [n, g * headSize]), batch, headSize),
  };
}

/** Queries of a block. Attention is causal, so a block needs no key after its last query: this halves the work, and a
 * block's scores stay in the processor's cache. */
export const QUERY_BLOCK = 128;

interface Block {
  start: number;
  rows: number;
  /** Keys that some query of the block sees: [0, visible). */
  visible: number;
}

function queryBlocks(t: number, s: number): Block[] {
  const blocks: Block[] = [];
  for (let start = 0; start < t; start += QUERY_BLOCK) {
    const rows = Math.min(QUERY_BLOCK, t - start);
    blocks.push({ start, rows, visible: s - t + start + rows });
  }
  return blocks;
}

/** The first `count` from `start` on along axis 2. */
function along(x: tf.Tensor, start: number, count: number): tf.Tensor4D {
  if (start === 0 && count === x.shape[2]) return x as tf.Tensor4D;
  return tf.slice(x, [0, 0, start, 0], [-1, -1, count, -1]) as tf.Tensor4D;
}

/** [B, H or G, n, K] -> [B G, R n or n, K]. */
function grouped(x: tf.Tensor, g: number): tf.Tensor3D {
  const [b, heads, n, k] = x.shape as [number, number, number, number];
  return tf.reshape(x, [b * g, (heads / g) * n, k]);
}

/** Attention weights of one block: q [B, H, rows, K] already scaled, k [B, G, visible, K] -> [B G, R rows, visible]. */
function blockWeights(q: tf.Tensor4D, k: tf.Tensor4D, mask: tf.Tensor4D | null, block: Block): tf.Tensor3D {
  const [b, h, rows] = q.shape;
  const g = k.shape[1];
  const scores = batchMatMul(grouped(q, g), grouped(k, g), false, true);
  if (!mask) return tf.softmax(scores);
  const visible = tf.slice(mask, [0, 0, block.start, 0], [-1, 1, rows, block.visible]);
  return tf.reshape(tf.softmax(tf.add(tf.reshape(scores, [b, h, rows, block.visible]), visible)), scores.shape);
}

/** q [B, H, T, K] already scaled, k and v [B, G, S, K] -> [B, H, T, K]. */
function attend(q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D, mask: tf.Tensor4D | null): tf.Tensor4D {
  const [b, h, t, size] = q.shape;
  const [, g, s] = k.shape;
  const outs = queryBlocks(t, s).map((block) =>
    tf.tidy(() => {
      const p = blockWeights(along(q, block.start, block.rows), along(k, 0, block.visible), mask, block);
      return tf.reshape(batchMatMul(p, grouped(along(v, 0, block.visible), g)), [b, h, block.rows, size]);
    })
  );
  return (outs.length === 1 ? outs[0] : tf.concat(outs, 2)) as tf.Tensor4D;
}

/** Gradients of {@linkcode attend} to q, k and v: dS = P * (dP - rowsum(dO * O)). */
function attendGradients(
  { q, k, v, out, dOut, mask }: Record<"q" | "k" | "v" | "out" | "dOut", tf.Tensor4D> & { mask: tf.Tensor4D | null },
): { dQ: tf.Tensor4D; dK: tf.Tensor4D; dV: tf.Tensor4D } {
  const [, , t] = q.shape;
  const [b, g, s, size] = k.shape;
  const towards = tf.sum(tf.mul(dOut, out), -1, true) as tf.Tensor4D;
  let dK: tf.Tensor3D | undefined;
  let dV: tf.Tensor3D | undefined;
  const added = (sum: tf.Tensor3D | undefined, part: tf.Tensor3D): tf.Tensor3D => {
    const full = part.shape[1] === s ? part : tf.pad(part, [[0, 0], [0, s - part.shape[1]], [0, 0]]);
    return sum ? tf.add(sum, full) : full;
  };
  const dQs = queryBlocks(t, s).map((block) => {
    const { start, rows, visible } = block;
    const [dQ, dKPart, dVPart] = tf.tidy(() => {
      const blockQ = along(q, start, rows);
      const blockK = along(k, 0, visible);
      const blockDOut = grouped(along(dOut, start, rows), g);
      const p = blockWeights(blockQ, blockK, mask, block);
      const dP = batchMatMul(blockDOut, grouped(along(v, 0, visible), g), false, true);
      const dS = tf.mul(p, tf.sub(dP, grouped(along(towards, start, rows), g))) as tf.Tensor3D;
      return [
        tf.reshape(batchMatMul(dS, grouped(blockK, g)), blockQ.shape),
        batchMatMul(dS, grouped(blockQ, g), true),
        batchMatMul(p, blockDOut, true),
      ];
    });
    dK = added(dK, dKPart as tf.Tensor3D);
    dV = added(dV, dVPart as tf.Tensor3D);
    return dQ;
  });
  return {
    dQ: tf.concat(dQs, 2) as tf.Tensor4D,
    dK: tf.reshape(dK!, [b, g, s, size]),
    dV: tf.reshape(dV!, [b, g, s, size]),
  };
}

/** {@linkcode attention} in one operation, and its gradient in another. */
function nativeAttention(packed: tf.Tensor2D, layout: AttentionLayout & { segments: tf.Tensor1D }): tf.Tensor2D {
  const { tables, segments, batch, kvGroups, queryHeadsPerGroup } = layout;
  const attributes = {
    rounded: { integer: Number(currentEngine().arithmetic === "fast") },
    batch: { integer: batch },
    groups: { integer: kvGroups },
    heads_per_group: { integer: queryHeadsPerGroup },
  };
  return withGradient(
    { packed },
    () => {
      const inputs = [packed, tables.cos, tables.sin, segments];
      const [out, logSums] = decoderOp("Attention", inputs, 2, attributes);
      return { out, saved: [...inputs, out, logSums] };
    },
    (dy, saved) => ({ packed: () => decoderOp("AttentionGradient", [...saved, dy], 1, attributes)[0] }),
  ) as tf.Tensor2D;
}

/** Causal attention of packed projections: [B T, (H + 2 G) K], query, key and value side by side -> [B T, H K].
 *
 * Query head h attends to group floor(h / R). The backward pass computes the attention weights again instead of keeping
 * them: they are the largest tensor of a layer. */
export function attention(packed: tf.Tensor2D, layout: AttentionLayout): tf.Tensor2D {
  if (layout.segments) return nativeAttention(packed, { ...layout, segments: layout.segments });
  const { batch, headSize, tables, mask } = layout;
  return withGradient(
    { packed },
    () => {
      const { q, k, v } = splitPacked(packed, layout);
      const out = attend(q, k, v, mask);
      // The caller may free tables and mask before the backward pass, so they are saved too.
      const rest: readonly [tf.Tensor4D?] = mask ? [mask] : [];
      return { out: mergeHeads(out), saved: [q, k, v, out, tables.cos, tables.sin, tables.rotate, ...rest] };
    },
    (dy, [q, k, v, out, cos, sin, rotation, savedMask = null]) => ({
      packed: () =>
        tf.tidy(() => {
          const dOut = splitHeads(dy, batch, headSize);
          const { dQ, dK, dV } = attendGradients({ q, k, v, out, dOut, mask: savedMask });
          const dQueries = mergeHeads(tf.mul(dQ, 1 / Math.sqrt(headSize)));
          const dTurned = tf.concat([dQueries, mergeHeads(dK)], 1) as tf.Tensor2D;
          return tf.concat([rotate(dTurned, { cos, sin, rotate: rotation }, true), mergeHeads(dV)], 1);
        }),
    }),
  ) as tf.Tensor2D;
}

/** Query, key and value projections of new positions: [B T, H K], [B T, G K] and [B T, G K]. */
interface Projections {
  query: tf.Tensor2D;
  key: tf.Tensor2D;
  value: tf.Tensor2D;
}

/** Attention of new positions to those in a cache and to themselves; no gradient. Returns the output [B T, H K] and the
 * cache with the new positions appended. */
export function cachedAttention(
  projections: Projections,
  layout: AttentionLayout,
  past: KeyValues | null,
): { out: tf.Tensor2D; cache: KeyValues } {
  const { query, key, value } = projections;
  if (layout.turn) return decodeAttention(projections, layout, layout.turn, past);
  const packed = tf.concat2d([query, key, value], 1);
  if (!past && layout.segments) {
    const keys = splitHeads(rotate(key, layout.tables, false), layout.batch, layout.headSize);
    return {
      out: attention(packed, layout),
      cache: { keys, values: splitHeads(value, layout.batch, layout.headSize) },
    };
  }
  const { q, k, v } = splitPacked(packed, layout);
  const keys = past ? tf.concat([past.keys, k], 2) : k;
  const values = past ? tf.concat([past.values, v], 2) : v;
  return { out: mergeHeads(attend(q, keys, values, layout.mask)), cache: { keys, values } };
}

/** {@linkcode cachedAttention} of one new position a row. */
function decodeAttention(
  { query, key, value }: Projections,
  { batch, kvGroups: g, queryHeadsPerGroup: r, headSize }: AttentionLayout,
  turn: { query: tf.Tensor2D; key: tf.Tensor2D },
  past: KeyValues | null,
): { out: tf.Tensor2D; cache: KeyValues } {
  const turned = (x: tf.Tensor2D, matrix: tf.Tensor2D) =>
    matMul2d(tf.reshape(x, [-1, headSize]) as tf.Tensor2D, matrix);
  const q = tf.reshape(turned(query, turn.query), [batch * g, r, headSize]) as tf.Tensor3D;
  const k = tf.reshape(turned(key, turn.key), [batch, g, 1, headSize]) as tf.Tensor4D;
  const v = tf.reshape(value, [batch, g, 1, headSize]) as tf.Tensor4D;
  const keys = past ? tf.concat([past.keys, k], 2) : k;
  const values = past ? tf.concat([past.values, v], 2) : v;
  const weights = tf.softmax(batchMatMul(q, grouped(keys, g), false, true));
  const out = batchMatMul(weights, grouped(values, g));
  return { out: tf.reshape(out, [batch, g * r * headSize]), cache: { keys, values } };
}
