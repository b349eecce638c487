/** What each shipped method chooses on the bundled model, by method and version: a choice that changes needs another
 * version, since cells and kept statistics are known by it. */
import { assertEquals } from "@std/assert";
import { calibrate, trainingData } from "../../benchmarks/pipeline/calibrate.ts";
import { free, load } from "../../benchmarks/pipeline/load.ts";
import { prune } from "../../benchmarks/pipeline/prune.ts";
import { sha256OfJson } from "../../core/util/canonical_json.ts";
import { listMethods } from "../../methods/mod.ts";
import { startable } from "../support/engines.ts";

const GOLDEN = new URL("../golden/method_versions.json", import.meta.url);
const COMMAND = "UPDATE_GOLDENS=1 MASKPRUNE_ENGINES=wasm deno test -A tests/conformance/method_versions_test.ts";

/** Hash of the units that every shipped method keeps, by `ID VERSION`. */
async function choices(): Promise<Record<string, string>> {
  const dense = await load("tiny", { engine: "wasm" });
  const calibration = await calibrate(dense, { sequences: 8, tokens: 32 });
  const training = await trainingData(dense, { recover: "none", steps: 6, batch: 2, tokens: 32 });
  const found: Record<string, string> = {};
  for (const { id, version, kind } of listMethods()) {
    const given = { method: id, sparsity: 0.5, calibration, ...kind === "learned" && { training } };
    const pruned = await prune(dense, given);
    found[`${id} ${version}`] = sha256OfJson(pruned.plan).slice(0, 16);
    free(pruned);
  }
  free(dense);
  return found;
}

Deno.test({
  name: "a method that chooses other units has another version",
  // Methods of a user's own are known by their files.
  ignore: !startable.includes("wasm") || Boolean(Deno.env.get("MASKPRUNE_METHOD_FILE")),
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const found = await choices();
    if (Deno.env.get("UPDATE_GOLDENS") === "1") Deno.writeTextFileSync(GOLDEN, JSON.stringify(found, null, 2) + "\n");
    const golden = JSON.parse(Deno.readTextFileSync(GOLDEN));
    assertEquals(found, golden, `Raise \`version\` of the method whose choice changed, then run \`${COMMAND}\``);
  },
});
