/** The baselines beside their authors' code on the bundled model: scores, kept units and biases, on every engine.
 *
 * `tests/golden/authors-tiny.json` holds what the authors' repositories printed, and `authors-tiny-short.json` the same
 * on 128 of its 4,096 tokens, for engines that are slow; docs/baselines.md says what differs by definition.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import type { EngineName } from "../../core/schema/schema.ts";
import type { Statistics } from "../../methods/define.ts";
import { compensation } from "../../methods/flap.ts";
import { denseScores } from "../../methods/llm_pruner/mod.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { inputStatistics } from "../../methods/_shared/calibration.ts";
import {
  type ColumnMetric,
  columnScores,
  type LayerScores,
  scoresOfGroups,
  type Spread,
  weightSlots,
} from "../../methods/_shared/scoring.ts";
import { tensorNames } from "../../models/config.ts";
import { type DecoderModel } from "../../models/device.ts";
import { openModel } from "../../models/load.ts";
import type { PrunePlan } from "../../models/plan.ts";
import long from "../golden/authors-tiny.json" with { type: "json" };
import short from "../golden/authors-tiny-short.json" with { type: "json" };
import { assertClose, testOnEngines } from "../support/engines.ts";
import { methodContext } from "../support/method_context.ts";
import { onDevice } from "../support/device_models.ts";

/** What the authors' code printed. */
type Golden = Pick<typeof short, "windows" | "scores" | "columns" | "biases"> & {
  kept: Partial<Record<string, { heads: string[]; channels: string[] }>>;
};

/** Plain JavaScript and WebGPU, which is software on most machines that test, take minutes over 4,096 tokens. */
const goldenFor = (engine: EngineName): Golden => engine === "wasm" || engine === "tensorflow" ? long : short;

const windowsOf = ({ windows }: Golden): Int32Array[] => windows.map((ids) => Int32Array.from(ids));

/** The bundled model on the device, with statistics that all methods share. */
async function withTiny(
  golden: Golden,
  test: (model: DecoderModel, prune: Prune, cache: Map<string, Statistics>) => Promise<void>,
): Promise<void> {
  const calibration = windowsOf(golden);
  const { source } = await openModel("tiny");
  using model = await onDevice(source);
  source.close();
  const cache = new Map<string, Statistics>();
  const prune: Prune = async (id, sparsity, raw) => {
    const method = getMethod(id);
    return await method.prune(
      methodContext({ model, calibration, cache, sparsity, options: parseOptions(method, raw) }),
    );
  };
  await test(model, prune, cache);
}

type Prune = (
  id: string,
  sparsity: number,
  options: Record<string, unknown>,
) => Promise<{ plan: PrunePlan; replaced?: Statistics }>;

/** Units of a row of hexadecimal digits, four flags each. */
function unitsOf(digits: string): number[] {
  const flags = [...digits].flatMap((digit) => [...Number.parseInt(digit, 16).toString(2).padStart(4, "0")]);
  return flags.flatMap((flag, unit) => flag === "1" ? [unit] : []);
}

/** What the authors' code kept, as a plan. */
function authorsPlan({ kept }: Golden, name: string): PrunePlan {
  const { heads, channels } = kept[name] ?? { heads: [], channels: [] };
  assert(heads.length > 0, `no kept units of "${name}" are on record`);
  return {
    layers: heads.map((own, l) => {
      const units = unitsOf(own);
      return { kvGroups: units, queryHeads: units, ffnChannels: unitsOf(at(channels, l)) };
    }),
  };
}

/** Units that one of two plans keeps and the other does not. */
function difference(one: PrunePlan, other: PrunePlan, type: "queryHeads" | "ffnChannels"): number {
  return one.layers.reduce((sum, layer, l) => {
    const [a, b] = [new Set(layer[type]), new Set(at(other.layers, l)[type])];
    return sum + a.symmetricDifference(b).size;
  }, 0);
}

/** As close as f32 sums of thousands of terms and six printed digits allow. */
function assertScores(actual: ArrayLike<number>, expected: readonly number[], what: string): void {
  const largest = Math.max(...expected.map(Math.abs));
  assertClose(actual, expected, { atol: 1e-4 * largest, rtol: 1e-4 }, what);
}

/** Heads and channels of every layer; the authors divide by `members` what we sum. */
function assertGroups(
  scores: readonly LayerScores[],
  expected: { heads: number[][]; channels: number[][] },
  members: { head: number; channel: number },
  what: string,
): void {
  assertEquals(scores.length, expected.heads.length);
  for (const [l, { kvGroups, ffn }] of scores.entries()) {
    assertScores(kvGroups.map((score) => score / members.head), at(expected.heads, l), `${what}, heads of layer ${l}`);
    assertScores(ffn.map((score) => score / members.channel), at(expected.channels, l), `${what}, channels of ${l}`);
  }
}

const ESTIMATORS = [
  ["vectorize", "vector"],
  ["param_first", "element-1"],
  ["param_second", "element-2"],
  ["param_mix", "mix"],
] as const;

testOnEngines("llm-pruner: Taylor scores and kept units are its authors'", async (engine) => {
  const golden = goldenFor(engine.name);
  await withTiny(golden, async (model, prune, cache) => {
    for (const [theirs, estimator] of ESTIMATORS) {
      const { plan } = await prune("llm-pruner", 0.5, { estimator, structure: "uniform" });
      const context = methodContext({ model, options: {}, calibration: windowsOf(golden), cache });
      const scores = await denseScores(context, estimator);
      assertGroups(scores, golden.scores[theirs], { head: 1, channel: 1 }, theirs);
      assertEquals(plan, authorsPlan(golden, `llm-pruner ${theirs} 0.5`), theirs);
    }
  });
});

