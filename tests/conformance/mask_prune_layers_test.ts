/** `mask-prune:layers=true`: how many whole layers go is measured, and the others learn one width. */
import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import { type EngineName, trainingSchema, type UnitType } from "../../core/schema/schema.ts";
import type { Statistics } from "../../methods/define.ts";
import { latencyOf } from "../../methods/mask_prune/latency.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { tensorNames } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import { keptParameters } from "../../models/count.ts";
import { forward } from "../../models/decoder.ts";
import { type DecoderModel, disposeModel } from "../../models/device.ts";
import { logits } from "../../models/vocabulary.ts";
import type { LayerMasks } from "../../models/masks.ts";
import { keptLayers, plannedShapes } from "../../models/plan.ts";
import { hostTensor, pruneModel } from "../../models/surgery.ts";
import { resolveTarget } from "../../models/target.ts";
import { rebuildModel } from "../../models/training/rebuild.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { type ContextOptions, methodContext, toyWindows, withToy } from "../support/method_context.ts";
import { planToMasks } from "../support/plan_masks.ts";
import { toyTokens } from "../support/toy.ts";
import { known } from "../support/values.ts";

/** Software WebGPU and plain JavaScript take many times as long. */
const SLOW: readonly EngineName[] = ["webgpu", "cpu"];
const F = 96;
const SHAPE: LayerShape = { kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: F };
const LAYERS = [SHAPE, SHAPE, SHAPE, SHAPE];
const UNITS: UnitType[] = ["ffn", "kv-groups"];
const STEPS = 12;
const training = trainingSchema.parse({ steps: STEPS, batch: 2, tokens: 12, rank: 2, alpha: 4, teacherTokens: 8 });
const windows = toyWindows(2 * STEPS, 12);
const calibration = toyWindows(6, 16);
const method = getMethod("mask-prune");
const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** Layers 1 and 2 do nothing. */
const deadLayers = [1, 2].map((layer) => ({ layer, ffn: range(F), kvGroups: range(4) }));

function contextOf(
  model: DecoderModel,
  options: Record<string, unknown>,
  given: Partial<ContextOptions<unknown>> = {},
) {
  const learning = { options: training, windows, ...given.learning };
  return methodContext({ model, calibration, ...given, learning, options: parseOptions(method, options) });
}

const prune = (model: DecoderModel, options: Record<string, unknown>, given: Partial<ContextOptions<unknown>> = {}) =>
  method.prune(contextOf(model, options, given));

async function logitsOf(model: DecoderModel, masks?: LayerMasks[]): Promise<Float32Array> {
  const tokens = toyTokens({ count: 10, seed: 3 });
  const all = tf.tidy(() => logits(model, forward(model, { tokens, batch: 1, length: 10 }, { masks })));
  try {
    return await all.data<"float32">();
  } finally {
    all.dispose();
  }
}

testOnEngines("mask-prune: layers that do nothing go, and then channels of the others", async () => {
  await withToy({ seed: 5, layers: LAYERS, dead: deadLayers }, async (model) => {
    const half = await prune(model, { layers: true }, { sparsity: 0.5, units: UNITS });
    assertEquals(keptLayers(half.plan), [0, 3]);
    assertEquals(plannedShapes(model.config, half.plan), [SHAPE, SHAPE], "what fits the budget stays whole");
    const { curve } = at(half.training!, 0);
    assertEquals(curve.at(-1)?.removed, { layer: 2 });
    assertClose([known(curve.at(-1)?.retained)], [0.5], { atol: 1e-9 });

    const more = await prune(model, { layers: true }, { sparsity: 0.6, units: ["ffn"] });
    assertEquals(keptLayers(more.plan), [0, 3]);
    const [first, second] = plannedShapes(model.config, more.plan);
    assertEquals(first, second);
    assert(known(first).ffnChannels < F);

    // What the masked model computes is what the smaller one does.
    for (const { plan } of [half, more]) {
      const masks = planToMasks(model.config, plan);
      const small = pruneModel(model, plan);
      assertClose(await logitsOf(small), await logitsOf(model, masks), { atol: 1e-4, rtol: 1e-4 });
      disposeModel(small);
      tf.dispose(masks.flatMap((layer) => Object.values(layer)));
    }
    // Adapters and masks that were learned on the layers that stay make the same model again.
    const { plan, replaced, parts } = more;
    const kept = { plan, replaced: {}, windows: [], learned: known(parts) };
    const built = await rebuildModel(model, kept, () => Promise.resolve({}));
    const small = pruneModel(model, plan, replaced);
    assertClose(await logitsOf(built), await logitsOf(small), { atol: 1e-5, rtol: 1e-5 });
    [built, small].forEach(disposeModel);
  });
}, { except: SLOW });

