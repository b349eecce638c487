import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { checkConditions } from "../../benchmarks/configuration/latency_table.ts";
import { writeRecord } from "../../benchmarks/records/store.ts";
import { timedShapes } from "../../benchmarks/pipeline/latency.ts";
import type { LatencyTable, RunUnit } from "../../core/schema/schema.ts";
import { at } from "../../core/util/indexing.ts";
import { UsageError } from "../../core/util/errors.ts";
import type { DecoderConfig } from "../../models/config.ts";
import { attentionWeights, layerTimes, resourceOf } from "../../models/latency.ts";
import { costOf, MACS, PARAMETERS } from "../../models/resource.ts";
import { resolveTarget } from "../../models/target.ts";
import type { LayerShape } from "../../models/units.ts";
import { doneRecord } from "../support/reports_fixture.ts";
import { toyConfig } from "../support/toy.ts";
import { folderTest } from "../support/weights_fixture.ts";

const DENSE: LayerShape = { kvGroups: 4, queryHeadsPerGroup: 2, ffnChannels: 64 };

const configOf = (layers: number): DecoderConfig =>
  toyConfig({ layers: Array.from({ length: layers }, () => ({ ...DENSE })) });

/** A table in which a model takes `restMs` and each layer `time`; `noise` is the error of each point. */
function tableOf(
  config: DecoderConfig,
  time: (shape: LayerShape) => number,
  { restMs = 5, noise = () => 1 }: { restMs?: number; noise?: () => number } = {},
): LatencyTable {
  const sizeOf = ({ layers, ...shape }: LayerShape & { layers: number }) => ({
    layers,
    ffnChannels: shape.ffnChannels,
    attentionWeights: attentionWeights(config, shape),
  });
  const dense = { ...at(config.layers, 0), layers: config.layers.length };
  const denseMs = restMs + dense.layers * time(dense);
  return {
    of: {
      ...{ budget: "decode-ms", weights: "w", form: "f32", arithmetic: "exact", tokens: 128, batch: 1 },
      ...{ engine: "wasm", library: "l", device: "cpu", cpu: "A" },
    },
    ...{ otherCores: 0, startedAt: "", seconds: 1, command: "" },
    dense: sizeOf(dense),
    points: timedShapes(config).map((shape) => {
      // Drift meets both models of a repeat.
      const drift = [1, 1.5, 0.9];
      const ms = (restMs + shape.layers * time(shape)) * noise();
      return {
        ...sizeOf(shape),
        samplesMs: drift.map((factor) => factor * ms),
        denseSamplesMs: drift.map((factor) => factor * denseMs),
      };
    }),
  };
}

/** Time with a fixed part, so much for each query head, and a kink in the channels at half of them. */
const kinked = ({ kvGroups, queryHeadsPerGroup, ffnChannels }: LayerShape) =>
  1 + 0.25 * (2 * kvGroups * queryHeadsPerGroup + 2 * kvGroups) + 0.1 * Math.min(ffnChannels, 32) +
  0.05 * Math.max(0, ffnChannels - 32);

Deno.test("layerTimes() gives the times that a table was made of, between the measured widths too", () => {
  const config = configOf(6);
  const { denseMs, restMs, ofLayer } = layerTimes(tableOf(config, kinked));
  assertAlmostEquals(restMs, 5, 1e-9);
  assertAlmostEquals(denseMs, 5 + 6 * kinked(DENSE), 1e-9);
  for (const ffnChannels of [1, 4, 30, 32, 47, 64]) {
    for (const [kvGroups, queryHeadsPerGroup] of [[4, 2], [3, 2], [1, 2], [1, 1]] as const) {
      const shape = { kvGroups, queryHeadsPerGroup, ffnChannels };
      assertAlmostEquals(ofLayer(config, shape), kinked(shape), 1e-9);
    }
  }
  // What is left without channels is attention's.
  assertAlmostEquals(ofLayer(config, { ...DENSE, ffnChannels: 0 }), kinked({ ...DENSE, ffnChannels: 0 }), 1e-9);
});

Deno.test("layerTimes() never rises where a width falls, and meets a time within 5 % if models' times are 1 % off", () => {
  const config = configOf(4);
  const errors = fc.array(fc.double({ min: 0.99, max: 1.01, noNaN: true }), { minLength: 8, maxLength: 8 });
  fc.assert(fc.property(errors, fc.double({ min: 0.1, max: 0.6, noNaN: true }), (found, sparsity) => {
    const left = found.values();
    const table = tableOf(config, kinked, { noise: () => left.next().value! });
    const { ofLayer, restMs } = layerTimes(table);
    const time = (ffnChannels: number) => ofLayer(config, { ...DENSE, ffnChannels });
    const times = [64, 50, 40, 32, 20, 16, 8, 4, 1].map(time);
    times.slice(1).forEach((ms, i) => assert(ms >= 0 && ms <= at(times, i) + 1e-9, `${times}`));
    const resource = resourceOf("decode-ms", table);
    const { uniform } = resolveTarget(config, { sparsity, units: ["ffn", "kv-groups"], resource });
    const asked = restMs + (1 - sparsity) * 4 * time(64);
    assertAlmostEquals((5 + 4 * kinked(at(uniform, 0))) / asked, 1, 0.05);
  }));
});

