import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { attentionShapes, interpolate, latencyOf } from "../../methods/mask_prune/latency.ts";
import { toyConfig } from "../support/toy.ts";

Deno.test("interpolate() goes through the points and on beyond them", () => {
  const [xs, ys] = [[2, 4, 8], [1, 5, 6]];
  assertEquals([2, 3, 4, 6, 8].map((x) => interpolate(xs, ys, x)), [1, 3, 5, 5.5, 6]);
  assertEquals([1, 12].map((x) => interpolate(xs, ys, x)), [-1, 7]);
});

Deno.test("attentionShapes() narrows groups, and the query heads of a model with one", () => {
  const dense = { kvGroups: 3, queryHeadsPerGroup: 2, ffnChannels: 24 };
  assertEquals(attentionShapes(dense), [1, 2, 3].map((kvGroups) => ({ ...dense, kvGroups })));
  const one = { ...dense, kvGroups: 1, queryHeadsPerGroup: 4 };
  assertEquals(attentionShapes(one), [1, 2, 3, 4].map((queryHeadsPerGroup) => ({ ...one, queryHeadsPerGroup })));
});

Deno.test("latencyOf() adds what attention and channels save, and rises with every unit", () => {
  const config = toyConfig();
  const vector = (values: number[]) => ({ shape: [values.length], data: Float32Array.from(values) });
  const time = latencyOf(config, {
    "ffn width": vector([12, 18, 24]),
    "ffn ms": vector([6, 9, 8]),
    "query heads width": vector([2, 4]),
    "query heads ms": vector([7, 8]),
  });
  const dense = at(config.layers, 0);
  assertAlmostEquals(time(dense) - time({ ...dense, ffnChannels: 12 }), 2.5 + 0.085 / 2, 1e-6);
  assertAlmostEquals(time(dense) - time({ ...dense, kvGroups: 2 }), 1 + 0.08 / 2, 1e-6);
  const saved = time(dense) - time({ kvGroups: 2, queryHeadsPerGroup: 1, ffnChannels: 12 });
  assertAlmostEquals(saved, 3.5 + 0.085 / 2 + 0.08 / 2, 1e-6);
  for (let f = 1; f < 24; f++) {
    assert(time({ ...dense, ffnChannels: f }) < time({ ...dense, ffnChannels: f + 1 }));
  }
});
