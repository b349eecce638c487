/** What units cost alone, against sums in f64 over the factors and planted units that do nothing. */
import { assert } from "@std/assert";
import { at, entry } from "../../core/util/indexing.ts";
import { denseMatrix } from "../../core/engine/matrix.ts";
import { curvatureNames, type RemovalError } from "../../methods/_shared/curvature.ts";
import { unitCosts } from "../../methods/_shared/unit_costs.ts";
import type { Statistics } from "../../methods/define.ts";
import type { DecoderModel } from "../../models/device.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { methodContext, toyWindows, withToy } from "../support/method_context.ts";

testOnEngines(
  "unitCosts() is tr(W_u S W_u^T A_uu) of channels, heads and groups, in the factors' own f64 sum",
  async () => {
    const layers = [0, 1].map(() => ({ kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 12 }));
    await withToy({ layers }, async (model) => {
      for (const error of ["kfac", "plain"] as const) await checkCosts(model, error);
    });
  },
);

async function checkCosts(model: DecoderModel, error: RemovalError): Promise<void> {
  const cache = new Map<string, Statistics>();
  const costs = await unitCosts(methodContext({ model, options: {}, calibration: toyWindows(4, 16), cache }), error);
  const { headSize, width } = model.config;
  for (const [l, own] of costs.entries()) {
    const check = async (found: ArrayLike<number>, site: "down" | "output", size: number) => {
      const a = entry(entry(Object.fromEntries(cache), "gram matrices"), curvatureNames.inputs(l, site)).data;
      const s = error === "kfac"
        ? entry(entry(Object.fromEntries(cache), "slope factors"), curvatureNames.slopes(l, site)).data
        : Float32Array.from({ length: width * width }, (_, i) => i % (width + 1) === 0 ? 1 : 0);
      const weight = denseMatrix(at(model.layers, l)[site].weight);
      const [inputs] = weight.shape;
      const w = await weight.data();
      weight.dispose();
      const energy = (i: number, j: number) => {
        let sum = 0;
        for (let p = 0; p < width; p++) {
          for (let q = 0; q < width; q++) sum += at(w, i * width + p) * at(s, p * width + q) * at(w, j * width + q);
        }
        return sum;
      };
      const expected = Array.from({ length: inputs / size }, (_, unit) => {
        let sum = 0;
        for (let i = unit * size; i < (unit + 1) * size; i++) {
          for (let j = unit * size; j < (unit + 1) * size; j++) sum += energy(i, j) * at(a, j * inputs + i);
        }
        return sum;
      });
      assert(Math.min(...expected) > 0, "every unit must cost something for the comparison to mean something");
      assertClose(found, expected, { rtol: 1e-3, atol: 1e-4 * Math.max(...expected) });
    };
    await check(own.ffn, "down", 1);
    await check(own.queryHeads, "output", headSize);
    await check(own.kvGroups, "output", 2 * headSize);
  }
}

testOnEngines("unitCosts() of a unit that does next to nothing is next to nothing, and never below 0", async () => {
  const layers = [0, 1].map(() => ({ kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 24 }));
  const dead = [0, 1].map((layer) => ({ layer, ffn: [1, 5, 20], kvGroups: [layer + 1] }));
  await withToy({ layers, dead, deadScale: 1e-3 }, async (model) => {
    const costs = await unitCosts(methodContext({ model, options: {}, calibration: toyWindows(6, 16) }), "kfac");
    for (const { layer, ffn, kvGroups } of dead) {
      const own = at(costs, layer);
      for (const [found, gone] of [[own.ffn, ffn], [own.kvGroups, kvGroups]] as const) {
        const alive = Array.from(found).filter((_, unit) => !gone.includes(unit));
        for (const unit of gone) assert(at(found, unit) < 1e-3 * Math.min(...alive));
        assert(Math.min(...found) >= 0);
      }
    }
  });
});
