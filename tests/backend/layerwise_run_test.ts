/** `bench run --layerwise`: the same numbers as without it, and what it refuses. */
import { assertRejects } from "@std/assert";
import { prepareRun } from "../../benchmarks/configuration/prepare.ts";
import { UsageError } from "../../core/util/errors.ts";
import { runConfigSchema } from "../../core/schema/schema.ts";

const plan = (values: Record<string, unknown>) =>
  prepareRun(
    runConfigSchema.parse({ engine: "wasm", sparsity: [0.25], out: "unused", layerwise: true, ...values }),
    () => {},
  );

Deno.test("--layerwise is refused where all layers are needed", async () => {
  for (const id of ["llm-pruner", "mask-prune", "sheared"]) {
    await assertRejects(() => plan({ methods: [{ id: "flap" }, { id }] }), UsageError, `method ${id} needs all`);
  }
  const methods = [{ id: "flap" }];
  await assertRejects(() => plan({ methods, recover: "lora" }), UsageError, "--recover lora needs all");
  await assertRejects(() => plan({ methods, compensate: "least-squares" }), UsageError, "--compensate least-squares");
});
