import { assert, assertEquals } from "@std/assert";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import type { Statistics } from "../../methods/define.ts";
import { calibrationBatches, inputStatisticNames, inputStatistics } from "../../methods/_shared/calibration.ts";
import { COLUMN_METRICS, columnScores } from "../../methods/_shared/column_metrics.ts";
import {
  type HostTensor,
  LINEAR_NAMES,
  type LinearName,
  type LlamaConfig,
  memorySource,
  queryHeads,
  tensorNames,
  type WeightSource,
} from "../../models/config.ts";
import { keptParameters } from "../../models/count.ts";
import { disposeModel, type LlamaModel, uploadModel } from "../../models/llama.ts";
import { type LayerPlan, plannedShapes, type UnitType } from "../../models/plan.ts";
import { referenceForward, referenceLogProbs } from "../../models/reference.ts";
import { toySource, toyTokens } from "../../models/toy.ts";
import { assertClose, testOnEngines } from "./engines.ts";
import { methodContext } from "./method_context.ts";

// Shapes of the smallest models that have everything: D 8, K 4, V 13, two layers of F 16, with two query heads in each
// of two groups, or three heads of their own.
const TINY = { width: 8, headSize: 4, vocabSize: 13 };
const SHAPES = {
  grouped: { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 16 },
  multiHead: { kvGroups: 3, queryHeadsPerGroup: 1, ffnChannels: 16 },
};
const sources = Object.fromEntries(
  Object.entries(SHAPES).map(([name, shape]) => [
    name,
    toySource({ ...TINY, layers: [{ ...shape }, { ...shape }], tiedHead: name === "grouped", seed: 5 }),
  ]),
);
const WINDOW_LENGTHS = [7, 7, 5];
const windows = WINDOW_LENGTHS.map((count, seed) => toyTokens({ count, vocabSize: TINY.vocabSize, seed }));

async function withModel(source: WeightSource, run: (model: LlamaModel) => Promise<void>): Promise<void> {
  const model = await uploadModel(source);
  try {
    await run(model);
  } finally {
    disposeModel(model);
  }
}

/** Weight `[out, in]` as rows. */
function rowsOf({ shape: [out, input], data }: HostTensor): Float64Array[] {
  return Array.from({ length: out }, (_, i) => Float64Array.from(data.subarray(i * input, (i + 1) * input)));
}

const weightOf = (source: WeightSource, l: number, name: LinearName) =>
  rowsOf(source.read(tensorNames.weight(l, name)));
const sum = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0);
const columnsOf = (rows: ArrayLike<number>[]) =>
  Array.from(rows[0], (_, j) => Float64Array.from(rows, (row) => row[j]));
const inGroupsOf = (size: number, values: ArrayLike<number>) =>
  Array.from({ length: values.length / size }, (_, i) => Array.from(values).slice(i * size, (i + 1) * size));

/** Every row of the output and down projections' inputs: `${layer}.${site}` -> columns of N values. */
function referenceInputs(source: WeightSource): Map<string, Float64Array[]> {
  const rows = new Map<string, Float64Array[]>();
  for (const window of windows) {
    referenceForward(source, window, {
      observe: (layer, site, input) => {
        const key = `${layer}.${site}`;
        rows.set(key, [...rows.get(key) ?? [], ...input.map((row) => row.slice())]);
      },
    });
  }
  return new Map(rows.entries().map(([key, matrix]) => [key, columnsOf(matrix)]));
}

const mean = (values: ArrayLike<number>) => sum(values) / values.length;
const variance = (values: ArrayLike<number>) => mean(Array.from(values, (x) => (x - mean(values)) ** 2));
const SITES = [[0, "output"], [0, "down"], [1, "output"], [1, "down"]] as const;

