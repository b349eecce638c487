import { assert, assertEquals } from "@std/assert";
import { cellId, expandCells, type Fingerprint, type ReadyConfig } from "../../benchmarks/configuration/expand.ts";
import { trainingParts } from "../../benchmarks/pipeline/calibrate.ts";
import {
  type Cell,
  cellSchema,
  type RunConfig,
  runConfigSchema,
  type TrainingOptions,
  trainingSchema,
} from "../../core/schema/schema.ts";
import { at } from "../../core/util/indexing.ts";
import { getMethod } from "../../methods/mod.ts";

const FINGERPRINT: Fingerprint = {
  weights: "aa",
  tokenizer: "bb",
  data: { "calibration c4": "cc", "perplexity c4": "dd", "task arc_easy": "ee" },
};

const RUN = { engine: "wasm", fingerprint: FINGERPRINT } as const;

const config = (changes: Partial<RunConfig> = {}): ReadyConfig =>
  runConfigSchema.parse({
    model: "a.gguf",
    methods: [{ id: "random" }, { id: "flap", options: { biasCompensation: false } }],
    sparsity: [0.25, 0.5],
    seeds: [0, 1],
    calibration: { corpus: "c4" },
    perplexity: [{ corpus: "c4", windowTokens: 1024 }],
    tasks: ["arc_easy"],
    out: "x",
    ...changes,
  }) as ReadyConfig;
const ids = (changes: Partial<RunConfig> = {}, fingerprint = FINGERPRINT) =>
  expandCells(config(changes), { ...RUN, fingerprint }).map(({ id }) => id);

Deno.test("expandCells() names few-shot examples and prompts only where a run has them", () => {
  const plain = at(expandCells(config({ logSamples: true }), RUN), 0);
  assertEquals([plain.id, "numFewshot" in plain.cell, "generations" in plain.cell], [ids()[0], false, false]);
  const full = at(expandCells(config({ numFewshot: 5, generate: ["Once"], generateTokens: 8 }), RUN), 0);
  assertEquals([full.cell.numFewshot, full.cell.generations], [5, { prompts: ["Once"], tokens: 8 }]);
  assertEquals(full.id, plain.id);
  assertEquals(ids({ tasks: [], numFewshot: 5 }), ids({ tasks: [] }));
});

Deno.test("expandCells() gives the dense model first, then methods by level by seed", () => {
  const cells = expandCells(config(), RUN);
  assertEquals(cells.map(({ cell }) => [cell.method?.id ?? "dense", cell.sparsity, cell.seed].join(" ")), [
    "dense 0 0",
    ..."random 0.25 0,random 0.25 1,random 0.5 0,random 0.5 1".split(","),
    ..."flap 0.25 0,flap 0.25 1,flap 0.5 0,flap 0.5 1".split(","),
  ]);
  for (const { cell } of cells) assertEquals(cellSchema.parse(cell), cell);
});

Deno.test("expandCells() gives what draws nothing one cell for all seeds", () => {
  const seedsOf = (changes: Partial<RunConfig>) =>
    expandCells(config({ methods: [{ id: "magnitude", options: {} }], sparsity: [0.5], ...changes }), RUN)
      .filter(({ cell }) => cell.method).map(({ cell }) => cell.seed);
  assertEquals(seedsOf({ seeds: [2, 0, 1] }), [2]);
  assertEquals(seedsOf({ recover: "lora" }), [0, 1]);
  assertEquals(seedsOf({ compensate: "least-squares" }), [0, 1]);
  assertEquals(seedsOf({ methods: [{ id: "flap", options: {} }] }), [0, 1]);
});

Deno.test("expandCells() takes each cell once, and level 0 as the dense model", () => {
  assertEquals(ids({ sparsity: [0, 0.25, 0.25, 0.5], seeds: [0, 1, 0] }), ids());
  assertEquals(ids({ sparsity: [0] }).length, 1);
});

