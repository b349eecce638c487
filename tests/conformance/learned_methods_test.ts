/** What methods that learn must hold beyond the suite of all methods, on every engine that starts. */
import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { known, take } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import type { EngineName, UnitType } from "../../core/schema/schema.ts";
import { trainingSchema } from "../../core/schema/schema.ts";
import type { LearningContext, Method, MethodVariant, PruneResult, Statistics } from "../../methods/define.ts";
import { getMethod, listMethods, parseOptions } from "../../methods/mod.ts";
import { latencyOf, layerLatency } from "../../methods/mask_prune/latency.ts";
import { isLayerwiseUniform, LINEAR_NAMES, tensorNames } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import { keptParameters } from "../../models/count.ts";
import { type DecoderModel, disposeModel } from "../../models/device.ts";
import { plannedShapes, type PrunePlan } from "../../models/plan.ts";
import { hostTensor, pruneModel } from "../../models/surgery.ts";
import { resolveTarget } from "../../models/target.ts";
import { unitCost } from "../support/unit_cost.ts";
import type { DeadUnits } from "../support/toy.ts";
import { testOnEngines } from "../support/engines.ts";
import { methodContext, toyWindows, withToy } from "../support/method_context.ts";

const SHAPE: LayerShape = { kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 24 };
const LAYERS = [SHAPE, SHAPE];
const STEPS = 24;
const training = trainingSchema.parse({ steps: STEPS, batch: 2, tokens: 12, rank: 2, alpha: 4, teacherTokens: 8 });
const windows = toyWindows(2 * STEPS, 12);
const calibration = toyWindows(6, 16);
/** Software WebGPU and plain JavaScript take many times as long. */
const SLOW: readonly EngineName[] = ["webgpu", "cpu"];

const learned = listMethods().filter(({ kind }) => kind === "learned");

type Options = Record<string, unknown>;

interface Given {
  options?: Options;
  sparsity: number;
  units: UnitType[];
  ffnMultiple?: number;
  learning?: Partial<LearningContext>;
  signal?: AbortSignal;
  report?: (message: string) => void;
}

function prune(method: Method, model: DecoderModel, given: Given): Promise<PruneResult> {
  const { options = {} } = given;
  const learning = { options: training, windows, ...given.learning };
  return method.prune(
    methodContext({ model, calibration, ...given, learning, options: parseOptions(method, options) }),
  );
}

/** The budget holds, and one more unit of the cheapest kind in every layer would not fit. */
function assertMeetsBudget(
  model: DecoderModel,
  { plan }: PruneResult,
  { sparsity, units, ffnMultiple = 1 }: Given,
): void {
  const { config } = model;
  const { budgetParameters } = resolveTarget(config, { sparsity, units, ffnMultiple });
  const slack = budgetParameters - keptParameters(config, plannedShapes(config, plan));
  const cheapest = Math.min(
    ...units.map((type) => unitCost(config, 0, type).parameters * (type === "ffn" ? ffnMultiple : 1)),
  );
  assert(slack >= 0, `the budget is exceeded by ${-slack}`);
  assert(slack < cheapest * config.layers.length, `${slack} parameters of the budget are unused`);
}

/** Half of the FFN channels and one group of every layer do nothing. */
const dead = LAYERS.map((_, layer): DeadUnits => ({
  layer,
  ffn: Array.from({ length: 12 }, (_, i) => 2 * i + layer % 2),
  kvGroups: [1 + layer],
}));

