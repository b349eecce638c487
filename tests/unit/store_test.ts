import { environmentsWith } from "../../benchmarks/cells/environment.ts";
import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { createHash } from "node:crypto";
import { canonicalJson } from "../../core/util/canonical_json.ts";
import { validateFolder } from "../../benchmarks/commands/validate.ts";
import fc from "fast-check";
import { join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { doneRecord, failedRecord as failedCell } from "../support/reports_fixture.ts";
import { writeAtomically } from "../../core/util/write_file.ts";
import {
  folderOfRecord,
  lockFolder,
  packUnits,
  readDone,
  readRecord,
  readRecords,
  recordPath,
  removeTemporaryFiles,
  runPaths,
  SchemaVersionError,
  setAside,
  toJson,
  unpackUnits,
  writeRecord,
} from "../../benchmarks/records/store.ts";
import { missingMeasurements } from "../../benchmarks/records/measured.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { folderTest } from "../support/weights_fixture.ts";
import { type FailedRecord, SCHEMA_VERSION } from "../../core/schema/schema.ts";

const failedRecord = (method: string | null, sparsity: number, seed: number): FailedRecord => ({
  ...failedCell({ method, sparsity, seed }, "broken"),
  id: `${method ?? "dense"}${sparsity}${seed}`,
});

const unpacked = (path: string) => gunzipSync(Deno.readFileSync(path)).toString();
const pack = (path: string, text: string) => Deno.writeFileSync(path, gzipSync(text));

folderTest("writeRecord() replaces an earlier record, readRecord() gives it back, and no other file is left", (out) => {
  const record = failedRecord("flap", 0.25, 3);
  writeRecord(out, { ...record, seconds: 2 });
  const path = writeRecord(out, record);
  assertEquals(path, join(out, "records", `flap-0.25-s3-${record.id}.json.gz`));
  assertEquals(readRecord(path), record);
  assertEquals([...Deno.readDirSync(runPaths(out).records)].length, 1);
  Deno.writeFileSync(path, Deno.readFileSync(path).subarray(0, 60));
  assertThrows(() => readRecord(path), FileFormatError, "cannot be decompressed");
});

folderTest("readDone() gives the record of a finished cell, and says in one sentence why there is none", (out) => {
  const record = doneRecord({ method: "flap", sparsity: 0.25 });
  const path = writeRecord(out, record);
  assertEquals(readDone(path), record);
  assertEquals(folderOfRecord(path), out);
  const failed = writeRecord(out, failedRecord("random", 0.25, 0));
  assertThrows(() => readDone(failed), UsageError, "failed cell, which `bench run` retries: broken");
  for (const none of [join(out, "none.json.gz"), out]) {
    assertThrows(() => readDone(none), UsageError, `"${none}" cannot be read (`);
  }
});

folderTest("writeRecord() refuses what does not fit the schema, and names that lead out of its folder", (out) => {
  const record = failedRecord("flap", 0.25, 3);
  assertThrows(() => writeRecord(out, { ...record, seconds: NaN }), TypeError, "seconds");
  assertThrows(() => writeRecord(out, { ...record, id: "x/../../escaped" }), UsageError, "cannot name a cell's files");
  assertThrows(() => readRecords(out), UsageError, "holds no run");
});

folderTest("readRecords() puts the dense model first, then methods, levels and seeds", (out) => {
  const records = [
    failedRecord("wanda-sp", 0.25, 0),
    failedRecord("flap", 0.5, 1),
    failedRecord("flap", 0.5, 0),
    failedRecord(null, 0, 0),
    failedRecord("flap", 0.25, 0),
  ];
  for (const record of records) writeRecord(out, record);
  const order = ["dense00", "flap0.250", "flap0.50", "flap0.51", "wanda-sp0.250"];
  assertEquals(readRecords(out).records.map(({ id }) => id), order);
});

folderTest("readRecords() names each unreadable file and still gives the others", (out) => {
  const good = failedRecord("flap", 0.25, 0);
  writeRecord(out, good);
  const { records } = runPaths(out);
  const text = unpacked(recordPath(out, good));
  pack(join(records, "torn.json.gz"), text.slice(0, 50));
  pack(join(records, "other.json.gz"), text);
  const negative = (record: Record<string, unknown>) => (record.cell as { seed: number }).seed = -1;
  pack(join(records, "wrong.json.gz"), rewritten(text, negative, true));
  pack(join(records, "null.json.gz"), "null");
  const stored = readRecords(out);
  assertEquals(stored.records, [good]);
  const messages = new Map(stored.problems.map(({ path, message }) => [path.split("/").pop(), message]));
  assertEquals(messages.size, 4);
  assertStringIncludes(messages.get("torn.json.gz")!, "is not JSON");
  assertStringIncludes(messages.get("other.json.gz")!, `holds the record "flap-0.25-s0-${good.id}" under another name`);
  assertStringIncludes(messages.get("wrong.json.gz")!, "cell.seed must be at least 0: current -1");
  assertStringIncludes(messages.get("null.json.gz")!, "is not a record");
});

/** Changes what a record holds, as an editor would, and keeps the checksum right when asked to. */
function rewritten(text: string, change: (record: Record<string, unknown>) => void, sealed: boolean): string {
  const { checksum, ...record } = JSON.parse(text);
  change(record);
  const sum = createHash("sha256").update(canonicalJson(record)).digest("hex");
  return toJson({ ...record, checksum: sealed ? sum : checksum });
}

folderTest("readRecord() notices a number that changed after the record was written", (out) => {
  const path = writeRecord(out, failedRecord("flap", 0.25, 0));
  const text = unpacked(path);
  pack(path, rewritten(text, (record) => record.seconds = 7, false));
  assertThrows(() => readRecord(path), FileFormatError, "does not match its checksum");
  pack(path, rewritten(text, (record) => record.seconds = 7, true));
  assertEquals(readRecord(path).seconds, 7);
  const { checksum: _, ...bare } = JSON.parse(text);
  pack(path, toJson(bare));
  assertThrows(() => readRecord(path), FileFormatError, "checksum");
});

folderTest("a text of kept units is a number whose bit u is unit u, and no other text is read", (out) => {
  const units = fc.uniqueArray(fc.nat(600)).map((list) => list.sort((a, b) => a - b));
  fc.assert(fc.property(units, (list) => {
    const text = packUnits(list);
    const number = list.reduce((sum, unit) => sum + 2n ** BigInt(unit), 0n);
    assertEquals(text, list.length === 0 ? "" : number.toString(16));
    assertEquals(unpackUnits(text), list);
  }));
  for (const list of [[1, 1], [2, 1], [-1], [0.5], [2 ** 30]]) assertThrows(() => packUnits(list), TypeError, "ascend");
  for (const text of ["0", "01", "F", "x", "1".repeat(2 ** 20)]) assertEquals(unpackUnits(text), undefined);
  const path = writeRecord(out, doneRecord({ method: "flap", sparsity: 0.25 }));
  pack(path, rewritten(unpacked(path), (stored) => stored.plan = { layers: [{ ffnChannels: "0" }] }, true));
  assertThrows(() => readRecord(path), FileFormatError, "is not a record");
});

folderTest("validateFolder() names what is damaged", (out) => {
  writeRecord(out, failedRecord("flap", 0.25, 0));
  const damaged = writeRecord(out, failedRecord("flap", 0.5, 0));
  pack(damaged, unpacked(damaged).replace("broken", "mended"));
  Deno.writeTextFileSync(runPaths(out).run, "{}");
  const { problems, ...found } = validateFolder(out);
  assertEquals(found, { records: 1, failed: 1, weights: 0, withoutModel: 0, missing: [] });
  assertEquals(problems.map((problem) => problem.split(":")[0]), [damaged, runPaths(out).run]);
});

folderTest("validateFolder() takes results passed on without any weights, not those that lost one file", (out) => {
  const file = "weights/a.rebuild.safetensors";
  const stages = [{ compensated: false, recovered: 2 }];
  const rebuild = { file, sizeBytes: 4, sha256: "0".repeat(64), stages };
  writeRecord(out, { ...doneRecord({ method: "flap", sparsity: 0.25 }), rebuild });
  const { withoutModel, problems } = validateFolder(out);
  assertEquals(withoutModel, 1);
  assertEquals(problems.filter((problem) => problem.includes("rebuild")), []);
  Deno.mkdirSync(runPaths(out).weights);
  const lost = validateFolder(out);
  assertEquals(lost.withoutModel, 0);
  assertEquals(lost.problems.filter((problem) => problem.includes("a.rebuild")).length, 1);
});

folderTest("readRecord() refuses another schema version by name", (out) => {
  const record = failedRecord("flap", 0.25, 0);
  const path = writeRecord(out, record);
  pack(path, toJson({ ...record, schemaVersion: SCHEMA_VERSION + 1 }));
  assertThrows(() => readRecord(path), SchemaVersionError, `schema version ${SCHEMA_VERSION + 1}`);
  assertThrows(() => readRecords(out), SchemaVersionError, path);
});

Deno.test("toJson() puts a list of numbers on one line and changes no value", () => {
  const expected = '{\n  "a": [ 1, -2.5e-9 ],\n  "b": [\n    "[ 1, 2 ]"\n  ]\n}\n';
  assertEquals(toJson({ a: [1, -2.5e-9], b: ["[ 1, 2 ]"] }), expected);
  fc.assert(fc.property(fc.jsonValue(), (value) => {
    assertEquals(JSON.parse(toJson(value)), JSON.parse(JSON.stringify(value)));
  }));
});

folderTest("setAside() keeps every unreadable file", (out) => {
  const path = join(out, "a.json");
  for (const text of ["one", "two"]) {
    Deno.writeTextFileSync(path, text);
    setAside(path);
  }
  assertEquals(["bad", "bad2"].map((end) => Deno.readTextFileSync(`${path}.${end}`)), ["one", "two"]);
  assertThrows(() => Deno.statSync(path), Deno.errors.NotFound);
});

folderTest("writeAtomically() leaves the old file and no temporary one when it fails", (out) => {
  const path = join(out, "a.json");
  writeAtomically(path, "old");
  Deno.mkdirSync(join(out, "b.json"));
  assertThrows(() => writeAtomically(join(out, "b.json"), "new"));
  assertEquals(Deno.readTextFileSync(path), "old");
  assertEquals([...Deno.readDirSync(out)].map(({ name }) => name).sort(), ["a.json", "b.json"]);
});

folderTest("removeTemporaryFiles() removes what a killed writer left, and nothing else", (out) => {
  const { records, cache, lmEval, slurm } = runPaths(out);
  writeRecord(out, failedRecord("flap", 0.25, 0));
  Deno.writeTextFileSync(join(records, ".flap.json.123.tmp"), "half");
  const perCell = [join(lmEval, "flap"), join(cache, "training-1")];
  const files = ["a.json", ".a.json.123.tmp"].flatMap((name) => perCell.map((folder) => join(folder, name)));
  for (const file of files) writeAtomically(file, "");
  // Of an export that was killed, and of the user's.
  Deno.mkdirSync(join(out, "model.77.tmp/part"), { recursive: true });
  for (const name of ["notes.2024.tmp", "run.json.123.tmp"]) Deno.writeTextFileSync(join(out, name), "");
  removeTemporaryFiles(out);
  const left = [...Deno.readDirSync(out)].map(({ name }) => name).filter((name) => name.endsWith(".tmp")).sort();
  assertEquals(left, ["model.77.tmp", "notes.2024.tmp"]);
  assertEquals([...Deno.readDirSync(records)].length, 1);
  for (const folder of perCell) assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name), ["a.json"]);
  assertEquals(readRecords(out).problems, []);

  // Tasks of Slurm may be writing.
  Deno.mkdirSync(slurm, { recursive: true });
  Deno.writeTextFileSync(join(records, ".flap.json.123.tmp"), "half");
  Deno.writeTextFileSync(join(slurm, "7.json"), "{}");
  removeTemporaryFiles(out);
  assertEquals([...Deno.readDirSync(records)].length, 2);
  Deno.removeSync(join(slurm, "7.json"));
  removeTemporaryFiles(out);
  assertEquals([...Deno.readDirSync(records)].length, 1);
});

