/** GRASPrune against its loop in plain arrays, and on a planted channel whose effect on the loss is known. */
import { assertEquals, assertNotEquals } from "@std/assert";
import * as tf from "@tensorflow/tfjs";
import { at } from "../../core/util/indexing.ts";
import { grasprune } from "../../methods/grasprune.ts";
import { parseOptions } from "../../methods/mod.ts";
import type { DecoderModel } from "../../models/device.ts";
import { batchGradients } from "../../models/training/gradients.ts";
import { createMoments, stepValues } from "../../models/training/optimizer.ts";
import { type HostMasks, uploadMasks } from "../../models/training/student.ts";
import { onDevice } from "../support/device_models.ts";
import { testOnEngines } from "../support/engines.ts";
import { learningOptions, methodContext, toyWindows } from "../support/method_context.ts";
import { toySource } from "../support/toy.ts";

const [L, G, F, STEPS] = [2, 3, 20, 8];
const layers = Array.from({ length: L }, () => ({ kvGroups: G, queryHeadsPerGroup: 1, ffnChannels: F }));
/** Parameters of a group and of a channel: four matrices of width x 8, three of width x 1. */
const COST = { "kv-groups": 4 * 32 * 8, "ffn": 3 * 32 };
const windows = toyWindows(STEPS, 24);
const weights = { crossEntropy: 1, distillation: 0, temperature: 1, hidden: 0 };
const learning = {
  options: learningOptions({ steps: STEPS, batch: 1, tokens: 24, recover: "none", ...weights }),
  windows,
};

/** Loss, and its gradients to the gates, layer by layer. */
async function gradientsOf(model: DecoderModel, gates: HostMasks[], window: Int32Array) {
  const masks = uploadMasks(gates);
  const variables = masks.flatMap((layer) => Object.values(layer) as tf.Tensor[]);
  const { terms, gradients } = await batchGradients({ model, masks, windows: [window], weights, variables });
  tf.dispose(variables);
  return { loss: terms.total, gradients };
}

type Unit = { l: number; type: "kv-groups" | "ffn"; i: number; score: number };

/** The units left when those of lowest score go until the budget holds: of one layer and type at its uniform width, or
 * of all, where the last of a type stays and the channels that went last come back if they fit. */
function openUnits(
  scores: Record<"kv-groups" | "ffn", Float32Array>[],
  budget: number,
  widths: Record<string, number> | null,
) {
  const units = scores.flatMap((layer, l) =>
    (["kv-groups", "ffn"] as const).flatMap((type) => [...layer[type]].map((score, i): Unit => ({ l, type, i, score })))
  );
  // Of equal scores, the unit of the higher index goes.
  const order = [...units].sort((a, b) =>
    a.score - b.score || a.l - b.l || (a.type === b.type ? b.i - a.i : a.type === "ffn" ? 1 : -1)
  );
  const open = new Set(units);
  const left = (l: number, type: string) => [...open].filter((unit) => unit.l === l && unit.type === type).length;
  const spent = () => [...open].reduce((sum, { type }) => sum + COST[type], 0);
  const gone: Unit[] = [];
  for (const unit of order) {
    if (widths ? left(unit.l, unit.type) <= widths[unit.type]! : left(unit.l, unit.type) === 1) continue;
    if (!widths && spent() <= budget) break;
    open.delete(unit);
    gone.push(unit);
  }
  for (const unit of widths ? [] : gone.reverse()) {
    if (unit.type !== "ffn") continue;
    if (spent() + COST.ffn > budget) break;
    open.add(unit);
  }
  return open;
}

testOnEngines("grasprune's choice is that of projection, sigmoid and Adam step by step", async () => {
  using model = await onDevice(toySource({ layers, seed: 3 }));
  const plans = [];
  for (const uniform of [true, false]) {
    const options = parseOptions(grasprune, { uniform, freeze: 1 });
    const context = methodContext({ model, options, learning, sparsity: 0.4 });
    const { target: { budget, uniform: [shape] } } = context;
    const widths = uniform ? { "kv-groups": shape!.kvGroups, "ffn": shape!.ffnChannels } : null;
    const scores = layers.map(() => ({ "kv-groups": new Float32Array(G), "ffn": new Float32Array(F) }));
    const moments = scores.map(() => ({ "kv-groups": createMoments(G), "ffn": createMoments(F) }));
    const units = (open: Set<Unit>, l: number, type: string) =>
      [...open].filter((unit) => unit.l === l && unit.type === type).map(({ i }) => i).sort((a, b) => a - b);
    for (let step = 0; step < STEPS; step++) {
      const open = openUnits(scores, budget, widths);
      const gates = scores.map((own, l): HostMasks => ({
        "kv-groups": own["kv-groups"].map((_, i) => Number(units(open, l, "kv-groups").includes(i))),
        "ffn": own.ffn.map((_, i) => Number(units(open, l, "ffn").includes(i))),
      }));
      const { gradients } = await gradientsOf(model, gates, at(windows, step));
      for (const [l, own] of scores.entries()) {
        for (const [t, type] of (["kv-groups", "ffn"] as const).entries()) {
          const slopes = at(gradients, 2 * l + t).map((slope, i) => {
            const p = 1 / (1 + Math.exp(-own[type][i]! / 1.5));
            return slope * p * (1 - p) / 1.5;
          });
          const rule = { betas: [0.9, 0.99] as [number, number] };
          own[type] = new Float32Array(stepValues(own[type], slopes, moments[l]![type], { rule, rate: 0.01, step }));
        }
      }
    }
    const open = openUnits(scores, budget, widths);
    const { plan } = await grasprune.prune(context);
    plan.layers.forEach((layer, l) => {
      assertEquals(layer.kvGroups, units(open, l, "kv-groups"), `layer ${l}`);
      assertEquals(layer.ffnChannels, units(open, l, "ffn"), `layer ${l}`);
    });
    plans.push(plan);
  }
  assertNotEquals(plans[0], plans[1]);
}, { except: ["webgpu", "cpu"] });

testOnEngines(
  "grasprune removes the planted channel where the loss is lower without it, and no other where not",
  async () => {
    const [live, one] = [4, layers.slice(0, 1)];
    const dead = [{ layer: 0, ffn: [...Array(F).keys()].filter((i) => i !== live) }];
    const options = parseOptions(grasprune, { freeze: 1 });
    const found = new Set<boolean>();
    for (let seed = 1; found.size < 2; seed++) {
      using model = await onDevice(toySource({ layers: one, seed, dead, tiedHead: false }));
      const lossAt = async (gate: number) => {
        const gates = [{ ffn: new Float32Array(F).map((_, i) => i === live ? gate : 1) }];
        return (await gradientsOf(model, gates, at(windows, 0))).loss;
      };
      const [closed, half, open] = [await lossAt(0), await lossAt(0.5), await lossAt(1)];
      // The answer is known where the loss goes one way.
      if ((half - closed) * (open - half) <= 0) continue;
      const harms = open > closed;
      found.add(harms);
      // One channel goes.
      const sparsity = COST.ffn / (G * COST["kv-groups"] + F * COST.ffn);
      const context = methodContext({ model, options, learning, units: ["ffn"], sparsity });
      const [layer] = (await grasprune.prune(context)).plan.layers;
      assertEquals([layer!.ffnChannels.length, layer!.ffnChannels.includes(live)], [F - 1, !harms], `seed ${seed}`);
    }
  },
  { except: ["webgpu", "cpu"] },
);
