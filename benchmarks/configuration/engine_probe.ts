/** Whether an engine starts here. It is started in a process of its own: native libraries print, may crash, and would
 * make every cell's process look as large as theirs. As a program: `engine_probe.ts NAME [OPTIONS as JSON [rate]]`.
 *
 * @module
 */
import { join } from "node:path";
import { z } from "zod";
import { listCudaDevices, NVIDIA_SMI, visibleDevices, visibleSetting } from "../../core/engine/cuda.ts";
import { type EngineOptions, measureRate, startBestEngine, startEngine } from "../../core/engine/engine.ts";
import { EngineError } from "../../core/util/errors.ts";
import { ENGINE_NAMES, type RunConfig } from "../../core/schema/schema.ts";
import { denoRun } from "../../core/util/deno_run.ts";

const engineSchema = z.strictObject({
  name: z.enum(ENGINE_NAMES).describe("never `auto`"),
  library: z.string().describe("library versions"),
  device: z.string().describe("what it runs on"),
  memory: z.strictObject({ place: z.string(), totalBytes: z.number(), freeBytes: z.number() }).describe(
    "where tensors lie, how much there is, and what is free before a model is loaded",
  ),
  decoderOps: z.boolean().describe("as in `Engine`"),
  gpus: z.array(z.string()).optional().describe(
    "on CUDA: UUIDs of the GPUs that may be used; empty where nvidia-smi does not say",
  ),
  note: z.string().optional().describe("for `auto`: why this one"),
  flopsPerS: z.number().optional().describe("of a product of matrices, if asked for"),
});
const probeSchema = z.union([engineSchema, z.strictObject({ reason: z.string() })]);

/** An engine that starts. */
export type ProbedEngine = z.infer<typeof engineSchema>;

/** Starts `name` in a process of its own and describes it; with `rate`, measures how fast it multiplies.
 * @throws {EngineError} when it does not start or the device is not there, with the reason. */
export async function probeEngine(
  name: RunConfig["engine"],
  options: EngineOptions = {},
  rate = false,
): Promise<ProbedEngine> {
  const script = join(import.meta.dirname!, "engine_probe.ts");
  const { stdout, stderr, code, signal } = await new Deno.Command("deno", {
    args: denoRun({
      script,
      args: [name, JSON.stringify(options), ...rate ? ["rate"] : []],
      ffi: true,
      program: NVIDIA_SMI,
    }),
    stdout: "piped",
    stderr: "piped",
  }).output();
  const decoder = new TextDecoder();
  const line = decoder.decode(stdout).trim().split("\n").pop()!;
  let probe: z.infer<typeof probeSchema>;
  try {
    probe = probeSchema.parse(JSON.parse(line));
  } catch {
    const how = signal ?? `exit code ${code}`;
    throw new EngineError(`Engine "${name}" ended its process (${how}): ${decoder.decode(stderr).trim().slice(-1000)}`);
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
): Promise<z.infer<typeof probeSchema>> {
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
      memory: { place: memory.place, totalBytes: memory.totalBytes(), freeBytes: memory.freeBytes() },
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
