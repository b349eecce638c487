/** MultiPruner against its search in plain arrays. */
import { assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { parseOptions } from "../../methods/mod.ts";
import { multipruner } from "../../methods/multipruner.ts";
import type { LinearName, WeightSource } from "../../models/config.ts";
import { onDevice } from "../support/device_models.ts";
import { testOnEngines } from "../support/engines.ts";
import { methodContext } from "../support/method_context.ts";
import { inGroupsOf, mean, sources, sum, weightOf, windows } from "../support/methods_reference.ts";
import { referenceForward, referenceLogProbs } from "../support/reference.ts";

/** Units left in each layer: the first of an order. */
type Left = { channels: number; groups: number }[];

/** The search: `goals` are what may be left after layers and after channels; `step` channels go at once. */
function reference(source: WeightSource, { budget, goals, step }: { budget: number; goals: number[]; step: number }) {
  const { config: { layers, headSize, width } } = source;
  const orders = layers.map(({ queryHeadsPerGroup: perGroup }, l) => {
    const rows = (name: LinearName) => weightOf(source, l, name).map((row) => sum(row.map(Math.abs)));
    const runs = (name: LinearName, size: number) => inGroupsOf(size, rows(name)).map(sum);
    const up = rows("up");
    const [keys, values] = [runs("key", headSize), runs("value", headSize)];
    const best = (scores: number[]) => [...scores.keys()].sort((a, b) => at(scores, b) - at(scores, a));
    return {
      channels: best(rows("gate").map((value, i) => value + at(up, i))),
      groups: best(runs("query", headSize * perGroup).map((q, g) => q + perGroup * (at(keys, g) + at(values, g)))),
    };
  });
  const kept = (left: Left, l: number, what: "channels" | "groups") => at(orders, l)[what].slice(0, at(left, l)[what]);
  const cost = (left: Left) =>
    sum(
      left.map(({ channels, groups }, l) =>
        width * (3 * channels + (2 * at(layers, l).queryHeadsPerGroup + 2) * headSize * groups)
      ),
    );
  const loss = (left: Left) => {
    const masks = layers.map(({ ffnChannels, kvGroups }, l) => ({
      ffn: Array.from({ length: ffnChannels }, (_, i) => Number(kept(left, l, "channels").includes(i))),
      kvGroups: Array.from({ length: kvGroups }, (_, i) => Number(kept(left, l, "groups").includes(i))),
    }));
    return mean(windows.map((window) => {
      const { logits } = referenceForward(source, window, { masks });
      return -mean(referenceLogProbs(logits.slice(0, -1), window.subarray(1)));
    }));
  };
  let left: Left = layers.map(({ ffnChannels, kvGroups }) => ({ channels: ffnChannels, groups: kvGroups }));
  let last = { l: 0, channels: 0 };
  const descend = (goal: number, least: number, change: (own: Left[number]) => Left[number]) => {
    while (cost(left) > goal) {
      const choices = left.flatMap((own, l) => {
        const next = left.with(l, change(own));
        const ends = own.groups === 0 || change(own).channels < 0 || at(next, l).groups < 0 || cost(next) < least;
        return ends ? [] : [{ l, next, loss: loss(next) }];
      });
      const [best] = choices.sort((a, b) => a.loss - b.loss);
      if (!best) return;
      if (at(best.next, best.l).channels < at(left, best.l).channels) {
        last = { l: best.l, channels: at(left, best.l).channels };
      }
      left = best.next;
    }
  };
  const channels = (own: Left[number]) => ({ ...own, channels: own.channels > step ? own.channels - step : -1 });
  const groups = (own: Left[number]) => ({ ...own, groups: own.groups > 1 ? own.groups - 1 : -1 });
  descend(at(goals, 0), budget, () => ({ channels: 0, groups: 0 }));
  descend(at(goals, 1), 0, channels);
  descend(budget, budget, groups);
  descend(budget, 0, channels);
  while (at(left, last.l).channels < last.channels && cost(left) + 3 * width <= budget) {
    left = left.with(last.l, { ...at(left, last.l), channels: at(left, last.l).channels + 1 });
  }
  const sorted = (units: number[]) => units.sort((a, b) => a - b);
  return layers.map((_, l) => [sorted(kept(left, l, "groups")), sorted(kept(left, l, "channels"))]);
}

testOnEngines("multipruner's search is that of plain arrays", async () => {
  const gone = new Set<boolean>();
  for (const [name, source] of Object.entries(sources)) {
    using model = await onDevice(source);
    for (const [sparsity, layers, channels] of [[0.3, 0.44, 0.4], [0.7, 0.5, 0.2]] as const) {
      const options = parseOptions(multipruner, { layers, channels, step: 0.19 });
      const context = methodContext({ model, options, calibration: windows, sparsity });
      const { whole, budget } = context.target;
      const goals = [layers, layers + channels].map((part) => whole - part * (whole - budget));
      const expected = reference(source, { budget, goals, step: 3 });
      const { plan } = await multipruner.prune(context);
      const found = plan.layers.map(({ kvGroups, ffnChannels }) => [kvGroups, ffnChannels]);
      assertEquals(found, expected, `${name} at ${sparsity}`);
      gone.add(found.some(([groups]) => groups!.length === 0));
    }
  }
  assertEquals(gone.size, 2, "a layer must go at one level and none at the other");
}, { except: ["cpu", "webgpu"] });
