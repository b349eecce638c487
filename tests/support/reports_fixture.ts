/** Made-up records that look like a real sweep: shapes of SmolLM2-135M, correlated examples, one failed cell.
 *
 * @module
 */
import { AssertionError } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { sectionsOf } from "../../benchmarks/commands/reports.ts";
import { createRng } from "../../core/util/rng.ts";
import type { CellRecord, DatasetUse, DoneRecord, FailedRecord, ModelSize } from "../../core/schema/schema.ts";
import { compareRuns } from "../../reports/compare.ts";
import type { Section } from "../../reports/sections.ts";
import { cellRecordSchema, SCHEMA_VERSION } from "../../core/schema/schema.ts";

const LAYERS = 30;
const DENSE = { kvGroups: 3, queryHeadsPerGroup: 3, ffnChannels: 1536 };
const HIDDEN = 576;
const VOCAB = 49152;

const sha = (letter: string) => letter.repeat(64);

export interface FakeCell {
  /** null: dense. */
  method?: string | null;
  options?: Record<string, unknown>;
  sparsity?: number;
  seed?: number;
  model?: string;
  engine?: "wasm" | "tensorflow";
  /** Extra nats per token over dense. */
  damage?: number;
  uniform?: boolean;
  examples?: number;
  windows?: number;
  tasks?: string[];
  throughput?: boolean;
}

function layerWidths(sparsity: number, uniform: boolean): ModelSize["layers"] {
  return Array.from({ length: LAYERS }, (_, l) => {
    const tilt = uniform ? 0 : 0.3 * Math.cos(l / 3);
    const keep = Math.min(1, Math.max(0.1, 1 - sparsity * (1 + tilt)));
    return { ...DENSE, kvGroups: sparsity >= 0.4 ? 2 : 3, ffnChannels: Math.round(1536 * keep) };
  });
}

function sizeOf(layers: ModelSize["layers"], uniform: boolean): ModelSize {
  const costs = layers.map(({ kvGroups, queryHeadsPerGroup, ffnChannels }) =>
    (2 + 2 * queryHeadsPerGroup) * 64 * HIDDEN * kvGroups + 3 * HIDDEN * ffnChannels
  );
  const prunable = costs.reduce((a, b) => a + b, 0);
  const densePrunable = LAYERS * (8 * 64 * HIDDEN * 3 + 3 * HIDDEN * 1536);
  const fixed = VOCAB * HIDDEN + HIDDEN * (2 * LAYERS + 1);
  return {
    parameters: prunable + fixed,
    prunableParameters: prunable,
    macs64: 64 * (prunable + VOCAB * HIDDEN) + 2e7,
    weightBytes: 4 * (prunable + fixed),
    kvBytesPerToken: layers.reduce((sum, layer) => sum + 2 * layer.kvGroups * 64 * 4, 0),
    sparsityOfModel: 1 - (prunable + fixed) / (densePrunable + fixed),
    sparsityOfPrunable: 1 - prunable / densePrunable,
    layerwiseUniform: uniform,
    plainLlama: uniform,
    layers,
  };
}

const dataset = (id: string, split: string, letter: string): DatasetUse => ({
  id,
  split,
  source: `${id}.jsonl`,
  revision: null,
  licence: "CC-BY-SA-4.0",
  sha256: sha(letter),
});

const recordId = ({ method, options = {}, sparsity = 0, seed = 0, ...fake }: FakeCell) => {
  const { model = "", engine = "", examples = 0, windows = 0 } = fake;
  return [method ?? "dense", JSON.stringify(options), sparsity, seed, model, engine, examples, windows].join("-");
};

function head(fake: FakeCell): Omit<FailedRecord, "state" | "failure"> {
  const { method = null, options = {}, sparsity = 0, seed = 0, windows = 40, examples = 200 } = fake;
  return {
    schemaVersion: SCHEMA_VERSION,
    id: recordId(fake),
    cell: {
      model: fake.model ?? "SmolLM2-135M.gguf",
      engine: fake.engine ?? "tensorflow",
      method: method === null ? null : { id: method, options },
      sparsity,
      seed,
      units: ["ffn", "kv-groups"],
      ffnMultiple: 1,
      calibration: { corpus: "wikitext2", sequences: 32, tokens: 128 },
      perplexity: [{ corpus: "wikitext2", protocol: "a", windowTokens: 1024, maxWindows: windows }],
      tasks: fake.tasks ?? ["arc_easy", "openbookqa"],
      limit: examples,
      throughput: { prefillTokens: 512, decodeTokens: 128, batch: 1, repeats: 5 },
    },
    startedAt: "2026-01-02T03:04:05.000Z",
    seconds: 61.5,
  };
}

