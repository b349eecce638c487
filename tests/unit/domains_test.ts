import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { at } from "../../core/util/indexing.ts";
import { trainingData } from "../../benchmarks/pipeline/calibrate.ts";
import type { LoadedModel } from "../../benchmarks/pipeline/load.ts";
import { flagOptions, flagSource, parseStrictly } from "../../benchmarks/configuration/flags.ts";
import { resolveConfig } from "../../benchmarks/configuration/resolve.ts";
import { prepareRun } from "../../benchmarks/configuration/prepare.ts";
import { UsageError } from "../../core/util/errors.ts";
import { createRng } from "../../core/util/rng.ts";
import { createMix, type Domain, drawWindows, updateWeights } from "../../models/training/domains.ts";
import { fakeTokenizer } from "../support/scoring_fakes.ts";

Deno.test("updateWeights() has the values of the formula", () => {
  // By hand: exp(ln 3) = 3, so 0.5 : 0.5 becomes 1 : 3, and 0.9999 of that plus 0.0001 / 2.
  const thrice = updateWeights([0.5, 0.5], [2, 1 + Math.log(3)], [2, 1]);
  assertAlmostEquals(at(thrice, 0), 0.9999 * 0.25 + 0.00005, 1e-12);
  assertAlmostEquals(at(thrice, 1), 0.9999 * 0.75 + 0.00005, 1e-12);
  // A domain ahead of its reference falls: exp(-ln 2) = 1/2, so 0.4 : 0.6 becomes 0.2 : 0.6.
  assertAlmostEquals(at(updateWeights([0.4, 0.6], [1, 1], [1 + Math.LN2, 1]), 0), 0.9999 * 0.25 + 0.00005, 1e-12);
  // At the references only the equal part works.
  assertAlmostEquals(at(updateWeights([0.9, 0.1], [3, 3], [3, 3]), 0), 0.9999 * 0.9 + 0.00005, 1e-12);
});

Deno.test("updateWeights() keeps a distribution, never below the equal part, and prefers what lags more", () => {
  const domain = fc.record({
    weight: fc.double({ min: 1e-4, max: 1, noNaN: true }),
    excess: fc.double({ min: -2000, max: 2000, noNaN: true }),
  });
  fc.assert(fc.property(fc.array(domain, { minLength: 2, maxLength: 7 }), (domains) => {
    const sum = domains.reduce((total, { weight }) => total + weight, 0);
    const weights = domains.map(({ weight }) => weight / sum);
    const after = updateWeights(weights, domains.map(({ excess }) => excess), domains.map(() => 0));
    assertAlmostEquals(after.reduce((total, weight) => total + weight, 0), 1, 1e-9);
    assert(after.every((weight) => weight >= 1e-4 / domains.length));
    const most = Math.max(...domains.map(({ excess }) => excess));
    domains.forEach(({ excess }, i) => {
      if (excess === most) assert(at(after, i) >= 0.9999 * at(weights, i));
    });
  }));
});

const domainsOf = (weights: number[], count: number): Domain[] =>
  weights.map((weight, d) => ({
    name: `d${d}`,
    weight,
    windows: Array.from({ length: count }, (_, i) => Int32Array.of(d, i)),
    heldOut: [],
  }));

Deno.test("drawWindows() draws domains by their weights and reads each in order, the same for the same seed", () => {
  const domains = domainsOf([0.7, 0.2, 0.1], 4000);
  const draw = (seed: number) => drawWindows(createMix(domains), domains, 4000, createRng(seed, "draws"));
  const windows = draw(1);
  [0.7, 0.2, 0.1].forEach((weight, d) => {
    const own = windows.filter(([name]) => name === d);
    // Four standard errors of a share of 4000 draws.
    assertAlmostEquals(own.length / 4000, weight, 4 * Math.sqrt(weight * (1 - weight) / 4000));
    assertEquals(own.map(([, i]) => i), own.map((_, i) => i));
  });
  assertEquals(draw(1), windows);
  assert(draw(2).some(([domain], i) => domain !== at(windows, i)[0]));

  const mix = createMix(domains);
  const parts = [1, 2].map((seed) => drawWindows(mix, domains, 50, createRng(seed, "parts"))).flat();
  assertEquals(new Set(parts.map((window) => window.join())).size, 100);
  assertEquals(mix.used.reduce((sum, used) => sum + used, 0), 100);
});

Deno.test("drawWindows() takes the last domain where rounding leaves something, and ends with an error", () => {
  const domains = domainsOf([0.5, 0.5], 1);
  const always = { ...createRng(0, ""), uniform: () => 1 - 2 ** -32 };
  const mix = { weights: [0.5, 0.5 - 1e-9], used: [0, 0], references: [] };
  assertEquals(drawWindows(mix, domains, 1, always), [Int32Array.of(1, 0)]);
  assertThrows(() => drawWindows(mix, domains, 1, always), RangeError, 'Domain "d1" has only 1 windows');
});

Deno.test("trainingData() fills the windows from the domains by their parts and holds some text out", async () => {
  const data = await Deno.makeTempDir();
  try {
    const records = (prefix: string, field: string) =>
      Array.from({ length: 200 }, (_, i) =>
        JSON.stringify({
          [field]: Array.from({ length: 12 }, (_, j) => `${prefix}${i >= 190 ? "held" : "train"}${i}x${j}`).join(" "),
        })).join("\n");
    await Deno.writeTextFile(`${data}/c4-train.jsonl`, records("c", "text"));
    await Deno.writeTextFile(`${data}/ptb-train.jsonl`, records("p", "sentence"));
    const tokenizer = fakeTokenizer();
    const draw = (seed: number, domains?: Record<string, number>) =>
      trainingData({ tokenizer } as LoadedModel, { steps: 100, batch: 2, tokens: 6, domains }, {
        corpus: "c4",
        seed,
        data,
      });
    const text = (ids: Int32Array) => tokenizer.decode([...ids]);
    const parts = { "ptb-test-space": 1, c4: 3 };
    const { windows, domains, datasets } = await draw(0, parts);
    assertEquals(domains!.map(({ name, weight, windows }) => [name, weight, windows.length]), [
      ["c4", 0.75, 200],
      ["ptb-test-space", 0.25, 200],
    ]);
    assertEquals(datasets.map(({ id, source }) => [id, source]), [
      ["c4", "c4-train.jsonl"],
      ["ptb-test-space", "ptb-train.jsonl"],
    ]);
    assertEquals(windows.length, 200);
    const fromC4 = windows.filter((ids) => text(ids).includes("ctrain")).length;
    assertAlmostEquals(fromC4 / 200, 0.75, 4 * Math.sqrt(0.75 * 0.25 / 200));
    assertEquals(windows.filter((ids) => text(ids).includes("ptrain")).length, 200 - fromC4);
    for (const { heldOut, windows } of domains!) {
      assert(heldOut.length > 0 && heldOut.every((ids) => !text(ids).includes("train")));
      assert(windows.every((ids) => !text(ids).includes("held")));
    }
    assertEquals((await draw(0, parts)).windows, windows);
    assert((await draw(1, parts)).windows.some((ids, i) => text(ids) !== text(at(windows, i))));

    const plain = await draw(0);
    assertEquals([plain.domains, plain.datasets.map(({ id }) => id)], [undefined, ["c4"]]);
  } finally {
    await Deno.remove(data, { recursive: true });
  }
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
  await refused("steps=5", 'Method "sheared": domainSteps=5 needs domains', "sheared:domainSteps=5");
});
