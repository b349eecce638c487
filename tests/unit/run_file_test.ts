import { assertThrows } from "@std/assert";
import { writeRunFile } from "../../benchmarks/records/run_file.ts";
import { UsageError } from "../../core/errors.ts";
import { type RunConfig, runConfigSchema } from "../../core/schema.ts";

Deno.test("writeRunFile() keeps runs of other weights, engines or arithmetic out of a folder", () => {
  const out = Deno.makeTempDirSync();
  try {
    const fingerprint = { weights: "a", tokenizer: "b", data: {} };
    const config = (arithmetic: RunConfig["arithmetic"]) =>
      runConfigSchema.parse({ methods: { id: "flap" }, sparsity: 0.5, out, arithmetic });
    const run = { config: config("exact"), engine: "tensorflow", fingerprint, cells: [] };
    writeRunFile(run);
    writeRunFile({ ...run, config: { ...run.config, device: "cuda" } });
    const refused: [other: Partial<typeof run>, what: string][] = [
      [{ config: config("fast") }, "other arithmetic"],
      [{ engine: "wasm" }, "other engine"],
      [{ fingerprint: { ...fingerprint, weights: "c" } }, "other weights"],
    ];
    for (const [other, what] of refused) {
      assertThrows(() => writeRunFile({ ...run, ...other }), UsageError, what);
    }
  } finally {
    Deno.removeSync(out, { recursive: true });
  }
});
