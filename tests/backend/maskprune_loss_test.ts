/** What of MaskPrune's training the damage decides: the hidden-state term and a step per window, in where pruning throws the
 * model far off, out where it does not. */
import { assert, assertEquals } from "@std/assert";
import { at } from "../../core/indexing.ts";
import { trainingSchema } from "../../core/schema.ts";
import { maskPrune } from "../../methods/mask_prune/mod.ts";
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

testOnEngines(
  "mask-prune compares hidden states where removal at once costs more than half a nat per token, and steps per window above one",
  async () => {
    const options = trainingSchema.parse({ steps: 2, batch: 2, tokens: 9, rank: 2 });
    const learn = (source: WeightSource, given: object) =>
      withSource(source, async (model) => {
        const reports: string[] = [];
        const learning = { options, windows: toyWindows(4, 9) };
        const { training } = await maskPrune.prune(methodContext({
          model,
          options: maskPrune.options.parse(given),
          calibration: toyWindows(4, 9),
          learning,
          sparsity: 0.5,
          report: (text) => reports.push(text),
        }));
        const said = reports.find((text) => text.startsWith("all units removed at once"));
        const nats = Number(/[\d.]+/.exec(said ?? "")?.[0]);
        // The first step still has the dense model's states.
        const stages = training ?? [];
        const [steps, tokens] = (["steps", "tokens"] as const).map((count) =>
          stages.reduce((sum, stage) => sum + stage[count], 0)
        );
        return { nats, hidden: at(at(stages, 0).curve, 1).hidden, steps, tokens };
      });
    const far = await learn(sharpened(10), {});
    const near = await learn(sharpened(0.1), {});
    assert(far.nats > 1 && far.hidden > 0, JSON.stringify(far));
    assert(near.nats < 0.5, JSON.stringify(near));
    assertEquals(near.hidden, 0);
    assertEquals([far.steps, near.steps], [4, 2]);
    assertEquals(far.tokens, near.tokens);
    assertEquals((await learn(sharpened(10), { updates: "batch" })).steps, 2);
    assertEquals((await learn(sharpened(0.1), { updates: "window" })).steps, 4);
    assertEquals((await learn(sharpened(10), { hidden: 0 })).hidden, 0);
    assert((await learn(sharpened(0.1), { hidden: 2 })).hidden > 0);
  },
);
