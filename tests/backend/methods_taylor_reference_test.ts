import { assertEquals } from "@std/assert";
import type { Statistics } from "../../methods/define.ts";
import { gisp } from "../../methods/gisp.ts";
import { denseScores } from "../../methods/llm_pruner/mod.ts";
import { parseOptions } from "../../methods/mod.ts";
import {
  expectedTensors,
  type HostTensor,
  LINEAR_NAMES,
  type LinearName,
  memorySource,
  tensorNames,
  type WeightSource,
} from "../../models/config.ts";
import { referenceForward, referenceLogProbs } from "../support/reference.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { methodContext } from "../support/method_context.ts";
import {
  checkUniform,
  groupReference,
  mean,
  type ReferenceScores,
  sources,
  sum,
  weightOf,
  WINDOW_LENGTHS,
  windows,
} from "../support/methods_reference.ts";
import { known } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { PARAMETERS } from "../../models/resource.ts";
import { largestSparsity, resolveTarget } from "../../models/target.ts";
import type { LayerPlan, LayerShape } from "../../models/units.ts";
import { toySource } from "../support/toy.ts";
import { onDevice } from "../support/device_models.ts";

/** The same weights in double precision, so that differences of 1e-6 mean something. */
function inDoublePrecision({ config, read }: WeightSource): { source: WeightSource; tensors: Map<string, HostTensor> } {
  const tensors = new Map<string, HostTensor>();
  for (const name of expectedTensors(config).keys()) {
    const { shape, data } = read(name);
    tensors.set(name, { shape, data: Float64Array.from(data) as unknown as Float32Array });
  }
  return { source: memorySource(config, tensors), tensors };
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
        const value = at(data, i);
        data[i] = value + step;
        const up = windows.map(loss);
        data[i] = value - step;
        const down = windows.map(loss);
        data[i] = value;
        perWindow.forEach((gradient, j) => gradient[i] = (at(up, j) - at(down, j)) / (2 * step));
      }
      gradients.set(`${l}.${name}`, perWindow);
    }
  }
  return gradients;
}

/** Slot scores of an estimator from the gradients of each window. */
function taylorSlot(source: WeightSource, gradients: Map<string, Float64Array[]>, estimator: string) {
  const scored = WINDOW_LENGTHS.map((length) => length - 1);
  return (l: number, name: LinearName, s: number): number => {
    const rows = weightOf(source, l, name);
    const width = at(rows, 0).length;
    const perWindow = gradients.get(`${l}.${name}`)!;
    const reads = name === "output" || name === "down";
    const places = Array.from(
      { length: reads ? rows.length : width },
      (_, k): [number, number] => reads ? [k, s] : [s, k],
    );
    const terms = places.map(([row, column]) => {
      const w = at(at(rows, row), column);
      const g = perWindow.map((gradient) => at(gradient, row * width + column));
      // The batch loss is the mean over all scored tokens, so long windows weigh more.
      const whole = sum(g.map((value, j) => value * at(scored, j))) / sum(scored);
      const second = w * w * mean(g.map((value) => value * value));
      if (estimator === "mix") return w * whole - second / 2;
      return estimator === "element-2" ? second : w * whole;
    });
    switch (estimator) {
      case "vector":
        return Math.abs(sum(terms));
      default:
        return sum(terms.map(Math.abs));
    }
  };
}

const ESTIMATORS = ["vector", "element-1", "element-2", "mix"] as const;

const taylorReferences = Object.fromEntries(
  Object.entries(sources).map(([model, source]) => {
    const gradients = numericGradients(source);
    const estimators = ESTIMATORS.map((estimator) => [
      estimator,
      groupReference(source, taylorSlot(source, gradients, estimator)),
    ]);
    return [model, Object.fromEntries(estimators) as Record<string, ReferenceScores[]>];
  }),
);

testOnEngines("llm-pruner's scores equal those from finite differences of the plain-array twin", async () => {
  for (const [name, source] of Object.entries(sources)) {
    using model = await onDevice(source);
    const context = methodContext({ model, options: {}, calibration: windows });
    for (const estimator of ESTIMATORS) {
      const reference = known(known(taylorReferences[name])[estimator]);
      const found = await denseScores(context, estimator);
      reference.forEach(({ heads, groups, channels }, l) => {
        const expected = { ffn: channels, queryHeads: heads, kvGroups: groups };
        for (const unit of ["ffn", "queryHeads", "kvGroups"] as const) {
          const scores = expected[unit];
          // Relative to the largest score of the layer: small ones are differences of large terms.
          const atol = 2e-4 * Math.max(...scores);
          assertClose(at(found, l)[unit], scores, { atol, rtol: 1e-3 }, `${estimator} of layer ${l} ${unit}, ${name}`);
        }
      });
    }
  }
});

