/** Damaged and malicious files for every reader of the program: real ones with bytes or JSON values changed. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { join } from "node:path";
import { z } from "zod";
import { at } from "../../core/util/indexing.ts";
import { openRebuild, storeRebuild } from "../../benchmarks/records/kept_weights.ts";
import { runPaths } from "../../benchmarks/records/store.ts";
import { FileFormatError, UsageError } from "../../core/util/errors.ts";
import { sha256OfFiles } from "../../core/formats/ranged_file.ts";
import { fileTask, selectTasks } from "../../datasets/lm_eval/task_files.ts";
import { readRecords } from "../../datasets/records.ts";
import { expectedTensors } from "../../models/config.ts";
import { MAX_LAYERS } from "../../models/families/members.ts";
import { openModel } from "../../models/load.ts";
import { rebuildTensors } from "../../models/training/rebuild.ts";
import { byteLevelDefinition, PLANS } from "./export_fixture.ts";
import { REBUILD, REBUILT, REBUILT_FROM } from "./rebuild_fixture.ts";
import { ggufMetadata, ggufTensors } from "./gguf_fixture.ts";
import { ggufBytes, randomTensors, smallConfig, writeFolder } from "./weights_fixture.ts";
import { atEnd } from "./values.ts";

const ROOT = join(import.meta.dirname!, "../..");
/** Longest time that one small file may take, in milliseconds: a hang, not slowness, is looked for. */
const PATIENCE_MS = 10_000;
/** Most memory outside the JavaScript heap that reading a file of some kilobytes may add, in bytes. */
const MEMORY_BYTES = 256 * 1024 * 1024;

/** A change to the bytes of a file. */
type Change =
  | { kind: "byte"; at: number; value: number }
  | { kind: "word"; at: number; value: bigint }
  | { kind: "cut"; at: number }
  | { kind: "repeat"; at: number; length: number }
  | { kind: "insert"; at: number; bytes: Uint8Array };

/** A place as a fraction of the file. Not `fc.double`, which draws bit patterns: nearly all of them lie at 0. */
const place = fc.nat(2 ** 20 - 1).map((n) => n / 2 ** 20);
/** Lengths and counts that programs trip over. */
const word = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.constantFrom(0n, 2n ** 31n - 1n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n),
);
const change: fc.Arbitrary<Change> = fc.oneof(
  fc.record({ kind: fc.constant("byte" as const), at: place, value: fc.nat(255) }),
  // Letters leave a text one that can still be read.
  fc.record({ kind: fc.constant("byte" as const), at: place, value: fc.integer({ min: 97, max: 122 }) }),
  fc.record({ kind: fc.constant("word" as const), at: place, value: word }),
  fc.record({ kind: fc.constant("cut" as const), at: place }),
  fc.record({ kind: fc.constant("repeat" as const), at: place, length: fc.integer({ min: 1, max: 64 }) }),
  fc.record({ kind: fc.constant("insert" as const), at: place, bytes: fc.uint8Array({ minLength: 1, maxLength: 16 }) }),
);

function changed(original: Uint8Array, changes: readonly Change[]): Uint8Array {
  let bytes = original.slice();
  for (const one of changes) {
    const at = Math.floor(one.at * bytes.length);
    const around = (middle: Uint8Array) =>
      Uint8Array.from([...bytes.subarray(0, at), ...middle, ...bytes.subarray(at)]);
    if (one.kind === "byte" && at < bytes.length) bytes[at] = one.value;
    else if (one.kind === "word" && at + 8 <= bytes.length) {
      new DataView(bytes.buffer).setBigUint64(at, one.value, true);
    } else if (one.kind === "cut") bytes = bytes.slice(0, at);
    else if (one.kind === "repeat") bytes = around(bytes.subarray(at, at + one.length));
    else if (one.kind === "insert") bytes = around(one.bytes);
  }
  return bytes;
}

const ODD_TEXTS = ["(a+)+$", "__proto__"];

/** A change to a JSON value: what stands at a random place becomes something else, or goes. */
interface JsonChange {
  path: number[];
  value: unknown;
}

const jsonChange: fc.Arbitrary<JsonChange> = fc.record({
  path: fc.array(fc.nat(400), { minLength: 1, maxLength: 5 }),
  value: fc.oneof(
    fc.constantFrom(undefined, null, -1, 0, 2 ** 31, 1e300, "", "../../etc/passwd", [], {}, true, ...ODD_TEXTS),
    fc.jsonValue({ maxDepth: 2 }),
  ),
});

