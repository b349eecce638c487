/** Learning decides which units stay: the learned choice of `mask-prune` beats the choice that it starts from when both
 * train alike, with all weights frozen. */
import { assert, assertEquals } from "@std/assert";
import { at, lookUp } from "../../core/util/indexing.ts";
import { drawCalibration } from "../../datasets/calibration.ts";
import type { Statistics } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { expectedTensors, type HostTensor, memorySource, tensorNames, type WeightSource } from "../../models/config.ts";
import { bundledModel, freed, lossOf, onDevice } from "../support/device_models.ts";
import { testOnEngines } from "../support/engines.ts";
import { learningOptions, methodContext, modelOf, toyWindows } from "../support/method_context.ts";
import { toySource } from "../support/toy.ts";

const method = getMethod("mask-prune");
/** Scores that stay where they start. */
const STAYS = { scoreRate: 1e-9 };

Deno.test({
  name: "at 50 %, weights frozen, the learned choice of the bundled model ends 3 % below the one it started from",
  // Native addons and the worker of wasm live as long as the process.
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const { model: bundled, tokenizer, corpus, heldOut } = await bundledModel(48, 128);
    using model = bundled;
    const training = learningOptions({ steps: 30, batch: 2, tokens: 128, recover: "scales" });
    for (const seed of [0, 1, 2]) {
      const draw = async (stream: string, sequences: number) =>
        (await drawCalibration({ corpus, tokenizer, sequences, tokens: 128, seed, stream })).windows;
      const calibration = await draw("calibration", 32);
      const learning = { options: training, windows: await draw("training", 60) };
      const cache = new Map<string, Statistics>();
      const lossWith = async (given: Record<string, unknown>) => {
        const options = parseOptions(method, given);
        const result = await method.prune(
          methodContext({ model, options, calibration, learning, sparsity: 0.5, seed, cache }),
        );
        using small = freed(await modelOf(model, result));
        return await lossOf(small, heldOut);
      };
      const [learned, started] = [await lossWith({}), await lossWith(STAYS)];
      const percent = 100 * (1 - Math.exp(learned - started));
      assert(percent >= 3, `seed ${seed}: ${percent.toFixed(1)} % lower`);
    }
  },
});

/** Channels of every layer: groups of copies, each with its part of what the group does, then single channels. A group does
 * more than a single channel, each copy less, so that a rank of channels one by one drops whole groups. */
const [GROUPS, COPIES, SINGLES] = [4, 4, 8];
const COPY = 0.5;
const strengthOf = (single: number) => 0.6 * 1.5 ** single;

function copiedSource(): WeightSource {
  const ffnChannels = GROUPS * COPIES + SINGLES;
  const shape = { kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels };
  const plain = toySource({ seed: 3, layers: [shape, shape] });
  const { config } = plain;
  const tensors = new Map<string, HostTensor>();
  for (const name of expectedTensors(config).keys()) tensors.set(name, plain.read(name));
  const original = (unit: number) => unit < GROUPS * COPIES ? unit - unit % COPIES : unit;
  for (const l of config.layers.keys()) {
    for (const name of ["gate", "up"] as const) {
      const { data } = lookUp(tensors, tensorNames.weight(l, name));
      for (let unit = 0; unit < ffnChannels; unit++) {
        data.copyWithin(unit * config.width, original(unit) * config.width, (original(unit) + 1) * config.width);
      }
    }
    const { data } = lookUp(tensors, tensorNames.weight(l, "down"));
    const whole = data.slice();
    for (let i = 0; i < data.length; i++) {
      const unit = i % ffnChannels;
      data[i] = at(whole, i - unit + original(unit)) *
        (unit < GROUPS * COPIES ? COPY : strengthOf(unit - GROUPS * COPIES));
    }
  }
  return memorySource(config, tensors);
}

testOnEngines("copies that count once the others are gone stay by learning and not by rank", async () => {
  using model = await onDevice(copiedSource());
  const gone = GROUPS * COPIES + SINGLES - 12;
  const sparsity = gone * 3 * 32 / ((gone + 12) * 3 * 32 + 4 * 4 * 8 * 32);
  const given = { steps: 60, batch: 4, tokens: 12, crossEntropy: 0, distillation: 1, recover: "scales" } as const;
  const learning = { options: learningOptions(given), windows: toyWindows(240, 12) };
  const lostGroups = async (changes: Record<string, unknown>) => {
    const options = parseOptions(method, changes);
    const { plan } = await method.prune(
      methodContext({ model, options, calibration: toyWindows(16, 16), learning, sparsity, units: ["ffn"] }),
    );
    return plan.layers.map(({ ffnChannels }) => {
      assertEquals(ffnChannels.length, 12);
      const stays = new Set(ffnChannels.map((unit) => Math.floor(unit / COPIES)));
      return [...Array(GROUPS).keys()].filter((group) => !stays.has(group)).length;
    });
  };
  // Without the penalty, which favours the choice that was made so far.
  const [ranked, learned] = [await lostGroups({ ...STAYS, dualRate: 0 }), await lostGroups({ dualRate: 0 })];
  assert(ranked.every((lost) => lost > 0), `${ranked}`);
  assertEquals(learned, [0, 0]);
}, { except: ["webgpu", "cpu"] });
