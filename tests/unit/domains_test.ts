import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { trainingData } from "../../benchmarks/pipeline/calibrate.ts";
import type { LoadedModel } from "../../benchmarks/pipeline/load.ts";
import { flagOptions, flagSource, parseStrictly } from "../../benchmarks/configuration/flags.ts";
import { resolveConfig } from "../../benchmarks/configuration/resolve.ts";
import { prepareRun } from "../../benchmarks/configuration/prepare.ts";
import { UsageError } from "../../core/util/errors.ts";
import { createRng } from "../../core/util/rng.ts";
import { type Domain, mixWindows } from "../../datasets/mixture.ts";
import { fakeTokenizer } from "../support/scoring_fakes.ts";
import { folderTest } from "../support/weights_fixture.ts";

const domainsOf = (weights: number[], count: number): Domain[] =>
  weights.map((weight, d) => ({
    name: `d${d}`,
    weight,
    windows: Array.from({ length: count }, (_, i) => Int32Array.of(d, i)),
  }));

Deno.test("mixWindows() draws domains by their weights and reads each in order, the same for the same seed", () => {
  const domains = domainsOf([0.7, 0.2, 0.1], 4000);
  const draw = (seed: number) => mixWindows(domains, 4000, createRng(seed, "draws"));
  const windows = draw(1);
  [0.7, 0.2, 0.1].forEach((weight, d) => {
    const own = windows.filter(([name]) => name === d);
    // Four standard errors of a share of 4000 draws.
    assertAlmostEquals(own.length / 4000, weight, 4 * Math.sqrt(weight * (1 - weight) / 4000));
    assertEquals(own.map(([, i]) => i), own.map((_, i) => i));
  });
  assertEquals(draw(1), windows);
  assert(draw(2).some(([domain], i) => domain !== at(windows, i)[0]));
});

Deno.test("mixWindows() takes the last domain where rounding leaves something, and ends with an error", () => {
  const domains = domainsOf([0.5, 0.5 - 1e-9], 1);
  const always = { ...createRng(0, ""), uniform: () => 1 - 2 ** -32 };
  assertEquals(mixWindows(domains, 1, always), [Int32Array.of(1, 0)]);
  assertThrows(() => mixWindows(domains, 2, always), RangeError, 'Domain "d1" has only 1 windows');
});

folderTest("trainingData() fills the windows from the domains by their parts", async (data) => {
  const words = (prefix: string) => Array.from({ length: 12 }, (_, j) => `${prefix}x${j}`).join(" ");
  const records = (prefix: string, field: string) =>
    Array.from({ length: 200 }, (_, i) => JSON.stringify({ [field]: words(`${prefix}train${i}`) })).join("\n");
  await Deno.writeTextFile(`${data}/c4-train.jsonl`, records("c", "text"));
  await Deno.writeTextFile(`${data}/ptb-train.jsonl`, records("p", "sentence"));
  const tokenizer = fakeTokenizer();
  const training = { steps: 100, batch: 2, tokens: 6 };
  const draw = (seed: number, domains?: Record<string, number>) =>
    trainingData({ tokenizer } as LoadedModel, { ...training, domains }, { corpus: "c4", seed, data });
  const text = (ids: Int32Array) => tokenizer.decode([...ids]);
  const parts = { "ptb-test-space": 1, c4: 3 };
  const { windows, datasets } = await draw(0, parts);
  const found = datasets.map(({ id, source }) => [id, source]);
  assertEquals(found, [["c4", "c4-train.jsonl"], ["ptb-test-space", "ptb-train.jsonl"]]);
  assertEquals(windows.length, 200);
  const fromC4 = windows.filter((ids) => text(ids).includes("ctrain")).length;
  assertAlmostEquals(fromC4 / 200, 0.75, 4 * Math.sqrt(0.75 * 0.25 / 200));
  assertEquals(windows.filter((ids) => text(ids).includes("ptrain")).length, 200 - fromC4);
  assertEquals((await draw(0, parts)).windows, windows);
  assert((await draw(1, parts)).windows.some((ids, i) => text(ids) !== text(at(windows, i))));

  assertEquals((await draw(0)).datasets.map(({ id }) => id), ["c4"]);
});

Deno.test("prepareRun() refuses domains that cannot be loaded before anything runs", async () => {
  const plan = (training: string, methods = "sheared") =>
    prepareRun(
      resolveConfig([
        flagSource(parseStrictly(["--methods", methods, "--sparsity", "0.2", "--training", training], flagOptions())),
      ]),
      () => {},
    );
  const refused = async (training: string, message: string, methods?: string) => {
    await assertRejects(async () => await plan(training, methods), UsageError, message);
  };
  await refused("domains.c4=1", "training.domains must name two corpora or more: current 1");
  await refused("domains.c4=1,domains.ptb-test-space=2,corpus=c4", "exclude each other: leave out corpus=c4");
  await refused("domains.c4=0,domains.wikitext2=1", "training.domains.c4 must be more than 0: current 0");
  await refused("domains=3", "training.domains must be a record: current 3");
});