testOnEngines("mask-prune: where all layers count, all stay, and the result is that of widths alone", async () => {
  const dead = LAYERS.map((_, layer) => ({ layer, ffn: range(F / 2).map((i) => 2 * i + layer % 2) }));
  const sparsity = F / 2 * 3 * 32 / (F * 3 * 32 + 4 * 4 * 8 * 32);
  await withToy({ seed: 5, layers: LAYERS, dead }, async (model) => {
    const given = { sparsity, units: ["ffn"] as const };
    const [plain, deep] = [await prune(model, {}, given), await prune(model, { layers: true }, given)];
    assertEquals(keptLayers(deep.plan), range(4));
    for (const [l, { ffnChannels }] of deep.plan.layers.entries()) {
      assertEquals(range(F).filter((i) => !ffnChannels.includes(i)), at(dead, l).ffn);
    }
    assertEquals([deep.plan, deep.replaced], [plain.plan, plain.replaced]);
  });
}, { except: SLOW });

testOnEngines("mask-prune: with layers no budget is exceeded, and widths fill it", async () => {
  await withToy({ seed: 2, layers: LAYERS, dead: deadLayers, deadScale: 0.2 }, async (model) => {
    const { config } = model;
    for (
      const [options, units, sparsity, ffnMultiple] of [
        [{}, ["ffn"], 0.3, 4],
        [{ split: "learned", course: "gradual" }, UNITS, 0.6, 1],
        [{ resource: "macs", masks: "hard" }, UNITS, 0.7, 1],
        [{ selection: "magnitude" }, UNITS, 0.5, 1],
        [{ uniform: false }, UNITS, 0.55, 1],
      ] as const
    ) {
      const learning = { options: { ...training, steps: 4 }, windows };
      const { plan } = await prune(model, { layers: true, ...options }, { learning, units, sparsity, ffnMultiple });
      const shapes = plannedShapes(config, plan);
      const { budgetParameters } = resolveTarget(config, { sparsity, units, ffnMultiple });
      const slack = budgetParameters - keptParameters(config, shapes);
      const what = `${JSON.stringify(options)}: ${shapes.length} layers of ${shapes[0]?.ffnChannels}, ${slack} left`;
      assert(shapes.length < 4, what);
      assert(slack >= 0, what);
      const isWhole = shapes.every((shape) => shape.ffnChannels === F);
      const filled = isWhole ? keptParameters(config, [SHAPE]) : 3 * 32 * ffnMultiple * shapes.length;
      if (!("resource" in options)) assert(slack < filled, what);
      if (!("uniform" in options)) assert(shapes.every((shape) => shape.ffnChannels === shapes[0]?.ffnChannels), what);
    }
  });
}, { except: SLOW });

