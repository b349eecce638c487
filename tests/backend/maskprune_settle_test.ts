/** What MaskPrune decides about its training before it begins: whether units go along a ramp, whether hidden states are
 * compared, and whether every window has a step. */
import { assert, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { trainingSchema } from "../../core/schema/schema.ts";
import { maskPrune } from "../../methods/mask_prune/mod.ts";
import { courseSteps, settledByDamage } from "../../methods/mask_prune/settle.ts";
import { expectedTensors, memorySource, tensorNames, type WeightSource } from "../../models/config.ts";
import { testOnEngines } from "../support/engines.ts";
import { methodContext, toyWindows, withSource } from "../support/method_context.ts";
import { toySource } from "../support/toy.ts";

const toy = toySource({ layers: [0, 1].map(() => ({ kvGroups: 2, queryHeadsPerGroup: 1, ffnChannels: 24 })), seed: 3 });

/** The toy model with logits so many times as large: the larger they are, the more removed units change its distributions. */
function sharpened(factor: number): WeightSource {
  const read = (name: string) => {
    const { shape, data } = toy.read(name);
    return { shape, data: name === tensorNames.finalNorm ? data.map((x) => factor * x) : data };
  };
  return memorySource(toy.config, new Map([...expectedTensors(toy.config).keys()].map((name) => [name, read(name)])));
}

interface Learned {
  /** Nats of surprise and of damage, as reported; NaN where they were not measured. */
  surprise: number;
  damage: number;
  /** The hidden-state term of the first step. */
  hidden: number | undefined;
  steps: number;
  tokens: number;
  /** Whether all units were gone before the first step. */
  atOnce: boolean;
  /** Steps before the structure was fixed. */
  learning: number;
}

async function learn(source: WeightSource, given: object, asked = 2): Promise<Learned> {
  const options = trainingSchema.parse({ steps: asked, batch: 2, tokens: 9, rank: 2 });
  return await withSource(source, async (model) => {
    const reports: string[] = [];
    const { training } = await maskPrune.prune(methodContext({
      model,
      options: maskPrune.options.parse(given),
      calibration: toyWindows(4, 9),
      learning: { options, windows: toyWindows(2 * asked, 9) },
      sparsity: 0.5,
      report: (text) => reports.push(text),
    }));
    const natsIn = (start: string) => Number(/[\d.]+/.exec(reports.find((text) => text.startsWith(start)) ?? "")?.[0]);
    const stages = training ?? [];
    const [steps, tokens] = (["steps", "tokens"] as const).map((count) =>
      stages.reduce((sum, stage) => sum + stage[count], 0)
    ) as [number, number];
    const learning = stages.flatMap(({ curve }) => curve).filter(({ budget }) => budget !== undefined);
    return {
      surprise: natsIn("the text surprises the dense model"),
      damage: natsIn("all units removed at once"),
      // The first step still has the dense model's states.
      hidden: at(at(stages, 0).curve, 1).hidden,
      steps,
      tokens,
      atOnce: learning.length === 0,
      learning: learning.length,
    };
  });
}

testOnEngines(
  "mask-prune spends its steps by what is new in the text and how much removal at once breaks",
  async () => {
    const far = await learn(sharpened(10), {});
    assert(far.damage > 0.5 && far.surprise > 0.05 && (far.hidden ?? 0) > 0, JSON.stringify(far));
    const near = await learn(sharpened(0.7), {});
    assert(near.damage < 0.5 && near.surprise > 0.05, JSON.stringify(near));
    const known = await learn(sharpened(0.1), {});
    assert(known.surprise < 0.05 && (known.hidden ?? 0) > 0, JSON.stringify(known));
    assertEquals(near.hidden, 0);
    assertEquals([far, near, known].map(({ steps }) => steps), [2, 2, 4]);
    assertEquals([far, near, known].map(({ atOnce }) => atOnce), [false, false, true]);
    assertEquals(new Set([far, near, known].map(({ tokens }) => tokens)).size, 1);
  },
);

testOnEngines("mask-prune keeps to what its options say about training", async () => {
  const far = await learn(sharpened(10), { updates: "batch", hidden: 0, course: "at-once" });
  assertEquals([far.steps, far.hidden, far.atOnce], [2, 0, true]);
  const known = await learn(sharpened(0.1), { updates: "batch", hidden: 0, course: "gradual" });
  assertEquals([known.steps, known.hidden, known.atOnce], [2, 0, false]);
  assertEquals((await learn(sharpened(0.7), { updates: "window" })).steps, 4);
  assert(((await learn(sharpened(0.7), { hidden: 2 })).hidden ?? 0) > 0);
});

testOnEngines(
  "mask-prune spends what a long run has more on the structure that it found, as the paper has it where asked",
  async () => {
    const learned = async (given: object, steps: number) => (await learn(sharpened(0.7), given, steps)).learning;
    // freeze: 0.48 of 60 and of 80 steps.
    assertEquals(await learned({}, 60), 29);
    assertEquals(await learned({}, 80), 29);
    assertEquals(await learned({ course: "gradual" }, 80), 38);
  },
);

Deno.test("courseSteps() never leaves a large batch without steps to learn in", () => {
  const open = (steps: number, batch: number) => courseSteps({}, { steps, batch });
  assertEquals([open(600, 1), open(600, 2), open(600, 64), open(600, 500), open(20, 64)], [120, 60, 60, 60, 20]);
  assertEquals(courseSteps({ course: "gradual" }, { steps: 600, batch: 2 }), 600);
});

Deno.test("settledByDamage() has a step per window where six times as much is broken as the text has to teach", async () => {
  await withSource(toy, async (model) => {
    const context = { model, options: maskPrune.options.parse({}), calibration: toyWindows(1, 9), sparsity: 0.5 };
    const settled = (damage: number, surprise: number, options: object = {}) =>
      settledByDamage(methodContext({ ...context, options: maskPrune.options.parse(options) }), {
        surprise,
        damage: () => Promise.resolve(damage),
      });
    assertEquals(await settled(0.61, 0.1), { hidden: 5, updates: "window" });
    assertEquals(await settled(0.59, 0.1), { hidden: 5, updates: "batch" });
    assertEquals(await settled(0.49, 0.1), { hidden: 0, updates: "batch" });
    assertEquals(await settled(1.01, 0.1, { updates: "batch", hidden: 1 }), { hidden: 1, updates: "batch" });
    const learning = { options: trainingSchema.parse({}), windows: [], compensate: () => Promise.resolve({}) };
    assertEquals(
      await settledByDamage(methodContext({ ...context, learning }), {
        surprise: 0.1,
        damage: () => Promise.resolve(0.61),
      }),
      { hidden: 5, updates: "batch" },
    );
  });
});