folderTest("lockFolder() refuses folders that cells could not write to, and files of others", (out) => {
  assertThrows(() => lockFolder(join(out, "a,b")), UsageError, "allows no comma");
  const { lock } = runPaths(out);
  Deno.writeTextFileSync(lock, "precious");
  assertThrows(() => lockFolder(out), UsageError, "belongs to another program");
  assertEquals(Deno.readTextFileSync(lock), "precious");
  Deno.removeSync(lock);
  const first = lockFolder(out);
  const error = assertThrows(() => lockFolder(out), UsageError, `process ${Deno.pid}`);
  assert(!(error instanceof FileFormatError));
  first[Symbol.dispose]();
  lockFolder(out)[Symbol.dispose]();
});

folderTest("lockFolder() takes over from a run that was killed", async (out) => {
  const store = new URL("../../benchmarks/records/store.ts", import.meta.url).href;
  const holder = `const { lockFolder } = await import(${JSON.stringify(store)});
    globalThis.held = lockFolder(Deno.args[0]); console.log("held"); await new Promise(() => setInterval(() => {}, 1000));`;
  const script = join(out, "holder.ts");
  Deno.writeTextFileSync(script, holder);
  const config = join(import.meta.dirname!, "../../deno.json");
  const child = new Deno.Command("deno", {
    args: ["run", "-q", "--cached-only", `--config=${config}`, "-R", "-W", "-S", "-E", script, out],
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.getReader();
  assertStringIncludes(new TextDecoder().decode((await reader.read()).value), "held");
  assertThrows(() => lockFolder(out), UsageError, `process ${child.pid}`);
  child.kill("SIGKILL");
  await child.status;
  await reader.cancel();
  lockFolder(out)[Symbol.dispose]();
});

Deno.test("environmentsWith() keeps the first environment and adds others once", () => {
  const { environment: first } = doneRecord({ method: "flap", sparsity: 0.25 });
  const second = { ...first, device: "cuda:0", commit: "abc" };
  assertEquals(environmentsWith(first), { environment: first });
  assertEquals(environmentsWith({ ...first }, { environment: first }), { environment: first });
  const both = { environment: first, laterEnvironments: [second] };
  assertEquals(environmentsWith(second, { environment: first }), both);
  assertEquals(environmentsWith({ ...second }, both), both);
});

Deno.test("missingMeasurements() knows a user's text by its contents and field", () => {
  const record = doneRecord();
  const [first] = record.perplexity;
  record.perplexity = [{ ...first!, corpus: "file:old/d.jsonl#a" }];
  const missing = (corpus: string) => {
    const { protocol, windowTokens, maxWindows, dataset: { split, sha256 } } = first!;
    const perplexity = [{ corpus, split, protocol, windowTokens, maxWindows }];
    return missingMeasurements({ ...record.cell, perplexity }, record, { [`perplexity ${corpus}/${split}`]: sha256 });
  };
  assertEquals(["a", "b"].map((field) => missing(`file:d.jsonl#${field}`).perplexity.length), [0, 1]);
});