Deno.test("cellId() does not change with folder, jobs, title or the order of the grid", () => {
  const sorted = [...ids()].sort();
  const moved = ids({ out: "y", jobs: 3, name: "other", sparsity: [0.5, 0.25], seeds: [1, 0] });
  assertEquals(moved.sort(), sorted);
});

Deno.test("expandCells() makes other cells of fast arithmetic, and none others of exact", () => {
  assertEquals(ids({ arithmetic: "exact" }), ids());
  const fast = expandCells(config({ arithmetic: "fast", device: "cuda" }), RUN);
  assertEquals(fast.map(({ cell }) => cell.arithmetic), Array(9).fill("fast"));
  assertEquals(ids().filter((id) => fast.some((other) => other.id === id)), []);
  assertEquals(ids({ device: "cuda" }), ids());
});

Deno.test("cellId() knows weights by their contents, not by their path", () => {
  assertEquals(ids({ model: "/elsewhere/b.gguf" }), ids());
  const other = ids({}, { ...FINGERPRINT, weights: "ab" });
  for (const id of ids()) assert(!other.includes(id));
});

Deno.test("cellId() changes with whatever decides a pruned cell's numbers", () => {
  const planned = expandCells(config(), RUN).find(({ cell }) => cell.method?.id === "flap")!;
  const calibrated = true;
  const changes: Partial<Cell>[] = [
    { engine: "tensorflow" },
    { method: { id: "flap", options: { x: 1 } } },
    { method: { id: "flap", options: {}, version: 2 } },
    { sparsity: 0.26 },
    { seed: 9 },
    { units: ["ffn"] },
    { ffnMultiple: 8 },
    { calibration: { corpus: "c4", sequences: 33, tokens: 128 } },
  ];
  const other = { ...FINGERPRINT, data: { ...FINGERPRINT.data, "calibration c4": "other" } };
  const changed = [
    ...changes.map((change) => cellId({ ...planned.cell, ...change }, FINGERPRINT, { calibrated })),
    ...[other, { ...FINGERPRINT, tokenizer: "bc" }].map((print) => cellId(planned.cell, print, { calibrated })),
  ];
  assertEquals(new Set([planned.id, ...changed]).size, changed.length + 1);
});

Deno.test("cellId() does not change with what is only measured", () => {
  const measured: Partial<RunConfig> = {
    perplexity: [{ corpus: "c4", protocol: "b", windowTokens: 128 }],
    tasks: [],
    limit: 3,
    numFewshot: 2,
    generate: ["Once"],
    throughput: { prefillTokens: 8, decodeTokens: 8, batch: 1, repeats: 2 },
  };
  assertEquals(ids(measured), ids());
  assertEquals(ids({}, { ...FINGERPRINT, data: { ...FINGERPRINT.data, "task arc_easy": "new" } }), ids());
});

Deno.test("cellId() of the dense model ignores what only pruning reads", () => {
  const [dense] = ids();
  const calibration = { corpus: "c4", sequences: 1, tokens: 9 };
  const [other] = ids({ seeds: [7], units: ["ffn"], ffnMultiple: 8, calibration });
  assertEquals(other, dense);
  assertEquals(ids({}, { ...FINGERPRINT, data: { ...FINGERPRINT.data, "calibration c4": "new" } })[0], dense);
});

Deno.test("cellId() of a method without calibration ignores calibration, so that methods can be added later", () => {
  const random = { methods: [{ id: "random", options: {} }] };
  const without = { ...FINGERPRINT, data: { "perplexity c4": "dd", "task arc_easy": "ee" } };
  const both = ids();
  for (const id of ids({ ...random, calibration: { corpus: "c4", sequences: 1, tokens: 9 } }, without)) {
    assert(both.includes(id));
  }
});

