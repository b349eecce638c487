import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { at } from "../../core/util/indexing.ts";
import { exportCommand } from "../../benchmarks/commands/export.ts";
import { modelCard } from "../../benchmarks/commands/model_card.ts";
import { parseStrictly } from "../../benchmarks/configuration/flags.ts";
import { readRecord, writeRecord } from "../../benchmarks/records/store.ts";
import { UsageError } from "../../core/util/errors.ts";
import type { FloatDtype } from "../../core/formats/safetensors.ts";
import { type DoneRecord, trainingSchema } from "../../core/schema/schema.ts";
import type { WeightSource } from "../../models/config.ts";
import { LLAMA } from "../../models/families/llama.ts";
import { densePlan, type PrunePlan } from "../../models/plan.ts";
import { prunedSource } from "../../models/export_source.ts";
import { openFolderModel, openModel } from "../../models/load.ts";
import { byteLevelDefinition, exportToy, PLANS, recordOf, writeModelFolder } from "../support/export_fixture.ts";
import { printed } from "../support/printed.ts";
import { doneRecord, failedRecord } from "../support/reports_fixture.ts";
import { atEnd, known } from "../support/values.ts";
import { folderTest } from "../support/weights_fixture.ts";

/** Runs the command and returns what it printed. */
async function run(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await printed(() =>
    exportCommand.run(parseStrictly(args, exportCommand.flags), args)
  );
  return { code, out: stdout.trimEnd(), err: stderr.trimEnd() };
}

const CARD = { format: "hf", type: "F32", isExact: true, remarks: [], family: LLAMA } as const;

/** What an exported folder says about itself. */
const mark = (folder: string) => JSON.parse(Deno.readTextFileSync(join(folder, "maskprune.json")));

interface World {
  /** Of the run. */
  out: string;
  model: string;
  opened: WeightSource;
  /** Stores the record of a cell with `plan`; returns it and its path. */
  store(plan: PrunePlan, method: string | null, changes?: Partial<DoneRecord>): { record: DoneRecord; path: string };
}

/** A test with a folder that has a model and the dense cell of a run. */
function worldTest(name: string, test: (world: World) => Promise<void>, dtype: FloatDtype = "F32"): void {
  folderTest(name, async (folder) => {
    const model = join(folder, "toy-llama");
    writeModelFolder(model, exportToy(), byteLevelDefinition(), dtype);
    Deno.writeTextFileSync(join(model, "LICENSE"), "mine");
    const opened = openFolderModel(model);
    const out = join(folder, "run");
    const store: World["store"] = (plan, method, changes = {}) => {
      const record = { ...recordOf(opened, { plan, method }), ...changes };
      return { record, path: writeRecord(out, record) };
    };
    store(densePlan(opened.config), null);
    using _end = atEnd(() => opened.close());
    await test({ out, model, opened, store });
  });
}

worldTest("exportCommand() writes a cell's model, card and record", async ({ out, opened, store }) => {
  const { record, path } = store(PLANS.uniform, "flap");
  const { code, out: printed } = await run(path, "--format", "hf");
  const to = join(out, "exports", `flap-0.5-s3-${record.id}`);
  assertEquals([code, printed], [0, to]);
  const { source } = await openModel(to);
  const expected = prunedSource(opened, PLANS.uniform);
  assertEquals(source.config, expected.config);
  const name = "model.layers.1.mlp.down_proj.weight";
  assertEquals(source.read(name), expected.read(name));
  source.close();
  assertEquals(mark(to), JSON.parse(JSON.stringify({ format: "hf", type: "F32", padded: false, record })));
  assertEquals(Deno.readTextFileSync(join(to, "LICENSE")), "mine");
  const card = Deno.readTextFileSync(join(to, "README.md"));
  assertStringIncludes(card, "# toy-llama, flap 50 %");
  assertStringIncludes(card, "| c, perplexity |  | 11.500 ± 0.750 | 23.250 ± 0.750 | protocol a (mean of window means");
  const part = "| arc_easy, acc % | 25.0 | 75.0 ± 12.5 | 50.0 ± 12.5 | task version 1, 0-shot, n=8 of 20";
  assertStringIncludes(card, part);
  assertStringIncludes(card, "seed 3");
  assertStringIncludes(card, record.weights.sha256);
  assertStringIncludes(card, "exactly as measured");
});