for (const method of learned) {
  const { id } = method;

  testOnEngines(`${id}: removes exactly the planted units`, async () => {
    const planted = 12 * 3 * 32 + 4 * 8 * 32;
    const all = 24 * 3 * 32 + 4 * 4 * 8 * 32;
    await withToy({ seed: 5, layers: LAYERS, dead }, async (model) => {
      const learning = { options: { ...training, steps: 40 }, windows: toyWindows(80, 12) };
      const { plan, training: reports } = await prune(method, model, {
        sparsity: planted / all,
        units: ["ffn", "kv-groups"],
        learning,
      });
      plan.layers.forEach((layer, l) => {
        const gone = (count: number, kept: number[]) =>
          Array.from({ length: count }, (_, i) => i).filter((i) => !kept.includes(i));
        assertEquals(gone(24, layer.ffnChannels), at(dead, l).ffn, `channels of layer ${l}`);
        assertEquals(gone(4, layer.kvGroups), at(dead, l).kvGroups, `groups of layer ${l}`);
      });
      // A method may take the windows of a batch one by one: it reads no more of them.
      assertEquals(reports!.map(({ stage, tokens }) => ({ stage, tokens })), [
        { stage: "learning", tokens: 40 * 2 * 12 },
      ]);
      const { curve, steps } = at(reports!, 0);
      assertEquals(curve.length, steps);
    });
  });

  testOnEngines(`${id}: meets the budget to one unit, layers equally wide where it promises so`, async () => {
    const layers = [0, 1].map(() => ({ kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 48 }));
    await withToy({ layers }, async (model) => {
      for (const { options } of [{ options: {} }, ...method.variants ?? []] as MethodVariant<Options>[]) {
        const ownTarget = method.ownTarget?.(parseOptions(method, options)) ?? false;
        // On so small a model attention alone may be over a budget of another kind.
        const all: [UnitType[], number] = [["ffn", "query-heads", "kv-groups"], 1];
        for (const [units, ffnMultiple] of ownTarget ? [all] : [all, [["ffn"], 8]] as typeof all[]) {
          const given: Given = { options, sparsity: 0.4, units, ffnMultiple };
          const result = await prune(method, model, given);
          const shapes = plannedShapes(model.config, result.plan);
          if (!ownTarget) assertMeetsBudget(model, result, given);
          if (ffnMultiple > 1) shapes.forEach(({ ffnChannels }) => assertEquals(ffnChannels % ffnMultiple, 0));
          if (method.uniformLayers(parseOptions(method, options))) {
            assert(isLayerwiseUniform({ ...model.config, layers: shapes }), JSON.stringify(options));
          }
          disposeModel(pruneModel(model, result.plan, result.replaced));
        }
      }
    });
  }, { except: SLOW });

  testOnEngines(`${id}: a run that was stopped goes on from its snapshot to the same result`, async () => {
    await withToy({ layers: LAYERS }, async (model) => {
      const given: Given = { sparsity: 0.3, units: ["ffn", "kv-groups"] };
      const whole = await prune(method, model, given);
      // Before and after the freeze.
      for (const stopAt of [7, 20]) {
        const folder = await Deno.makeTempDir();
        const learning = { checkpoint: { folder: `${folder}/run`, everySteps: 3 } };
        const controller = new AbortController();
        const report = (message: string) => {
          if (message.startsWith(`step ${stopAt} `)) controller.abort();
        };
        const stopped = prune(method, model, { ...given, learning, signal: controller.signal, report });
        await assertRejects(() => stopped, DOMException, "abort");
        const messages: string[] = [];
        const resumed = await prune(method, model, { ...given, learning, report: (text) => messages.push(text) });
        assert(messages.includes(`goes on from step ${stopAt - stopAt % 3}`), messages.slice(0, 3).join("; "));
        assertEquals(resumed.plan, whole.plan);
        assertEquals(resumed.replaced, whole.replaced);
        assertEquals(
          at(resumed.training!, 0).curve.map(({ loss }) => loss),
          at(whole.training!, 0).curve.map(({ loss }) => loss),
        );
        assertEquals([...Deno.readDirSync(folder)], []);
        await Deno.remove(folder);
      }
    });
  }, { except: SLOW });

  testOnEngines(`${id}: asks for compensation once, when the structure is fixed, and trains on from it`, async () => {
    await withToy({ layers: LAYERS }, async (model) => {
      const plans: PrunePlan[] = [];
      const name = tensorNames.weight(0, "down");
      const dense = await hostTensor(model, name);
      const compensate = (plan: PrunePlan) => {
        plans.push(plan);
        return Promise.resolve({ [name]: { ...dense, data: dense.data.map((w) => 3 * w) } });
      };
      const options = { ...training, rank: 0 };
      const given: Given = { sparsity: 0.3, units: ["ffn"] };
      const plain = await prune(method, model, { ...given, learning: { options } });
      const { plan, replaced } = await prune(method, model, { ...given, learning: { options, compensate } });
      assertEquals(plans, [plan]);
      assertEquals(plan, plain.plan);
      // The compensated weight is what the kept masks are folded into.
      const size = (tensors: Statistics) => Math.hypot(...known(tensors[name]).data);
      assert(size(replaced!) > 2 * size(plain.replaced!), `${size(plain.replaced!)} to ${size(replaced!)}`);
    });
  }, { except: SLOW });
}