testOnEngines("mask-prune: a run without some layers that was stopped goes on to the same result", async () => {
  await withToy({ seed: 5, layers: LAYERS, dead: deadLayers }, async (model) => {
    const options = { layers: true, updates: "window" };
    const given = { sparsity: 0.6, units: UNITS };
    const whole = await prune(model, options, given);
    // Before and after the freeze.
    for (const stopAt of [7, 20]) {
      const folder = await Deno.makeTempDir();
      const controller = new AbortController();
      const learning = { options: training, windows, checkpoint: { folder: `${folder}/run`, everySteps: 3 } };
      const report = (message: string) => {
        if (message.startsWith(`step ${stopAt} `)) controller.abort();
      };
      const stopped = prune(model, options, { ...given, learning, signal: controller.signal, report });
      await assertRejects(() => stopped, DOMException, "abort");
      const messages: string[] = [];
      const again = await prune(model, options, { ...given, learning, report: (text) => messages.push(text) });
      assert(messages.includes(`goes on from step ${stopAt - stopAt % 3}`), messages.join("; "));
      assertEquals([again.plan, again.replaced], [whole.plan, whole.replaced]);
      await Deno.remove(folder, { recursive: true });
    }
  });
}, { except: SLOW });

testOnEngines(
  "mask-prune: with layers, compensation is asked for the whole plan and reaches the right layers",
  async () => {
    await withToy({ seed: 5, layers: LAYERS, dead: deadLayers }, async (model) => {
      const asked: number[][] = [];
      const name = tensorNames.weight(3, "down");
      const dense = await hostTensor(model, name);
      const options = { ...training, rank: 0 };
      const compensate = (plan: Parameters<typeof keptLayers>[0]) => {
        asked.push(keptLayers(plan));
        return Promise.resolve({ [name]: { ...dense, data: dense.data.map((w) => 3 * w) } });
      };
      const given = { sparsity: 0.6, units: ["ffn"] as const };
      const [plain, compensated] = [
        await prune(model, { layers: true }, { ...given, learning: { options, windows } }),
        await prune(model, { layers: true }, { ...given, learning: { options, windows, compensate } }),
      ];
      assertEquals(asked, [[0, 3]]);
      const size = ({ replaced }: { replaced?: Statistics }, l: number) =>
        Math.hypot(...known(replaced?.[tensorNames.weight(l, "down")]).data);
      assert(size(compensated, 3) > 2 * size(plain, 3), `${size(plain, 3)} to ${size(compensated, 3)}`);
      assert(size(compensated, 0) < 2 * size(plain, 0), `${size(plain, 0)} to ${size(compensated, 0)}`);
    });
  },
  { except: SLOW },
);

testOnEngines("mask-prune: layers meet a budget of decoding time that channels cannot", async () => {
  await withToy({ seed: 5, layers: LAYERS, dead: deadLayers }, async (model) => {
    const { config } = model;
    const vector = (values: number[]) => ({ shape: [values.length], data: Float32Array.from(values) });
    // Attention takes four fifths of the time, so that channels save a fifth at most.
    const table = {
      "ffn width": vector([24, 48, 72, 96]),
      "ffn ms": vector([8.5, 9, 9.5, 10]),
      "query heads width": vector([1, 2, 4]),
      "query heads ms": vector([4, 6, 10]),
    };
    const run = (layers: boolean, sparsity: number) => {
      const options = { resource: "decode-ms", ...layers && { layers } };
      const context = contextOf(model, options, { sparsity, units: ["ffn"] });
      const remember = (key: string, compute: () => Promise<Statistics>) =>
        key.startsWith("layer latency, decode") ? Promise.resolve(table) : context.remember(key, compute);
      return method.prune({ ...context, remember });
    };
    await assertRejects(() => run(false, 0.3), UsageError, "in decode-ms cannot be reached with units ffn");
    const { plan } = await run(true, 0.55);
    const time = latencyOf(config, table);
    const shapes = plannedShapes(config, plan);
    const [kept, dense] = [shapes, config.layers].map((layers) => layers.reduce((sum, shape) => sum + time(shape), 0));
    assertEquals(keptLayers(plan), [0, 3]);
    assert(known(kept) <= 0.45 * known(dense), `${kept} of ${dense} ms`);
    const wider = shapes.reduce((sum, shape) => sum + time({ ...shape, ffnChannels: shape.ffnChannels + 1 }), 0);
    assert(wider > 0.45 * known(dense), `${wider} of ${dense} ms`);
  });
}, { except: SLOW });
