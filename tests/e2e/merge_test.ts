import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { isThere } from "../../core/util/paths.ts";
import { doneCells, succeed } from "../support/bench_process.ts";
import { folderTest } from "../support/weights_fixture.ts";

const RUN =
  ("run --model tiny --engine wasm --no-throughput --tasks tiny-facts --limit 6 --recover lora --sparsity 0.5 " +
    "--training steps=3,batch=1,tokens=32 --calibration tiny-world:4:32 --methods").split(" ");

folderTest("a merged run is resumed, reported and scored on more tasks, and its cells are exported", async (root) => {
  const [a, b, out] = [join(root, "a"), join(root, "b"), join(root, "out")];
  await succeed(...RUN, "wanda-sp", "--out", a);
  await succeed(...RUN, "mask-prune", "--out", b);
  await succeed("merge", out, a, b);
  const facts = (dir: string) => doneCells(dir).map(({ id, tasks }) => [id, tasks[0]?.outcomes] as const);
  const merged = new Map([...facts(a), ...facts(b)]);
  assertStringIncludes((await succeed(...RUN, "wanda-sp,mask-prune", "--out", out)).stderr, "3 finished earlier");
  await succeed("report", out, "--to", join(root, "report"));
  assertStringIncludes(Deno.readTextFileSync(join(root, "report/comparison.csv")), "mask-prune");
  await succeed("eval", out, "--tasks", "tiny-agreement");
  assertEquals(doneCells(out).map(({ tasks }) => tasks.length), [2, 2, 2]);
  assertEquals(new Map(facts(out)), merged);
  await succeed("export", "mask-prune", "--run", out, "--format", "hf", "--to", join(root, "hf"));
  assert(isThere(join(root, "hf/model.safetensors")));
});
