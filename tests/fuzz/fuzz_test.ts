/** Damaged files in number, with a new seed each time. */
import { assert } from "@std/assert";
import { describeOutcomes, fuzz } from "../support/hostile_files.ts";

const INPUTS = 20_000;

Deno.test(`every reader reads or refuses ${INPUTS} damaged files, quickly and in little memory`, async () => {
  const seed = Date.now() % 2 ** 31;
  console.log(`seed ${seed}`);
  const outcomes = await fuzz(INPUTS, seed);
  console.log(describeOutcomes(outcomes));
  assert([...outcomes.values()].every(({ refused }) => refused > 0));
});
