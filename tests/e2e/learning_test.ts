/** Learned masks through the command line: a run that was killed in the middle of learning ends with the same model. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { at } from "../../core/util/indexing.ts";
import { readRecords, runPaths } from "../../benchmarks/records/store.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";

const ROOT = join(import.meta.dirname!, "../..");
const RIGHTS = ["--allow-read", "--allow-write", "--allow-env", "--allow-sys", "--allow-ffi", "--allow-run=deno,git"];
const FLAGS = "--methods mask-prune --sparsity 0.4 --engine wasm --no-throughput --tasks tiny-facts --limit 5 " +
  "--calibration tiny-world:4:32 --training steps=60,batch=1,tokens=16 --json";

function bench(out: string): Deno.ChildProcess {
  return new Deno.Command("deno", {
    args: [
      "run",
      "--no-prompt",
      ...RIGHTS,
      join(ROOT, "benchmarks/start.ts"),
      "run",
      ...FLAGS.split(" "),
      "--out",
      out,
    ],
    cwd: ROOT,
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function finished(out: string): Promise<{ records: DoneRecord[]; stderr: string }> {
  const { code, stderr } = await bench(out).output();
  const text = new TextDecoder().decode(stderr);
  assertEquals(code, 0, text);
  const { records } = readRecords(out);
  return { records: records.filter((record) => record.state === "done"), stderr: text };
}

/** Kills the run at the first event that holds `text`. */
async function killedAt(out: string, text: string): Promise<void> {
  const child = bench(out);
  let rest = "";
  let sent = false;
  for await (const chunk of child.stderr.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    if (sent || !lines.some((line) => line.includes(text))) continue;
    sent = true;
    child.kill("SIGKILL");
  }
  await child.stdout.cancel();
  await child.status;
  assert(sent, `the run ended before "${text}"`);
}

Deno.test("bench run ends with the same weights after kill -9 before and after the freeze", async () => {
  const folder = Deno.makeTempDirSync();
  try {
    const whole = await finished(join(folder, "whole"));
    const out = join(folder, "killed");
    await killedAt(out, "learning: step 27 of 60");
    await killedAt(out, "learning: step 53 of 60");
    const again = await finished(out);
    assertStringIncludes(again.stderr, "goes on from step 50");
    assertEquals(again.records.length, 2);
    again.records.forEach((record, i) => {
      assertEquals(record.plan, at(whole.records, i).plan);
      assertEquals(record.rebuild, at(whole.records, i).rebuild);
    });
    const snapshots = [...Deno.readDirSync(runPaths(out).cache)].filter(({ name }) => name.startsWith("training-"));
    // What rebuilds the models stays: adapters and masks of the last step, no moments of the optimiser.
    assert(snapshots.length > 0);
    for (const { name } of snapshots) {
      const files = [...Deno.readDirSync(join(runPaths(out).cache, name))].filter(({ name }) =>
        name.endsWith("tensors")
      );
      assertEquals(files.length, 1);
    }
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
