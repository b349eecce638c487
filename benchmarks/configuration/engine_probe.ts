/** Whether an engine starts here. It is started in its own process, because native libraries print, may crash and use
 * memory. As a program: `engine_probe.ts NAME [OPTIONS as JSON [rate]]`.
 *
 * @module
 */
import { listCudaDevices, NVIDIA_SMI, visibleDevices, visibleSetting } from "../../core/engine/cuda.ts";
import { type EngineOptions, measureRate, startBestEngine, startEngine } from "../../core/engine/engine.ts";
import { EngineError } from "../../core/util/errors.ts";
import type { EngineName, RunConfig } from "../../core/schema/schema.ts";
import { denoOutput } from "../../core/util/deno_run.ts";

/** An engine that starts. */
export interface ProbedEngine {
  name: EngineName;
  library: string;
  device: string;
  /** Where tensors lie, and how much memory there is, in bytes. */
  memory: { place: string; totalBytes: number };
  decoderOps: boolean;
  /** On CUDA: UUIDs of the GPUs that may be used; empty if `nvidia-smi` does not list them. */
  gpus?: string[];
  /** For `auto`: why this one. */
  note?: string;
  /** Of a product of matrices, if asked for. */
  flopsPerS?: number;
}

/** Starts `name` in a process of its own and describes it; with `rate`, measures how fast it multiplies.
 * @throws {EngineError} when it does not start or the device is not there, with the reason. */
export async function probeEngine(
  name: RunConfig["engine"],
  options: EngineOptions = {},
  rate = false,
): Promise<ProbedEngine> {
  const args = [name, JSON.stringify(options), ...rate ? ["rate"] : []];
  const program = { script: import.meta.filename!, args, ffi: true, program: NVIDIA_SMI };
  const { line, errors, how } = await denoOutput(program);
  let probe: ProbedEngine | { reason: string };
  try {
    probe = JSON.parse(line);
  } catch {
    throw new EngineError(`Engine "${name}" ended its process (${how}): ${errors}`);
  }
  if ("reason" in probe) throw new EngineError(probe.reason);
  return probe;
}

/** GPUs that cells of this run may use. */
function usableGpus(visible: string | undefined): string[] {
  try {
    return visibleDevices(listCudaDevices(), visible).map(({ uuid }) => uuid);
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    return [];
  }
}

async function probeHere(
  name: RunConfig["engine"],
  options: EngineOptions,
  rate: boolean,
): Promise<ProbedEngine | { reason: string }> {
  // Starting the engine hides all GPUs but one.
  const visible = visibleSetting();
  try {
    const { engine, note } = name === "auto"
      ? await startBestEngine(options)
      : { engine: await startEngine(name, options), note: undefined };
    const { library, device, memory, decoderOps, isCuda } = engine;
    return {
      name: engine.name,
      library,
      device,
      memory: { place: memory.place, totalBytes: memory.totalBytes() },
      decoderOps,
      ...isCuda && { gpus: usableGpus(visible) },
      ...rate && { flopsPerS: await measureRate() },
      note,
    };
  } catch (error) {
    return { reason: (error as Error).message };
  }
}

if (import.meta.main) {
  const [name, options = "{}", rate] = Deno.args;
  console.log(JSON.stringify(await probeHere(name as RunConfig["engine"], JSON.parse(options), rate === "rate")));
  Deno.exit(0);
}
