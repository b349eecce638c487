/** `bench run --layerwise`: the same numbers as without it, and what it refuses. */
import { assertEquals, assertRejects } from "@std/assert";
import { measureCell } from "../../benchmarks/cells/measure.ts";
import { prepareRun } from "../../benchmarks/configuration/prepare.ts";
import { UsageError } from "../../core/util/errors.ts";
import { runConfigSchema } from "../../core/schema/schema.ts";
import { withFolder } from "../support/weights_fixture.ts";
import { at } from "../../core/util/indexing.ts";

const plan = (values: Record<string, unknown>) =>
  prepareRun(
    runConfigSchema.parse({ engine: "wasm", sparsity: [0.25], out: "unused", layerwise: true, ...values }),
    () => {},
  );

Deno.test({
  name: "a layer-wise cell has the plan, the size and the scores of the usual one",
  // The worker of wasm lives as long as the process.
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const methods = [{ id: "flap" }];
    const calibration = { corpus: "tiny-world", sequences: 4, tokens: 64 };
    const { cells } = await plan({ methods, calibration, tasks: ["tiny-facts"], limit: 6 });
    const { cells: usual } = await plan({ methods, calibration, tasks: ["tiny-facts"], limit: 6, layerwise: false });
    assertEquals(cells, usual, "--layerwise changes no cell");
    const results: unknown[] = [];
    for (const layerwise of [true, false]) {
      await withFolder(async (out) => {
        const host = { report: () => {}, signal: new AbortController().signal };
        const measured = await measureCell({ ...at(cells, 1), out, commit: null, layerwise }, host);
        const { plan, size, tasks, calibrationData, weights } = measured;
        const scores = tasks.map(({ seconds: _, ...result }) => result);
        results.push({ plan, size, scores, calibrationData, weights });
      });
    }
    assertEquals(results[0], results[1]);
  },
});

Deno.test("--layerwise is refused where all layers are needed", async () => {
  for (const id of ["llm-pruner", "mask-prune", "sheared"]) {
    await assertRejects(() => plan({ methods: [{ id: "flap" }, { id }] }), UsageError, `method ${id} needs all`);
  }
  const methods = [{ id: "flap" }];
  await assertRejects(() => plan({ methods, recover: "lora" }), UsageError, "--recover lora needs all");
  await assertRejects(() => plan({ methods, compensate: "least-squares" }), UsageError, "--compensate least-squares");
});
