/** Plain-array references for methods: tiny models, calibration windows, and the selection they are compared with.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import type { Statistics } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { type HostTensor, type LinearName, tensorNames, type WeightSource } from "../../models/config.ts";
import { type LayerPlan, queryHeads } from "../../models/units.ts";
import type { UnitType } from "../../core/schema/schema.ts";
import { toySource, toyTokens } from "./toy.ts";
import { methodContext } from "./method_context.ts";
import { take } from "./values.ts";
import { onDevice } from "./device_models.ts";

// Shapes of the smallest models that have everything: D 8, K 4, V 13, two layers of F 16, with two query heads in each
// of two groups, or three heads of their own.
const TINY = { width: 8, headSize: 4, vocabSize: 13 };
const SHAPES = {
  grouped: { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 16 },
  multiHead: { kvGroups: 3, queryHeadsPerGroup: 1, ffnChannels: 16 },
};
/** One multi-head model and one with grouped queries. */
export const sources = Object.fromEntries(
  Object.entries(SHAPES).map(([name, shape]) => [
    name,
    toySource({ ...TINY, layers: [{ ...shape }, { ...shape }], tiedHead: name === "grouped", seed: 5 }),
  ]),
);
/** Lengths of {@linkcode windows}: not all equal, since long windows weigh more in a loss. */
export const WINDOW_LENGTHS = [7, 7, 5];
/** Calibration windows. */
export const windows = WINDOW_LENGTHS.map((count, seed) => toyTokens({ count, vocabSize: TINY.vocabSize, seed }));

/** Weight `[out, in]` as rows. */
function rowsOf({ shape, data }: HostTensor): Float64Array[] {
  const [out, input] = take(shape, 2);
  return Array.from({ length: out }, (_, i) => Float64Array.from(data.subarray(i * input, (i + 1) * input)));
}

/** Weight `[out, in]` of a linear map, one array per row. */
export const weightOf = (source: WeightSource, l: number, name: LinearName) =>
  rowsOf(source.read(tensorNames.weight(l, name)));
/** Sum of all values. */
export const sum = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0);
/** Transposes rows. */
export const columnsOf = (rows: ArrayLike<number>[]) =>
  Array.from(at(rows, 0), (_, j) => Float64Array.from(rows, (row) => at(row, j)));
/** Cuts `values` into runs of `size`. */
export const inGroupsOf = (size: number, values: ArrayLike<number>) =>
  Array.from({ length: values.length / size }, (_, i) => Array.from(values).slice(i * size, (i + 1) * size));

/** Mean of all values. */
export const mean = (values: ArrayLike<number>) => sum(values) / values.length;

/** Kept units at given counts, by reference scores. */
function bestPlan(
  { heads, groups, channels }: { heads: number[]; groups: number[]; channels: number[] },
  keep: { kvGroups: number; queryHeadsPerGroup: number; ffnChannels: number },
): LayerPlan {
  const best = (scores: number[], count: number) =>
    scores.map((score, index) => ({ score, index })).sort((a, b) => b.score - a.score).slice(0, count)
      .map(({ index }) => index).sort((a, b) => a - b);
  const perGroup = heads.length / groups.length;
  const kvGroups = best(groups, keep.kvGroups);
  return {
    kvGroups,
    queryHeads: kvGroups.flatMap((g) =>
      best(heads.slice(g * perGroup, (g + 1) * perGroup), keep.queryHeadsPerGroup).map((h) => g * perGroup + h)
    ),
    ffnChannels: best(channels, keep.ffnChannels),
  };
}

/** Units and levels that a method is compared at. */
export const UNIT_CHOICES: UnitType[][] = [["ffn", "kv-groups"], ["ffn", "query-heads"], ["ffn"]];
export const LEVELS = [0.2, 0.35, 0.45];

/** Scores of one layer's units by a reference. */
export interface ReferenceScores {
  heads: number[];
  groups: number[];
  channels: number[];
}

/** Checks that a method with uniform widths keeps the best units by `reference`. */
export async function checkUniform(
  source: WeightSource,
  [id, options]: [string, Record<string, unknown>],
  reference: ReferenceScores[],
): Promise<void> {
  const method = getMethod(id);
  const parsed = parseOptions(method, options);
  using model = await onDevice(source);
  const cache = new Map<string, Statistics>();
  for (const units of UNIT_CHOICES) {
    for (const sparsity of LEVELS) {
      const context = methodContext({ model, options: parsed, calibration: windows, units, sparsity, cache });
      const { plan } = await method.prune(context);
      const expected = reference.map((scores, l) => bestPlan(scores, at(context.target.uniform, l)));
      assertEquals(plan.layers, expected, `${id} ${JSON.stringify(options)} at ${sparsity} of ${units}`);
    }
  }
}

/** Sums of column scores over heads and groups. */
export function columnReference(
  source: WeightSource,
  columns: { output: number[]; down: number[] }[],
): ReferenceScores[] {
  return source.config.layers.map(({ queryHeadsPerGroup }, l) => {
    const heads = inGroupsOf(source.config.headSize, at(columns, l).output).map(sum);
    return { heads, groups: inGroupsOf(queryHeadsPerGroup, heads).map(sum), channels: at(columns, l).down };
  });
}

/** |values| of slot s: row s, or column s of output and down. */
export function slotOf(rows: ArrayLike<number>[], name: LinearName, s: number): number[] {
  const reads = name === "output" || name === "down";
  return reads ? rows.map((row) => Math.abs(at(row, s))) : Array.from(at(rows, s), Math.abs);
}

/** Unit scores from one score per slot of every matrix, head by head and group by group. */
export function groupReference(
  source: WeightSource,
  slot: (layer: number, name: LinearName, s: number) => number,
): ReferenceScores[] {
  const { headSize, layers } = source.config;
  return layers.map((shape, l) => {
    const ofHead = (names: LinearName[], h: number) =>
      sum(names.flatMap((name) => Array.from({ length: headSize }, (_, k) => slot(l, name, h * headSize + k))));
    const heads = Array.from({ length: queryHeads(shape) }, (_, h) => ofHead(["query", "output"], h));
    const perGroup = shape.queryHeadsPerGroup;
    return {
      heads,
      groups: Array.from(
        { length: shape.kvGroups },
        (_, g) => ofHead(["key", "value"], g) + sum(heads.slice(g * perGroup, (g + 1) * perGroup)),
      ),
      channels: Array.from(
        { length: shape.ffnChannels },
        (_, c) => sum((["gate", "up", "down"] as const).map((name) => slot(l, name, c))),
      ),
    };
  });
}
