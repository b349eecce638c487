/** What MaskPrune decides from calibration: the split between unit types, and the values of the masks that stay. */
import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import { trainingSchema } from "../../core/schema/schema.ts";
import { inverseOf } from "../support/dense.ts";
import { unitAxes } from "../../methods/_shared/learned_units.ts";
import { damageOf, referenceOf, surpriseOf } from "../../methods/mask_prune/distance.ts";
import { REPAIR_RATIO } from "../../methods/mask_prune/settle.ts";
import { leastLossMasks, measuredShapes, measureRedundancy, planOfMetrics } from "../../methods/mask_prune/choice.ts";
import { calibratedMetrics, createMetric, observeGradient, selectionMetric } from "../../methods/mask_prune/metric.ts";
import { options as maskPruneOptions } from "../../methods/mask_prune/options.ts";
import { budgetResource } from "../../methods/mask_prune/widths.ts";
import { forward } from "../../models/decoder.ts";
import { logits } from "../../models/vocabulary.ts";
import { densePlan } from "../../models/plan.ts";
import { scoredRows, windowBatch } from "../../models/training/batches.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { methodContext, toyWindows, withToy } from "../support/method_context.ts";
import { known } from "../support/values.ts";

testOnEngines("leastLossMasks() solves for the masks that stay, and they cost less than ones", async () => {
  const rng = createRng(4, "masks");
  const n = 12;
  const x = Float64Array.from({ length: 30 * n }, () => rng.normal());
  const q = Float64Array.from({ length: n * n }, (_, i) => {
    const [row, column] = [Math.floor(i / n), i % n];
    const terms = Array.from({ length: 30 }, (_, k) => at(x, k * n + row) * at(x, k * n + column) / 30);
    return terms.reduce((a, b) => a + b, 0);
  });
  const entryOf = (i: number, j: number) => at(q, i * n + j);
  const kept = [0, 2, 3, 5, 7, 8, 11];
  const removed = Array.from({ length: n }, (_, i) => i).filter((i) => !kept.includes(i));
  const mean = kept.reduce((sum, i) => sum + entryOf(i, i), 0) / kept.length;
  const damping = (i: number) => 1e-2 * entryOf(i, i) + 1e-2 * mean;
  const inner = kept.flatMap((i) => kept.map((j) => entryOf(i, j) + (i === j ? damping(i) : 0)));
  const inverse = inverseOf(inner, kept.length);
  const slope = kept.map((i) => removed.reduce((sum, j) => sum + entryOf(i, j), 0));
  const expected = kept.map((_, i) => 1 + slope.reduce((sum, b, j) => sum + at(inverse, i * kept.length + j) * b, 0));
  const device = tf.tensor2d(Float32Array.from(q), [n, n]);
  const masks = await leastLossMasks(device, kept);
  device.dispose();
  assertClose(masks, expected, { rtol: 1e-3, atol: 1e-4 });
  const cost = (values: ArrayLike<number>) => {
    const d = Array.from({ length: n }, (_, i) => kept.includes(i) ? 1 - at(values, kept.indexOf(i)) : 1);
    return d.reduce((sum, a, i) => sum + a * d.reduce((inner, b, j) => inner + entryOf(i, j) * b, 0), 0);
  };
  assert(cost(masks) < 0.9 * cost(kept.map(() => 1)), `${cost(masks)} must be below ${cost(kept.map(() => 1))}`);
});

testOnEngines("measuredShapes() takes the type whose units do nothing, against the budget's own split", async () => {
  const layers = [0, 1].map(() => ({ kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 48 }));
  // Three of four groups do nothing; every channel does something.
  const dead = [0, 1].map((layer) => ({ layer, kvGroups: [0, 1, 2].map((g) => (g + layer) % 4) }));
  await withToy({ layers, dead, deadScale: 0 }, async (model) => {
    const given = methodContext({ model, options: {}, calibration: toyWindows(6, 16), sparsity: 0.4 });
    const { target } = given;
    const axes = unitAxes(model.config, target.units);
    const metrics = await calibratedMetrics(given, axes, true);
    const context = { ...given, reference: referenceOf(given) };
    const resource = budgetResource(model.config, target, "parameters");
    assertEquals(at(target.uniform, 0).kvGroups, 3);
    const shapes = known(await measuredShapes(context, { axes, metrics, resource, target }));
    assertEquals(shapes.map(({ kvGroups }) => kvGroups), [1, 1]);
    const damage = async (chosen: typeof shapes) =>
      await damageOf(context, planOfMetrics(model.config, axes, metrics, chosen));
    assert(await damage(shapes) < await damage(target.uniform));
    assertClose([await damageOf(context, densePlan(model.config))], [0], { atol: 1e-5 });
  });
});

