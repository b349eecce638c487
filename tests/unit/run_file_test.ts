import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { aggregateGroup } from "../../benchmarks/evaluation/tasks.ts";
import { recordsToReport } from "../../benchmarks/commands/report.ts";
import { validateFolder } from "../../benchmarks/commands/validate.ts";
import { askedRecords, outdatedMethods, storedPath, writeRunFile } from "../../benchmarks/records/run_file.ts";
import { runPaths, writeRecord } from "../../benchmarks/records/store.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { type Cell, type RunConfig, runConfigSchema } from "../../core/schema/schema.ts";
import { doneRecord, failedRecord } from "../support/reports_fixture.ts";
import { folderTest } from "../support/weights_fixture.ts";

type Written = Parameters<typeof writeRunFile>[0];

/** Makes `out` the folder of a run with these cells. */
function writeRun(out: string, cells: Written["cells"], data = {}, more: Partial<Written> = {}): void {
  const config = runConfigSchema.parse({ methods: { id: "flap" }, sparsity: 0.2, out });
  writeRunFile({ config, engine: "tensorflow", fingerprint: { weights: "a", tokenizer: "b", data }, cells, ...more });
}

folderTest("writeRunFile() keeps runs of other weights, engines or arithmetic out of a folder", (out) => {
  const fingerprint = { weights: "a", tokenizer: "b", data: {} };
  const config = (arithmetic: RunConfig["arithmetic"]) =>
    runConfigSchema.parse({ methods: { id: "flap" }, sparsity: 0.5, out, arithmetic });
  const run = { config: config("exact"), engine: "tensorflow", fingerprint, cells: [] };
  writeRunFile(run);
  writeRunFile({ ...run, config: { ...run.config, device: "cuda" } });
  const refused: [other: Partial<typeof run>, what: string][] = [
    [{ config: config("fast") }, "different arithmetic"],
    [{ engine: "wasm" }, "different engine (tensorflow, now wasm); results cannot be mixed"],
    [{ fingerprint: { ...fingerprint, weights: "c" } }, "different weights"],
  ];
  for (const [other, what] of refused) {
    assertThrows(() => writeRunFile({ ...run, ...other }), UsageError, what);
  }
});

folderTest("askedRecords() gives the cells as asked, and groups over exactly the results that are asked for", (out) => {
  const [few, all] = [doneRecord({ examples: 20 }), doneRecord({ examples: 200 })];
  const group = { group: "both", tasks: ["arc_easy", "openbookqa"], metrics: [{ metric: "acc", weightBySize: true }] };
  const data = Object.fromEntries(all.tasks.map(({ task, dataset }) => [`task ${task}`, dataset.sha256]));
  const record = { ...all, tasks: [...few.tasks, ...all.tasks], groups: [aggregateGroup(group, all.tasks)] };
  const failed = failedRecord({ method: "flap", sparsity: 0.2 });
  writeRecord(out, record);
  writeRecord(out, failed);
  const asked = (changes: Partial<Cell>, taskGroups: typeof group[] | undefined) => {
    const cells = [record, failed].map(({ id, cell }) => ({ id, cell: { ...cell, ...changes } }));
    writeRun(out, cells, data, taskGroups && { taskGroups });
    const { records } = askedRecords(out);
    assertEquals(records.map(({ cell }) => cell), cells.map(({ cell }) => cell));
    return records.flatMap((one) => one.state === "done" ? [one] : []);
  };
  const elsewhere = { model: "elsewhere/SmolLM2-135M.gguf" };
  for (const groups of [[group], undefined]) {
    assertEquals(asked({ ...elsewhere, limit: 20 }, groups).map((one) => one.groups), [[
      aggregateGroup(group, few.tasks),
    ]]);
    assertEquals(asked({ limit: 200 }, groups).map((one) => one.groups), [record.groups]);
    assertEquals(asked({ tasks: ["openbookqa"] }, groups).map((one) => one.groups), [undefined]);
  }
  const later = { ...group, group: "all" };
  assertEquals(asked({}, [later]).map((one) => one.groups), [[aggregateGroup(later, all.tasks)]]);
  assertEquals(asked({}, []).map((one) => one.groups), [undefined]);
});

folderTest("recordsToReport() names cells without a record, and those that lack results", (out) => {
  const [whole, part] = [
    doneRecord({ method: "flap", sparsity: 0.2 }),
    doneRecord({ method: "random", sparsity: 0.2 }),
  ];
  const cells = ["wanda-sp", "magnitude"].map((method) => doneRecord({ method, sparsity: 0.2 }))
    .concat([whole, { ...part, cell: { ...part.cell, tasks: [...part.cell.tasks, "piqa"] } }])
    .map(({ id, cell }) => ({ id, cell }));
  const data = Object.fromEntries([
    ...whole.tasks.map(({ task, dataset }) => [`task ${task}`, dataset.sha256]),
    ...whole.perplexity.map(({ corpus, dataset }) => [`perplexity ${corpus}/${dataset.split}`, dataset.sha256]),
  ]);
  writeRun(out, cells, data);
  for (const record of [whole, part]) writeRecord(out, record);
  const { missing, incomplete, others } = askedRecords(out);
  assertEquals([missing, incomplete, others], [["wanda-sp 20 %", "magnitude 20 %"], ["random 20 %"], 0]);
  const notes: string[] = [];
  assertEquals(recordsToReport(out, (note) => notes.push(note)).length, 2);
  assertEquals(notes, [
    "Not finished: wanda-sp 20 %, magnitude 20 %; `bench run` with the same flags resumes",
    "Some results are missing: random 20 %; `bench run` with the same flags resumes",
  ]);
  assertEquals(validateFolder(out).missing, ["wanda-sp 20 %", "magnitude 20 %"]);
});

folderTest("a damaged run.json is refused by name, and is no run of an older version", (out) => {
  writeRecord(out, doneRecord());
  Deno.writeTextFileSync(runPaths(out).run, `{"schemaVersion": 5, "config": `);
  for (const use of [() => recordsToReport(out), () => storedPath(out, "model.gguf"), () => askedRecords(out)]) {
    assertThrows(use, UsageError, `${runPaths(out).run}`);
  }
  const { problems, records } = validateFolder(out);
  assertEquals([problems.length, records], [1, 1]);
  assertStringIncludes(at(problems, 0), "remove it and repeat the run's command; the records are kept");
});

folderTest("outdatedMethods() names methods whose cells are of an earlier version", (out) => {
  const cells = (version?: number) =>
    ["flap", "obs"].map((id) => {
      const { cell } = doneRecord({ method: id, sparsity: 0.2 });
      return { id, cell: { ...cell, method: { id, options: {}, ...id === "obs" && version && { version } } } };
    });
  assertEquals(outdatedMethods(out, cells(2)), []);
  writeRun(out, cells());
  assertEquals([outdatedMethods(out, cells()), outdatedMethods(out, cells(2))], [[], ["obs"]]);
});