testOnEngines("inputStatistics() equals mean and variance over all tokens of windows of unequal length", async () => {
  for (const source of Object.values(sources)) {
    const inputs = referenceInputs(source);
    await withModel(source, async (model) => {
      const statistics = await inputStatistics(methodContext({ model, options: {}, calibration: windows }));
      for (const [layer, site] of SITES) {
        const columns = inputs.get(`${layer}.${site}`)!;
        assertClose(
          statistics[inputStatisticNames.mean(layer, site)].data,
          columns.map(mean),
          {},
          `mean ${layer} ${site}`,
        );
        assertClose(
          statistics[inputStatisticNames.variance(layer, site)].data,
          columns.map(variance),
          { atol: 1e-6, rtol: 1e-4 },
          `variance ${layer} ${site}`,
        );
      }
    });
  }
});

/** WIFN (the score of Wanda-sp), WIFV and IFV of one column, from its weights W_:j and inputs x_j. */
const referenceMetric = {
  WIFN: (w: ArrayLike<number>, x: ArrayLike<number>) =>
    mean(Array.from(w, Math.abs)) * Math.sqrt(mean(Array.from(x, (value) => value * value))),
  WIFV: (w: ArrayLike<number>, x: ArrayLike<number>) => variance(x) * sum(Array.from(w, (value) => value * value)),
  IFV: (_: ArrayLike<number>, x: ArrayLike<number>) => variance(x),
};

function referenceColumns(source: WeightSource, metric: keyof typeof referenceMetric) {
  const inputs = referenceInputs(source);
  const columns = (l: number, site: "output" | "down") =>
    columnsOf(weightOf(source, l, site)).map((w, j) => referenceMetric[metric](w, inputs.get(`${l}.${site}`)![j]));
  return source.config.layers.map((_, l) => ({ output: columns(l, "output"), down: columns(l, "down") }));
}

testOnEngines("columnScores() equals the metrics worked out in plain arrays", async () => {
  for (const source of Object.values(sources)) {
    await withModel(source, async (model) => {
      const statistics = await inputStatistics(methodContext({ model, options: {}, calibration: windows }));
      for (const metric of COLUMN_METRICS) {
        const expected = referenceColumns(source, metric);
        const actual = await columnScores(model, statistics, metric);
        for (const [layer, site] of SITES) {
          const tolerance = { atol: 1e-7, rtol: 1e-4 };
          assertClose(actual[layer][site], expected[layer][site], tolerance, `${metric} of layer ${layer} ${site}`);
        }
      }
    });
  }
});

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

const UNIT_CHOICES: UnitType[][] = [["ffn", "kv-groups"], ["ffn", "query-heads"], ["ffn"]];
const LEVELS = [0.2, 0.35, 0.45];

/** Scores of one layer's units by a reference. */
interface ReferenceScores {
  heads: number[];
  groups: number[];
  channels: number[];
}

/** Checks that a method with uniform widths keeps the best units by `reference`. */
async function checkUniform(
  source: WeightSource,
  [id, options]: [string, Record<string, unknown>],
  reference: ReferenceScores[],
): Promise<void> {
  const method = getMethod(id);
  const parsed = parseOptions(method, options);
  await withModel(source, async (model) => {
    const cache = new Map<string, Statistics>();
    for (const units of UNIT_CHOICES) {
      for (const sparsity of LEVELS) {
        const context = methodContext({ model, options: parsed, calibration: windows, units, sparsity, cache });
        const { plan } = await method.prune(context);
        const expected = reference.map((scores, l) => bestPlan(scores, context.target.uniform[l]));
        assertEquals(plan.layers, expected, `${id} ${JSON.stringify(options)} at ${sparsity} of ${units}`);
      }
    }
  });
}

/** Sums of column scores over heads and groups. */
function columnReference(source: WeightSource, columns: { output: number[]; down: number[] }[]): ReferenceScores[] {
  return source.config.layers.map(({ queryHeadsPerGroup }, l) => {
    const heads = inGroupsOf(source.config.headSize, columns[l].output).map(sum);
    return { heads, groups: inGroupsOf(queryHeadsPerGroup, heads).map(sum), channels: columns[l].down };
  });
}

