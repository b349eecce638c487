import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { join } from "node:path";
import { recordsToReport } from "../../benchmarks/commands/report.ts";
import { mergeRuns } from "../../benchmarks/records/merge_runs.ts";
import { withoutThroughput } from "../../benchmarks/records/measured.ts";
import { readRunFile, writeRunFile } from "../../benchmarks/records/run_file.ts";
import { readRecords, runPaths, writeRecord } from "../../benchmarks/records/store.ts";
import { UsageError } from "../../core/util/errors.ts";
import { at } from "../../core/util/indexing.ts";
import { type CellRecord, runConfigSchema } from "../../core/schema/schema.ts";
import { doneRecord, failedRecord } from "../support/reports_fixture.ts";
import { folderTest } from "../support/weights_fixture.ts";

const dense = doneRecord();
const flap = doneRecord({ method: "flap", sparsity: 0.2, damage: 0.4 });
const random = doneRecord({ method: "random", sparsity: 0.5, damage: 2 });

const FINGERPRINT = {
  weights: "a",
  tokenizer: "b",
  data: Object.fromEntries([
    ...dense.tasks.map(({ task, dataset }) => [`task ${task}`, dataset.sha256]),
    ...dense.perplexity.map(({ corpus, dataset }) => [`perplexity ${corpus}/${dataset.split}`, dataset.sha256]),
  ]),
};

/** Writes a run of `records`. */
function writeRun(
  out: string,
  records: readonly CellRecord[],
  { fingerprint = FINGERPRINT, engine = "tensorflow", ...config }: Record<string, unknown> & {
    fingerprint?: typeof FINGERPRINT;
    engine?: string;
  } = {},
): string {
  Deno.mkdirSync(out, { recursive: true });
  const cells = records.map(({ id, cell }) => ({ id, cell }));
  const parsed = runConfigSchema.parse({
    model: dense.cell.model,
    methods: { id: "flap" },
    sparsity: 0.2,
    dropLayers: 0,
    ...config,
    out,
  });
  writeRunFile({ config: parsed, engine, fingerprint, cells });
  for (const record of records) writeRecord(out, record);
  return out;
}

folderTest("mergeRuns() joins the cells of runs, which reports then read as one run", (folder) => {
  // The dense model of the other machine has the same results and other times.
  const elsewhere = { ...dense, seconds: 1, environment: { ...dense.environment, cpu: "Other CPU" } };
  const a = writeRun(join(folder, "a"), [dense, flap]);
  const model = "b.gguf";
  const there = [elsewhere, random].map((record) => ({ ...record, cell: { ...record.cell, model } }));
  const b = writeRun(join(folder, "b"), there, { model, methods: { id: "random" }, sparsity: 0.5, dropLayers: 1 });
  const c = writeRun(join(folder, "c"), [{ ...failedRecord({ method: "random" }), id: random.id, cell: random.cell }]);
  Deno.mkdirSync(join(runPaths(b).lmEval, `random-0.5-s0-${random.id}`.replace(/["<>:/|\\?*[\]]+/g, "__")), {
    recursive: true,
  });
  const out = join(folder, "out");
  assertEquals(mergeRuns(out, [c, a, b]), { records: 3, repeated: 2 });
  const merged = new Map(recordsToReport(out).map((record) => [record.id, record]));
  assertEquals(merged.get(dense.id), dense);
  assertEquals(merged.get(flap.id), flap);
  assertEquals(merged.get(random.id), random);
  const { config: { methods, sparsity, dropLayers }, cells } = readRunFile(out)!;
  assertEquals([methods.map(({ id }) => id), sparsity, dropLayers], [["flap", "random"], [0.2, 0.5], [0, 1]]);
  assertEquals(new Set(cells?.map(({ id }) => id)), new Set([dense.id, flap.id, random.id]));
  assertEquals([...Deno.readDirSync(runPaths(out).lmEval)].length, 1);
  // Times of any run are kept.
  const cell = withoutThroughput(dense.cell);
  const [untimed, timed] = [writeRun(join(folder, "d"), [{ ...dense, cell, throughput: [] }]), join(folder, "timed")];
  mergeRuns(timed, [untimed, a]);
  assertEquals(recordsToReport(timed).find(({ id }) => id === dense.id), dense);
});

folderTest("mergeRuns() names what differs, and writes nothing then", (folder) => {
  const a = writeRun(join(folder, "a"), [dense, flap]);
  const out = join(folder, "out");
  const refused: [changes: Parameters<typeof writeRun>[2], what: string][] = [
    [{ fingerprint: { ...FINGERPRINT, weights: "z" } }, "different weights of the model. "],
    [
      { fingerprint: { ...FINGERPRINT, data: { "task arc_easy": "z", "task openbookqa": "z" } } },
      "different data of task arc_easy, data of task openbookqa. ",
    ],
    [{ engine: "wasm" }, "different engines (tensorflow and wasm). "],
    [{ arithmetic: "fast" }, "different arithmetic. "],
    [{ recover: "lora", training: {} }, "different settings (recover, training). "],
    [{ dropLayers: undefined }, "different settings (dropLayers). "],
  ];
  for (const [i, [changes, what]] of refused.entries()) {
    const b = writeRun(join(folder, `b${i}`), [random], changes);
    const { message } = assertThrows(() => mergeRuns(out, [a, b]), UsageError);
    assertStringIncludes(message, `Cannot merge "${a}" and "${b}": ${what}`);
  }
  // Files that the runs name would be looked for from one of two folders.
  const started = writeRun(join(folder, "started"), [random], { methodFile: ["mine.ts"] });
  const { run } = runPaths(started);
  Deno.writeTextFileSync(run, JSON.stringify({ ...JSON.parse(Deno.readTextFileSync(run)), startedIn: "here" }));
  assertThrows(() => mergeRuns(out, [a, started]), UsageError, "different folders that they were started in. ");
  const other = structuredClone(flap);
  at(other.perplexity, 0).windowNll[0]! += 1e-9;
  const b = writeRun(join(folder, "b"), [other]);
  const { message } = assertThrows(() => mergeRuns(out, [a, b]), UsageError, "different results or measurements");
  for (const dir of [a, b]) assertStringIncludes(message, runPaths(dir).records);
  assertThrows(() => mergeRuns(a, [a, b]), UsageError, "is not empty");
  assertThrows(() => readRecords(out), UsageError, "holds no run");
});
