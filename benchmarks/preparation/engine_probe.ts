/** Whether an engine starts here, found out in a process of its own: native libraries print what they like, may crash,
 * and would make every cell's process look as large as theirs. As a program: `engine_probe.ts NAME`.
 *
 * @module
 */
import { join } from "node:path";
import { z } from "zod";
import { startBestEngine, startEngine } from "../../core/engine.ts";
import { EngineError } from "../../core/errors.ts";
import { ENGINE_NAMES, type RunConfig } from "../../core/schema.ts";
import { denoRun } from "../../core/deno_run.ts";

const probeSchema = z.union([
  z.strictObject({ name: z.enum(ENGINE_NAMES), library: z.string(), device: z.string(), note: z.string().optional() }),
  z.strictObject({ reason: z.string() }),
]);

/** An engine that starts. */
export interface ProbedEngine {
  /** Never `auto`. */
  name: (typeof ENGINE_NAMES)[number];
  /** Library versions. */
  library: string;
  /** What it runs on. */
  device: string;
  /** For `auto`: why this one. */
  note?: string;
}

/** Starts `name` in a process of its own and tells about it.
 * @throws {EngineError} when it does not start, with the reason. */
export async function probeEngine(name: RunConfig["engine"]): Promise<ProbedEngine> {
  const { stdout, stderr, code, signal } = await new Deno.Command("deno", {
    args: denoRun({ script: join(import.meta.dirname!, "engine_probe.ts"), args: [name], ffi: true }),
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

async function probeHere(name: RunConfig["engine"]): Promise<z.infer<typeof probeSchema>> {
  try {
    const { engine, note } = name === "auto"
      ? await startBestEngine()
      : { engine: await startEngine(name), note: undefined };
    return { name: engine.name, library: engine.library, device: engine.device, note };
  } catch (error) {
    return { reason: (error as Error).message };
  }
}

if (import.meta.main) {
  console.log(JSON.stringify(await probeHere(Deno.args[0] as RunConfig["engine"])));
  Deno.exit(0);
}
