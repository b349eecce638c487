/** The hidden-state term: which states are compared, and how its weight falls. */
import { assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import { expectedTensors, memorySource, type WeightSource } from "../../models/config.ts";
import { disposeModel, uploadModel } from "../../models/device.ts";
import { counterparts, densePlan, keptLayers, planWithoutLayers, type PrunePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { endRun, nextStep, startRun } from "../../models/training/run.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { learningOptions, toyWindows } from "../support/method_context.ts";
import { type Matrix, referenceForward } from "../support/reference.ts";
import { toySource } from "../support/toy.ts";

const shape = { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 12 };
const source = toySource({ seed: 8, layers: Array.from({ length: 6 }, () => ({ ...shape })) });
const plan = planWithoutLayers(source.config, [1, 2, 5]);

Deno.test("counterparts() are the layers before the next one that stays, and the last for the last", () => {
  assertEquals(keptLayers(plan), [0, 3, 4]);
  assertEquals(counterparts(plan), [2, 3, 5]);
  assertEquals(counterparts(planWithoutLayers(source.config, [])), [0, 1, 2, 3, 4, 5]);
  assertEquals(counterparts(planWithoutLayers(source.config, [0, 1])), [2, 3, 4, 5]);
});

/** The layers that stay, as a checkpoint of their own. */
function shallowSource(): WeightSource {
  const kept = keptLayers(plan);
  const config = { ...source.config, layers: kept.map((l) => at(source.config.layers, l)) };
  const dense = (name: string) => name.replace(/layers\.(\d+)\./, (_, l) => `layers.${kept[Number(l)]}.`);
  return memorySource(
    config,
    new Map([...expectedTensors(config).keys()].map((name) => [name, source.read(dense(name))])),
  );
}

/** Without a third of the FFN channels. */
function planOfChannels(): PrunePlan {
  const dense = densePlan(source.config);
  return {
    ...dense,
    layers: dense.layers.map((layer) => ({ ...layer, ffnChannels: Array.from({ length: 8 }, (_, i) => i) })),
  };
}

/** Hidden states after every layer, f64 [layers][T][D]. */
function statesOf(of: WeightSource, tokens: Int32Array): Matrix[] {
  const states: Matrix[] = [];
  referenceForward(of, tokens, { each: (state) => states.push(state) });
  return states.slice(1);
}

testOnEngines("the hidden-state term of a shallower model compares what the next layer reads", async () => {
  const windows = toyWindows(2, 9);
  const errors = windows.flatMap((window) => {
    const [own, dense] = [statesOf(shallowSource(), window), statesOf(source, window)];
    return own.map((state, i) => {
      const other = at(dense, at([2, 3, 5], i));
      const squares = (of: (t: number, d: number) => number) =>
        state.reduce((sum, row, t) => sum + row.reduce((inner, _, d) => inner + of(t, d) ** 2, 0), 0);
      const value = (x: Matrix, t: number, d: number) => at(at(x, t), d);
      return squares((t, d) => value(state, t, d) - value(other, t, d)) / squares((t, d) => value(other, t, d));
    });
  });
  const model = await uploadModel(source);
  const shallow = await pruneModel(model, plan);
  const options = { model: shallow, teacher: model, teacherLayers: counterparts(plan), windows };
  const weights = { crossEntropy: 1, distillation: 0, temperature: 1, hidden: 5 };
  // Window by window, so that the mean over windows is that of their errors.
  const { terms } = await batchGradients({ ...options, variables: [shallow.finalNorm], weights, microBatch: 1 });
  assertClose([terms.hidden], [errors.reduce((sum, error) => sum + error, 0) / errors.length], { rtol: 1e-4 });
  [shallow, model].forEach(disposeModel);
});

testOnEngines("the weight of the hidden-state term falls in a line to nothing after the last step", async () => {
  const model = await uploadModel(source);
  const narrow = await pruneModel(model, planOfChannels());
  const windows = toyWindows(4, 9);
  const training = learningOptions({ steps: 4, batch: 1, tokens: 9, rank: 2, distillation: 0, hidden: 8 });
  const given = { base: narrow, teacher: model, options: training, windows, rng: createRng(0, "a"), key: "" };
  const { run } = await startRun({ ...given, report: () => {}, signal: new AbortController().signal });
  const weights: number[] = [];
  for (let step = 0; step < 4; step++) {
    const { terms } = await nextStep(run);
    weights.push((terms.total - training.crossEntropy * terms.crossEntropy) / terms.hidden);
  }
  assertClose(weights, [8, 6, 4, 2], { rtol: 1e-3 });
  endRun(run);
  [narrow, model].forEach(disposeModel);
});
