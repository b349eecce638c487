/** Times the model of a finished cell, dense and pruned in turns. Speed depends on shapes and not on values, so the
 * dense weights are cut by the record's plan, and nothing is trained.
 *
 * @module
 */
import { currentEngine } from "../../core/engine/engine.ts";
import { denseMatrix } from "../../core/engine/matrix.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { at } from "../../core/util/indexing.ts";
import type { Statistics } from "../../methods/define.ts";
import {
  type DecoderConfig,
  LINEAR_NAMES,
  type LinearName,
  linearShape,
  tensorNames,
  WRITING_NAMES,
} from "../../models/config.ts";
import { totalParameters } from "../../models/count.ts";
import type { DecoderModel } from "../../models/device.ts";
import { plannedConfig, type PrunePlan } from "../../models/plan.ts";
import { pruneByLayers } from "../../models/surgery.ts";
import { free } from "../pipeline/load.ts";
import type { StepOptions } from "../pipeline/step.ts";
import { time } from "../pipeline/time.ts";
import { describeEnvironment } from "./environment.ts";
import { loadDense } from "./make_model.ts";
import type { CellJob } from "./job.ts";
import type { Measured } from "./measure.ts";
import { createPhaseClock, timingsOf } from "./phase_clock.ts";
import { keptModel } from "./rebuild.ts";

/** The record's results with the throughput that its cell asks for. With `layerwise` the dense model is never whole on
 * the device, and the repeats do not alternate.
 * @throws {UsageError} when the model cannot be opened, or has fewer positions than are asked for.
 * @throws {EngineError} when the engine does not start or the device fails. */
export async function timeCell(
  job: Pick<CellJob, "cell" | "out" | "weights" | "device" | "layerwise">,
  host: StepOptions,
  before: DoneRecord,
): Promise<Measured> {
  const { cell, out, layerwise } = job;
  const clock = createPhaseClock("loadS");
  host.report?.("loading");
  const inLayers = layerwise === true && cell.method !== null;
  const dense = await loadDense(job, inLayers);
  const model = cell.method === null || cell.checkpoint
    ? await keptModel(out, before, { dense: dense.model, source: dense.source }, host)
    : await modelOfShape(dense.model, before);
  if (inLayers) free(dense);
  const engine = currentEngine();
  engine.check();
  clock.enter("throughputS");
  host.report?.("throughput");
  const measured = await time({ model }, {
    ...cell.throughput,
    dense: inLayers ? undefined : dense,
    signal: host.signal,
  });
  engine.check();
  const { engine: name, library, device: on, cpu } = describeEnvironment(engine, null);
  return {
    ...before,
    throughput: [
      ...before.throughput,
      ...measured.map((result) => ({ ...result, machine: { engine: name, library, device: on, cpu } })),
    ],
    timings: timingsOf(clock.seconds(), [], before.timings),
  };
}

/** A model with the shapes, biases and forms of matrices that the record's model has. */
async function modelOfShape(dense: DecoderModel, record: DoneRecord): Promise<DecoderModel> {
  const { plan, cell, size, changedWeights } = record;
  const biases = addedBiases(dense.config, record);
  const model = await pruneByLayers(dense, plan, zeroBiases(dense.config, biases));
  if (totalParameters(model.config) !== size.parameters) {
    throw new RangeError(`The record's model has ${size.parameters} parameters: its plan gives another shape`);
  }
  if (cell.weights !== "stored" || !changedWeights) return model;
  // Trained or corrected matrices no longer fit into 16 bits.
  const changed: readonly LinearName[] = cell.training ? LINEAR_NAMES : biases.length > 0 ? [] : WRITING_NAMES;
  for (const layer of model.layers) {
    for (const name of changed) {
      const { weight } = layer[name];
      layer[name].weight = denseMatrix(weight);
      weight.dispose();
    }
  }
  return model;
}

/** Linear maps to which the method added a bias. A record gives the number of parameters, and methods add biases to the
 * output and down maps, first to those that lost inputs. */
export function addedBiases(
  dense: DecoderConfig,
  { plan, size }: { plan: PrunePlan; size: { parameters: number } },
): LinearName[] {
  const planned = plannedConfig(dense, plan);
  const perMap = planned.layers.length * planned.width;
  const inputs = (config: DecoderConfig, name: LinearName) =>
    Math.min(...config.layers.map((layer) => linearShape(config, layer, name)[1]));
  const isCut = (name: LinearName) => inputs(planned, name) < inputs(dense, name);
  const candidates = (["down", "output"] as const).filter((name) => !dense.biases.includes(name))
    .sort((a, b) => Number(isCut(b)) - Number(isCut(a)));
  return candidates.slice(0, Math.round((size.parameters - totalParameters(planned)) / perMap));
}

function zeroBiases(dense: DecoderConfig, names: readonly LinearName[]): Statistics {
  return Object.fromEntries(names.map((name) => {
    const [out] = linearShape(dense, at(dense.layers, 0), name);
    return [tensorNames.bias(0, name), { shape: [out], data: new Float32Array(out) }];
  }));
}
