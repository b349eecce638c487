/** Every shipped configuration is planned with the bundled model, and one of a paper is run and set beside it. */
import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { at } from "../../core/util/indexing.ts";
import { measureCell } from "../../benchmarks/cells/measure.ts";
import { presetNames, presetPath } from "../../benchmarks/commands/ls.ts";
import { resolveConfig, yamlSource } from "../../benchmarks/configuration/resolve.ts";
import { prepareRun } from "../../benchmarks/configuration/prepare.ts";
import { runSweep } from "../../benchmarks/sweep/sweep.ts";
import { UsageError } from "../../core/util/errors.ts";
import { type Cell, PAPER_TABLES, type PaperTableId, type RunConfig } from "../../core/schema/schema.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { type KeptLayers, layerRange } from "../../methods/_shared/selection.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { besidePaper } from "../../reports/beside_paper.ts";
import { isSameExperiment, PAPER_TABLE, type PublishedRow, publishedRows } from "../../reports/paper/published.ts";
import { sectionsOf, writeReport } from "../../benchmarks/commands/reports.ts";
import { randomTensors, smallConfig, tempFolder, writeFolder } from "../support/weights_fixture.ts";
import { QUIET } from "../support/method_context.ts";
import { known } from "../support/values.ts";

const DATASETS = join(import.meta.dirname!, "../../datasets");

/** A data folder: the tasks' invented records, and corpora under the papers' names with text of the bundled world. */
async function withData(test: (data: string) => Promise<void>): Promise<void> {
  using temp = tempFolder();
  const folder = temp.path;
  for (const { name } of Deno.readDirSync(join(DATASETS, "fixtures"))) {
    Deno.copyFileSync(join(DATASETS, "fixtures", name), join(folder, name));
  }
  const texts = Deno.readTextFileSync(join(DATASETS, "tiny_world/data/test.jsonl")).trim().split("\n")
    .map((line) => JSON.parse(line).text as string);
  const passages = Array.from({ length: 20 }, (_, i) => texts.slice(20 * i, 20 * i + 20).join(" "));
  for (const corpus of ["wikitext2", "ptb", "c4", "bookcorpus"]) {
    const lines = passages.map((text) => JSON.stringify({ [corpus === "ptb" ? "sentence" : "text"]: text })).join("\n");
    for (const split of ["train", "validation", "test"]) {
      Deno.writeTextFileSync(join(folder, `${corpus}-${split}.jsonl`), lines);
    }
  }
  await test(folder);
}

const preset = (name: string, changes: Partial<RunConfig>): RunConfig =>
  resolveConfig([
    yamlSource(Deno.readTextFileSync(presetPath(name)), name),
    { values: changes, where: ([key]) => `--${String(key)}` },
  ]);

/** LLaMA-7B with a 64th of its width, channels and head size. */
const SMALL_7B: DecoderConfig = smallConfig({
  vocabSize: 1792,
  width: 64,
  headSize: 2,
  layers: Array.from({ length: 32 }, () => ({ kvGroups: 32, queryHeadsPerGroup: 1, ffnChannels: 172 })),
  maxPositions: 4096,
  bosTokenId: 0,
  eosTokenId: 1,
});

/** A folder in `data` with a random model of this shape and the bundled tokenizer. */
function writeSmall7b(data: string): string {
  const folder = join(data, "model");
  if (existsSync(folder)) return folder;
  Deno.mkdirSync(folder);
  writeFolder(folder, SMALL_7B, toyTensors(SMALL_7B));
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) {
    Deno.copyFileSync(join(DATASETS, "../models/tiny", file), join(folder, file));
  }
  return folder;
}

/** Small values, so that hidden states stay of order 1. */
function toyTensors(config: DecoderConfig): Map<string, Float32Array> {
  return new Map(
    [...randomTensors(config)].map(([name, values]) => [
      name,
      name.includes("norm") ? values.fill(1) : values.map((value) => value / 20),
    ]),
  );
}

/** Options that a small model has otherwise: Sheared-LLaMA's widths in proportion, and few removals. */
const SCALED: Record<string, (value: unknown) => unknown> = {
  targetHidden: (value) => Number(value) / 64,
  targetFfn: (value) => Number(value) / 64,
  steps: () => 2,
  uniform: () => true,
  layers: () => 0.2,
};

function scaled({ id, options }: RunConfig["methods"][number]): RunConfig["methods"][number] {
  const entries = Object.entries(options).map(([name, value]) => [name, SCALED[name] ? SCALED[name](value) : value]);
  return { id, options: Object.fromEntries(entries) };
}