testOnEngines("mask-prune: compensated weights stay where neither masks nor adapters change any", async () => {
  await withToy({ layers: LAYERS }, async (model) => {
    const name = tensorNames.weight(0, "down");
    const dense = await hostTensor(model, name);
    const tripled = { ...dense, data: dense.data.map((w) => 3 * w) };
    const { replaced } = await prune(getMethod("mask-prune"), model, {
      ...{ sparsity: 0.3, units: ["ffn"], options: { masks: "hard", adapters: false } },
      learning: { options: training, compensate: () => Promise.resolve({ [name]: tripled }) },
    });
    assertEquals(replaced, { [name]: tripled });
  });
});

testOnEngines("mask-prune: distillation and adapters can be left out of the shared training", async () => {
  await withToy({ layers: LAYERS }, async (model) => {
    const given: Given = { sparsity: 0.3, units: ["ffn"] };
    const curve = async (options: Record<string, unknown>) =>
      at((await prune(getMethod("mask-prune"), model, { ...given, options })).training!, 0).curve;
    const plain = await curve({ distillation: false });
    for (const { loss, crossEntropy, distillation } of plain) {
      assertEquals(distillation, 0);
      assertAlmostEquals(loss, (training.crossEntropy + training.distillation) * crossEntropy, 1e-4);
    }
    // Before the first step student and teacher are the same.
    assert((await curve({})).slice(1).every(({ distillation }) => distillation > 0));
    assert((await curve({ adapters: false })).every(({ gradientNorm }) => gradientNorm === 0));
    assert(plain.every(({ gradientNorm }) => gradientNorm > 0));
  });
}, { except: SLOW });

testOnEngines(
  "mask-prune: shrinking while learning keeps the budget, the planted units and a stopped run's result",
  async () => {
    const shape: LayerShape = { kvGroups: 2, queryHeadsPerGroup: 1, ffnChannels: 32 };
    const gone = [0, 1].map((layer) => ({ layer, ffn: Array.from({ length: 16 }, (_, i) => 2 * i + layer) }));
    await withToy({ layers: [shape, shape], dead: gone }, async (model) => {
      const options = { course: "gradual", rampEnd: 0.5, freeze: 0.8, shrink: 3 };
      const learning = { options: { ...training, steps: 40 }, windows: toyWindows(80, 12) };
      const given: Given = {
        sparsity: 16 * 3 * 32 / (32 * 3 * 32 + 4 * 2 * 8 * 32),
        units: ["ffn"],
        options,
        learning,
      };
      const method = getMethod("mask-prune");
      const plain = await prune(method, model, { ...given, options: { ...options, shrink: 0 } });
      const shares: number[] = [];
      const report = (message: string) => {
        const [, share] = /^the working model has (.+) % of/.exec(message) ?? [];
        if (share !== undefined) shares.push(Number(share));
      };
      const whole = await prune(method, model, { ...given, report });
      // Work of a step is in proportion to the parameters.
      assert(shares.length > 0 && shares.at(-1)! < 85, `${shares}`);
      assertEquals(whole.plan, plain.plan);
      whole.plan.layers.forEach(({ ffnChannels }, l) =>
        assert(ffnChannels.every((unit) => !at(gone, l).ffn.includes(unit)))
      );
      const folder = await Deno.makeTempDir();
      const controller = new AbortController();
      const stopped = {
        ...given,
        learning: { ...learning, checkpoint: { folder: `${folder}/run`, everySteps: 3 } },
        report: (message: string) => message.startsWith("step 29 ") && controller.abort(),
        signal: controller.signal,
      };
      await assertRejects(() => prune(method, model, stopped as Given), DOMException, "abort");
      const again = await prune(method, model, { ...given, learning: stopped.learning });
      assertEquals([again.plan, again.replaced], [whole.plan, whole.replaced]);
      await Deno.remove(folder, { recursive: true });
    });
  },
  { except: SLOW },
);