testOnEngines("wanda-sp keeps the units with the largest mean |W| sqrt(mean x^2)", async () => {
  for (const source of Object.values(sources)) {
    await checkUniform(source, ["wanda-sp", {}], columnReference(source, referenceColumns(source, "WIFN")));
  }
});

testOnEngines("flap UL-UM keeps the units whose squared (attention) or plain (FFN) metric is largest", async () => {
  for (const source of Object.values(sources)) {
    const columns = referenceColumns(source, "WIFV");
    const squared = columns.map(({ output, down }) => ({ output: output.map((x) => x * x), down }));
    await checkUniform(source, ["flap", { structure: "UL-UM" }], columnReference(source, squared));
  }
});

testOnEngines("flap AL-AM cuts one ranking of standardised scores at the budget", async () => {
  const standardise = (x: number[]) => {
    const sd = Math.sqrt(sum(x.map((value) => (value - mean(x)) ** 2)) / (x.length - 1));
    return x.map((value) => (value - mean(x)) / sd);
  };
  for (const source of Object.values(sources)) {
    const { headSize, width, layers: [{ queryHeadsPerGroup: perGroup }] } = source.config;
    const units = referenceColumns(source, "WIFV").flatMap(({ output, down }, l) => [
      ...inGroupsOf(headSize * perGroup, standardise(output.map((x) => x * x))).map((columns, index) => (
        { l, type: "kvGroups" as const, index, score: mean(columns), cost: (2 + 2 * perGroup) * headSize * width }
      )),
      ...standardise(down).map((score, index) => ({ l, type: "ffnChannels" as const, index, score, cost: 3 * width })),
    ]);
    const method = getMethod("flap");
    await withModel(source, async (model) => {
      for (const sparsity of LEVELS) {
        const context = methodContext({
          model,
          options: parseOptions(method, {}),
          calibration: windows,
          sparsity,
        });
        const { plan } = await method.prune(context);
        const { budgetParameters } = context.target;
        // By hand: drop the lowest unit, but never the last of its kind in a layer, until the budget holds; then give
        // back dropped channels, the best first, while they fit.
        const kept = new Set(units);
        const dropped: typeof units = [];
        const size = () => sum([...kept].map(({ cost }) => cost));
        for (const unit of [...units].sort((a, b) => a.score - b.score)) {
          if (size() <= budgetParameters) break;
          if ([...kept].filter(({ l, type }) => l === unit.l && type === unit.type).length === 1) continue;
          kept.delete(unit);
          dropped.unshift(unit);
        }
        for (const unit of dropped.filter(({ type }) => type === "ffnChannels")) {
          if (size() + unit.cost <= budgetParameters) kept.add(unit);
        }
        const expected = source.config.layers.map((_, l) => {
          const of = (type: string) =>
            [...kept].filter((unit) => unit.l === l && unit.type === type).map(({ index }) => index)
              .sort((a, b) => a - b);
          return { kvGroups: of("kvGroups"), ffnChannels: of("ffnChannels") };
        });
        const actual = plan.layers.map(({ kvGroups, ffnChannels }) => ({ kvGroups, ffnChannels }));
        assertEquals(actual, expected, `at ${sparsity}`);
        const slack = budgetParameters - keptParameters(source.config, plannedShapes(source.config, plan));
        assert(slack >= 0 && slack < 3 * width, `slack of ${slack} at ${sparsity}`);
      }
    });
  }
});

