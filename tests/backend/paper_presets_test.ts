/** Every shipped configuration is planned with the bundled model, and one of a paper is run and set beside it. */
import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { join } from "node:path";
import { presetNames, presetPath } from "../../benchmarks/commands/ls.ts";
import { resolveConfig, yamlSource } from "../../benchmarks/configuration/resolve.ts";
import { prepareRun } from "../../benchmarks/preparation/prepare.ts";
import { runSweep } from "../../benchmarks/sweep/sweep.ts";
import { startEngine } from "../../core/engine.ts";
import { UsageError } from "../../core/errors.ts";
import { PAPER_TABLES, type RunConfig } from "../../core/schema.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { disposeModel, uploadModel } from "../../models/decoder.ts";
import { toySource } from "../support/toy.ts";
import { PAPER_TABLE } from "../../reports/paper/tables.ts";
import { isSameExperiment, publishedRows, reproduction } from "../../reports/reproduction.ts";
import { buildSections } from "../../reports/rows.ts";
import { writeReport } from "../../reports/write_report.ts";
import { methodContext, toyWindows } from "../support/method_context.ts";

const DATASETS = join(import.meta.dirname!, "../../datasets");

/** A data folder: the tasks' invented records, and corpora under the papers' names with text of the bundled world. */
async function withData(test: (data: string) => Promise<void>): Promise<void> {
  const folder = Deno.makeTempDirSync();
  try {
    for (const { name } of Deno.readDirSync(join(DATASETS, "fixtures"))) {
      Deno.copyFileSync(join(DATASETS, "fixtures", name), join(folder, name));
    }
    const texts = Deno.readTextFileSync(join(DATASETS, "tiny_world/data/test.jsonl")).trim().split("\n")
      .map((line) => JSON.parse(line).text as string);
    const passages = Array.from({ length: 20 }, (_, i) => texts.slice(20 * i, 20 * i + 20).join(" "));
    for (const [corpus, field] of [["wikitext2", "text"], ["ptb", "sentence"], ["c4", "text"]]) {
      const lines = passages.map((text) => JSON.stringify({ [field]: text })).join("\n");
      for (const split of ["train", "validation", "test"]) {
        Deno.writeTextFileSync(join(folder, `${corpus}-${split}.jsonl`), lines);
      }
    }
    await test(folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

const preset = (name: string, changes: Partial<RunConfig>): RunConfig =>
  resolveConfig([
    yamlSource(Deno.readTextFileSync(presetPath(name)), name),
    { values: changes, where: ([key]) => `--${String(key)}` },
  ]);

const paperPresets = presetNames().filter((name) => name.startsWith("paper/"));

Deno.test("every shipped configuration can be planned with the bundled model", async () => {
  await withData(async (data) => {
    for (const name of presetNames()) {
      const { config, cells } = await prepareRun(preset(name, { model: "tiny", engine: "wasm", data }), () => {});
      assertEquals(cells.length, 1 + config.methods.length * config.sparsity.length * config.seeds.length, name);
    }
  });
});

Deno.test("every published table has a preset, and every row of ours in one is a row of that preset", async () => {
  const tables: string[] = [];
  await withData(async (data) => {
    for (const name of paperPresets) {
      const config = preset(name, { model: "tiny", engine: "wasm", data });
      assert(config.paper !== undefined, name);
      tables.push(config.paper);
      const untuned = await prepareRun({ ...config, recover: undefined }, () => {});
      const tuned = await prepareRun({ ...config, recover: "lora" }, () => {});
      const cells = [...untuned.cells, ...tuned.cells].map(({ cell }) => cell);
      for (const row of publishedRows(config.paper)) {
        assert(
          cells.some((cell) => isSameExperiment(row, cell)),
          `${name}: no cell for ${row.label} at ${row.sparsity}`,
        );
      }
    }
  });
  assertEquals(tables.sort(), [...PAPER_TABLES].sort());
});

Deno.test("published rows are plausible, named and complete", () => {
  for (const id of PAPER_TABLES) {
    for (const { label, values, source } of publishedRows(id)) {
      assert(/arXiv:\d{4}\.\d{5}/.test(source), `${id}: ${label} names no source`);
      const accuracies = [...values].filter(([name, value]) => /^acc/.test(name) && value !== null);
      for (const [name, value] of accuracies) assert(value! > 15 && value! < 100, `${id}: ${label}, ${name}: ${value}`);
      // The published means are plain means of the seven tasks, to the rounding of two decimals.
      const mean = values.get("mean");
      if (mean === null || mean === undefined) continue;
      const own = accuracies.reduce((sum, [, value]) => sum + value!, 0) / accuracies.length;
      assert(Math.abs(own - mean) < 0.02, `${id}: ${label}: mean ${mean}, of the tasks ${own}`);
    }
  }
});

Deno.test("a run of a paper's preset is set beside the paper, and labelled where it is another experiment", async () => {
  await withData(async (data) => {
    const out = join(data, "out");
    const calibration = { corpus: "wikitext2", sequences: 4, tokens: 64 };
    const changes: Partial<RunConfig> = {
      model: "tiny",
      engine: "wasm",
      data,
      out,
      limit: 2,
      sparsity: [0.2],
      calibration,
    };
    const { records } = await runSweep(preset("paper/flap", changes));
    assertEquals(records.map(({ state }) => state), ["done", "done", "done"]);
    const [section] = buildSections(records);
    const found = reproduction(section)!;
    assertEquals(found.rows.map(({ label }) => label), ["Wanda-sp", "FLAP"]);
    assertEquals(found.missing.length, 4);
    const flap = found.rows[1].values;
    assertEquals(flap.map(({ theirs }) => theirs), [14.62, 69.63, 76.82, 71.2, 68.35, 69.91, 39.25, 39.4, 62.08]);
    for (const { measure, ours } of flap) assert(ours !== null && ours.value > 0 - 1e-9, measure);
    const record = records.find(({ cell }) => cell.method?.id === "flap")!;
    assert(record.state === "done");
    assertEquals(flap[0].ours!.value, record.perplexity[0].perplexity);
    assertEquals(flap[3].ours!.value, 100 * record.tasks[2].metrics.acc_norm.value);
    assertStringIncludes(found.notThePapers.join(), `not LLaMA-7B (${PAPER_TABLE.flap.parameters})`);
    assertStringIncludes(found.notThePapers.join(), "only a part of the data was scored");

    const written = await writeReport(records, join(out, "report"), { title: "Run" });
    const csv = Deno.readTextFileSync(written.find((path) => path.endsWith("reproduction.csv"))!);
    assertEquals(csv.trim().split("\r\n").length, 1 + 2 * 9);
    for (const file of ["comparison.md", "report.html"]) {
      const text = Deno.readTextFileSync(written.find((path) => path.endsWith(file))!);
      assertStringIncludes(text, "Beside the paper: FLAP");
      assertStringIncludes(text, "14.62");
    }
  });
});

Deno.test({
  name: "llm-pruner leaves whole the layers that keepFirst and keepLast name, as a count or as a part of all",
  // The worker of wasm lives as long as the process.
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    await startEngine("wasm");
    const shape = { kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 24 };
    const model = await uploadModel(toySource({ layers: Array.from({ length: 8 }, () => ({ ...shape })) }));
    const method = getMethod("llm-pruner");
    const wholeLayers = async (raw: Record<string, unknown>) => {
      const options = parseOptions(method, raw);
      const context = methodContext({ model, options, calibration: toyWindows(2, 16), sparsity: 0.25 });
      const { plan } = await method.prune(context);
      return plan.layers.flatMap(({ ffnChannels }, l) => ffnChannels.length === shape.ffnChannels ? [l] : []);
    };
    try {
      assertEquals(await wholeLayers({ keepFirst: 2, keepLast: 1 }), [0, 1, 7]);
      assertEquals(await wholeLayers({ keepFirst: 0.25, keepLast: 0.125 }), [0, 1, 7]);
      assertEquals(await wholeLayers({ keepFirst: 0, keepLast: 0 }), []);
      for (const wrong of [-1, 1.5]) {
        assertThrows(() => parseOptions(method, { keepFirst: wrong }), UsageError, "keepFirst");
      }
    } finally {
      disposeModel(model);
    }
  },
});