testOnEngines("llm-pruner keeps the units with the largest Taylor scores", async () => {
  for (const [name, source] of Object.entries(sources)) {
    for (const [estimator, reference] of Object.entries(known(taylorReferences[name]))) {
      await checkUniform(source, ["llm-pruner", { estimator, structure: "uniform" }], reference);
    }
  }
});

/** The weights with the units `gone` of layer after layer set to 0. */
function withoutUnits(source: WeightSource, gone: { groups: number[]; channels: number[] }[]): WeightSource {
  const { source: copy, tensors } = inDoublePrecision(source);
  const { headSize, layers } = source.config;
  for (const [l, { groups, channels }] of gone.entries()) {
    const perGroup = at(layers, l).queryHeadsPerGroup;
    const columns = (units: number[], size: number) =>
      units.flatMap((unit) => Array.from({ length: size }, (_, k) => unit * size + k));
    for (const name of LINEAR_NAMES) {
      const { shape, data } = known(tensors.get(tensorNames.weight(l, name)));
      const width = at(shape, 1);
      const isAttention = !["gate", "up", "down"].includes(name);
      const heads = columns(groups, name === "query" || name === "output" ? headSize * perGroup : headSize);
      const slots = new Set(isAttention ? heads : channels);
      const reads = name === "output" || name === "down";
      data.forEach((_, i) => {
        if (slots.has(reads ? i % width : Math.floor(i / width))) data[i] = 0;
      });
    }
  }
  return copy;
}

testOnEngines("gisp removes units in steps by the Taylor scores of what is left", async () => {
  const lowest = (scores: number[], among: number[]) => [...among].sort((a, b) => at(scores, a) - at(scores, b));
  for (const [name, source] of Object.entries(sources)) {
    const units = ["ffn", "kv-groups"] as const;
    const most = largestSparsity(source.config, { units: [...units], ffnMultiple: 1, resource: PARAMETERS });
    const { uniform } = resolveTarget(source.config, { sparsity: Math.min(0.7, 0.95 * most) / 2, units });
    const first = known(known(taylorReferences[name])["element-1"]);
    const goFirst = (scores: number[], kept: number) => lowest(scores, [...scores.keys()]).slice(0, -kept);
    const gone = first.map(({ groups, channels }, l) => {
      const { kvGroups, ffnChannels } = at(uniform, l);
      return { groups: goFirst(groups, kvGroups), channels: goFirst(channels, ffnChannels) };
    });
    const rest = withoutUnits(source, gone);
    const second = groupReference(rest, taylorSlot(rest, numericGradients(rest), "element-1"));
    const kept = (scores: number[], before: number[], count: number) => {
      const order = [...before, ...lowest(scores, [...scores.keys()].filter((unit) => !before.includes(unit)))];
      return order.slice(order.length - count).sort((a, b) => a - b);
    };
    using model = await onDevice(source);
    const cache = new Map<string, Statistics>();
    const options = parseOptions(gisp, { steps: 2 });
    const contextAt = (sparsity: number) => methodContext({ model, options, calibration: windows, sparsity, cache });
    for (const sparsity of [0.2, 0.4, 0.6]) {
      const context = contextAt(sparsity);
      const { plan } = await gisp.prune(context);
      plan.layers.forEach((layer, l) => {
        const { kvGroups, ffnChannels } = at(context.target.uniform, l);
        const [{ groups, channels }, before] = [at(second, l), at(gone, l)];
        const expected = [kept(groups, before.groups, kvGroups), kept(channels, before.channels, ffnChannels)];
        assertEquals([layer.kvGroups, layer.ffnChannels], expected, `${name} at ${sparsity}, layer ${l}`);
      });
    }
    assertEquals(cache.size, 1);
    // The cost of a layer can change under one name: times that were measured again.
    const resource = { ...PARAMETERS, ofLayer: (_: unknown, { kvGroups }: LayerShape) => kvGroups };
    await gisp.prune({ ...contextAt(0.2), target: resolveTarget(source.config, { sparsity: 0.2, units, resource }) });
    assertEquals(cache.size, 2);
  }
}, { except: ["cpu", "webgpu"] });

testOnEngines("gisp's one ranking leaves the last layer and the first tenth of the layers whole", async () => {
  const layers = Array.from({ length: 10 }, () => ({ kvGroups: 2, queryHeadsPerGroup: 1, ffnChannels: 16 }));
  using model = await onDevice(toySource({ width: 8, headSize: 4, vocabSize: 13, layers }));
  const options = parseOptions(gisp, { steps: 3, uniform: false });
  const { plan } = await gisp.prune(methodContext({ model, options, calibration: windows, sparsity: 0.4 }));
  const isWhole = ({ kvGroups, ffnChannels }: LayerPlan) => kvGroups.length === 2 && ffnChannels.length === 16;
  assertEquals(plan.layers.flatMap((layer, l) => isWhole(layer) ? [l] : []), [0, 9]);
}, { except: ["cpu", "webgpu"] });
