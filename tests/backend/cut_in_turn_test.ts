/** Statistics of what is left of a model, against references in plain arrays that run the cut model again for each map. */
import * as tf from "@tensorflow/tfjs";
import { assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { obs } from "../../methods/obs/mod.ts";
import { type HostTensor, memorySource, tensorNames, type WeightSource, WRITING_NAMES } from "../../models/config.ts";
import { densePlan, type PrunePlan } from "../../models/plan.ts";
import { keptIndices } from "../../models/surgery.ts";
import { compensateInTurn } from "../../models/training/cut_in_turn.ts";
import type { ObservedSite } from "../../models/layers.ts";
import { inverseOf, product, transposed } from "../support/dense.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { onDevice } from "../support/device_models.ts";
import { methodContext, QUIET, toyWindows } from "../support/method_context.ts";
import { referenceForward } from "../support/reference.ts";
import { toySource } from "../support/toy.ts";

const windows = toyWindows(5, 16);

/** Mean of a a^T over the tokens, [in, in]. */
function gramOf(source: WeightSource, layer: number, site: ObservedSite): Float64Array {
  const rows: Float64Array[] = [];
  const observe = (l: number, observed: ObservedSite, input: Float64Array[]) => {
    if (l === layer && observed === site) rows.push(...input);
  };
  for (const window of windows) referenceForward(source, window, { observe });
  const n = at(rows, 0).length;
  const x = Float64Array.from(rows.flatMap((row) => [...row]));
  return product(transposed(x, [rows.length, n]), x, [n, rows.length, n]).map((value) => value / rows.length);
}

/** `source` with other tensors in place of its own. */
const withTensors = (source: WeightSource, tensors: Map<string, HostTensor>): WeightSource => ({
  ...memorySource(source.config, tensors),
  read: (name) => tensors.get(name) ?? source.read(name),
});

/** The columns `kept` of a weight [out, in] after they made up for the others, which are 0. */
function repaired({ shape, data }: HostTensor, gram: Float64Array, kept: number[]): HostTensor {
  const [outputs, n] = [at(shape, 0), at(shape, 1)];
  const gone = Array.from({ length: n }, (_, i) => i).filter((i) => !kept.includes(i));
  const ridge = 0.01 * Array.from({ length: n }, (_, i) => at(gram, i * n + i)).reduce((a, b) => a + b, 0) / n;
  const damped = kept.flatMap((i) => kept.map((j) => at(gram, i * n + j) + (i === j ? ridge : 0)));
  const cross = kept.flatMap((i) => gone.map((j) => at(gram, i * n + j)));
  const lost = gone.flatMap((j) => Array.from({ length: outputs }, (_, o) => at(data, o * n + j)));
  const right = product(cross, lost, [kept.length, gone.length, outputs]);
  const gain = product(inverseOf(damped, kept.length), right, [kept.length, kept.length, outputs]);
  const result = new Float64Array(data.length);
  kept.forEach((column, i) => {
    for (let o = 0; o < outputs; o++) result[o * n + column] = at(data, o * n + column) + at(gain, i * outputs + o);
  });
  return { shape, data: result as unknown as Float32Array };
}

testOnEngines("compensateInTurn() corrects each map on the inputs from the maps corrected before it", async () => {
  const layers = [0, 1, 2].map(() => ({ kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 12 }));
  const source = toySource({ layers, seed: 8, biases: ["output"] });
  const whole = densePlan(source.config).layers;
  const plan: PrunePlan = {
    layers: [
      { kvGroups: [1], queryHeads: [2, 3], ffnChannels: [0, 2, 3, 7, 8, 11] },
      { kvGroups: [], queryHeads: [], ffnChannels: [] },
      { ...at(whole, 2), ffnChannels: [1, 2, 4, 5] },
    ],
  };
  const expected = new Map<string, HostTensor>();
  const stream = new Map<string, HostTensor>([[tensorNames.bias(1, "output"), {
    shape: [32],
    data: new Float32Array(32),
  }]]);
  for (const [l, layer] of plan.layers.entries()) {
    for (const site of WRITING_NAMES) {
      const name = tensorNames.weight(l, site);
      const kept = keptIndices(layer, site, source.config.headSize);
      const own = source.read(name);
      if (kept.length === at(own.shape, 1)) continue;
      if (kept.length === 0) {
        stream.set(name, { ...own, data: new Float32Array(own.data.length) });
        continue;
      }
      const cut = repaired(own, gramOf(withTensors(source, stream), l, site), kept);
      stream.set(name, cut);
      expected.set(name, cut);
    }
  }
  using model = await onDevice(source);
  const before = tf.memory().numTensors;
  const actual = await compensateInTurn(model, plan, { windows, ...QUIET });
  assertEquals(tf.memory().numTensors, before);
  assertEquals(Object.keys(actual), [...expected.keys()]);
  for (const [name, { data }] of expected) {
    assertClose(actual[name]!.data, data, { atol: 2e-4, rtol: 1e-3 }, name);
  }
});

/** Two layers of four channels. Channel 0 of the first writes a little into dimension 0 and is cheap there; channel 1 of
 * the second reads nothing else, and much. */
function planted(): WeightSource {
  const layers = [0, 1].map(() => ({ kvGroups: 1, queryHeadsPerGroup: 1, ffnChannels: 4 }));
  const source = toySource({ layers, seed: 2, deadHidden: [0] });
  const { width } = source.config;
  source.read(tensorNames.weight(0, "down")).data.forEach((value, i, data) => {
    if (i % 4 === 0) data[i] = i === 0 ? 0.2 : 0.01 * value;
  });
  for (const name of ["gate", "up"] as const) {
    source.read(tensorNames.weight(1, name)).data.fill(0, width, 2 * width)[width] = 60;
  }
  return source;
}

testOnEngines("obs keeps on dense statistics, and removes in turn, what reads a unit that is gone", async () => {
  const source = planted();
  const cheapest = (l: number, given: WeightSource) => {
    const gram = gramOf(given, l, "down");
    const { shape: [outputs = 0], data } = given.read(tensorNames.weight(l, "down"));
    const ridge = 0.01 * [0, 5, 10, 15].reduce((sum, i) => sum + at(gram, i), 0) / 4;
    const inverse = inverseOf(gram.map((value, i) => i % 5 === 0 ? value + ridge : value), 4);
    const costs = [0, 1, 2, 3].map((unit) => {
      let energy = 0;
      for (let o = 0; o < outputs; o++) energy += at(data, o * 4 + unit) ** 2;
      return energy / at(inverse, 5 * unit);
    });
    return costs.indexOf(Math.min(...costs));
  };
  const first = cheapest(0, source);
  const weight = source.read(tensorNames.weight(0, "down"));
  const cut = { ...weight, data: weight.data.map((value, i) => i % 4 === first ? 0 : value) };
  const pruned = withTensors(source, new Map([[tensorNames.weight(0, "down"), cut]]));
  const [dense, sequential] = [cheapest(1, source), cheapest(1, pruned)];
  assertEquals([first, dense === 1, sequential], [0, false, 1], "the problem is not the planted one");
  using model = await onDevice(source);
  for (const [statistics, second] of [["dense", dense], ["sequential", sequential]] as const) {
    const options = obs.options.parse({ statistics });
    const context = methodContext({ model, options, calibration: windows, sparsity: 0.06, units: ["ffn"] });
    const { plan } = await obs.prune(context);
    const gone = plan.layers.map(({ ffnChannels }) => [0, 1, 2, 3].filter((i) => !ffnChannels.includes(i)));
    assertEquals(gone, [[first], [second]], statistics);
  }
});
