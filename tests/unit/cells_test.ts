import { assertEquals, assertNotEquals } from "@std/assert";
import { cellId, expandCells, type Fingerprint, type ReadyConfig } from "../../benchmarks/configuration/expand.ts";
import { type Cell, cellSchema, type RunConfig, runConfigSchema, trainingSchema } from "../../core/schema/schema.ts";
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

Deno.test("expandCells() names few-shot examples only where a run has them", () => {
  const plain = at(expandCells(config({ logSamples: true }), RUN), 0);
  assertEquals([plain.id, "numFewshot" in plain.cell], [ids()[0], false]);
  const full = at(expandCells(config({ numFewshot: 5 }), RUN), 0);
  assertEquals(full.cell.numFewshot, 5);
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

Deno.test("expandCells() gives a cell for each depth, but one to methods that remove layers themselves", () => {
  const methods = ["magnitude", "block-influence", "mask-prune"].map((id) => ({ id, options: {} }));
  const of = (changes: Partial<RunConfig>) =>
    expandCells(config({ methods, sparsity: [0.5], seeds: [0], dropLayers: [0, 2], ...changes }), RUN)
      .flatMap(({ cell }) => cell.method ? [`${cell.method.id} ${cell.dropLayers ?? "free"}`] : []);
  const others = ["block-influence free", "mask-prune free"];
  assertEquals(of({ units: ["ffn", "layers"] }), ["magnitude 0", "magnitude 2", ...others]);
  const fixed = ["magnitude 0", "magnitude 2", "block-influence free", "mask-prune 0", "mask-prune 2"];
  assertEquals(of({ units: ["ffn"] }), fixed);
  assertEquals(ids({ budget: "parameters" }), ids());
  const timed = expandCells(config({ budget: "decode-ms" }), { ...RUN, latency: "t" });
  assertEquals(timed.slice(1).filter(({ id }) => ids().includes(id)), []);
  assertEquals([timed[0]?.id, timed[1]?.cell.latency], [ids()[0], "t"]);
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
  assertEquals(ids({}, { ...FINGERPRINT, weights: "ab" }).filter((id) => ids().includes(id)), []);
});

Deno.test("cellId() changes with whatever decides a pruned cell's numbers", () => {
  const planned = expandCells(config(), RUN).find(({ cell }) => cell.method?.id === "flap")!;
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
    ...changes.map((change) => cellId({ ...planned.cell, ...change }, FINGERPRINT, { calibrated: true })),
    ...[other, { ...FINGERPRINT, tokenizer: "bc" }].map((print) => cellId(planned.cell, print, { calibrated: true })),
  ];
  assertEquals(new Set([planned.id, ...changed]).size, changed.length + 1);
});

Deno.test("cellId() does not change with what is only measured", () => {
  const measured: Partial<RunConfig> = {
    perplexity: [{ corpus: "c4", protocol: "b", windowTokens: 128 }],
    tasks: [],
    limit: 3,
    numFewshot: 2,
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
  const random = { methods: [{ id: "random", options: {} }], calibration: { corpus: "c4", sequences: 1, tokens: 9 } };
  const without = { ...FINGERPRINT, data: { "perplexity c4": "dd", "task arc_easy": "ee" } };
  assertEquals(ids(random, without).filter((id) => !ids().includes(id)), []);
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

Deno.test("cellId() does not know where a text that is trained on lies, and keeps the ids of methods of version 1", () => {
  const id = (corpus: string, sha256: string) => {
    const training = trainingSchema.parse({ corpus, scaleRate: 0.05 });
    const run = config({ methods: [{ id: "mask-prune", options: {} }], sparsity: [0.5], seeds: [0], training });
    const fingerprint = { ...FINGERPRINT, data: { [`training ${corpus}`]: sha256 } };
    const { cell } = at(expandCells(run, { ...RUN, fingerprint }), 1);
    const { version, ...method } = cell.method!;
    assertEquals(version, getMethod("mask-prune").version);
    return cellId({ ...cell, method }, fingerprint, { calibrated: false });
  };
  assertEquals(id("file:/z/x.txt#body", "11"), id("file:x.txt#body", "11"));
  assertNotEquals(id("file:x.txt", "11"), id("file:x.txt", "22"));
  assertEquals(id("file:da/x.txt", "11"), "00629ad35a172626");
});
