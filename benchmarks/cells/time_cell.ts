/** Times the model of a finished cell, as its run kept it, in turns with the dense one.
 *
 * @module
 */
import { currentEngine } from "../../core/engine/engine.ts";
import type { DoneRecord } from "../../core/schema/schema.ts";
import { free } from "../pipeline/load.ts";
import type { StepOptions } from "../pipeline/step.ts";
import { time } from "../pipeline/time.ts";
import { describeEnvironment } from "./environment.ts";
import type { CellJob } from "./job.ts";
import { loadDense } from "./make_model.ts";
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
  const model = await keptModel(out, before, { dense: dense.model, source: dense.source }, host);
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
