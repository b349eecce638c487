/** A method in a file of the user's own, through a whole run: the process of the cell loads it, too. */
import { assert, assertEquals, assertNotEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { take } from "../support/values.ts";
import { runSweep, type SweepResult } from "../../benchmarks/sweep/sweep.ts";
import { folderTest } from "../support/weights_fixture.ts";

const EXAMPLE = join(import.meta.dirname!, "../../docs/examples/contribution.ts");

folderTest("runSweep() runs a method of a file, and again when the file changed", async (folder) => {
  const path = join(folder, "mine.ts");
  const begin = "async prune(context) {";
  const remembering = (value: string) =>
    `${begin} await context.remember("mine", async () => ({ one: { shape: [1], data: ${value} } }));`;
  const text = Deno.readTextFileSync(EXAMPLE).replace('id: "contribution"', 'id: "mine"')
    .replace(begin, remembering("Float32Array.of(1)"));
  Deno.writeTextFileSync(path, text);
  const run = (methodFile: string): Promise<SweepResult> =>
    runSweep({
      model: "tiny",
      engine: "wasm",
      methods: [],
      methodFile: [methodFile],
      sparsity: [0.5],
      calibration: { corpus: "tiny-world", sequences: 4, tokens: 32 },
      perplexity: [{ corpus: "tiny-world", windowTokens: 64, maxWindows: 2 }],
      out: join(folder, "out"),
    });
  const first = await run(path);
  const [, record] = take(first.records, 2);
  assert(record.state === "done");
  assertEquals([record.cell.method?.id, record.cell.methodFile?.path], ["mine", path]);
  assert(record.size.sparsityOfPrunable >= 0.5 && record.size.sparsityOfPrunable < 0.52);
  assertEquals((await run(path)).skipped, 2);

  // Another process would load the changed file; this one holds the first, so the change is in the cell's process only.
  Deno.writeTextFileSync(path, text.replace("Float32Array.of(1)", "anew"));
  const second = await run(path);
  const [, failed] = take(second.records, 2);
  assertNotEquals(failed.id, record.id);
  assert(failed.state === "failed");
  assertStringIncludes(failed.failure.message, "anew is not defined");
});