Deno.test("expandCells() gives one training to all methods that train", () => {
  const methods = [{ id: "random", options: {} }, { id: "mask-prune", options: {} }];
  const trained = (changes: Partial<RunConfig>) =>
    expandCells(config({ methods, sparsity: [0.5], seeds: [0], ...changes }), RUN).map(({ cell }) => [
      cell.method?.id ?? "dense",
      cell.recover ?? "none",
      cell.training?.steps ?? 0,
    ]);
  assertEquals(trained({}), [["dense", "none", 0], ["random", "none", 0], ["mask-prune", "none", 100]]);
  for (const recover of ["scales", "lora"] as const) {
    assertEquals(trained({ recover }), [["dense", "none", 0], ["random", recover, 100], ["mask-prune", recover, 100]]);
  }
});

Deno.test("cellId() reads the training data's hash only where something trains", () => {
  const methods = [{ id: "random", options: {} }, { id: "mask-prune", options: {} }];
  const planned = (sha256: string) =>
    expandCells(config({ methods, sparsity: [0.5], seeds: [0] }), {
      ...RUN,
      fingerprint: { ...FINGERPRINT, data: { ...FINGERPRINT.data, "training c4": sha256 } },
    }).map(({ id }) => id);
  const [before, after] = [planned("11"), planned("22")];
  assertEquals(before.map((id, i) => id === after[i]), [true, true, false]);
});

Deno.test("cellId() tells domains of equal base names apart by their contents, and does not know where they lie", () => {
  const id = (domains: Record<string, [part: number, sha256: string]>) => {
    const entries = Object.entries(domains);
    const data = Object.fromEntries(entries.map(([name, [, sha256]]) => [`training ${name}`, sha256]));
    const parts = Object.fromEntries(entries.map(([name, [part]]) => [name, part]));
    const run = config({
      methods: [{ id: "mask-prune", options: {} }],
      sparsity: [0.5],
      seeds: [0],
      training: trainingSchema.parse({ domains: parts }),
    });
    const fingerprint = { ...FINGERPRINT, data };
    const { cell } = at(expandCells(run, { ...RUN, fingerprint }), 1);
    const { version, ...method } = cell.method!;
    assertEquals(version, getMethod("mask-prune").version);
    return cellId({ ...cell, method }, fingerprint, { calibrated: false });
  };
  const [a, b] = ["file:da/x.txt", "file:db/x.txt"];
  const both = id({ [a]: [1, "11"], [b]: [2, "22"] });
  for (const [name, value] of [[a, [1, "33"]], [b, [2, "33"]], [a, [3, "11"]], [b, [3, "22"]]] as const) {
    assert(id({ [a]: [1, "11"], [b]: [2, "22"], [name]: [...value] }) !== both, `${name} ${value}`);
  }
  assert(id({ [a]: [2, "11"], [b]: [1, "22"] }) !== both);
  assertEquals(id({ [b]: [2, "22"], [a]: [1, "11"] }), both);
  assertEquals(id({ "file:/z/x.txt": [1, "11"], "file:x.txt": [2, "22"] }), both);
  // Other domains, and methods of version 1, keep the ids that they have in earlier runs.
  assertEquals(id({ "file:da/x.txt": [1, "11"], "file:db/y.txt#body": [2, "22"], c4: [1, "33"] }), "96d1e88b67276ab2");
});

Deno.test("trainingParts() scales the parts of domains, in the order of their names", () => {
  const calibration = { corpus: "c4", sequences: 1, tokens: 2 };
  const parts = (training?: Partial<TrainingOptions>) =>
    trainingParts(training && trainingSchema.parse(training), calibration.corpus);
  assertEquals(parts(), [{ corpus: "c4", part: 1 }]);
  assertEquals(parts({ corpus: "wikitext2" }), [{ corpus: "wikitext2", part: 1 }]);
  const found = parts({ domains: { wikitext2: 6, c4: 2 } });
  assertEquals(found, [{ corpus: "c4", part: 0.25 }, { corpus: "wikitext2", part: 0.75 }]);
});