testOnEngines("flap's bias compensation adds W_removed mean(x_removed)", async () => {
  const method = getMethod("flap");
  for (const source of Object.values(sources)) {
    const inputs = referenceInputs(source);
    await withModel(source, async (model) => {
      const { plan, replaced } = await method.prune(methodContext({
        model,
        options: parseOptions(method, { structure: "UL-UM", biasCompensation: true }),
        calibration: windows,
        sparsity: 0.5,
      }));
      for (const [layer, site] of SITES) {
        const { queryHeads: heads, ffnChannels } = plan.layers[layer];
        const stays = (j: number) =>
          site === "down" ? ffnChannels.includes(j) : heads.includes(Math.floor(j / source.config.headSize));
        const means = inputs.get(`${layer}.${site}`)!.map((column, j) => stays(j) ? 0 : mean(column));
        const expected = weightOf(source, layer, site).map((row) => sum(row.map((w, j) => w * means[j])));
        assertClose(replaced![tensorNames.bias(layer, site)].data, expected, {}, `bias of layer ${layer} ${site}`);
      }
    });
  }
});

/** Reference scores by weights alone: |W|^p summed over what a unit takes with it. */
function magnitudeReference(source: WeightSource, power: 1 | 2): ReferenceScores[] {
  return groupReference(source, (l, name, s) => sum(slotOf(weightOf(source, l, name), name, s).map((w) => w ** power)));
}

/** |values| of slot s: row s, or column s of output and down. */
function slotOf(rows: ArrayLike<number>[], name: LinearName, s: number): number[] {
  const reads = name === "output" || name === "down";
  return reads ? rows.map((row) => Math.abs(row[s])) : Array.from(rows[s], Math.abs);
}

