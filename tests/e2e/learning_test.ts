/** Learned masks through the command line: a run that was killed in the middle of learning ends with the same model. */
import { assert, assertEquals } from "@std/assert";
import { join } from "node:path";
import { runPaths } from "../../benchmarks/records/store.ts";
import { doneCells, succeed, watch } from "../support/bench_process.ts";
import { folderTest } from "../support/weights_fixture.ts";

const RUN = ("run --methods mask-prune --sparsity 0.4 --engine wasm --no-throughput --tasks tiny-facts --limit 5 " +
  "--calibration tiny-world:4:32 --training steps=60,batch=1,tokens=16 --out").split(" ");

folderTest("bench run ends with the same weights after kill -9 before and after the freeze", async (folder) => {
  const [whole, out] = [join(folder, "whole"), join(folder, "killed")];
  await succeed(...RUN, whole);
  for (const moment of ["learning: step 27 of 60", "learning: step 53 of 60"]) {
    let killed = 0;
    await watch([...RUN, out], (event, child) => {
      if (killed === 0 && JSON.stringify(event).includes(moment) && ++killed) child.kill("SIGKILL");
    });
    assertEquals(killed, 1, `the run ended before "${moment}"`);
  }
  assert((await succeed(...RUN, out, "--json")).stderr.includes("goes on from step 50"));
  const [expected, again] = [whole, out].map((each) => doneCells(each).map(({ plan, rebuild }) => ({ plan, rebuild })));
  assertEquals([again, again?.length], [expected, 2]);
  // What rebuilds the models stays: adapters and masks of the last step, no moments of the optimiser.
  const { cache } = runPaths(out);
  const snapshots = [...Deno.readDirSync(cache)].filter(({ name }) => name.startsWith("training-"));
  assert(snapshots.length > 0);
  for (const { name } of snapshots) {
    const files = [...Deno.readDirSync(join(cache, name))].filter(({ name }) => name.endsWith("tensors"));
    assertEquals(files.length, 1);
  }
});

folderTest("every method trains for the run's steps where whole layers alone meet the budget", async (folder) => {
  const flags = "run --methods wanda-sp,mask-prune,grasprune --sparsity 0.5 --drop-layers 2 --recover scales " +
    "--training steps=2,batch=1,tokens=16 --calibration tiny-world:4:32 --tasks tiny-facts --limit 5 --engine wasm " +
    "--no-throughput --out";
  await succeed(...flags.split(" "), folder);
  assertEquals(doneCells(folder).map(({ training = [] }) => training.map(({ steps }) => steps)), [[], [2], [2], [2]]);
});
