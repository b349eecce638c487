import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { applyStages } from "../../benchmarks/cells/rebuild.ts";
import { climb, type Ladder, type LevelGiven } from "../../benchmarks/cells/ladder.ts";
import { cellSchema, trainingSchema } from "../../core/schema/schema.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { keptParameters } from "../../models/count.ts";
import { type DecoderModel, disposeModel, uploadModel } from "../../models/device.ts";
import { plannedShapes } from "../../models/plan.ts";
import { hostTensor } from "../../models/surgery.ts";
import { resolveTarget } from "../../models/target.ts";
import { expectedTensors, isLayerwiseUniform } from "../../models/config.ts";
import { toySource } from "../support/toy.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { methodContext, toyWindows } from "../support/method_context.ts";

const LEVELS = [0.2, 0.4, 0.55];
const STEPS = 32;
const HOST = { report: () => {}, signal: new AbortController().signal };
const training = trainingSchema.parse({ steps: STEPS, batch: 2, tokens: 12, rank: 2, alpha: 4, teacherTokens: 8 });

function ladderOf(dense: DecoderModel, folder: string, sparsity: number): Ladder & { levels: LevelGiven[] } {
  const method = getMethod("mask-prune");
  const options = parseOptions(method, {}) as Record<string, unknown>;
  const cell = cellSchema.parse({
    model: "toy",
    engine: "cpu",
    method: { id: method.id, options },
    sparsity,
    seed: 0,
    units: ["ffn", "kv-groups"],
    ffnMultiple: 1,
    calibration: { corpus: "toy" },
    training,
    ladder: LEVELS,
    perplexity: [],
    tasks: [],
  });
  const levels: LevelGiven[] = [];
  return {
    cell: { ...cell, ladder: LEVELS, training },
    dense,
    windows: toyWindows(2 * 40, 12),
    domains: [{ name: "all", weight: 1, windows: toyWindows(2 * 40, 12).toReversed(), heldOut: [] }],
    key: "toy",
    folder,
    levels,
    waiting: (work) => work(),
    prune: (given) => {
      levels.push(given);
      const { base, target, options: own, windows } = given;
      const learning = { options: own, windows, teacher: dense };
      const context = methodContext({ model: base, options, calibration: toyWindows(4, 16), learning });
      return method.prune({ ...context, target });
    },
    stageOf: ({ plan, parts }) => parts ? { plan, replaced: {}, compensated: false, learned: parts } : null,
  };
}

testOnEngines(
  "climb() meets every level with nested units and 1.25 times the tokens of a run, each level computed once",
  async () => {
    const dense = await uploadModel(toySource());
    const folder = await Deno.makeTempDir();
    try {
      // The last level first: it computes those before it, which the others then find.
      const last = ladderOf(dense, folder, at(LEVELS, 2));
      const rungs = [await climb(last)];
      assertEquals(last.levels.map(({ options: { steps }, windows }) => [steps, windows.length]), [
        [12, 24],
        [12, 24],
        [16, 32],
      ]);
      assertEquals(last.levels.flatMap(({ windows }) => windows), last.windows);
      assertEquals(last.levels.flatMap(({ domains }) => at(domains!, 0).windows), at(last.domains!, 0).windows);
      for (const level of [at(LEVELS, 1), at(LEVELS, 0)]) {
        const ladder = ladderOf(dense, folder, level);
        rungs.unshift(await climb(ladder));
        assertEquals(ladder.levels, []);
      }
      rungs.forEach(({ model, plan, reports }, i) => {
        const { budgetParameters } = resolveTarget(dense.config, {
          sparsity: at(LEVELS, i),
          units: ["ffn", "kv-groups"],
        });
        assertEquals(model.config.layers, plannedShapes(dense.config, plan));
        assert(isLayerwiseUniform(model.config));
        const slack = budgetParameters - keptParameters(model.config);
        assert(slack >= 0 && slack < 2 * 3 * 32, `${slack} parameters of the budget of level ${i} are unused`);
        assertEquals(reports.map(({ level }) => level), LEVELS.slice(0, i + 1));
        if (i > 0) {
          plan.layers.forEach(({ ffnChannels, kvGroups }, l) => {
            const before = at(at(rungs, i - 1).plan.layers, l);
            assert(ffnChannels.every((unit) => before.ffnChannels.includes(unit)));
            assert(kvGroups.every((unit) => before.kvGroups.includes(unit)));
          });
        }
      });
      assertEquals(at(rungs, 2).reports.reduce((sum, { tokens }) => sum + tokens, 0), 1.25 * STEPS * 2 * 12);

      // A level that was read back is the one that was computed.
      const other = await Deno.makeTempDir();
      const again = await climb(ladderOf(dense, other, at(LEVELS, 1)));
      assertEquals(again.plan, at(rungs, 1).plan);
      for (const name of expectedTensors(again.model.config).keys()) {
        assertEquals(await hostTensor(again.model, name), await hostTensor(at(rungs, 1).model, name), name);
      }
      await Deno.remove(other, { recursive: true });

      // Plans, adapters and masks of all levels are the model.
      for (const { model, stages } of [...rungs, again]) {
        assert(stages);
        const made = await applyStages(dense, { stages, windows: [] }, HOST);
        for (const name of expectedTensors(model.config).keys()) {
          assertClose((await hostTensor(made, name)).data, (await hostTensor(model, name)).data, {
            atol: 1e-6,
            rtol: 1e-6,
          });
        }
        disposeModel(made);
      }
      for (const { model } of [...rungs, again]) disposeModel(model);
    } finally {
      await Deno.remove(folder, { recursive: true });
      disposeModel(dense);
    }
  },
  { except: ["webgpu", "cpu"] },
);

testOnEngines(
  "climb() takes the levels of the same text, method file and weights alone, and keeps their statistics apart",
  async () => {
    const dense = await uploadModel(toySource());
    const folder = await Deno.makeTempDir();
    /** Where a climb to the second level first prunes: empty where it does not find the first. */
    const firstPrefix = async (changes: Partial<Ladder>) => {
      const ladder = { ...ladderOf(dense, folder, at(LEVELS, 1)), ...changes };
      let found: string | undefined;
      const prune = ({ prefix }: LevelGiven) => {
        found = prefix;
        return Promise.reject(new RangeError("seen"));
      };
      await assertRejects(() => climb({ ...ladder, prune }), RangeError, "seen");
      return found;
    };
    try {
      const first = ladderOf(dense, folder, at(LEVELS, 0));
      const { cell, windows } = first;
      disposeModel((await climb(first)).model);
      const prefix = await firstPrefix({});
      assertNotEquals(prefix, "");
      const other: Partial<Ladder> = { windows: windows.toReversed() };
      const methodFile = { path: "mine.ts", sha256: "aa", imports: [] };
      const changed: Partial<Ladder>[] = [
        other,
        { domains: [{ name: "all", weight: 1, windows, heldOut: [] }] },
        { cell: { ...cell, sparsity: at(LEVELS, 1), methodFile } },
        { cell: { ...cell, sparsity: at(LEVELS, 1), weights: "stored" } },
        { key: "other weights" },
      ];
      for (const changes of changed) assertEquals(await firstPrefix(changes), "");
      disposeModel((await climb({ ...ladderOf(dense, folder, at(LEVELS, 0)), ...other })).model);
      const others = await firstPrefix(other);
      assert(others !== "" && others !== prefix);
    } finally {
      await Deno.remove(folder, { recursive: true });
      disposeModel(dense);
    }
  },
  { except: ["webgpu", "cpu"] },
);