testOnEngines("surpriseOf() is the cross entropy less the entropy of the predictions, in nats per token", async () => {
  const layers = [0, 1].map(() => ({ kvGroups: 1, queryHeadsPerGroup: 2, ffnChannels: 12 }));
  await withToy({ layers, seed: 3 }, async (model) => {
    // More rows than go through the vocabulary at once.
    const windows = toyWindows(2, 70);
    let sum = 0;
    for (const window of windows) {
      const batch = windowBatch([window]);
      const rows = tf.tidy(() => logits(model, scoredRows(forward(model, batch), batch) as tf.Tensor2D));
      const values = await rows.array();
      rows.dispose();
      values.forEach((row, i) => {
        const most = Math.max(...row);
        const total = row.reduce((sum, x) => sum + Math.exp(x - most), 0);
        const logProbs = row.map((x) => x - most - Math.log(total));
        sum += logProbs.reduce((sum, logProb) => sum + Math.exp(logProb) * logProb, 0) -
          at(logProbs, at(window, i + 1));
      });
    }
    assertClose([await surpriseOf(methodContext({ model, calibration: windows, sparsity: 0.2, options: {} }))], [
      sum / 138,
    ], { atol: 1e-5 });
  });
});

Deno.test("selectionMetric() keeps the order of removal, and training can change it", () => {
  const order = Int32Array.of(2, 0, 3, 1);
  // The cost of the third to go is below that of the second: its rival was gone by then.
  const metric = createMetric([1, 1, 1, 1], [4, 3, 2, 1], { order, cost: Float64Array.of(1, 3, 2, 8), raises: 0 });
  const ranked = () => {
    const h = selectionMetric(metric);
    return [0, 1, 2, 3].sort((a, b) => at(h, a) - at(h, b));
  };
  assertEquals(ranked(), [2, 0, 3, 1]);
  // The first to go turns out to matter to the loss far more than it did.
  for (let i = 0; i < 40; i++) observeGradient(metric, Float32Array.of(1, 1, 60, 1));
  assertEquals(ranked().indexOf(2) > 0, true);
});

Deno.test("selectionMetric() with half of redundancy is the geometric mean of both metrics", () => {
  const order = Int32Array.of(2, 0, 1);
  const metric = createMetric([4, 1, 2], [3, 1, 2], { order, cost: Float64Array.of(2, 4, 8), raises: 0 });
  const h = (redundancy: number) => selectionMetric({ ...metric, redundancy });
  const [alone, full] = [h(0), h(1)];
  // Medians are 2, 2 and 4.
  assertClose(alone, [Math.sqrt(2) * 1.5, Math.sqrt(0.5) * 0.5, 1]);
  assertClose(full, [1, 2, 0.5]);
  assertClose(h(0.5), alone.map((value, i) => Math.sqrt(value * at(full, i))));
});

testOnEngines(
  "measureRedundancy() takes the part of redundancy whose pruned model is nearest to the dense one",
  async () => {
    const layers = [0, 1].map(() => ({ kvGroups: 2, queryHeadsPerGroup: 1, ffnChannels: 48 }));
    await withToy({ layers, seed: 5 }, async (model) => {
      const options = maskPruneOptions.parse({});
      const context = methodContext({ model, options, calibration: toyWindows(6, 16), sparsity: 0.4 });
      const axes = unitAxes(model.config, context.target.units);
      const shapes = context.target.uniform;
      const reference = referenceOf(context);
      const fresh = () => calibratedMetrics(context, axes, true);
      const damage = (metrics: Awaited<ReturnType<typeof fresh>>) =>
        damageOf({ ...context, reference }, planOfMetrics(model.config, axes, metrics, shapes));
      const all: number[] = [];
      for (const redundancy of [0, 0.5, 1]) {
        const metrics = await fresh();
        for (const metric of metrics.flat()) metric.redundancy = redundancy;
        all.push(await damage(metrics));
      }
      assert(Math.max(...all) > 1.02 * Math.min(...all), "the parts must differ for the choice to mean something");
      const metrics = await fresh();
      await measureRedundancy(context, { axes, metrics, shapes, reference, surprise: 1 });
      assertClose([await damage(metrics)], [Math.min(...all)], { rtol: 1e-5 });
      const full = { ...context, options: { ...options, redundancy: "full" as const } };
      const untouched = await fresh();
      assertEquals(
        await measureRedundancy(full, { axes, metrics: untouched, shapes, reference, surprise: 1 }),
        null,
      );
      assertEquals(untouched.flat().map(({ redundancy }) => redundancy), untouched.flat().map(() => 1));

      // On a text that has less to teach than was broken, the cost of removal rules.
      const far = await fresh();
      const surprise = 0.99 * Math.min(...all) / REPAIR_RATIO;
      const cost = await measureRedundancy(context, { axes, metrics: far, shapes, reference, surprise });
      assertClose([cost ?? 0], [at(all, 2)], { rtol: 1e-5 });
      assertEquals(far.flat().map(({ redundancy }) => redundancy), far.flat().map(() => 1));

      // Unless least squares make up for it.
      const again = await fresh();
      const learning = { options: trainingSchema.parse({}), windows: [], compensate: () => Promise.resolve({}) };
      const nearest = await measureRedundancy({ ...context, learning }, {
        axes,
        metrics: again,
        shapes,
        reference,
        surprise,
      });
      assertClose([nearest ?? 0], [Math.min(...all)], { rtol: 1e-5 });
    });
  },
);