function perplexityOf(fake: FakeCell): DoneRecord["perplexity"] {
  const { method = null, sparsity = 0, seed = 0, damage = 0, windows = 40 } = fake;
  const shared = createRng(7, "windows");
  const own = createRng(seed, `windows of ${method} at ${sparsity}`);
  const nll = () => Math.log(16.756) + 0.25 * shared.normal() + damage + 0.06 * damage * own.normal();
  const windowNll = Array.from({ length: windows }, nll);
  const mean = windowNll.reduce((a, b) => a + b, 0) / windows;
  const variance = windowNll.reduce((a, b) => a + (b - mean) ** 2, 0) / (windows - 1);
  return [{
    corpus: "wikitext2",
    protocol: "a",
    windowTokens: 1024,
    maxWindows: windows,
    dataset: dataset("wikitext2", "validation", "a"),
    tokens: 343_500,
    windows,
    droppedTokens: 343_500 - 1024 * windows,
    nllPerToken: mean,
    perplexity: Math.exp(mean),
    perplexityStderr: Math.exp(mean) * Math.sqrt(variance / windows),
    windowNll,
    bosPolicy: "none",
    tokenizerSha256: sha("b"),
    seconds: 20,
  }];
}

function taskOf(task: string, fake: FakeCell): DoneRecord["tasks"][number] {
  const { method = null, sparsity = 0, seed = 0, damage = 0, examples = 200 } = fake;
  const own = createRng(seed, `${task} of ${method} at ${sparsity}`);
  const right = (p: number) => {
    let text = "";
    const difficulty = createRng(13, task);
    for (let i = 0; i < examples; i++) text += 0.8 * difficulty.uniform() + 0.2 * own.uniform() < p ? "1" : "0";
    return text;
  };
  const chance = 0.25;
  const top = task === "openbookqa" ? 0.33 : 0.6;
  const p = chance + (top - chance) * Math.exp(-1.2 * damage);
  const outcomes = { acc: right(p), acc_norm: right(p + 0.02) };
  const metric = (text: string) => {
    const value = [...text].filter((c) => c === "1").length / examples;
    return { value, stderr: Math.sqrt(value * (1 - value) / (examples - 1)), higherIsBetter: true };
  };
  return {
    task,
    version: 1,
    dataset: dataset(task, "test", task === "openbookqa" ? "c" : "d"),
    numFewshot: 0,
    bosPolicy: "none",
    samples: { original: task === "openbookqa" ? 500 : 2376, effective: examples },
    metrics: { acc: metric(outcomes.acc), acc_norm: metric(outcomes.acc_norm) },
    outcomes,
    chance,
    seconds: 12,
  };
}

function throughputOf(fake: FakeCell, size: ModelSize, dense: ModelSize): DoneRecord["throughput"] {
  const { method = null, sparsity = 0, seed = 0, uniform = true } = fake;
  const rng = createRng(seed, `speed of ${method} at ${sparsity}`);
  const saved = dense.macs64 / size.macs64;
  return ([["pp512", 512, 2100], ["tg128", 128, 41]] as const).map(([name, tokens, base]) => {
    const speed = base * (uniform ? saved ** 0.9 : saved ** 0.6);
    const samplesMs = Array.from({ length: 5 }, () => 1000 * tokens / (speed * (1 + 0.01 * rng.normal())));
    const rates = samplesMs.map((ms) => 1000 * tokens / ms);
    const mean = rates.reduce((a, b) => a + b, 0) / 5;
    const sd = Math.sqrt(rates.reduce((a, b) => a + (b - mean) ** 2, 0) / 4);
    return { name, batch: 1, tokensPerS: { mean, sd }, samplesMs };
  });
}