const paperPresets = presetNames().filter((name) => name.startsWith("paper/"));

Deno.test("every shipped configuration can be planned, those of papers with a small model of their shape", async () => {
  await withData(async (data) => {
    for (const name of presetNames()) {
      assertMatch(Deno.readTextFileSync(presetPath(name)), /^# \S/);
      const ofPaper = name.startsWith("paper/");
      const model = ofPaper ? writeSmall7b(data) : "tiny";
      const asked = preset(name, { engine: "wasm", arithmetic: "exact", budget: "parameters", data, model });
      const methods = ofPaper ? asked.methods.map(scaled) : asked.methods;
      const { config, cells } = await prepareRun({ ...asked, methods }, () => {});
      const seeds = config.methods.map(({ id }) =>
        id === "magnitude" && config.recover === undefined ? 1 : config.seeds.length
      );
      const perLevel = seeds.reduce((sum, count) => sum + count, 0);
      assertEquals(cells.length, 1 + config.sparsity.length * perLevel, name);
    }
  });
});

/** What an untuned and a tuned run of a preset measure, as far as published rows ask. */
function experiments({ methods, sparsity, compensate }: RunConfig): Cell[] {
  return methods.flatMap(({ id, options }) => {
    const method = { id, options: parseOptions(getMethod(id), options) as Record<string, unknown> };
    return sparsity.flatMap((level) =>
      [undefined, "lora" as const].map((recover) => ({ method, sparsity: level, recover, compensate }) as Cell)
    );
  }).concat({ method: null, sparsity: 0 } as Cell);
}

Deno.test("every published table has presets, and every row of ours in one is a row of theirs", () => {
  const alike = (name: string) => preset(name, { paper: "flap", name: "", model: "", out: "" });
  assertEquals(alike("paper/maskprune-llama2-7b"), alike("paper/maskprune-llama-7b"));
  const missing = new Map<PaperTableId, PublishedRow[]>();
  for (const name of paperPresets) {
    const config = preset(name, {});
    assert(config.paper !== undefined, name);
    const cells = experiments(config);
    const rows = missing.get(config.paper) ?? publishedRows(config.paper);
    missing.set(config.paper, rows.filter((row) => !cells.some((cell) => isSameExperiment(row, cell))));
    const repaired = cells.slice(0, -1).map((cell): Cell => ({ ...cell, compensate: "least-squares" }));
    assert(!rows.some((row) => repaired.some((cell) => isSameExperiment(row, cell))), name);
  }
  assertEquals([...missing.keys()].sort(), [...PAPER_TABLES].sort());
  for (const [table, rows] of missing) assertEquals(rows, [], table);
});

Deno.test("published rows are plausible, named and complete", () => {
  for (const id of PAPER_TABLES) {
    for (const { label, values, source } of publishedRows(id)) {
      assert(/arXiv:\d{4}\.\d{5}/.test(source), `${id}: ${label} names no source`);
      const accuracies = [...values].filter(([name, value]) => /^acc/.test(name) && value !== null);
      const odd = accuracies.filter(([name, part]) => part! >= 100 || part! <= (name === "acc:openbookqa" ? 10 : 15));
      assertEquals(odd, [], `${id}: ${label}`);
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
    const changes = { model: "tiny", engine: "wasm", data, out, limit: 2, sparsity: [0.2], calibration } as const;
    const { records } = await runSweep(preset("paper/flap", { ...changes, sparsity: [0.2] }));
    assertEquals(records.map(({ state }) => state), ["done", "done"]);
    const found = besidePaper(at(sectionsOf(records), 0))!;
    assertEquals(found.rows.map(({ published }) => published.label), ["FLAP"]);
    assertEquals(found.missing.length, 5);
    const flap = at(found.rows, 0).values;
    assertEquals(flap.map(({ theirs }) => theirs), [14.62, 69.63, 76.82, 71.2, 68.35, 69.91, 39.25, 39.4, 62.08]);
    for (const { measure, ours } of flap) assert(ours !== null && ours.value > 0 - 1e-9, measure);
    const record = records.find(({ cell }) => cell.method?.id === "flap")!;
    assert(record.state === "done");
    assertEquals(at(flap, 0).ours!.value, at(record.perplexity, 0).perplexity);
    assertEquals(at(flap, 3).ours!.value, 100 * known(at(record.tasks, 2).metrics.acc_norm).value);
    assertStringIncludes(found.notThePapers.join(), `not LLaMA-7B (${PAPER_TABLE.flap.parameters})`);
    assertStringIncludes(found.notThePapers.join(), "only a part of the data was scored");

    const written = await writeReport(records, join(out, "report"), { title: "Run" });
    for (const file of ["comparison.md", "report.html"]) {
      const text = Deno.readTextFileSync(written.find((path) => path.endsWith(file))!);
      assertStringIncludes(text, "Beside the paper: FLAP");
      assertStringIncludes(text, "14.62");
    }
  });
});

/** What a preset's cells keep on the small model: heads and channels of a pruned layer, and layers left whole. */
const EXPECTED: Record<string, { shape: string; whole: number }> = {
  // 8256 / 64 and 4403 / 64 channels.
  "paper/llm-pruner-20": { shape: "24 + 129", whole: 6 },
  "paper/llm-pruner-50": { shape: "13 + 68", whole: 4 },
  "paper/flap-wanda-sp": { shape: "26 + 137", whole: 0 },
  "paper/maskprune-llama-7b": { shape: "26 + 136", whole: 0 },
  "paper/sheared-llama-2.7b": { shape: "20 + 108", whole: 0 },
  "paper/sheared-llama-1.3b": { shape: "16 + 86", whole: 0 },
};

// That of Llama 2 differs from LLaMA's in its model alone.
for (const name of paperPresets.filter((name) => name !== "paper/maskprune-llama2-7b")) {
  const test = () =>
    withData(async (data) => {
      const model = writeSmall7b(data);
      const asked = preset(name, {});
      const methods = asked.methods.map(scaled);
      const { cells } = await prepareRun({
        ...asked,
        methods,
        model,
        data,
        engine: "wasm",
        limit: 2,
        sparsity: asked.sparsity.slice(0, 1),
        perplexity: asked.perplexity.map((choice) => ({ ...choice, windowTokens: 128, maxWindows: 2 })),
        calibration: { ...asked.calibration!, sequences: 2, tokens: 32 },
        ...asked.training && { training: { ...asked.training, steps: 4, batch: 2, tokens: 16, microBatch: 1 } },
        ...asked.throughput && { throughput: { prefillTokens: 16, decodeTokens: 4, batch: 1, repeats: 2 } },
      }, () => {});
      assertEquals(cells.length, 1 + methods.length);
      for (const planned of cells) {
        const measured = await measureCell({ ...planned, out: join(data, "out"), data, commit: null }, QUIET);
        assertEquals(measured.tasks.map(({ task }) => task), asked.tasks);
        assertEquals(measured.perplexity.length, asked.perplexity.length);
        for (const { bosPolicy } of measured.tasks) {
          assertEquals(bosPolicy.startsWith("llm-pruner"), asked.requestEncoding === "llm-pruner");
        }
        const { method } = planned.cell;
        if (method === null) continue;
        if (measured.calibrationData) assertEquals(measured.calibrationData.id, asked.calibration!.corpus);
        const { layers, layerwiseUniform, plainLlama } = measured.size;
        assertEquals(plainLlama, layerwiseUniform && method.id !== "flap");
        const expected = EXPECTED[name];
        if (!expected) continue;
        const shapes = layers.map(({ kvGroups, ffnChannels }) => `${kvGroups} + ${ffnChannels}`);
        const whole = shapes.filter((shape) => shape === "32 + 172");
        assertEquals(whole.length, expected.whole, method.id);
        if (method.id === "mask-prune") continue;
        assertEquals(new Set(shapes), new Set([expected.shape, ...whole]), method.id);
      }
    });
  Deno.test({
    name: `${name} runs end to end on a small random model of LLaMA-7B's shape`,
    fn: test,
    // The worker of wasm lives as long as the process.
    sanitizeOps: false,
    sanitizeResources: false,
  });
}

Deno.test("layerRange() leaves whole the layers that keepFirst and keepLast name, as a count or as a part of all", () => {
  const range = (options: Record<string, unknown>) =>
    layerRange(8, parseOptions(getMethod("llm-pruner"), options) as KeptLayers);
  assertEquals(range({ keepFirst: 2, keepLast: 1 }), { start: 2, end: 7 });
  assertEquals(range({ keepFirst: 0.25, keepLast: 0.125 }), { start: 2, end: 7 });
  assertEquals(range({ keepFirst: 0, keepLast: 0 }), { start: 0, end: 8 });
  for (const keepFirst of [-1, 1.5]) assertThrows(() => range({ keepFirst }), UsageError, "keepFirst");
});
