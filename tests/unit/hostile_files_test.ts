import { assert } from "@std/assert";
import { describeOutcomes, fuzz } from "../support/hostile_files.ts";

Deno.test("every reader reads or refuses damaged files, quickly and in little memory", async () => {
  const outcomes = await fuzz(2400);
  for (const [name, { read, refused }] of outcomes) {
    assert(Math.min(read, refused) > 0 && read + refused >= 300, `${name}: ${read} read, ${refused} refused`);
  }
  assert(outcomes.size === 8, describeOutcomes(outcomes));
});
