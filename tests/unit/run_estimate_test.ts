/** Estimates of runs against counts by hand and against what a run of the same configuration checks. */
import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { join } from "node:path";
import { cellCost, processBytes, scoringBytes, trainingBytes } from "../../benchmarks/cells/cell_cost.ts";
import { readRecords } from "../../benchmarks/records/store.ts";
import { getMethod } from "../../methods/mod.ts";
import { readShape } from "../../models/load.ts";
import { estimateRun } from "../../benchmarks/commands/dry_run.ts";
import { UsageError } from "../../core/util/errors.ts";
import { type RunConfig, runConfigSchema } from "../../core/schema/schema.ts";
import { toHfConfig } from "../../models/hf_config.ts";
import { ROOT } from "../../core/util/user_folder.ts";
import { bench, finish } from "../support/bench_process.ts";
import { LLAMA_7B, toyConfig } from "../support/toy.ts";
import { take } from "../support/values.ts";
import { tempFolder } from "../support/weights_fixture.ts";

const quiet = () => {};

async function estimateOf(values: Partial<Record<keyof RunConfig, unknown>>) {
  using temp = tempFolder();
  const folder = temp.path;
  Deno.writeTextFileSync(join(folder, "config.json"), JSON.stringify(toHfConfig(LLAMA_7B)));
  const config = runConfigSchema.parse({
    model: folder,
    engine: "wasm",
    methods: [{ id: "random" }],
    sparsity: [0.2],
    calibration: { corpus: "tiny-world", sequences: 8, tokens: 128 },
    out: join(folder, "out"),
    ...values,
  });
  const estimate = await estimateRun(config, quiet, { elsewhere: true });
  assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name), ["config.json"], "an estimate writes nothing");
  return estimate;
}

Deno.test("estimateRun() counts LLaMA-7B from its config.json as published, and what a cell holds", async () => {
  const perplexity = [{ corpus: "tiny-world", windowTokens: 2048, maxWindows: 2 }];
  const { cells } = await estimateOf({ perplexity });
  const [dense, pruned] = take(cells, 2);
  // 6,738,415,616 parameters: Ma et al. 2023, table 1, and the sum by hand.
  assertEquals(dense.cost.parameters, 6_738_415_616);
  assertEquals(dense.cost.weightBytes, 4 * 6_738_415_616);
  const layers = 32 * (4 * 4096 ** 2 + 3 * 4096 * 11008);
  const shared = 2 * 32000 * 4096 + 4096;
  assertEquals(dense.cost.parameters, layers + 32 * 2 * 4096 + shared);
  // The pruned model shares embedding, head and final norm with the dense one.
  assertEquals(pruned.cost.weightBytes, 4 * (dense.cost.parameters + pruned.cost.parameters - shared));
  assertAlmostEquals(1 - (pruned.cost.parameters - shared) / layers, 0.2, 0.001);
  // Two windows of 2048 tokens: at least two operations a token and weight of a linear map or the head.
  const { flops } = dense.cost;
  const least = 2 * 4096 * (layers + 32000 * 4096);
  assert(flops >= least && flops < 1.01 * least, `${flops} for ${least}`);
});

Deno.test("planned memory is near what the published cells took, but for gradients of weights", () => {
  const layers = Array.from({ length: 30 }, () => ({ kvGroups: 3, queryHeadsPerGroup: 3, ffnChannels: 1536 }));
  const smollm2 = toyConfig({ vocabSize: 49152, width: 576, headSize: 64, layers, tiedHead: true, biases: [] });
  const shapes = {
    "ablations": readShape(join(ROOT, "models/tiny")),
    "smollm2-135m-scales": smollm2,
    "smollm2-135m-lora": smollm2,
  };
  const ratios = Object.entries(shapes).flatMap(([name, shape]) =>
    readRecords(join(ROOT, "results", name)).records.flatMap((record) => {
      const method = record.cell.method && getMethod(record.cell.method.id);
      // LLM-Pruner keeps gradients of whole weights, which no plan knows of.
      if (record.state !== "done" || method?.id === "llm-pruner") return [];
      const cost = cellCost(record.cell, shape, { method, tokens: { windows: 1, tasks: 1 } });
      return processBytes(cost, record.environment.engine) / record.memory.peakBytes;
    })
  );
  assert(ratios.length > 40, `${ratios.length} cells`);
  // The weights of fast arithmetic take half of what is planned for them.
  assert(Math.min(...ratios) > 0.8 && Math.max(...ratios) < 1.3, `${Math.min(...ratios)} to ${Math.max(...ratios)}`);
});