testOnEngines(
  "mask-prune: a budget of milliseconds is met by the measured table, and that of parameters as well",
  async () => {
    await withToy({ layers: LAYERS.map((shape) => ({ ...shape, ffnChannels: 96 })) }, async (model) => {
      const { config } = model;
      // Time falls more slowly than parameters, so that it is what limits the widths.
      const vector = (values: number[]) => ({ shape: [values.length], data: Float32Array.from(values) });
      const table = {
        "ffn width": vector([24, 48, 72, 96]),
        "ffn ms": vector([5, 6.6, 6.4, 8]),
        "query heads width": vector([1, 2, 4]),
        "query heads ms": vector([7.8, 7.9, 8]),
      };
      const time = latencyOf(config, table);
      const cache = new Map<string, Statistics>();
      const learning = { options: training, windows };
      const method = getMethod("mask-prune");
      const context = methodContext({
        model,
        calibration,
        cache,
        learning,
        options: parseOptions(method, {}),
        sparsity: 0.3,
      });
      // What the method asks for first is the table.
      const remember = (key: string, compute: () => Promise<Statistics>) =>
        key.startsWith("layer latency") ? Promise.resolve(table) : context.remember(key, compute);
      const options = parseOptions(method, { resource: "prefill-ms" });
      const { plan } = await method.prune({ ...context, options, remember });
      const shapes = plannedShapes(config, plan);
      const [kept, dense] = take(
        [shapes, config.layers].map((layers) => layers.reduce((sum, shape) => sum + time(shape), 0)),
        2,
      );
      assert(kept <= 0.7 * dense, `${kept} of ${dense} ms`);
      assert(keptParameters(config, shapes) <= 0.7 * keptParameters(config));
      assert(isLayerwiseUniform({ ...config, layers: shapes }));
      // One more channel in every layer would take too long.
      const wider = shapes.reduce((sum, shape) => sum + time({ ...shape, ffnChannels: shape.ffnChannels + 1 }), 0);
      assert(wider > 0.7 * dense, `${wider} of ${dense} ms`);

      for (const phase of ["prefill", "decode"] as const) {
        const measured = await layerLatency(context, phase);
        assertEquals(known(measured["ffn width"]).data.at(-1), 96);
        assert(
          known(measured["ffn ms"]).data.every((ms) => ms > 0) && known(measured["query heads ms"]).data.length === 4,
        );
        assertEquals(await layerLatency(context, phase), measured);
      }
      assertEquals([...cache.keys()].filter((key) => key.startsWith("layer latency")).length, 2);
    });
  },
  { except: SLOW },
);

testOnEngines("sheared: all linear maps can learn, also after a stop, and masks are folded into them", async () => {
  await withToy({ layers: LAYERS }, async (model) => {
    const method = getMethod("sheared");
    const options = { weights: "all", weightRate: 5e-3 };
    // The same windows in every step, so that the loss must fall once the target is reached.
    const learning = { windows: windows.map((_, i) => at(windows, i % 2)) };
    const given: Given = { sparsity: 0.3, units: ["ffn", "kv-groups"], options, learning };
    const whole = await prune(method, model, given);
    const names = [0, 1].flatMap((l) => LINEAR_NAMES.map((name) => tensorNames.weight(l, name)));
    assertEquals(Object.keys(whole.replaced!).sort(), names.toSorted());
    for (const name of names) {
      const dense = await hostTensor(model, name);
      const kept = known(whole.replaced![name]).data;
      assert(kept.some((w, i) => w !== 0 && Math.abs(w - at(dense.data, i)) > 1e-4), `${name} did not learn`);
    }
    const losses = at(whole.training!, 0).curve.map(({ loss }) => loss);
    assert(losses.at(-1)! < at(losses, STEPS / 2), `${losses[STEPS / 2]} to ${losses.at(-1)}`);

    // Before and after masks are fixed.
    for (const stopAt of [7, 20]) {
      const folder = await Deno.makeTempDir();
      const controller = new AbortController();
      const own = { ...learning, checkpoint: { folder: `${folder}/run`, everySteps: 3 } };
      const report = (message: string) => {
        if (message.startsWith(`step ${stopAt} `)) controller.abort();
      };
      const stopped = prune(method, model, { ...given, learning: own, signal: controller.signal, report });
      await assertRejects(() => stopped, DOMException, "abort");
      const again = await prune(method, model, { ...given, learning: own });
      assertEquals([again.plan, again.replaced], [whole.plan, whole.replaced]);
      await Deno.remove(folder, { recursive: true });
    }
    const compensate = () => Promise.resolve({});
    await assertRejects(
      () => prune(method, model, { ...given, learning: { compensate } }),
      UsageError,
      "weights=adapters",
    );
  });
}, { except: SLOW });