Deno.test("modelCard() shows perplexities of task files as they are, and dense numbers of the same task alone", () => {
  const cell = { method: "flap", sparsity: 0.2, tasks: ["arc_easy"] };
  const [record, dense] = [doneRecord(cell), doneRecord({ tasks: ["arc_easy"] })];
  const result = at(record.tasks, 0);
  const metrics = { perplexity: { value: 12.3, stderr: 0.25, higherIsBetter: false }, acc: known(result.metrics.acc) };
  record.tasks = dense.tasks = [{ ...result, metrics, chance: 0 }];
  const lines = (own = dense) =>
    modelCard({ ...CARD, record, dense: own }).split("\n").filter((line) => line.startsWith("| arc_easy"))
      .map((line) => line.replace(/ task version.*$/, ""));
  assertEquals(lines()[0], "| arc_easy, perplexity |  | 12.300 ± 0.250 | 12.300 ± 0.250 |");
  const definition = { path: "a.yaml", sha256: "0" };
  const changes: Partial<typeof result>[] = [{ numFewshot: 2 }, { version: 2 }, { bosPolicy: "first" }, { definition }];
  for (const change of changes) {
    const [line = ""] = lines({ ...dense, tasks: dense.tasks.map((task) => ({ ...task, ...change })) });
    assertEquals(line.match(/12\.300/g)?.length, 1, JSON.stringify(change));
  }
});

Deno.test("modelCard() says how a model was trained, and in which arithmetic it was measured", () => {
  const record = doneRecord({ method: "magnitude", sparsity: 0.2 });
  const training = trainingSchema.parse({ steps: 5, corpus: "file:/secret/train.txt" });
  record.cell = { ...record.cell, recover: "lora", compensate: "least-squares", training, arithmetic: "fast" };
  // A card goes to others: no path of this machine.
  record.cell.model = record.weights.path = "/secret/model.gguf";
  record.cell.methodFile = { path: "/secret/mine.ts", sha256: "0", imports: [] };
  record.cell.calibration.corpus = "file:/secret/calibration.txt";
  for (const one of record.perplexity) one.corpus = "file:/secret/test.txt";
  for (const { dataset } of [...record.perplexity, ...record.tasks]) dataset.source = "/secret/data.jsonl";
  record.tasks = record.tasks.map((one) => ({ ...one, definition: { path: "/secret/task.yaml", sha256: "0" } }));
  const card = modelCard({ ...CARD, record, isExact: false });
  assert(!card.includes("/secret"), card);
  assertStringIncludes(card, "- Recovery: LoRA adapters and one scale per kept unit, merged.");
  assertStringIncludes(card, "- Compensation: least squares on output and down maps.");
  assertMatch(card, /- Training: 5 steps of .* of train.txt/);
  assertStringIncludes(card, "- Arithmetic: reduced-precision products");
});

worldTest("exportCommand() keeps the storage type of a 16-bit model by default", async ({ opened, store }) => {
  const { path } = store(PLANS.uniform, "flap", {
    cell: { ...store(PLANS.uniform, "flap").record.cell, weights: "stored" },
  });
  for (const format of ["hf", "gguf"]) {
    const { out: to, err } = await run(path, "--format", format);
    const { source } = await openModel(to);
    assertEquals(source.origin.dtypes.filter((type) => format === "hf" || type !== "F32"), ["BF16"]);
    const name = "model.layers.1.mlp.down_proj.weight";
    assertEquals(source.read(name), prunedSource(opened, PLANS.uniform).read(name));
    source.close();
    assertEquals(err, "");
  }
  const { out: to } = await run(path, "--format", "hf", "--dtype", "f32", "--to", join(opened.origin.path, "f32"));
  const { source } = await openModel(to);
  assertEquals(source.origin.dtypes, ["F32"]);
  source.close();
}, "BF16");

worldTest("exportCommand() writes models that lost a layer and hidden dimensions", async ({ opened, store }) => {
  const { record, path } = store(PLANS.shallow, "flap");
  assertEquals(readRecord(path), record);
  const { code, out: to } = await run(path, "--format", "hf");
  assertEquals(code, 0);
  const { source } = await openModel(to);
  assertEquals(source.config, prunedSource(opened, PLANS.shallow).config);
  source.close();
  const config = JSON.parse(Deno.readTextFileSync(join(to, "config.json")));
  assertEquals([config.hidden_size, config.num_hidden_layers, config.head_dim], [20, 1, 8]);
  const card = Deno.readTextFileSync(join(to, "README.md"));
  assertStringIncludes(card, "1 of 2 layers, hidden size 20 of 32.");
});

