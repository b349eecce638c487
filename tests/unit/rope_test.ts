import { assertAlmostEquals, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { rotaryFrequencies } from "../../models/rope.ts";

/** Four frequencies, one by one. */
function assertFrequencies(frequencies: ArrayLike<number>, expected: number[]): void {
  assertEquals(frequencies.length, expected.length);
  expected.forEach((value, i) => assertAlmostEquals(at(frequencies, i), value, 1e-12));
}

Deno.test("rotaryFrequencies() falls from 1 by the base's powers; linear scaling divides all of them", () => {
  assertFrequencies(rotaryFrequencies(8, { base: 10_000 }).frequencies, [1, 0.1, 0.01, 0.001]);
  const { frequencies } = rotaryFrequencies(8, { base: 10_000, scaling: { type: "linear", factor: 4 } });
  assertFrequencies(frequencies, [0.25, 0.025, 0.0025, 0.00025]);
});

Deno.test("rotaryFrequencies() keeps short waves, divides long ones and blends between under llama3 scaling", () => {
  // Wavelengths are 2 pi times 1, 10, 100, 1000. With 128 positions, below 128 / 4 is short and above 128 / 1 is long.
  const factors = { factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalMaxPositions: 128 };
  const { frequencies } = rotaryFrequencies(8, { base: 10_000, scaling: { type: "llama3", ...factors } });
  const smooth = (128 / (2 * Math.PI * 10) - 1) / 3;
  assertFrequencies(frequencies, [1, 0.1 * (smooth + (1 - smooth) / 8), 0.01 / 8, 0.001 / 8]);
});

Deno.test("rotaryFrequencies() turns nothing without a rope", () => {
  assertEquals([...rotaryFrequencies(8, null).frequencies], [0, 0, 0, 0]);
});

Deno.test("rotaryFrequencies() raises the base of dynamic scaling with the sequence, from the original length on", () => {
  const rope = { base: 10_000, scaling: { type: "dynamic", factor: 2, originalMaxPositions: 64 } } as const;
  const plain = rotaryFrequencies(8, { base: 10_000 }).frequencies;
  assertEquals([...rotaryFrequencies(8, rope, 64).frequencies], [...plain]);
  // Twice the length: 2 * 2 - 1 = 3, to the power of K / (K - 2).
  const { frequencies } = rotaryFrequencies(8, rope, 128);
  const base = 10_000 * 3 ** (8 / 6);
  frequencies.forEach((value, i) => assertAlmostEquals(value, base ** (-i / 4), 1e-12));
});

Deno.test("rotaryFrequencies() keeps fast pairs, divides slow ones and ramps between under YaRN", () => {
  // Pairs at 32 and at 1 turn over 4096 positions: 4 log(4096 / (2 pi 32)) / log 10000 = 1.31 and 2.81, so 1 to 3.
  const own = { factor: 4, originalMaxPositions: 4096, betaFast: 32, betaSlow: 1, truncate: true, magnitude: 1.1 };
  const scaling = { type: "yarn", ...own } as const;
  const { frequencies, magnitude } = rotaryFrequencies(8, { base: 10_000, scaling });
  assertEquals(magnitude, 1.1);
  assertFrequencies(frequencies, [1, 0.1, 0.01 * (0.5 / 4 + 0.5), 0.001 / 4]);
});