function jsonChanged(text: string, changes: readonly JsonChange[]): string {
  const root = { value: JSON.parse(text) };
  for (const { path, value } of changes) {
    let node: Record<string, unknown> = root;
    let key = "value";
    for (const step of path) {
      const inner = node[key];
      if (typeof inner !== "object" || inner === null || Object.keys(inner).length === 0) break;
      node = inner as Record<string, unknown>;
      const keys = Object.keys(node);
      key = at(keys, step % keys.length);
    }
    if (value === undefined) delete node[key];
    else node[key] = structuredClone(value);
  }
  return JSON.stringify(root.value) ?? "";
}

/** Opens a model, reads every tensor and encodes a text. */
async function useModel(path: string): Promise<void> {
  const { source, tokenizer } = await openModel(path);
  using _end = atEnd(() => source.close());
  assert(source.config.layers.length <= MAX_LAYERS);
  assert(tokenizer.encode("abc the hat").every((id) => Number.isInteger(id) && id < source.config.vocabSize));
  for (const [name, shape] of expectedTensors(source.config)) {
    assertEquals(source.read(name).data.length, shape.reduce((product, size) => product * size, 1));
  }
}

const useRecords = async (path: string) => {
  await readRecords(path, { record: z.looseObject({}) });
};

/** A file to damage, and what reads it. */
interface Target {
  /** Name of the format. */
  name: string;
  path: string;
  isJson: boolean;
  use: () => Promise<void>;
}

async function writeTargets(root: string): Promise<Target[]> {
  const targets: Target[] = [];
  const config = smallConfig();
  const tensors = randomTensors(config);
  const folder = join(root, "model");
  Deno.mkdirSync(folder);
  writeFolder(folder, config, tensors);
  const inFolder = (name: string, file: string, isJson: boolean, place = folder) =>
    targets.push({ name, path: join(place, file), isJson, use: () => useModel(place) });
  inFolder("safetensors", "model.safetensors", false);
  inFolder("config.json", "config.json", true);
  inFolder("tokenizer.json", "tokenizer.json", true);
  const other = join(root, "bytes");
  Deno.mkdirSync(other);
  writeFolder(other, smallConfig({ vocabSize: 320 }), randomTensors(smallConfig({ vocabSize: 320 })));
  Deno.writeTextFileSync(join(other, "tokenizer.json"), JSON.stringify(byteLevelDefinition(320).tokenizer));
  inFolder("tokenizer.json", "tokenizer.json", true, other);

  const gguf = join(root, "model.gguf");
  Deno.writeFileSync(gguf, ggufBytes({ metadata: ggufMetadata(config), tensors: ggufTensors(config, tensors) }));
  targets.push({ name: "GGUF", path: gguf, isJson: false, use: () => useModel(gguf) });

  for (const { name } of Deno.readDirSync(join(ROOT, "tests/golden/parquet"))) {
    const path = join(root, name);
    Deno.copyFileSync(join(ROOT, "tests/golden/parquet", name), path);
    targets.push({ name: "Parquet", path, isJson: false, use: () => useRecords(path) });
  }
  const lines = Deno.readTextFileSync(join(ROOT, "datasets/tiny_world/data/facts.jsonl")).split("\n").slice(0, 8);
  const text = new TextEncoder().encode(lines.join("\n"));
  const plain = join(root, "a.jsonl");
  const packed = join(root, "a.jsonl.gz");
  Deno.writeFileSync(plain, text);
  const gzip = new Blob([text]).stream().pipeThrough(new CompressionStream("gzip"));
  Deno.writeFileSync(packed, await new Response(gzip).bytes());
  for (const path of [plain, packed]) {
    targets.push({ name: "JSON Lines", path, isJson: false, use: () => useRecords(path) });
  }
  targets.push(storedAdapters(root));
  const task = join(root, "task.yaml");
  Deno.writeTextFileSync(task, TASK_FILE);
  Deno.writeTextFileSync(join(root, "base.yaml"), TASK_BASE);
  targets.push({ name: "task file", path: task, isJson: false, use: () => useTaskFile(task) });
  return targets;
}

/** What a run keeps of a cell. A file that is not the one of the record is never read; with its hash in the record, its
 * tensors are read only if they fit model and plan. */