worldTest("exportCommand() finds a cell by the start of its name or id, and writes GGUF", async ({ out, store }) => {
  const { record } = store(PLANS.uniform, "flap");
  for (const cell of ["flap", record.id.slice(0, 6)]) {
    const to = join(out, `${cell}.gguf`);
    const { code, err } = await run(cell, "--run", out, "--format", "gguf", "--dtype", "q8_0", "--to", to);
    assertEquals(code, 0);
    assertStringIncludes(err, "rounded to Q8_0");
    assertStringIncludes(err, "matrices are stored as F16");
    const { source } = await openModel(to);
    assertEquals([source.origin.format, at(source.config.layers, 0).ffnChannels], ["gguf", 7]);
    source.close();
  }
  const expected = join(out, "exports", "dense-00000000deadbeef.f32.gguf");
  assertEquals((await run("dense", "--run", out, "--format", "gguf")).out, expected);
});

worldTest("exportCommand() pads unequal layers when asked, and else proposes it", async ({ out, store }) => {
  const { path } = store(PLANS.unequal, "flap");
  const message = "FFN channels 3 to 5";
  const error = await assertRejects(() => run(path, "--format", "hf"), UsageError, message);
  assertStringIncludes(error.message, "Give --pad");
  const to = join(out, "padded");
  const { err } = await run(path, "--format", "hf", "--to", to, "--pad");
  assertStringIncludes(err, "a Llama only if its heads (6) divide its width (32)");
  const { source } = await openModel(to);
  assertEquals(source.config.layers[0], { kvGroups: 3, queryHeadsPerGroup: 2, ffnChannels: 5 });
  source.close();
  assertEquals(mark(to).padded, true);
  assertStringIncludes(Deno.readTextFileSync(join(to, "README.md")), "padded to the widest with zeros");
});

worldTest("exportCommand() replaces nothing", async ({ out, store }) => {
  const { path } = store(PLANS.uniform, "flap");
  for (const format of ["hf", "gguf"]) {
    const to = join(out, `own-${format}`);
    Deno.writeTextFileSync(to, "precious");
    await assertRejects(() => run(path, "--format", format, "--to", to), UsageError, `"${to}" exists`);
    assertEquals(Deno.readTextFileSync(to), "precious");
  }
});

worldTest("exportCommand() refuses cells that it cannot rebuild", async ({ out, model, opened, store }) => {
  const { size } = store(PLANS.uniform, "flap").record;
  const biased = store(PLANS.uniform, "flap", {
    size: { ...size, parameters: size.parameters + 64 },
    id: "b".repeat(16),
  });
  const learned = store(PLANS.uniform, "mask-prune", { id: "9".repeat(16), changedWeights: true });
  for (const { path } of [biased, learned]) {
    await assertRejects(() => run(path, "--format", "hf"), UsageError, "changed weights that the run did not store");
  }
  const { path } = store(PLANS.uniform, "flap", {
    weights: { ...opened.origin, sha256: "f".repeat(64) },
    id: "c".repeat(16),
  });
  await assertRejects(() => run(path, "--format", "hf"), UsageError, "--model");
  const good = store(PLANS.uniform, "flap", { id: "d".repeat(16) });
  Deno.renameSync(model, `${model}-moved`);
  await assertRejects(() => run(good.path, "--format", "hf"), UsageError, "there is no such model");
  assertEquals((await run(good.path, "--format", "hf", "--model", `${model}-moved`)).code, 0);
  const failed = writeRecord(out, {
    ...failedRecord({}, "the loss is NaN"),
    id: "e".repeat(16),
    cell: good.record.cell,
  });
  const problem = "failed cell, which `bench run` retries: the loss is NaN";
  await assertRejects(() => run(failed, "--format", "hf"), UsageError, problem);
});

worldTest("exportCommand() names what is wrong with its arguments", async ({ out, store }) => {
  const { path } = store(PLANS.uniform, "flap");
  store(PLANS.unequal, "flap", { id: "b".repeat(16) });
  const cases: [string[], string][] = [
    [[], "No cell given"],
    [[path], "No format given: --format hf or gguf"],
    [[path, "--format", "onnx"], `--format must be one of hf, gguf: current "onnx"`],
    [[path, "--format", "hf", "--dtype", "int4"], `--dtype must be one of f32, f16, bf16, q8_0: current "int4"`],
    [[path, "--format", "hf", "--dtype", "q8_0"], "--dtype q8_0 is for --format gguf"],
    [[path, "--format", "hf", "--to"], "--to needs a value"],
    [[path, "--format", "hf", "--padd"], `Did you mean "--pad"?`],
    [["nothing", "--format", "hf"], `"nothing" is not a record's file`],
    [["nothing", "--run", out, "--format", "hf"], `No cell in "${out}" begins with "nothing"`],
    [["flap", "--run", out, "--format", "hf"], `"flap" fits several cells`],
    [[path, "--format", "hf", "--to", join(path, "x")], "cannot be written"],
  ];
  for (const [args, message] of cases) await assertRejects(() => run(...args), UsageError, message);
});