Deno.test("estimateRun() counts a step of training as two passes of the student and one of the teacher", async () => {
  const training = { steps: 10, batch: 1, tokens: 16, rank: 8, distillation: 0 };
  const learning = async (more: object) => {
    const { cells } = await estimateOf({ methods: [{ id: "sheared" }], training: { ...training, ...more } });
    return take(cells, 2)[1].cost.flops;
  };
  const student = await learning({});
  assertAlmostEquals(await learning({ distillation: 1 }) / student, 1.5, 1e-9);
  assertAlmostEquals(await learning({ steps: 20 }) / student, 2, 1e-9);
});

Deno.test("estimateRun() refuses what a run refuses", async () => {
  await assertRejects(() => estimateOf({ sparsity: [0.999] }), UsageError, "cannot be reached");
  await assertRejects(() => estimateOf({ tasks: ["piqa"], data: "/nowhere" }), UsageError, "piqa");
  const calibration = { corpus: "tiny-world", tokens: 4096 };
  await assertRejects(() => estimateOf({ calibration }), UsageError, "positions");
});

Deno.test("bytes of batches are those of their tensors", () => {
  const config = toyConfig({ vocabSize: 1000, width: 32, headSize: 8 });
  // Logits of 256 rows, three times; more tokens only add what the layers take.
  const perToken = (scoringBytes(config, 1024) - scoringBytes(config, 512)) / 512;
  assertEquals(scoringBytes(config, 512), 512 * perToken + 3 * 4 * 256 * 1000);
  assert(trainingBytes(config, 512) > scoringBytes(config, 512));
});

Deno.test("an estimate counts what the choices of an example share once", async () => {
  using folder = tempFolder();
  const question = "x".repeat(400 - "Question: \nAnswer:".length);
  const text = ["aaaaaaa", "bbbbbbb", "ccccccc", "ddddddd"];
  const example = { id: "one", question, choices: { text, label: ["A", "B", "C", "D"] }, answerKey: "B" };
  Deno.writeTextFileSync(join(folder.path, "arc_easy.jsonl"), `${JSON.stringify(example)}\n`);
  const { data } = await estimateOf({ tasks: ["arc_easy"], perplexity: [], data: folder.path });
  // 400 characters of context are read once, a space and 7 characters of each answer.
  const { amount } = data.find(({ use }) => use === "task arc_easy")!;
  assertEquals(amount, `1 example, about ${(400 + 4 * 8) / 4} tokens`);
});

Deno.test("an estimate counts whole documents under protocol c, and no more windows than a corpus gives", async () => {
  using folder = tempFolder();
  const path = join(folder.path, "x.txt");
  Deno.writeTextFileSync(path, "seven x\n".repeat(500));
  Deno.writeTextFileSync(join(folder.path, "c4-validation.jsonl"), `${JSON.stringify({ text: "y".repeat(20_000) })}\n`);
  const { data } = await estimateOf({
    data: folder.path,
    perplexity: [
      { corpus: `file:${path}`, protocol: "c", windowTokens: 128, maxWindows: 1 },
      { corpus: "c4", protocol: "a", windowTokens: 8 },
    ],
  });
  assertEquals(data.filter(({ use }) => use.startsWith("perplexity")).map(({ amount }) => amount), [
    `about ${(1000).toLocaleString("en")} tokens`,
    `about ${(256 * 8).toLocaleString("en")} tokens`,
  ]);
});

Deno.test("bench run --dry-run shows cells, data, memory and time, and starts nothing", async () => {
  using folder = tempFolder();
  const out = join(folder.path, "run");
  const run = bench("run", "--preset", "smoke", "--engine", "wasm", "--out", out, "--dry-run");
  const { code, stdout, stderr } = await finish(run);
  assertEquals(code, 0, stderr);
  const shown = ["3 cells into", "task tiny-facts: 20 examples", "wanda-sp", "fits", "local, 2 at once"]
    .concat("at the measured rate of matrix products", "for each of 2 cells at once");
  for (const text of shown) assertStringIncludes(stdout, text);
  assertThrows(() => Deno.statSync(out), Deno.errors.NotFound);
});
