import { assertEquals, assertRejects } from "@std/assert";
import { ladderSteps, levelSteps } from "../../benchmarks/cells/ladder.ts";
import { prepareRun } from "../../benchmarks/configuration/prepare.ts";
import { type RunConfig, runConfigSchema } from "../../core/schema/schema.ts";
import { UsageError } from "../../core/util/errors.ts";

Deno.test("prepareRun() refuses ladders that cannot be climbed before anything runs", async () => {
  const plan = (changes: Partial<RunConfig>, options: Record<string, unknown> = {}) =>
    prepareRun(
      runConfigSchema.parse({
        methods: [{ id: "mask-prune", options }],
        sparsity: [0.2, 0.4, 0.5],
        ladder: true,
        out: "unused",
        ...changes,
      }),
      () => {},
    );
  await assertRejects(() => plan({}, { uniform: false }), UsageError, "equal widths in every layer");
  await assertRejects(() => plan({}, { resource: "macs" }), UsageError, "--ladder counts parameters");
  const training = { ...runConfigSchema.shape.training.unwrap().parse({}), steps: 5 };
  await assertRejects(() => plan({ training }), UsageError, "two training steps for each of 3 levels: current 5");
});

Deno.test("ladderSteps() is a quarter more than a run", () => {
  assertEquals([100, 60, 5].map(ladderSteps), [125, 75, 6]);
  // 75 of 100 are shared by the levels before the last, which has 50.
  const ladder = [0.2, 0.3, 0.4, 0.5];
  assertEquals(ladder.map((sparsity) => levelSteps({ ladder, sparsity }, 100)), [25, 25, 25, 50]);
});
