import { assert } from "@std/assert";
import fc from "fast-check";
import { at } from "../../core/util/indexing.ts";
import { createRng } from "../../core/util/rng.ts";
import { sampleToken } from "../../models/generate.ts";

Deno.test("sampleToken() stays in the nucleus", () => {
  const logits = fc.array(fc.double({ min: -8, max: 8, noNaN: true }), { minLength: 2, maxLength: 40 });
  fc.assert(fc.property(
    logits,
    fc.double({ min: 0.01, max: 1, noNaN: true }),
    fc.double({ min: 0.2, max: 3, noNaN: true }),
    fc.nat(),
    (values, topP, temperature, seed) => {
      const scores = Float32Array.from(values);
      const id = sampleToken(scores, { temperature, topP }, createRng(seed, "test").uniform);
      const weights = Array.from(scores, (value) => Math.exp(value / temperature));
      const total = weights.reduce((a, b) => a + b);
      const before = weights.filter((weight) => weight > at(weights, id)).reduce((a, b) => a + b, 0);
      // All that is strictly more probable must not reach the nucleus's mass by itself.
      assert(before < topP * total * (1 + 1e-9), `token ${id} lies outside a nucleus of ${topP}`);
    },
  ));
});

Deno.test("sampleToken() draws with the probabilities of the tempered softmax", () => {
  const logits = Float32Array.from([Math.log(1), Math.log(2), Math.log(4)]);
  const shares = (temperature: number, topP: number) => {
    const { uniform } = createRng(7, "shares");
    const counts = [0, 0, 0];
    for (let i = 0; i < 20_000; i++) {
      const drawn = sampleToken(logits, { temperature, topP }, uniform);
      counts[drawn] = at(counts, drawn) + 1;
    }
    return counts.map((count) => count / 20_000);
  };
  // Five standard errors of a share are below 0.018.
  const close = (got: number[], wanted: number[]) => got.every((share, i) => Math.abs(share - at(wanted, i)) < 0.018);
  assert(close(shares(1, 1), [1 / 7, 2 / 7, 4 / 7]), "temperature 1");
  assert(close(shares(0.5, 1), [1 / 21, 4 / 21, 16 / 21]), "temperature 0.5");
  assert(close(shares(1, 0.8), [0, 1 / 3, 2 / 3]), "nucleus of 0.8");
  assert(close(shares(1, 0.1), [0, 0, 1]), "nucleus of 0.1");
});