/** Unit scores from one score per slot of every matrix, head by head and group by group. */
function groupReference(
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

testOnEngines("magnitude keeps the units with the largest weights", async () => {
  for (const source of Object.values(sources)) {
    for (const [norm, power] of [["l1", 1], ["l2", 2]] as const) {
      await checkUniform(source, ["magnitude", { norm }], magnitudeReference(source, power));
      const columns = source.config.layers.map((_, l) => {
        const norms = (site: "output" | "down") =>
          columnsOf(weightOf(source, l, site)).map((w) => sum(w.map((x) => Math.abs(x) ** power)) ** (1 / power));
        return { output: norms("output"), down: norms("down") };
      });
      await checkUniform(source, ["magnitude", { norm, scope: "output" }], columnReference(source, columns));
    }
  }
});

/** The same weights in double precision, so that differences of 1e-6 mean something. */
function inDoublePrecision({ config, read }: WeightSource): { source: WeightSource; tensors: Map<string, HostTensor> } {
  const tensors = new Map<string, HostTensor>();
  const names = config.layers.flatMap((_, l) => [
    tensorNames.attentionNorm(l),
    tensorNames.ffnNorm(l),
    ...LINEAR_NAMES.map((name) => tensorNames.weight(l, name)),
  ]);
  const others = [tensorNames.embedding, tensorNames.finalNorm, ...config.tiedHead ? [] : [tensorNames.head]];
  for (const name of [...names, ...others]) {
    const { shape, data } = read(name);
    tensors.set(name, { shape, data: Float64Array.from(data) as unknown as Float32Array });
  }
  return { source: memorySource(config as LlamaConfig, tensors), tensors };
}

/** Gradients by central differences of the slow twin: of each window's mean loss with respect to every weight. */
function numericGradients(given: WeightSource): Map<string, Float64Array[]> {
  const { source, tensors } = inDoublePrecision(given);
  const loss = (window: Int32Array) => {
    const { logits } = referenceForward(source, window);
    return -mean(referenceLogProbs(logits.slice(0, -1), window.subarray(1)));
  };
  const step = 1e-5;
  const gradients = new Map<string, Float64Array[]>();
  for (let l = 0; l < source.config.layers.length; l++) {
    for (const name of LINEAR_NAMES) {
      const { data } = tensors.get(tensorNames.weight(l, name))!;
      const perWindow = windows.map(() => new Float64Array(data.length));
      for (let i = 0; i < data.length; i++) {
        const value = data[i];
        data[i] = value + step;
        const up = windows.map(loss);
        data[i] = value - step;
        const down = windows.map(loss);
        data[i] = value;
        perWindow.forEach((gradient, j) => gradient[i] = (up[j] - down[j]) / (2 * step));
      }
      gradients.set(`${l}.${name}`, perWindow);
    }
  }
  return gradients;
}

/** Slot scores of the three estimators from the gradients of each window. */
function taylorSlot(source: WeightSource, gradients: Map<string, Float64Array[]>, estimator: string) {
  const scored = WINDOW_LENGTHS.map((length) => length - 1);
  return (l: number, name: LinearName, s: number): number => {
    const rows = weightOf(source, l, name);
    const width = rows[0].length;
    const perWindow = gradients.get(`${l}.${name}`)!;
    const reads = name === "output" || name === "down";
    const places = Array.from({ length: reads ? rows.length : width }, (_, k) => reads ? [k, s] : [s, k]);
    const terms = places.map(([row, column]) => {
      const w = rows[row][column];
      const g = perWindow.map((gradient) => gradient[row * width + column]);
      // The batch loss is the mean over all scored tokens, so long windows weigh more.
      const whole = sum(g.map((value, j) => value * scored[j])) / sum(scored);
      return estimator === "element-2" ? w * w * mean(g.map((value) => value * value)) : w * whole;
    });
    switch (estimator) {
      case "vector":
        return Math.abs(sum(terms));
      default:
        return sum(terms.map(Math.abs));
    }
  };
}

const taylorReferences = Object.fromEntries(
  Object.entries(sources).map(([model, source]) => {
    const gradients = numericGradients(source);
    const estimators = ["vector", "element-1", "element-2"].map((estimator) => [
      estimator,
      groupReference(source, taylorSlot(source, gradients, estimator)),
    ]);
    return [model, Object.fromEntries(estimators) as Record<string, ReferenceScores[]>];
  }),
);

testOnEngines("llm-pruner's scores equal those from finite differences of the plain-array twin", async () => {
  const method = getMethod("llm-pruner");
  for (const [name, source] of Object.entries(sources)) {
    await withModel(source, async (model) => {
      const cache = new Map<string, Statistics>();
      for (const estimator of ["element-1", "element-2"]) {
        const options = parseOptions(method, { estimator, structure: "uniform" });
        await method.prune(methodContext({ model, options, calibration: windows, cache }));
      }
      const statistics = Object.assign({}, ...cache.values()) as Statistics;
      for (const [estimator, reference] of Object.entries(taylorReferences[name])) {
        reference.forEach(({ heads, groups, channels }, l) => {
          const expected = { ffn: channels, queryHeads: heads, kvGroups: groups };
          for (const [unit, scores] of Object.entries(expected)) {
            // Relative to the largest score of the layer: small ones are differences of large terms.
            const atol = 2e-4 * Math.max(...scores);
            const what = `${estimator} of layer ${l} ${unit}, ${name}`;
            assertClose(statistics[`${estimator}.${l}.${unit}`].data, scores, { atol, rtol: 1e-3 }, what);
          }
        });
      }
    });
  }
});

testOnEngines("llm-pruner keeps the units with the largest Taylor scores", async () => {
  for (const [name, source] of Object.entries(sources)) {
    for (const [estimator, reference] of Object.entries(taylorReferences[name])) {
      await checkUniform(source, ["llm-pruner", { estimator, structure: "uniform" }], reference);
    }
  }
});

Deno.test("calibrationBatches() groups neighbours of equal length and keeps their order", () => {
  const given = [4, 4, 4, 3, 4].map((length, i) => new Int32Array(length).fill(i));
  const batches = calibrationBatches(given, { tokensAtOnce: 8 });
  assertEquals(batches.map(({ batch, length }) => [batch, length]), [[2, 4], [1, 4], [1, 3], [1, 4]]);
  assertEquals(batches.flatMap(({ tokens }) => Array.from(tokens)), given.flatMap((window) => Array.from(window)));
  assertEquals(calibrationBatches(given, { tokensAtOnce: 1 }).length, given.length);
});
