/** GRASPrune against its loop in plain arrays, and on a planted channel whose effect on the loss is known. */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { grasprune } from "../../methods/grasprune.ts";
import { parseOptions } from "../../methods/mod.ts";
import { createMoments, type Moments, stepValues } from "../../models/training/optimizer.ts";
import type { HostMasks } from "../../models/training/student.ts";
import { gateGradients, onDevice } from "../support/device_models.ts";
import { testOnEngines } from "../support/engines.ts";
import { learningOptions, methodContext, toyWindows } from "../support/method_context.ts";
import { toySource } from "../support/toy.ts";

const [L, G, F, STEPS] = [2, 3, 20, 8];
const layers = Array.from({ length: L }, () => ({ kvGroups: G, queryHeadsPerGroup: 1, ffnChannels: F }));
/** Parameters of a group and of a channel: four matrices of width x 8, three of width x 1. */
const COST = { "kv-groups": 4 * 32 * 8, "ffn": 3 * 32 };
const windows = toyWindows(STEPS, 24);
const learning = {
  options: learningOptions({ steps: STEPS, batch: 1, tokens: 24, recover: "none", crossEntropy: 1, distillation: 0 }),
  windows,
};

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

/** Scores after a step of Adam on the gates' gradient, straight through the sigmoid. */
function learned(scores: Float32Array, gradient: Float32Array, moments: Moments, step: number) {
  const slopes = gradient.map((slope, i) => {
    const p = 1 / (1 + Math.exp(-at(scores, i) / 1.5));
    return slope * p * (1 - p) / 1.5;
  });
  return new Float32Array(stepValues(scores, slopes, moments, { rule: { betas: [0.9, 0.99] }, rate: 0.01, step }));
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
      const { gradients } = await gateGradients(model, gates, at(windows, step));
      for (const [l, own] of scores.entries()) {
        for (const [t, type] of (["kv-groups", "ffn"] as const).entries()) {
          own[type] = learned(own[type], at(gradients, 2 * l + t), moments[l]![type], step);
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

testOnEngines("grasprune opens a closed group again by the gradient of its heads", async () => {
  const wide = layers.map((shape) => ({ ...shape, queryHeadsPerGroup: 2 }));
  using model = await onDevice(toySource({ layers: wide, seed: 3 }));
  const options = parseOptions(grasprune, { freeze: 1 });
  const context = methodContext({ model, options, learning, sparsity: 0.4, units: ["kv-groups", "query-heads"] });
  const shape = at(context.target.uniform, 0);
  const best = (units: number[], scores: Float32Array, count: number) =>
    units.toSorted((a, b) => scores[b]! - scores[a]! || a - b).slice(0, count).sort((a, b) => a - b);
  const state = wide.map(() => ({ groups: new Float32Array(G), heads: new Float32Array(2 * G) }));
  const moments = wide.map(() => ({ groups: createMoments(G), heads: createMoments(2 * G) }));
  const openOf = ({ groups, heads }: typeof state[number]): [number[], number[]] => {
    const kept = best([...Array(G).keys()], groups, shape.kvGroups);
    return [kept, kept.flatMap((g) => best([2 * g, 2 * g + 1], heads, shape.queryHeadsPerGroup))];
  };
  for (let step = 0; step < STEPS; step++) {
    const gates = state.map((own): HostMasks => {
      const [groups, heads] = openOf(own);
      // Heads of a closed group are open: with both at 0, neither would have a gradient.
      const isOpen = (head: number) => heads.includes(head) || !groups.includes(head >> 1);
      return {
        "kv-groups": own.groups.map((_, g) => Number(groups.includes(g))),
        "query-heads": own.heads.map((_, h) => Number(isOpen(h))),
      };
    });
    const { gradients } = await gateGradients(model, gates, at(windows, step));
    for (const [l, own] of state.entries()) {
      own.groups = learned(own.groups, at(gradients, 2 * l), moments[l]!.groups, step);
      own.heads = learned(own.heads, at(gradients, 2 * l + 1), moments[l]!.heads, step);
    }
  }
  const found = (await grasprune.prune(context)).plan.layers;
  assertEquals(found.map(({ kvGroups, queryHeads }) => [kvGroups, queryHeads]), state.map(openOf));
  // At first the groups of the highest indices are closed.
  assert(found.some(({ kvGroups }) => kvGroups.at(-1)! >= shape.kvGroups));
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
        return (await gateGradients(model, gates, at(windows, 0))).loss;
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
