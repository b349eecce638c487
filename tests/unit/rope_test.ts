import { assertAlmostEquals, assertEquals } from "@std/assert";
import { rotaryFrequencies } from "../../models/rope.ts";
import { toyConfig } from "../support/toy.ts";

Deno.test("rotaryFrequencies() falls from 1 by the base's powers", () => {
  const frequencies = rotaryFrequencies(toyConfig({ headSize: 8, ropeBase: 10_000 }));
  assertEquals(frequencies.length, 4);
  [1, 0.1, 0.01, 0.001].forEach((expected, i) => assertAlmostEquals(frequencies[i], expected, 1e-12));
});

Deno.test("rotaryFrequencies() divides all of them under linear scaling", () => {
  const frequencies = rotaryFrequencies(toyConfig({ ropeScaling: { type: "linear", factor: 4 } }));
  [0.25, 0.025, 0.0025, 0.00025].forEach((expected, i) => assertAlmostEquals(frequencies[i], expected, 1e-12));
});

Deno.test("rotaryFrequencies() keeps short waves, divides long ones and blends between under llama3 scaling", () => {
  // Wavelengths are 2 pi times 1, 10, 100, 1000. With 128 positions, below 128 / 4 is short and above 128 / 1 is long.
  const frequencies = rotaryFrequencies(toyConfig({
    ropeScaling: {
      type: "llama3",
      factor: 8,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
      originalMaxPositions: 128,
    },
  }));
  const smooth = (128 / (2 * Math.PI * 10) - 1) / 3;
  const expected = [1, 0.1 * (smooth + (1 - smooth) / 8), 0.01 / 8, 0.001 / 8];
  expected.forEach((value, i) => assertAlmostEquals(frequencies[i], value, 1e-12));
});
