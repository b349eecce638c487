/** What every registered method must hold, on every engine that starts. A method is tested by being registered. */
import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, AssertionError, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { at } from "../../core/util/indexing.ts";
import type { Engine } from "../../core/engine/engine.ts";
import { UsageError } from "../../core/util/errors.ts";
import { ENGINE_NAMES, type EngineName, UNIT_TYPES, type UnitType } from "../../core/schema/schema.ts";
import type { LearningContext, Method, PruneResult, Statistics } from "../../methods/define.ts";
import { parseOptions } from "../../methods/mod.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { type LayerPlan, type LayerShape, UNITS, widthOf } from "../../models/units.ts";
import { keptParameters, layerParameters } from "../../models/count.ts";
import type { DecoderModel } from "../../models/device.ts";
import { densePlan, keptLayers, plannedConfig, type PrunePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import { resolveTarget } from "../../models/target.ts";
import { unitCost } from "../support/unit_cost.ts";
import { type DeadUnits, toySource, toyTokens } from "../support/toy.ts";
import { assertClose, testOnEngines } from "../support/engines.ts";
import { type ContextOptions, learningOptions, methodContext, toyWindows } from "../support/method_context.ts";
import { testedMethods } from "../support/own_methods.ts";
import { planToHidden, planToMasks } from "../support/plan_masks.ts";
import { atEnd } from "../support/values.ts";
import { freed, logitsOf, onDevice } from "../support/device_models.ts";

const { methods, fileOf: ownFiles } = await testedMethods();

// Six layers, so that methods that leave the first or last layers whole do so here; wide enough in F that FFN channels
// alone can give half of the parameters.
const LAYERS = 6;
const MULTI_HEAD: LayerShape = { kvGroups: 4, queryHeadsPerGroup: 1, ffnChannels: 96 };
const GROUPED: LayerShape = { kvGroups: 2, queryHeadsPerGroup: 2, ffnChannels: 96 };
const models: Record<string, { shape: LayerShape; units: UnitType[][] }> = {
  "multi-head": { shape: MULTI_HEAD, units: [["ffn", "kv-groups"], ["ffn"]] },
  "grouped": { shape: GROUPED, units: [["ffn", "query-heads", "kv-groups"], ["ffn", "kv-groups"]] },
};
const LEVELS = [0.25, 0.5];
const calibration = toyWindows(6, 16);
const probe = { tokens: toyTokens({ count: 40, seed: 9 }), batch: 2, length: 20 };

/** A short training, for methods that learn: enough for what every method must hold, not for good masks. */
const learning: LearningContext = {
  options: learningOptions({ steps: 12, batch: 1, tokens: 16, rank: 2, alpha: 4 }),
  windows: toyWindows(12, 16),
};

/** Fast on a processor: these run every case of a one-shot method and the default options of one that learns. On the
 * others, the default options of a one-shot method must give the plan that the fast ones give. */
const FAST: readonly EngineName[] = ["wasm", "tensorflow"];
const SLOW = ENGINE_NAMES.filter((name) => !FAST.includes(name));
const isThorough = (method: Method, { name }: Engine) => method.kind === "one-shot" && FAST.includes(name);

/** Statistics by engine and model: what a sweep keeps on disk. Plain arrays, so they may outlive a test. */
const caches = new Map<string, Map<string, Statistics>>();

function cacheFor(...scope: string[]): Map<string, Statistics> {
  const key = scope.join();
  const cache = caches.get(key) ?? new Map<string, Statistics>();
  caches.set(key, cache);
  return cache;
}

/** The file that holds a shipped method: one of its own, or the first of its folder. */
function shippedFile(id: string): string {
  const place = join(import.meta.dirname!, "../../methods", id.replaceAll("-", "_"));
  return existsSync(place) ? join(place, "mod.ts") : `${place}.ts`;
}

/** The defaults first, then every option set that differs from them in one enumerated or yes-no option. */
function optionVariants(method: Method, thorough = true): Record<string, unknown>[] {
  interface Schema {
    def: { type: string; innerType?: Schema; entries?: Record<string, string> };
  }
  const { shape } = method.options as unknown as { shape: Record<string, Schema> };
  const defaults = parseOptions(method, {}) as Record<string, unknown>;
  const variants = [defaults];
  if (!thorough) return variants;
  for (const [name, schema] of Object.entries(shape)) {
    let inner = schema;
    while (inner.def.innerType) inner = inner.def.innerType;
    const values = inner.def.type === "boolean" ? [true, false] : Object.values(inner.def.entries ?? {});
    for (const value of values) if (value !== defaults[name]) variants.push({ ...defaults, [name]: value });
  }
  return variants;
}

const layersOf = (shape: LayerShape) => Array.from({ length: LAYERS }, () => ({ ...shape }));

/** One way of running a method. */
interface Case extends Omit<ContextOptions<unknown>, "model"> {
  method: Method;
  units: UnitType[];
  sparsity: number;
  options: Record<string, unknown>;
}

/** The run in the words of the command line, such as `flap:structure=UL-UM on the grouped model, sparsity 0.5 of
 * ffn`. */
function titleOf({ method, options, units, sparsity }: Case, model: string): string {
  const defaults = at(optionVariants(method), 0);
  const changed = Object.entries(options).filter(([name, value]) => value !== defaults[name]);
  const own = changed.map(([name, value]) => `${name}=${value}`).join(",");
  return `${method.id}${own && ":"}${own} on the ${model} model, sparsity ${sparsity} of ${units.join(", ")}`;
}

/** The first thing in which two plans differ, in a sentence; undefined if nothing. */
function difference(plan: PrunePlan, other: PrunePlan, names: [string, string]): string | undefined {
  for (const [l, layer] of plan.layers.entries()) {
    for (const type of UNIT_TYPES) {
      const { noun, plan: name } = UNITS[type];
      const [a, b] = [new Set(layer[name]), new Set(other.layers[l]?.[name])];
      if (a.symmetricDifference(b).size === 0) continue;
      const alone = [a.difference(b), b.difference(a)].flatMap((units, i) =>
        units.size > 0 ? [`only ${names[i]} keeps ${[...units].join(", ")}`] : []
      );
      return `${names[0]} keeps ${a.size} ${noun} of layer ${l} and ${names[1]} ${b.size}: ${alone.join("; ")}`;
    }
  }
  return plan.layers.length === other.layers.length ? undefined : `${names.join(" and ")} differ in their layers`;
}

function fail(message: string): never {
  throw new AssertionError({ message });
}

/** Fails if two plans differ. */
function assertSamePlan(title: string, plan: PrunePlan, other: PrunePlan, names: [string, string]): void {
  const found = difference(plan, other, names);
  if (found) fail(`${title}: ${found}`);
  assertEquals(plan, other, title);
}

const prune = (model: DecoderModel, { method, ...given }: Case): Promise<PruneResult> =>
  method.prune(methodContext({
    model,
    ...given,
    calibration: given.calibration ?? (method.needs.calibration ? calibration : []),
    ...method.kind === "learned" && { learning },
  }));

/** Runs `check` for every option variant, model, choice of units and level, on one model at a time. */
async function forEachCase(
  method: Method,
  engine: Engine,
  levels: readonly number[],
  check: (model: DecoderModel, given: Case, title: string) => Promise<void>,
): Promise<void> {
  const thorough = isThorough(method, engine);
  for (const [name, { shape, units }] of Object.entries(models)) {
    const cache = cacheFor(engine.name, name);
    using model = await onDevice(toySource({ layers: layersOf(shape) }));
    for (const options of optionVariants(method, thorough)) {
      for (const chosen of thorough ? units : units.slice(0, 1)) {
        for (const sparsity of thorough ? levels : levels.slice(-1)) {
          const given = { method, options, units: chosen, sparsity, cache };
          await check(model, given, titleOf(given, name));
        }
      }
    }
  }
}

/** Same logits, to 1e-4 of the largest. */
function assertSameLogits(actual: Float32Array, expected: Float32Array, title: string, claim: string): void {
  const largest = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  assertClose(actual, expected, { atol: 1e-4 * largest, rtol: 0 }, `${title}: ${claim}, but their logits`);
}

/** The configuration of the model that a plan leaves. */
function leftBy(config: DecoderConfig, plan: PrunePlan, title: string): DecoderConfig {
  try {
    return plannedConfig(config, plan);
  } catch (error) {
    return fail(`${title}: the plan is not valid. ${(error as Error).message}`);
  }
}

/** One more unit of the cheapest kind in every layer, or one more layer, would exceed the budget. */
function assertMeetsBudget(config: DecoderConfig, left: DecoderConfig, given: Case, title: string): void {
  const { method, units, sparsity } = given;
  const { budget } = resolveTarget(config, { sparsity, units });
  const parameters = keptParameters(left);
  const slack = budget - parameters;
  const step = method.granularity === "layer"
    ? Math.max(...config.layers.map((shape) => layerParameters(config, shape)))
    : left.layers.reduce((sum, _, l) => sum + Math.min(...units.map((u) => unitCost(config, l, u))), 0);
  if (slack < 0) fail(`${title}: ${parameters} parameters stay, ${-slack} more than the budget of ${budget}`);
  if (slack < step) return;
  const least = method.granularity === "layer" ? "a layer" : "the cheapest unit in every layer";
  fail(`${title}: ${slack} parameters of the budget are unused, though ${least} takes only ${step}`);
}

/** Every layer has the same widths. */
function assertUniform({ layers }: DecoderConfig, title: string): void {
  for (const type of UNIT_TYPES) {
    const widths = layers.map((shape) => widthOf(shape, type));
    const l = widths.findIndex((width) => width !== widths[0]);
    if (l < 0) continue;
    const { widthNoun } = UNITS[type];
    fail(
      `${title}: uniformLayers is true, but layer 0 keeps ${widths[0]} ${widthNoun} and layer ${l} keeps ${widths[l]}`,
    );
  }
}

/** The masked dense model and the model that was cut must compute the same. */
async function assertMaskedEqualsPruned(model: DecoderModel, { plan, replaced }: PruneResult, title: string) {
  const masks = planToMasks(model.config, plan);
  const hidden = planToHidden(model.config, plan);
  using _masks = atEnd(() => tf.dispose([hidden?.mask ?? [], ...masks.flatMap((own) => Object.values(own))]));
  using whole = freed(await pruneModel(model, densePlan(model.config), replaced));
  using small = freed(await pruneModel(model, plan, replaced));
  const claim = "the cut model must compute what the masked dense model computes";
  assertSameLogits(await logitsOf(small, probe), await logitsOf(whole, probe, { masks, hidden }), title, claim);
}

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

/** Fails if a live unit goes while a dead one that competes with it stays. Returns the number of dead units that
 * went. */
function assertDeadGoFirst(layer: LayerPlan, deadUnits: DeadUnits, shape: LayerShape, title: string): number {
  let gone = 0;
  for (const type of UNIT_TYPES) {
    const { noun, plan, mask, runs } = UNITS[type];
    const dead = deadUnits[mask] ?? [];
    const size = widthOf(shape, type);
    for (let run = 0; run < runs(shape); run++) {
      const units = Map.groupBy(
        range(run * size, (run + 1) * size),
        (unit) => `${dead.includes(unit) ? "dead" : "live"} ${layer[plan].includes(unit) ? "kept" : "gone"}`,
      );
      // The query heads of a group that goes do not compete.
      if (!units.has("live kept") && !units.has("dead kept")) continue;
      const [goneLive, keptDead] = [units.get("live gone"), units.get("dead kept")];
      if (goneLive && keptDead) {
        fail(`${title}: the ${noun} ${keptDead} do nothing and stay, while ${goneLive}, which do something, went`);
      }
      gone += units.get("dead gone")?.length ?? 0;
    }
  }
  return gone;
}

/** Methods by whose definition a unit that does nothing need not go first: chance decides, or units that raise the loss
 * go before it. `grasprune_test.ts` has a planted problem of its own. */
const RANKS_OTHERWISE = ["random", "grasprune"];

/** The first plan of each case, whichever engine made it. */
const firstPlans = new Map<string, { engine: string; plan: PrunePlan }>();

for (const method of methods) {
  const { id, needs } = method;
  const testOn = (title: string, run: (engine: Engine) => Promise<void>, except = SLOW) =>
    testOnEngines(`${id}: ${title}`, run, { except });

  testOn("sparsity 0 keeps everything and leaves the logits as they are", async (engine) => {
    await forEachCase(method, engine, [0], async (model, given, title) => {
      const { plan, replaced } = await prune(model, given);
      assertSamePlan(title, plan, densePlan(model.config), ["the plan", "the dense model"]);
      if (Object.keys(replaced ?? {}).length === 0) return;
      using same = freed(await pruneModel(model, plan, replaced));
      const claim = "the replaced tensors must leave the dense model as it is";
      assertSameLogits(await logitsOf(same, probe), await logitsOf(model, probe), title, claim);
    });
  });

  testOn("meets the budget with a valid plan, and masking equals cutting", async (engine) => {
    await forEachCase(method, engine, LEVELS, async (model, given, title) => {
      const result = await prune(model, given);
      const left = leftBy(model.config, result.plan, title);
      assertMeetsBudget(model.config, left, given, title);
      if (method.uniformLayers(given.options)) assertUniform(left, title);
      await assertMaskedEqualsPruned(model, result, title);
    });
  });

  testOn("the same seed gives the same plan", async () => {
    using model = await onDevice(toySource({ layers: layersOf(MULTI_HEAD) }));
    const given: Case = { method, options: at(optionVariants(method), 0), units: ["ffn", "kv-groups"], sparsity: 0.5 };
    // No statistics are shared: the plan must not depend on who computed them.
    const [one, two] = [await prune(model, { ...given, seed: 3 }), await prune(model, { ...given, seed: 3 })];
    assertSamePlan(`${titleOf(given, "multi-head")}, seed 3`, one.plan, two.plan, ["one run", "another"]);
  });

  // Rounding errors grow in training, so plans of methods that learn may differ between engines.
  if (method.kind === "one-shot") {
    testOn("every engine gives the same plan", async (engine) => {
      await forEachCase(method, engine, LEVELS, async (model, given, title) => {
        const { plan } = await prune(model, given);
        const first = firstPlans.get(title);
        if (first) assertSamePlan(title, plan, first.plan, [engine.name, first.engine]);
        else firstPlans.set(title, { engine: engine.name, plan });
      });
    }, []);
  }

  if (method.granularity === "layer") {
    testOn("layers that do nothing go first", async (engine) => {
      for (const [name, { shape, units }] of Object.entries(models)) {
        const [ffn, kvGroups] = [range(0, shape.ffnChannels), range(0, shape.kvGroups)];
        const dead = [1, 2, 4].map((layer): DeadUnits => ({ layer, ffn, kvGroups }));
        using model = await onDevice(toySource({ layers: layersOf(shape), dead }));
        for (const options of optionVariants(method, isThorough(method, engine))) {
          const given: Case = { method, options, units: at(units, 0), sparsity: 0.5 };
          const kept = keptLayers((await prune(model, given)).plan);
          const title = titleOf(given, name);
          assertEquals(kept, [0, 3, 5], `${title}: layers 1, 2 and 4 do nothing and must go, but ${kept} stay`);
        }
      }
    });
  } else if (!RANKS_OTHERWISE.includes(id)) {
    testOn("units that do nothing go first", async (engine) => {
      for (const [name, { shape, units }] of Object.entries(models)) {
        const dead = range(0, LAYERS).map((layer): DeadUnits => ({
          layer,
          ffn: [layer, 20 + layer, 40, 41, 60 + 2 * layer],
          ...name === "grouped" ? { queryHeads: [layer % 2, 2 + (layer + 1) % 2] } : { kvGroups: [layer % 4] },
        }));
        using model = await onDevice(toySource({ layers: layersOf(shape), dead }));
        const cache = cacheFor(engine.name, name, "dead");
        for (const options of optionVariants(method, isThorough(method, engine))) {
          const given = { method, options, units: at(units, 0), sparsity: 0.5, cache };
          const { plan } = await prune(model, given);
          const title = titleOf(given, name);
          const gone = plan.layers.map((layer, l) =>
            assertDeadGoFirst(layer, at(dead, l), shape, `${title}, layer ${l}`)
          );
          assert(gone.some((count) => count > 0), `${title}: all units that do nothing stay`);
        }
      }
    });
  }

  if (needs.calibration || method.kind === "learned") {
    testOn("stops at an abort and frees what it held", async () => {
      const options = at(optionVariants(method), 0);
      // Windows of unequal length make several batches, so that there is something to stop between.
      const windows = [12, 13, 14, 15, 16].map((count) => toyTokens({ count, seed: count }));
      using model = await onDevice(toySource({ layers: layersOf(MULTI_HEAD) }));
      const abortAt = async (last: number): Promise<number> => {
        const controller = new AbortController();
        let reports = 0;
        const report = () => {
          if (++reports === last) controller.abort();
        };
        const given: Case = { method, options, units: ["ffn", "kv-groups"], sparsity: 0.25 };
        await prune(model, { ...given, calibration: windows, report, signal: controller.signal });
        return reports;
      };
      const all = await abortAt(Infinity);
      for (const last of new Set([1, Math.floor(all / 2), all - 1])) {
        const message =
          `${id}: an abort at report ${last} of ${all} must stop it. Check context.signal between batches`;
        await assertRejects(() => abortAt(last), DOMException, "abort", message);
      }
    });
  }

  if (needs.calibration) {
    testOn("refuses to work without calibration data", async () => {
      const options = at(optionVariants(method), 0);
      using model = await onDevice(toySource({ layers: layersOf(MULTI_HEAD) }));
      const given: Case = { method, options, units: ["ffn"], sparsity: 0.25, calibration: [] };
      await assertRejects(() => prune(model, given), UsageError, "calibration");
    });
  }

  Deno.test(`${id}: refuses unknown options; defaults survive a JSON round trip`, () => {
    assertThrows(() => parseOptions(method, { noSuchOption: 1 }), UsageError, "noSuchOption");
    const defaults = parseOptions(method, {});
    assertEquals(parseOptions(method, JSON.parse(JSON.stringify(defaults))), defaults);
  });

  Deno.test(`${id}: says what it does, where it is described, and its shapes`, async () => {
    const isOwnWork = ownFiles.has(id) && method.source === "this work";
    const names = (text: string, what: string) => {
      if (!isOwnWork) {
        assertMatch(text, /arXiv:\d{4}\.\d{5}/, `${id}: ${what} must name a paper, as in arXiv:2306.11695`);
      }
    };
    names(method.source, "source");
    assert(method.summary.length > 0 && !method.summary.endsWith("."), `${id}: the summary must be one phrase`);
    const { shape } = method.options as unknown as { shape: Record<string, { description?: string }> };
    for (const [name, { description }] of Object.entries(shape)) {
      assert(description !== undefined, `${id}: option "${name}" has no description`);
    }
    const docstring = at((await Deno.readTextFile(ownFiles.get(id) ?? shippedFile(id))).split("*/"), 0);
    names(docstring, "the first comment of the file");
    for (const word of ["Shapes", "Cost", "Deviations"]) {
      assert(docstring.includes(word), `${id}: the first comment of the file has no part "${word}"`);
    }
  });
}
