/** Batches that are loaded dynamically from domains, on every engine that starts. */
import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import { type EngineName, trainingSchema } from "../../core/schema/schema.ts";
import type { LearningContext, PruneResult } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import type { LayerShape } from "../../models/units.ts";
import type { DecoderModel } from "../../models/device.ts";
import { scoringModel } from "../../models/scoring.ts";
import { type Domain, heldOutLosses } from "../../models/training/domains.ts";
import { windowBatch } from "../../models/training/batches.ts";
import { testOnEngines } from "../support/engines.ts";
import { methodContext, toyWindows, withToy } from "../support/method_context.ts";
import { known } from "../support/values.ts";

const SHAPE: LayerShape = { kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 24 };
const LAYERS = [SHAPE, SHAPE];
const STEPS = 24;
const training = trainingSchema.parse({
  steps: STEPS,
  batch: 2,
  tokens: 12,
  rank: 2,
  alpha: 4,
  teacherTokens: 8,
  learningRate: 0.03,
});
const windows = toyWindows(2 * STEPS, 12);
/** Software WebGPU and plain JavaScript take many times as long. */
const SLOW: readonly EngineName[] = ["webgpu", "cpu"];

/** Two domains of the toy: one repeats a window, which is learned at once, and one is noise, which never is. */
const DOMAINS: Domain[] = [
  { name: "repeated", weight: 0.5, windows: windows.map(() => at(windows, 0)), heldOut: [at(windows, 0)] },
  {
    name: "noise",
    weight: 0.5,
    windows: windows.map((window) => window.map((id, i) => (17 * id + 29 * i) % 61)),
    heldOut: windows.slice(0, 4).map((window) => window.map((id, i) => (23 * id + 7 * i) % 61)),
  },
];

interface Given {
  learning?: Partial<LearningContext>;
  seed?: number;
  signal?: AbortSignal;
  report?: (message: string) => void;
}

/** Prunes with an update of the domains' weights every fourth step. */
function prune(model: DecoderModel, { learning: own, ...given }: Given = {}): Promise<PruneResult> {
  const method = getMethod("sheared");
  const options = parseOptions(method, { domainSteps: 4 });
  const learning = { options: training, windows, domains: DOMAINS, ...own };
  return method.prune(methodContext({ model, options, sparsity: 0.3, ...given, learning }));
}

testOnEngines(
  "sheared: a domain whose loss lags is drawn more often, the same for the same seed",
  async () => {
    await withToy({ layers: LAYERS }, async (model) => {
      const whole = await prune(model);
      const { curve } = at(whole.training!, 0);
      const noise = curve.map(({ domains }) => known(domains?.noise));
      curve.forEach(({ domains }) => assertAlmostEquals(known(domains?.noise) + known(domains?.repeated), 1, 1e-5));
      // Weights move after every fourth step and at no other.
      noise.forEach((weight, i) =>
        assertEquals(weight !== (noise[i - 1] ?? 0.5), i > 0 && i % 4 === 0, `step ${i + 1}`)
      );
      // Nothing but masks near 1 sets the student apart from the teacher at first, if both read the same windows.
      assert(at(curve, 0).distillation < 0.1, `${at(curve, 0).distillation}`);
      assert(noise.at(-1)! > 0.6 && noise.at(-1)! > at(noise, STEPS / 2), `${noise}`);

      const again = await prune(model);
      assertEquals(
        at(again.training!, 0).curve.map(({ loss, domains }) => [loss, domains]),
        curve.map(({ loss, domains }) => [loss, domains]),
      );
      const other = await prune(model, { seed: 1 });
      assert(at(other.training!, 0).curve.some(({ domains }, i) => domains!.noise !== noise[i]));

      // Before and after masks are fixed.
      for (const stopAt of [7, 20]) {
        const folder = await Deno.makeTempDir();
        const controller = new AbortController();
        const learning = { checkpoint: { folder: `${folder}/run`, everySteps: 3 } };
        const report = (message: string) => {
          if (message.startsWith(`step ${stopAt} `)) controller.abort();
        };
        const stopped = prune(model, { learning, signal: controller.signal, report });
        await assertRejects(() => stopped, DOMException, "abort");
        const resumed = await prune(model, { learning });
        assertEquals([resumed.plan, resumed.replaced], [whole.plan, whole.replaced]);
        assertEquals(at(resumed.training!, 0).curve.map(({ domains }) => domains!.noise), noise);
        await Deno.remove(folder, { recursive: true });
      }
      await assertRejects(
        () => prune(model, { learning: { domains: undefined } }),
        UsageError,
        "domainSteps=4 needs domains",
      );
    });
  },
  { except: SLOW },
);

testOnEngines("heldOutLosses() is the mean loss of the tokens of each domain, with masks on", async () => {
  await withToy({ layers: LAYERS }, async (model) => {
    const dense = scoringModel(model);
    const expected: number[] = [];
    for (const { heldOut } of DOMAINS) {
      let sum = 0;
      for (const ids of heldOut) {
        const rows = Int32Array.from({ length: ids.length - 1 }, (_, i) => i);
        const { logProbs } = await dense.score(windowBatch([ids]), { rows, ids: ids.slice(1) });
        sum -= logProbs.reduce((total, logProb) => total + logProb, 0) / logProbs.length;
      }
      expected.push(sum / heldOut.length);
    }
    const losses = await heldOutLosses(model, DOMAINS);
    losses.forEach((loss, d) => assertAlmostEquals(loss, at(expected, d), 1e-5));
    const masks = (value: number) => LAYERS.map(() => ({ ffn: new Float32Array(24).fill(value) }));
    (await heldOutLosses(model, DOMAINS, { masks: masks(1) })).forEach((loss, d) =>
      assertAlmostEquals(loss, at(losses, d), 1e-5)
    );
    assert(
      (await heldOutLosses(model, DOMAINS, { masks: masks(0) })).every((loss, d) =>
        Math.abs(loss - at(losses, d)) > 1e-3
      ),
    );
  });
});
