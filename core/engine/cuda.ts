/** NVIDIA GPUs of this machine: names, memory, and reasons why none can be used.
 *
 * Memory is read from `nvidia-smi`, so that no process needs a CUDA context for it. Only processes that run on CUDA, or
 * test whether they can, may call it ({@linkcode NVIDIA_SMI}).
 *
 * @module
 */
import { EngineError } from "../util/errors.ts";
import { at } from "../util/indexing.ts";

/** Name of NVIDIA's program. */
export const NVIDIA_SMI = "nvidia-smi";

/** A GPU. */
export interface CudaDevice {
  /** Its name in `CUDA_VISIBLE_DEVICES`. */
  uuid: string;
  /** Number in `nvidia-smi`, by place on the bus. */
  index: number;
  name: string;
  totalBytes: number;
  freeBytes: number;
  usedBytes: number;
}

const FIELDS = ["index", "uuid", "name", "memory.total", "memory.free", "memory.used"];
const MEBIBYTE = 2 ** 20;

/** Lines of `nvidia-smi --query-gpu`, one per GPU.
 * @throws {EngineError} on any other line. */
export function parseCudaDevices(text: string): CudaDevice[] {
  return text.split("\n").filter((line) => line.trim() !== "").map((line) => {
    const [index, uuid = "", name = "", ...memory] = line.split(",").map((part) => part.trim());
    const [totalBytes = NaN, freeBytes = NaN, usedBytes = NaN] = memory.map((part) => Number(part) * MEBIBYTE);
    const device = { uuid, index: Number(index), name, totalBytes, freeBytes, usedBytes };
    if (uuid !== "" && [device.index, totalBytes, freeBytes, usedBytes].every(Number.isFinite)) return device;
    throw new EngineError(`${NVIDIA_SMI} answers "${line.trim()}", which is not ${FIELDS.join(", ")}`);
  });
}

/** Every GPU of the machine, or the one with this `uuid`, from `nvidia-smi`.
 * @throws {EngineError} when it fails, with the reason. */
export function listCudaDevices(uuid?: string): CudaDevice[] {
  const args = [`--query-gpu=${FIELDS.join(",")}`, "--format=csv,noheader,nounits", ...uuid ? [`--id=${uuid}`] : []];
  let output: Deno.CommandOutput;
  try {
    output = new Deno.Command(NVIDIA_SMI, { args, stdin: "null" }).outputSync();
  } catch (cause) {
    throw new EngineError(`${NVIDIA_SMI} cannot be run (${(cause as Error).message})`, { cause });
  }
  const decoder = new TextDecoder();
  const stdout = decoder.decode(output.stdout);
  if (!output.success) {
    const said = (decoder.decode(output.stderr) || stdout).trim().split("\n").slice(-1)[0];
    throw new EngineError(`${NVIDIA_SMI} failed: ${said}`);
  }
  return parseCudaDevices(stdout);
}

/** The devices that `CUDA_VISIBLE_DEVICES` = `visible` allows, in its order. Numbers are those of `nvidia-smi`, names
 * may be prefixes. As in CUDA, the list ends at the first entry that names no GPU. */
export function visibleDevices(devices: readonly CudaDevice[], visible: string | undefined): CudaDevice[] {
  if (visible === undefined) return [...devices];
  const found: CudaDevice[] = [];
  for (const entry of visible.split(",").map((part) => part.trim())) {
    const device = devices.find(({ uuid, index }) =>
      /^\d+$/.test(entry) ? index === Number(entry) : entry !== "" && uuid.startsWith(entry)
    );
    if (!device || found.includes(device)) break;
    found.push(device);
  }
  return found;
}

/** `CUDA_VISIBLE_DEVICES` of this process. */
export const visibleSetting = (): string | undefined => Deno.env.get("CUDA_VISIBLE_DEVICES");

const DRIVER_CODES: Readonly<Record<number, string>> = {
  100: "it finds no GPU",
  101: "it knows no GPU of that number",
  803: "driver and library are of different versions: restart the machine",
  804: "the GPU does not take the compatibility library",
};

/** Why CUDA's driver finds no GPU for this process; null if it finds one. Needs the right to load native code. */
export function whyNoGpu(): string | null {
  const symbols = {
    cuInit: { parameters: ["u32"], result: "i32" },
    cuDeviceGetCount: { parameters: ["buffer"], result: "i32" },
  } as const;
  let driver: Deno.DynamicLibrary<typeof symbols>;
  try {
    driver = Deno.dlopen("libcuda.so.1", symbols);
  } catch {
    return "no NVIDIA driver is installed (libcuda.so.1 is not found)";
  }
  const visible = visibleSetting();
  const seen = visible === undefined ? "" : ` with CUDA_VISIBLE_DEVICES="${visible}"`;
  const code = driver.symbols.cuInit(0);
  if (code !== 0) return `the NVIDIA driver answers with error ${code}: ${DRIVER_CODES[code] ?? "see its log"}${seen}`;
  const count = new Int32Array(1);
  driver.symbols.cuDeviceGetCount(count);
  return at(count, 0) > 0 ? null : `the NVIDIA driver finds no GPU${seen}`;
}