function storedAdapters(root: string): Target {
  const out = join(root, "run");
  const plan = PLANS.uniform;
  const rebuild = storeRebuild(out, REBUILT, REBUILD);
  const path = join(runPaths(out).weights, rebuild.file);
  return {
    name: "stored adapters",
    path,
    isJson: false,
    // deno-lint-ignore require-await
    use: async () => {
      const sha256 = sha256OfFiles([path]);
      if (sha256 !== rebuild.sha256) {
        assertThrows(() => openRebuild(out, { rebuild, plan }, REBUILT_FROM), FileFormatError, "the record names");
      }
      const tensors = [
        ...rebuildTensors(openRebuild(out, { rebuild: { ...rebuild, sha256 }, plan }, REBUILT_FROM)).values(),
      ];
      assert(tensors.every(({ shape, data }) => shape.reduce((a, b) => a * b, 1) === data.length));
      assertEquals(tensors.length, rebuildTensors(REBUILD).size);
    },
  };
}

/** A task file that uses most of what one may hold; its data are the records of the tiny world in `a.jsonl`. */
const TASK_FILE = `include: base.yaml
task: damaged
tag: [one, two]
test_split: test
fewshot_config: {sampler: first_n}
num_fewshot: 1
doc_to_text: "{% set last = context.split(' ')[-1] %}{{context.strip()}}: {{last}} {{choices|length}}\\n"
doc_to_choice: "{{[choices[0], choices[1]]}}"
doc_to_target: "{{gold % 2}}"
description: "{% for one in choices %}{{loop.index}} {{one}}, {% endfor %}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
`;
const TASK_BASE = `dataset_path: json
dataset_kwargs: {data_files: {test: a.jsonl}}
output_type: multiple_choice
`;

const useTaskFile = async (path: string) => {
  const { definitions } = selectTasks([path], []);
  for (const definition of definitions) await fileTask(definition).load({ limit: 4 });
};

/** How inputs of a format ended. */
export interface Outcome {
  read: number;
  refused: number;
}

/** Reads `inputs` damaged files, the formats in turn. Every one is read or refused with a {@linkcode UsageError}, in
 * little time and little memory. Returns how they ended, by format. */
export async function fuzz(inputs: number, seed?: number): Promise<Map<string, Outcome>> {
  const root = Deno.makeTempDirSync();
  const outcomes = new Map<string, Outcome>();
  using _end = atEnd(() => Deno.removeSync(root, { recursive: true }));
  const targets = await writeTargets(root);
  const names = [...new Set(targets.map(({ name }) => name))];
  for (const target of targets) {
    const shared = targets.filter(({ name }) => name === target.name).length;
    const numRuns = Math.ceil(inputs / names.length / shared);
    const outcome = outcomes.get(target.name) ?? { read: 0, refused: 0 };
    outcomes.set(target.name, outcome);
    await fuzzTarget(target, { numRuns, ...seed === undefined ? {} : { seed } }, outcome);
  }
  return outcomes;
}

async function fuzzTarget(target: Target, options: fc.Parameters<unknown>, outcome: Outcome): Promise<void> {
  const original = Deno.readFileSync(target.path);
  const text = target.isJson ? new TextDecoder().decode(original) : "";
  await target.use();
  const bytes = fc.array(change, { minLength: 1, maxLength: 3 }).map((changes) => changed(original, changes));
  const json = fc.array(jsonChange, { minLength: 1, maxLength: 3 }).map((changes) =>
    new TextEncoder().encode(jsonChanged(text, changes))
  );
  const input = target.isJson ? fc.oneof({ arbitrary: json, weight: 3 }, { arbitrary: bytes, weight: 1 }) : bytes;
  await fc.assert(
    fc.asyncProperty(input, async (bytes) => {
      Deno.writeFileSync(target.path, bytes);
      const start = performance.now();
      const before = Deno.memoryUsage().external;
      try {
        await target.use();
        outcome.read++;
      } catch (error) {
        if (!(error instanceof UsageError)) throw error;
        outcome.refused++;
      }
      const took = performance.now() - start;
      const added = Deno.memoryUsage().external - before;
      assert(took < PATIENCE_MS, `${target.name} took ${took} ms`);
      assert(added < MEMORY_BYTES, `${target.name} of ${bytes.length} bytes took ${added} bytes of memory`);
    }),
    options,
  );
  Deno.writeFileSync(target.path, original);
}

/** One line for each format. */
export function describeOutcomes(outcomes: Map<string, Outcome>): string {
  const lines = [...outcomes].map(([name, { read, refused }]) => `${name}: ${read} read, ${refused} refused`);
  const total = [...outcomes.values()].reduce((sum, { read, refused }) => sum + read + refused, 0);
  return [`${total} inputs`, ...lines].join("\n");
}
