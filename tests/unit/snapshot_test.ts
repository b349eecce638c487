import { assert, assertEquals } from "@std/assert";
import { join } from "node:path";
import { at } from "../../core/util/indexing.ts";
import { loadSnapshot, removeSnapshots, saveSnapshot, type Snapshot } from "../../models/training/snapshot.ts";
import { createCurve, trainingReport } from "../../models/training/curve.ts";
import { folderTest } from "../support/weights_fixture.ts";

const snapshot = (step: number, key = "run"): Snapshot => ({
  key,
  step,
  state: { duals: [0.1, 1 / 3], step },
  tensors: new Map([["mask", { shape: [2, 2], data: Float32Array.of(step, 1.5, -0, 1e-30) }]]),
});

const runTest = (name: string, test: (folder: string) => unknown) =>
  folderTest(name, (folder) => test(join(folder, "run")));

runTest("loadSnapshot() gives back what saveSnapshot() wrote, the last one", (folder) => {
  assertEquals(loadSnapshot(folder, "run"), null);
  for (const step of [3, 6]) saveSnapshot(folder, snapshot(step));
  assertEquals(loadSnapshot(folder, "run"), snapshot(6));
  assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name).sort(), ["latest.json", "step-6.safetensors"]);
});

runTest("loadSnapshot() does not take the snapshot of another run", (folder) => {
  saveSnapshot(folder, snapshot(3, "other seed"));
  assertEquals(loadSnapshot(folder, "run"), null);
});

runTest("loadSnapshot() begins again where a file was damaged or is missing", (folder) => {
  const [index, arrays] = [join(folder, "latest.json"), join(folder, "step-3.safetensors")];
  const damage: (() => void)[] = [
    () => Deno.writeTextFileSync(index, Deno.readTextFileSync(index).slice(0, 20)),
    () => Deno.truncateSync(arrays, 30),
    () => Deno.removeSync(arrays),
    () => Deno.writeTextFileSync(index, `{"key":"run","step":3,"file":"../step-3.safetensors","state":null}`),
    () => Deno.writeTextFileSync(index, "null"),
  ];
  for (const harm of damage) {
    saveSnapshot(folder, snapshot(3));
    harm();
    assertEquals(loadSnapshot(folder, "run"), null);
  }
});

runTest("saveSnapshot() keeps the last whole snapshot when the process ends before the renaming", (folder) => {
  saveSnapshot(folder, snapshot(3));
  const index = Deno.readTextFileSync(join(folder, "latest.json"));
  const arrays = Deno.readFileSync(join(folder, "step-3.safetensors"));
  saveSnapshot(folder, snapshot(6));
  // What a kill between the two writes leaves: new arrays, the old index and the arrays it names.
  Deno.writeTextFileSync(join(folder, "latest.json"), index);
  Deno.writeFileSync(join(folder, "step-3.safetensors"), arrays);
  assertEquals(loadSnapshot(folder, "run"), snapshot(3));
  removeSnapshots(folder);
  removeSnapshots(folder);
  assertEquals(loadSnapshot(folder, "run"), null);
});

Deno.test("trainingReport() keeps every row up to 5000, and of more the first and the last", () => {
  const curve = createCurve();
  const terms = { total: 1 / 3, crossEntropy: 2, distillation: 0, hidden: 0 };
  const rowsUpTo = (last: number) => {
    for (let step = curve.rows.length + 1; step <= last; step++) {
      curve.add(step, { terms, gradientNorm: 1 }, { budget: 0.5, swaps: 2 });
    }
    return trainingReport("recovery", curve, { steps: last, tokens: 5 });
  };
  assertEquals(rowsUpTo(5000).curve.map(({ step }) => step), Array.from({ length: 5000 }, (_, i) => i + 1));
  const { curve: rows, steps, tokens } = rowsUpTo(6000);
  assertEquals([steps, tokens, rows.length, at(rows, 0).step, rows.at(-1)!.step], [6000, 5, 5000, 1, 6000]);
  assertEquals([at(rows, 0).loss, at(rows, 0).budget, at(rows, 0).swaps], [0.333333, 0.5, 2]);
});

Deno.test("createCurve() goes on from the seconds of an earlier process", () => {
  const earlier = createCurve();
  const terms = { loss: 0, crossEntropy: 0, distillation: 0, hidden: 0 };
  earlier.rows.push({ ...terms, step: 1, gradientNorm: 0, seconds: 100, memoryBytes: 0 });
  assert(createCurve(earlier.rows).seconds() >= 100);
});