Deno.test("resolveTarget() finds the widest layers of a budget in any resource, as trying all of them does", () => {
  const config = configOf(5);
  const resources = [PARAMETERS, MACS, resourceOf("decode-ms", tableOf(config, kinked))];
  fc.assert(fc.property(
    fc.constantFrom(...resources),
    fc.integer({ min: 1, max: 90 }),
    fc.constantFrom<RunUnit[]>(["ffn"], ["ffn", "layers"], ["layers"]),
    fc.option(fc.integer({ min: 1, max: 4 }), { nil: undefined }),
    (resource, percent, units, dropLayers) => {
      const whole = costOf(resource, config);
      const budget = whole * (100 - percent) / 100 + 1e-6;
      const depths = dropLayers !== undefined ? [dropLayers] : units.includes("layers") ? [0, 1, 2, 3, 4] : [0];
      const widths = units.includes("ffn") ? Array.from({ length: 64 }, (_, i) => 64 - i) : [64];
      const found = depths.flatMap((gone) => {
        const ffnChannels = widths.find((width) =>
          (5 - gone) * resource.ofLayer(config, { ...DENSE, ffnChannels: width }) <= budget
        );
        return ffnChannels === undefined ? [] : [{ gone, ffnChannels }];
      }).at(0);
      const asked = { sparsity: percent / 100, units, resource, dropLayers };
      // One layer less would do, too.
      const tooMany = dropLayers !== undefined && 20 * (dropLayers - 1) >= percent;
      if (found === undefined || tooMany) {
        assertThrows(() => resolveTarget(config, asked), UsageError);
        return;
      }
      const target = resolveTarget(config, asked);
      assertEquals([target.dropLayers, target.uniform.length], [found.gone, 5 - found.gone]);
      assertEquals(at(target.uniform, 0).ffnChannels, found.ffnChannels);
      assert(costOf(resource, config, target.uniform) <= target.budget + 1e-6);
    },
  ));
});

Deno.test("resolveTarget() names the largest sparsity of a budget in time, and meets it", () => {
  const resource = resourceOf("decode-ms", tableOf(configOf(5), kinked));
  for (const asked of [{ units: ["ffn"] as const }, { units: ["ffn", "layers"] as const }]) {
    const resolve = (sparsity: number) => resolveTarget(configOf(5), { ...asked, resource, sparsity });
    const words = "Sparsity 0.999 of the milliseconds of decoding cannot be reached";
    const { message } = assertThrows(() => resolve(0.999), UsageError, words);
    const sparsity = Number(message.match(/largest is ([\d.]+)/)![1]);
    assertEquals(at(resolve(sparsity).uniform, 0).ffnChannels, 1);
    assertThrows(() => resolve(sparsity + 0.001), UsageError);
  }
  const rounded = { units: ["layers"] as const, resource: { ...resource, ofLayer: () => 0.7 } };
  const gone = [0.1, 0.3, 0.6].map((sparsity) => resolveTarget(configOf(30), { ...rounded, sparsity }).dropLayers);
  assertEquals(gone, [3, 9, 18]);
  const tooDeep = { units: ["ffn"] as const, resource, sparsity: 0.3, dropLayers: 3 };
  assertThrows(() => resolveTarget(configOf(5), tooDeep), UsageError, "--drop-layers 2 or less");
});

folderTest("checkConditions() refuses times of another machine, engine or length, and names what differs", (out) => {
  const table = tableOf(configOf(2), kinked);
  const record = doneRecord({ method: "flap", sparsity: 0.2, seed: 1 });
  const cells = [{ id: record.id, cell: record.cell }];
  checkConditions(out, table, { here: { ...table.of }, cells });
  const here = { ...table.of, tokens: 64, cpu: "B", engine: "tensorflow" };
  const refused = () => assertThrows(() => checkConditions(out, table, { here, cells }), UsageError);
  const { message } = refused();
  for (const words of ["decode-ms.json", "engine wasm, now tensorflow", "cpu A, now B", "tokens 128, now 64"]) {
    assert(message.includes(words), message);
  }
  assert(!message.includes("library"), message);
  writeRecord(out, record);
  checkConditions(out, table, { here, cells });
  writeRecord(out, { ...record, throughput: [] });
  refused();
});
