/** What methods that learn must hold beyond the suite of all methods, on every engine that starts. */
import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { known } from "../support/values.ts";
import { at } from "../../core/util/indexing.ts";
import type { EngineName, UnitType } from "../../core/schema/schema.ts";
import type { LearningContext, Method, PruneResult } from "../../methods/define.ts";
import { listMethods, parseOptions } from "../../methods/mod.ts";
import { isLayerwiseUniform, tensorNames } from "../../models/config.ts";
import type { LayerShape } from "../../models/units.ts";
import { keptParameters } from "../../models/count.ts";
import { type DecoderModel, disposeModel } from "../../models/device.ts";
import { plannedShapes, type PrunePlan } from "../../models/plan.ts";
import { hostTensor } from "../../models/surgery.ts";
import { resolveTarget } from "../../models/target.ts";
import { unitCost } from "../support/unit_cost.ts";
import type { DeadUnits } from "../support/toy.ts";
import { testOnEngines } from "../support/engines.ts";
import { learningOptions, methodContext, modelOf, toyWindows } from "../support/method_context.ts";
import { toySource } from "../support/toy.ts";
import { onDevice } from "../support/device_models.ts";

const SHAPE: LayerShape = { kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 24 };
const LAYERS = [SHAPE, SHAPE];
/** A shape of its own for Sheared LLaMA: a layer and hidden dimensions go as well. */
const SHEARED_SHAPE = { targetHidden: 24, targetLayers: 1, targetHeads: 3, targetFfn: 12 };
const STEPS = 24;
const training = learningOptions({ steps: STEPS, batch: 2, tokens: 12, rank: 2, alpha: 4, teacherTokens: 8 });
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
  const { budget } = resolveTarget(config, { sparsity, units, ffnMultiple });
  const slack = budget - keptParameters(config, plannedShapes(config, plan));
  const cheapest = Math.min(...units.map((type) => unitCost(config, 0, type) * (type === "ffn" ? ffnMultiple : 1)));
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

  const removesPlanted = async () => {
    const planted = 12 * 3 * 32 + 4 * 8 * 32;
    const all = 24 * 3 * 32 + 4 * 4 * 8 * 32;
    using model = await onDevice(toySource({ seed: 5, layers: LAYERS, dead }));
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
    assertEquals(reports!.map(({ stage, steps, tokens }) => [stage, steps, tokens]), [["learning", 40, 40 * 2 * 12]]);
    assertEquals(at(reports!, 0).curve.length, 40);
  };
  // Units that raise the loss go first there: `grasprune_test.ts` has a planted problem of its own.
  if (id !== "grasprune") testOnEngines(`${id}: removes exactly the planted units`, removesPlanted);

  testOnEngines(`${id}: meets the budget to one unit, layers equally wide where it promises so`, async () => {
    const layers = [0, 1].map(() => ({ kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 48 }));
    using model = await onDevice(toySource({ layers }));
    for (const options of [{}, ...method.variants ?? []] as Options[]) {
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
        disposeModel(await modelOf(model, result));
      }
    }
  }, { except: SLOW });

  testOnEngines(`${id}: a run that was stopped goes on from its snapshot to the same result`, async () => {
    using model = await onDevice(toySource({ layers: LAYERS }));
    for (const options of id === "sheared" ? [{}, SHEARED_SHAPE] : [{}]) {
      const given: Given = { options, sparsity: 0.3, units: ["ffn", "kv-groups"] };
      const whole = await prune(method, model, given);
      // Before and after the freeze.
      for (const stopAt of [7, 20]) {
        const folder = await Deno.makeTempDir();
        const learning = { snapshots: { folder: `${folder}/run`, everySteps: 3 } };
        const controller = new AbortController();
        const report = (message: string) => {
          if (message.startsWith(`step ${stopAt} `)) controller.abort();
        };
        const stopped = prune(method, model, { ...given, learning, signal: controller.signal, report });
        await assertRejects(() => stopped, DOMException, "abort");
        const messages: string[] = [];
        const resumed = await prune(method, model, { ...given, learning, report: (text) => messages.push(text) });
        assert(messages.includes(`goes on from step ${stopAt - stopAt % 3}`), messages.slice(0, 3).join("; "));
        assertEquals([resumed.plan, resumed.trained], [whole.plan, whole.trained]);
        const losses = ({ training }: PruneResult) => at(known(training), 0).curve.map(({ loss }) => loss);
        assertEquals(losses(resumed), losses(whole));
        assertEquals([...Deno.readDirSync(folder)], []);
        await Deno.remove(folder);
      }
    }
  }, { except: SLOW });

  testOnEngines(`${id}: asks for compensation once, when the structure is fixed, and trains on from it`, async () => {
    using model = await onDevice(toySource({ layers: LAYERS }));
    const plans: PrunePlan[] = [];
    const name = tensorNames.weight(0, "down");
    const dense = await hostTensor(model, name);
    const compensate = (plan: PrunePlan) => {
      plans.push(plan);
      return Promise.resolve({ [name]: { ...dense, data: dense.data.map((w) => 3 * w) } });
    };
    const given: Given = { sparsity: 0.3, units: ["ffn"] };
    const plain = await prune(method, model, given);
    const { plan, replaced, training: reports } = await prune(method, model, { ...given, learning: { compensate } });
    assertEquals(plans, [plan]);
    assertEquals(plan, plain.plan);
    assertEquals(Object.keys(known(replaced)), [name]);
    const last = (training: PruneResult["training"]) => known(at(known(training), 0).curve.at(-1)).loss;
    assertNotEquals(last(reports), last(plain.training));
    // What trained before least squares is dropped, which shows where they change nothing. GRASPrune trains nothing.
    const same = await prune(method, model, {
      ...given,
      learning: { compensate: () => Promise.resolve({ [name]: dense }) },
    });
    assertEquals(last(same.training) === last(plain.training), id === "grasprune");
  }, { except: SLOW });

  testOnEngines(`${id}: trains what the run says: nothing but the choice, scales, or adapters and scales`, async () => {
    using model = await onDevice(toySource({ layers: LAYERS }));
    for (const recover of ["none", "scales", "lora"] as const) {
      const learning = { options: { ...training, recover } };
      const given: Given = { sparsity: 0.3, units: ["ffn"], learning };
      const { trained, replaced, training: reports } = await prune(method, model, given);
      assertEquals([replaced, trained === undefined], [undefined, recover === "none"]);
      assertEquals(at(known(reports), 0).steps, STEPS);
      if (!trained) continue;
      assertEquals(Object.keys(trained.adapters).length > 0, recover === "lora");
      known(trained.masks).forEach(({ ffn }) => assert(known(ffn).some((value) => value !== 1)));
    }
  }, { except: SLOW });
}
