import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { expectedTensors, tensorNames } from "../../models/config.ts";
import { referenceForward, type ReferenceMasks } from "../support/reference.ts";
import { type ToyOptions, toySource, toyTokens } from "../support/toy.ts";

const layers = [
  { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 6 },
  { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 6 },
];
const tokens = toyTokens({ count: 9 });

Deno.test("toySource() gives the tensors of its configuration, the same ones for the same seed", () => {
  const options: ToyOptions = { layers, tiedHead: false, biases: ["down"] };
  const [first, again, other] = [toySource(options), toySource(options), toySource({ ...options, seed: 1 })];
  for (const [name, shape] of expectedTensors(first.config)) {
    assertEquals(first.read(name).shape, shape);
    assertEquals(first.read(name), again.read(name));
    assertNotEquals(first.read(name).data, other.read(name).data);
  }
});

Deno.test("toySource() plants units that do nothing, beside others that do", () => {
  const source = toySource({
    layers,
    biases: ["query", "key", "value", "gate", "up"],
    dead: [{ layer: 0, ffn: [1, 4], queryHeads: [3] }, { layer: 1, kvGroups: [0] }],
  });
  const masked = (masks: ReferenceMasks[]) => referenceForward(source, tokens, { masks }).logits;
  const whole = referenceForward(source, tokens).logits;
  assertEquals(masked([{ ffn: [1, 0, 1, 1, 0, 1], queryHeads: [1, 1, 1, 0] }, { kvGroups: [0, 1] }]), whole);
  assertNotEquals(masked([{ ffn: [0, 1, 1, 1, 1, 1] }, {}]), whole);
  assertNotEquals(masked([{ queryHeads: [1, 1, 0, 1] }, {}]), whole);
  assertNotEquals(masked([{}, { kvGroups: [1, 0] }]), whole);
  assert(source.read(tensorNames.weight(1, "query")).data.subarray(0, 2 * 8 * 32).every((value) => value === 0));
});

Deno.test("toySource() plants hidden dimensions that stay 0", () => {
  const source = toySource({ layers, biases: ["output", "down"], tiedHead: false, deadHidden: [3, 30] });
  const { hidden } = referenceForward(source, tokens);
  hidden.forEach((row) => assertEquals([...row.keys()].filter((i) => row[i] === 0), [3, 30]));
});

Deno.test("toySource() keeps faint noise in dead units when asked", () => {
  const options: ToyOptions = { layers, dead: [{ layer: 0, ffn: [1] }] };
  const down = (source: ReturnType<typeof toySource>) => at(source.read(tensorNames.weight(0, "down")).data, 1);
  const [alive, faint] = [down(toySource({ layers })), down(toySource({ ...options, deadScale: 0.5 }))];
  assertEquals(faint, alive / 2);
  assertEquals(Math.abs(down(toySource(options))), 0);
});

Deno.test("toyTokens() follows its rule three times out of four", () => {
  const stream = toyTokens({ count: 4000, vocabSize: 29, seed: 2 });
  const followed = stream.subarray(1).filter((token, i) => token === (5 * at(stream, i) + 3) % 29).length;
  // A uniform draw follows it too, once in 29; four standard deviations are 0.027.
  assert(Math.abs(followed / 3999 - (0.75 + 0.25 / 29)) < 0.03, `${followed} of 3999`);
  assert(stream.every((token) => token >= 0 && token < 29));
});