testOnEngines("magnitude: scores and kept units are LLM-Pruner's l1 and l2, and FLAP's mag-sp", async () => {
  await withTiny(long, async (model, prune) => {
    const { layers, headSize } = model.config;
    for (const norm of ["l1", "l2"] as const) {
      const slots = await weightSlots(model, (weight) => norm === "l1" ? tf.abs(weight) : tf.square(weight));
      const scores = slots.map((own, l) => scoresOfGroups(own, at(layers, l), headSize));
      // A head has four matrices and a channel three.
      assertGroups(scores, long.scores[norm], { head: 4, channel: 3 }, norm);
      const { plan } = await prune("magnitude", 0.5, { norm, scope: "group" });
      assertEquals(plan, authorsPlan(long, `llm-pruner ${norm} 0.5`), norm);
    }
    for (const sparsity of [0.25, 0.5] as const) {
      const { plan } = await prune("magnitude", sparsity, { norm: "l2", scope: "output" });
      assertEquals(plan, authorsPlan(long, `mag-sp ${sparsity}`));
    }
  });
});

testOnEngines("wanda-sp: kept units are its authors', as published and on dense statistics", async (engine) => {
  const golden = goldenFor(engine.name);
  await withTiny(golden, async (_model, prune) => {
    for (const sparsity of [0.25, 0.5] as const) {
      const published = await prune("wanda-sp", sparsity, {});
      assertEquals(published.plan, authorsPlan(golden, `wanda-sp ${sparsity}`));
      const dense = await prune("wanda-sp", sparsity, { statistics: "dense" });
      assertEquals(dense.plan, authorsPlan(golden, `wanda-sp-dense ${sparsity}`));
      assert(difference(published.plan, dense.plan, "ffnChannels") > 0, "the two kinds of statistics differ");
    }
  });
});

/** What makes ours theirs, who sum over the tokens of a window where we take means: a power of their number. */
const COLUMNS: [keyof Golden["columns"], ColumnMetric, Spread, number][] = [
  ["WIFV running", "WIFV", "fluctuation", 1],
  ["IFV running", "IFV", "fluctuation", 1],
  ["WIFN running", "WIFN", "fluctuation", 0.5],
  ["WIFV exact", "WIFV", "variance", 0],
];

testOnEngines("flap: column scores and biases are its authors'", async (engine) => {
  const golden = goldenFor(engine.name);
  await withTiny(golden, async (model, _prune, cache) => {
    const calibration = windowsOf(golden);
    const tokens = at(calibration, 0).length;
    const statistics = await inputStatistics(methodContext({ model, calibration, cache, options: {} }));
    for (const [name, metric, spread, power] of COLUMNS) {
      const scores = await columnScores(model, statistics, metric, spread);
      for (const [l, columns] of scores.entries()) {
        for (const site of ["output", "down"] as const) {
          const own = columns[site].map((score) => score * tokens ** power);
          assertScores(own, at(golden.columns[name][site], l), `${name}, ${site} of layer ${l}`);
        }
      }
    }
    for (const [name, expected] of Object.entries(golden.biases)) {
      const biases = await compensation(model, authorsPlan(golden, name), statistics);
      for (const site of ["output", "down"] as const) {
        for (const [l, values] of expected[site].entries()) {
          const { data } = biases[tensorNames.bias(l, site)] ?? { data: [] };
          assertScores(data, values, `${name}: bias of ${site} of layer ${l}`);
        }
      }
    }
  });
});

/** Channels of AL-AM that differ from the authors' cut: theirs is where the cost comes nearest to the budget, counted
 * with whole numbers; ours fills the budget with channels. */
const CUT = new Map<Golden, Partial<Record<string, number>>>([
  [long, {
    "flap AL-AM WIFV 0.25": 3,
    "flap AL-AM IFV 0.25": 16,
    "flap-exact AL-AM WIFV 0.25": 2,
    "flap AL-AM WIFN 0.5": 13,
  }],
  [short, {
    "flap AL-AM WIFV 0.25": 2,
    "flap AL-AM IFV 0.25": 4,
    "flap-exact AL-AM WIFV 0.25": 2,
    "flap AL-AM WIFV 0.5": 7,
    "flap AL-AM IFV 0.5": 1,
  }],
]);

testOnEngines("flap: kept units are its authors' in every structure, but for channels of AL-AM", async (engine) => {
  const golden = goldenFor(engine.name);
  await withTiny(golden, async (_model, prune) => {
    const cut = CUT.get(golden) ?? {};
    let compared = 0;
    for (const name of Object.keys(golden.kept)) {
      const [kind, structure, metric, sparsity] = name.split(" ");
      if (kind !== "flap" && kind !== "flap-exact") continue;
      const variance = kind === "flap" ? "running" : "exact";
      const { plan } = await prune("flap", Number(sparsity), { structure, metric, variance });
      const theirs = authorsPlan(golden, name);
      assertEquals(difference(plan, theirs, "queryHeads"), 0, `${name}: heads`);
      assertEquals(difference(plan, theirs, "ffnChannels"), cut[name] ?? 0, `${name}: channels`);
      compared++;
    }
    assertEquals(compared, 24);
  });
});
