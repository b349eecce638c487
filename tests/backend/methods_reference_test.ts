import { assert, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { multipruner } from "../../methods/multipruner.ts";
import { calibrationBatches, inputStatistics } from "../../methods/_shared/calibration.ts";
import { COLUMN_METRICS, columnScores } from "../../methods/_shared/scoring.ts";
import { tensorNames, type WeightSource } from "../../models/config.ts";
import { keptParameters } from "../../models/count.ts";
import { plannedShapes } from "../../models/plan.ts";
import { referenceForward, referenceLogProbs } from "../support/reference.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { methodContext } from "../support/method_context.ts";
import {
  checkUniform,
  columnReference,
  columnsOf,
  groupReference,
  inGroupsOf,
  LEVELS,
  mean,
  type ReferenceScores,
  slotOf,
  sources,
  sum,
  weightOf,
  windows,
} from "../support/methods_reference.ts";
import { known } from "../support/values.ts";
import { onDevice } from "../support/device_models.ts";

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

const variance = (values: ArrayLike<number>) => mean(Array.from(values, (x) => (x - mean(values)) ** 2));
const SITES = [[0, "output"], [0, "down"], [1, "output"], [1, "down"]] as const;

testOnEngines("inputStatistics() gives mean, variance and FLAP's fluctuation of unequal windows", async () => {
  for (const source of Object.values(sources)) {
    const inputs = referenceInputs(source);
    using model = await onDevice(source);
    const statistics = await inputStatistics(methodContext({ model, options: {}, calibration: windows }));
    for (const [layer, site] of SITES) {
      const columns = inputs.get(`${layer}.${site}`)!;
      const { mean: means, variance: variances, fluctuation: fluctuations } = at(statistics, layer)[site];
      const tolerance = { atol: 1e-6, rtol: 1e-4 };
      assertClose(means, columns.map(mean), {}, `mean ${layer} ${site}`);
      assertClose(variances, columns.map(variance), tolerance, `variance ${layer} ${site}`);
      // The fluctuation is updated window by window; the first does not count.
      const expected = columns.map((column) => {
        const means: number[] = [];
        let [start, fluctuation] = [0, 0];
        for (const [m, { length }] of windows.entries()) {
          const own = Array.from(column.slice(start, start += length));
          means.push(mean(own));
          if (m === 0) continue;
          const around = mean(own.map((x) => (x - mean(means)) ** 2));
          fluctuation = fluctuation * (m - 1) / m + around / (m + 1);
        }
        return fluctuation;
      });
      assertClose(fluctuations, expected, tolerance, `fluctuation ${layer} ${site}`);
    }
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
    columnsOf(weightOf(source, l, site)).map((w, j) => referenceMetric[metric](w, at(inputs.get(`${l}.${site}`)!, j)));
  return source.config.layers.map((_, l) => ({ output: columns(l, "output"), down: columns(l, "down") }));
}

testOnEngines("columnScores() equals the metrics worked out in plain arrays", async () => {
  for (const source of Object.values(sources)) {
    using model = await onDevice(source);
    const statistics = await inputStatistics(methodContext({ model, options: {}, calibration: windows }));
    for (const metric of COLUMN_METRICS) {
      const expected = referenceColumns(source, metric);
      const actual = await columnScores(model, statistics, metric);
      for (const [layer, site] of SITES) {
        const [own, theirs] = [at(actual, layer)[site], at(expected, layer)[site]];
        assertClose(own, theirs, { atol: 1e-7, rtol: 1e-4 }, `${metric} of layer ${layer} ${site}`);
      }
    }
  }
});

testOnEngines("wanda-sp keeps the units with the largest mean |W| sqrt(mean x^2)", async () => {
  for (const source of Object.values(sources)) {
    const reference = columnReference(source, referenceColumns(source, "WIFN"));
    await checkUniform(source, ["wanda-sp", { statistics: "dense" }], reference);
  }
});

testOnEngines("flap UL-UM keeps the units whose squared (attention) or plain (FFN) metric is largest", async () => {
  for (const source of Object.values(sources)) {
    const columns = referenceColumns(source, "WIFV");
    const squared = columns.map(({ output, down }) => ({ output: output.map((x) => x * x), down }));
    await checkUniform(source, ["flap", { structure: "UL-UM", variance: "exact" }], columnReference(source, squared));
  }
});

testOnEngines("flap AL-AM cuts one ranking of standardised scores at the budget", async () => {
  const standardise = (x: number[]) => {
    const sd = Math.sqrt(sum(x.map((value) => (value - mean(x)) ** 2)) / (x.length - 1));
    return x.map((value) => (value - mean(x)) / sd);
  };
  for (const source of Object.values(sources)) {
    const { headSize, width, layers } = source.config;
    const { queryHeadsPerGroup: perGroup } = at(layers, 0);
    const units = referenceColumns(source, "WIFV").flatMap(({ output, down }, l) => [
      ...inGroupsOf(headSize * perGroup, standardise(output.map((x) => x * x))).map((columns, index) => (
        { l, type: "kvGroups" as const, index, score: mean(columns), cost: (2 + 2 * perGroup) * headSize * width }
      )),
      ...standardise(down).map((score, index) => ({ l, type: "ffnChannels" as const, index, score, cost: 3 * width })),
    ]);
    const method = getMethod("flap");
    using model = await onDevice(source);
    for (const sparsity of LEVELS) {
      const options = parseOptions(method, { variance: "exact" });
      const context = methodContext({ model, options, calibration: windows, sparsity });
      const { plan } = await method.prune(context);
      const { budget } = context.target;
      // By hand: drop the lowest unit, but never the last of its kind in a layer, until the budget holds; then give
      // back dropped channels, the best first, while they fit.
      const kept = new Set(units);
      const dropped: typeof units = [];
      const size = () => sum([...kept].map(({ cost }) => cost));
      for (const unit of [...units].sort((a, b) => a.score - b.score)) {
        if (size() <= budget) break;
        if ([...kept].filter(({ l, type }) => l === unit.l && type === unit.type).length === 1) continue;
        kept.delete(unit);
        dropped.unshift(unit);
      }
      for (const unit of dropped.filter(({ type }) => type === "ffnChannels")) {
        if (size() + unit.cost <= budget) kept.add(unit);
      }
      const expected = source.config.layers.map((_, l) => {
        const of = (type: string) =>
          [...kept].filter((unit) => unit.l === l && unit.type === type).map(({ index }) => index)
            .sort((a, b) => a - b);
        return { kvGroups: of("kvGroups"), ffnChannels: of("ffnChannels") };
      });
      const actual = plan.layers.map(({ kvGroups, ffnChannels }) => ({ kvGroups, ffnChannels }));
      assertEquals(actual, expected, `at ${sparsity}`);
      const slack = budget - keptParameters(source.config, plannedShapes(source.config, plan));
      assert(slack >= 0 && slack < 3 * width, `slack of ${slack} at ${sparsity}`);
    }
  }
});

testOnEngines("flap's bias compensation adds W_removed mean(x_removed)", async () => {
  const method = getMethod("flap");
  for (const source of Object.values(sources)) {
    const inputs = referenceInputs(source);
    using model = await onDevice(source);
    const options = parseOptions(method, { structure: "UL-UM", biasCompensation: true });
    const context = methodContext({ model, options, calibration: windows, sparsity: 0.5 });
    const { plan, replaced } = await method.prune(context);
    for (const [layer, site] of SITES) {
      const { queryHeads: heads, ffnChannels } = at(plan.layers, layer);
      const stays = (j: number) =>
        site === "down" ? ffnChannels.includes(j) : heads.includes(Math.floor(j / source.config.headSize));
      const means = inputs.get(`${layer}.${site}`)!.map((column, j) => stays(j) ? 0 : mean(column));
      const expected = weightOf(source, layer, site).map((row) => sum(row.map((w, j) => w * at(means, j))));
      const { data } = known(replaced?.[tensorNames.bias(layer, site)]);
      assertClose(data, expected, {}, `bias of layer ${layer} ${site}`);
    }
  }
});

/** Reference scores by weights alone: |W|^p summed over what a unit takes with it. */
function magnitudeReference(source: WeightSource, power: 1 | 2): ReferenceScores[] {
  return groupReference(source, (l, name, s) => sum(slotOf(weightOf(source, l, name), name, s).map((w) => w ** power)));
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

Deno.test("calibrationBatches() groups neighbours of equal length and keeps their order", () => {
  const given = [4, 4, 4, 3, 4].map((length, i) => new Int32Array(length).fill(i));
  const batches = calibrationBatches(given, { tokensAtOnce: 8 });
  assertEquals(batches.map(({ batch, length }) => [batch, length]), [[2, 4], [1, 4], [1, 3], [1, 4]]);
  assertEquals(batches.flatMap(({ tokens }) => Array.from(tokens)), given.flatMap((window) => Array.from(window)));
  assertEquals(calibrationBatches(given, { tokensAtOnce: 1 }).length, given.length);
});

/** Units left in each layer: the first of an order. */
type Left = { channels: number; groups: number }[];

/** MultiPruner's search: `goals` are what may be left after layers and after channels; `step` channels go at once. */
function searchReference(
  source: WeightSource,
  { budget, goals, step }: { budget: number; goals: number[]; step: number },
) {
  const { config: { layers, headSize, width } } = source;
  const magnitudes = groupReference(source, (l, name, s) => {
    const times = name === "key" || name === "value" ? at(layers, l).queryHeadsPerGroup : 1;
    return name === "output" || name === "down" ? 0 : times * sum(slotOf(weightOf(source, l, name), name, s));
  });
  const best = (scores: number[]) => [...scores.keys()].sort((a, b) => at(scores, b) - at(scores, a));
  const orders = magnitudes.map(({ channels, groups }) => ({ channels: best(channels), groups: best(groups) }));
  const kept = (left: Left, l: number, what: "channels" | "groups") => at(orders, l)[what].slice(0, at(left, l)[what]);
  const cost = (left: Left) =>
    sum(
      left.map(({ channels, groups }, l) =>
        width * (3 * channels + (2 * at(layers, l).queryHeadsPerGroup + 2) * headSize * groups)
      ),
    );
  const loss = (left: Left) => {
    const masks = layers.map(({ ffnChannels, kvGroups }, l) => ({
      ffn: Array.from({ length: ffnChannels }, (_, i) => Number(kept(left, l, "channels").includes(i))),
      kvGroups: Array.from({ length: kvGroups }, (_, i) => Number(kept(left, l, "groups").includes(i))),
    }));
    return mean(windows.map((window) => {
      const { logits } = referenceForward(source, window, { masks });
      return -mean(referenceLogProbs(logits.slice(0, -1), window.subarray(1)));
    }));
  };
  let left: Left = layers.map(({ ffnChannels, kvGroups }) => ({ channels: ffnChannels, groups: kvGroups }));
  let last = { l: 0, channels: 0 };
  const descend = (goal: number, least: number, change: (own: Left[number]) => Left[number]) => {
    while (cost(left) > goal) {
      const choices = left.flatMap((own, l) => {
        const next = left.with(l, change(own));
        const ends = own.groups === 0 || change(own).channels < 0 || at(next, l).groups < 0 || cost(next) < least;
        return ends ? [] : [{ l, next, loss: loss(next) }];
      });
      const [best] = choices.sort((a, b) => a.loss - b.loss);
      if (!best) return;
      if (at(best.next, best.l).channels < at(left, best.l).channels) {
        last = { l: best.l, channels: at(left, best.l).channels };
      }
      left = best.next;
    }
  };
  const channels = (own: Left[number]) => ({ ...own, channels: own.channels > step ? own.channels - step : -1 });
  const groups = (own: Left[number]) => ({ ...own, groups: own.groups > 1 ? own.groups - 1 : -1 });
  descend(at(goals, 0), budget, () => ({ channels: 0, groups: 0 }));
  descend(at(goals, 1), 0, channels);
  descend(budget, budget, groups);
  descend(budget, 0, channels);
  while (at(left, last.l).channels < last.channels && cost(left) + 3 * width <= budget) {
    left = left.with(last.l, { ...at(left, last.l), channels: at(left, last.l).channels + 1 });
  }
  const sorted = (units: number[]) => units.sort((a, b) => a - b);
  return layers.map((_, l) => [sorted(kept(left, l, "groups")), sorted(kept(left, l, "channels"))]);
}

testOnEngines("multipruner's search is that of plain arrays", async () => {
  const levels = [[0.3, 0.44, 0.4, "kv-groups"], [0.7, 0.5, 0.2, "kv-groups"], [0.6, 0.6, 0.4, "layers"]] as const;
  const gone = new Set<boolean>();
  for (const [name, source] of Object.entries(sources)) {
    using model = await onDevice(source);
    for (const [sparsity, layers, channels, unit] of levels) {
      const options = parseOptions(multipruner, { layers, channels, step: 0.19 });
      const context = methodContext({ model, options, calibration: windows, sparsity, units: ["ffn", unit] });
      const { whole, budget } = context.target;
      const goals = [layers, layers + channels].map((part) => whole - part * (whole - budget));
      const expected = searchReference(source, { budget, goals, step: 3 });
      const { plan } = await multipruner.prune(context);
      const found = plan.layers.map(({ kvGroups, ffnChannels }) => [kvGroups, ffnChannels]);
      assertEquals(found, expected, `${name} at ${sparsity}`);
      gone.add(found.some(([groups]) => groups!.length === 0));
    }
  }
  assertEquals(gone.size, 2, "a layer must go at one level and none at the other");
}, { except: ["cpu", "webgpu"] });