/** A finished cell. */
export function doneRecord(fake: FakeCell = {}): DoneRecord {
  const { method = null, sparsity = 0, uniform = true, throughput = true, tasks = ["arc_easy", "openbookqa"] } = fake;
  const layers = layerWidths(method === null ? 0 : sparsity, uniform);
  const size = sizeOf(layers, uniform);
  const denseSize = sizeOf(layerWidths(0, true), true);
  const record: DoneRecord = {
    ...head(fake),
    state: "done",
    changedWeights: method === "mask-prune" || method === "sheared",
    environment: {
      engine: fake.engine ?? "tensorflow",
      library: "tfjs-core 4.22.0, libtensorflow 2.21.0",
      device: "CPU",
      threads: 2,
      deno: "2.9.6",
      os: "linux x86_64",
      cpu: "Example CPU at 2.0 GHz",
      commit: "0123456789abcdef0123456789abcdef01234567",
    },
    weights: {
      path: fake.model ?? "SmolLM2-135M.gguf",
      format: "gguf",
      dtypes: ["BF16", "F32"],
      sizeBytes: 270_885_952,
      sha256: sha("e"),
    },
    size,
    denseSize,
    plan: { layers: [] },
    calibrationData: method === null ? null : dataset("wikitext2", "train", "f"),
    perplexity: perplexityOf(fake),
    tasks: tasks.map((task) => taskOf(task, fake)),
    throughput: throughput ? throughputOf(fake, size, denseSize) : [],
    memory: { afterLoadBytes: 7e8, peakBytes: 1.6e9 + size.weightBytes, measure: "resident set of the process" },
    timings: { loadS: 2.1, pruneS: 10.4, learnS: 0, evaluateS: 45.2, throughputS: 5.1, waitS: 0 },
  };
  return cellRecordSchema.parse(record) as DoneRecord;
}

/** A failed cell. */
export function failedRecord(fake: FakeCell, message = "The device ran out of memory at 3.1 GiB"): FailedRecord {
  return cellRecordSchema.parse({
    ...head(fake),
    state: "failed",
    failure: { kind: "out-of-memory", message, exitCode: 137 },
  }) as FailedRecord;
}

/** Dense and six methods at two levels; `mask-prune` with three seeds; one cell failed. */
export function sweepRecords(): CellRecord[] {
  const damages: [string, number[], boolean][] = [
    ["random", [1.1, 2.9], true],
    ["magnitude", [1.7, 4.6], true],
    ["wanda-sp", [0.55, 1.35], true],
    ["llm-pruner", [0.5, 1.2], false],
    ["flap", [0.46, 1.05], false],
  ];
  const records: CellRecord[] = [doneRecord()];
  [0.2, 0.4].forEach((sparsity, i) => {
    for (const [method, damage, uniform] of damages) {
      if (method === "magnitude" && sparsity === 0.4) records.push(failedRecord({ method, sparsity }));
      else records.push(doneRecord({ method, sparsity, damage: damage[i], uniform }));
    }
    for (const seed of [0, 1, 2]) {
      records.push(
        doneRecord({ method: "mask-prune", sparsity, seed, damage: at([0.34, 0.8], i) + 0.01 * seed, uniform: true }),
      );
    }
  });
  return records;
}

/** Three methods at one level: enough for a golden that a person can read. */
export function smallRecords(): CellRecord[] {
  return [
    doneRecord(),
    doneRecord({ method: "random", sparsity: 0.2, damage: 1.1 }),
    doneRecord({ method: "flap", sparsity: 0.2, damage: 0.46, uniform: false }),
    ...[0, 1].map((seed) => doneRecord({ method: "mask-prune", sparsity: 0.2, seed, damage: 0.34 + 0.02 * seed })),
    failedRecord({ method: "magnitude", sparsity: 0.2 }),
  ];
}

/** The first section of a report of `records`. */
export const sectionOf = (records: readonly CellRecord[]): Section => at(sectionsOf(records), 0);

/** What a comparison of two runs says. */
export const compared = (a: CellRecord[], b: CellRecord[], names: [string, string] = ["A", "B"]): string =>
  compareRuns({ name: names[0], sections: sectionsOf(a) }, [{ name: names[1], sections: sectionsOf(b) }]);

/** Compares `actual` with a committed file. Goldens of this kind pin a layout: what they say is checked elsewhere. */
export function assertGolden(name: string, actual: string): void {
  const path = new URL(`../golden/${name}`, import.meta.url);
  if (Deno.env.get("UPDATE_GOLDENS") === "1") Deno.writeTextFileSync(path, actual);
  const expected = Deno.readTextFileSync(path);
  if (actual === expected) return;
  const [got, want] = [actual.split("\n"), expected.split("\n")];
  const line = got.findIndex((text, i) => text !== want[i]);
  throw new AssertionError({
    message: `${name} differs from line ${line + 1} on:\n- ${want[line] ?? "(end)"}\n+ ${got[line] ?? "(end)"}\n` +
      "If the new layout is wanted: UPDATE_GOLDENS=1 deno test --allow-read --allow-write --allow-env --allow-sys " +
      "--allow-ffi tests/unit/reports_golden_test.ts",
  });
}
