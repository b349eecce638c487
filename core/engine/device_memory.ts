/** Memory of what computes: of this process on the CPU, of the GPU on CUDA, of the adapter on WebGPU.
 *
 * @module
 */
import process from "node:process";
import { type CudaDevice, listCudaDevices } from "./cuda.ts";
import { EngineError } from "../util/errors.ts";
import { at } from "../util/indexing.ts";

/** A number of bytes and what was measured. */
export interface MemoryReading {
  bytes: number;
  /** What the number is, for records. */
  measure: string;
}

/** The memory in which tensors lie. */
export interface DeviceMemory {
  /** Whose memory it is, in words. */
  place: string;
  /** All of it, in bytes. */
  totalBytes(): number;
  /** What tensors may still take, in bytes. */
  freeBytes(): number;
  /** What is taken now, in bytes. */
  usedBytes(): number;
  /** The most that was taken so far. */
  peak(): MemoryReading;
}

/** How much is free and how much there is, for messages. */
export function memoryWords({ place, totalBytes, freeBytes }: DeviceMemory): string {
  const gibibytes = (bytes: number) => (bytes / 2 ** 30).toFixed(1);
  return `${place}: ${gibibytes(freeBytes())} of ${gibibytes(totalBytes())} GiB free`;
}

/** Memory of the process.
 *
 * The peak is the operating system's own record (`getrusage`), so no moment is missed. On Linux that record begins with
 * the resident set of the process that launched this one: start cells from a small process. Where it is not kept, the
 * current resident set is given and named so. */
export const hostMemory: DeviceMemory = {
  place: "the machine",
  totalBytes: () => Deno.systemMemoryInfo().total,
  freeBytes: () => Deno.systemMemoryInfo().available,
  usedBytes: () => Deno.memoryUsage().rss,
  peak: () => {
    const { maxRSS } = process.resourceUsage();
    if (maxRSS > 0) return { bytes: maxRSS * 1024, measure: "peak resident set of the process (getrusage)" };
    return { bytes: Deno.memoryUsage().rss, measure: "resident set of the process at the end" };
  },
};

/** Memory of a GPU, as `ask` tells of it (`nvidia-smi` unless given). TensorFlow takes memory as it needs it and gives none
 * back, so what is taken at the end is the most that was taken. `device` is how the GPU was before TensorFlow started: what
 * others held then is not counted. */
export function cudaMemory(
  device: CudaDevice,
  ask: () => CudaDevice = () => at(listCudaDevices(device.uuid), 0),
): DeviceMemory {
  let latest = device;
  const look = (): CudaDevice => {
    try {
      latest = ask();
    } catch (error) {
      // A look that fails must not cost what a long cell has measured.
      if (!(error instanceof EngineError)) throw error;
    }
    return latest;
  };
  const usedBytes = () => Math.max(0, look().usedBytes - device.usedBytes);
  return {
    place: `the GPU (${device.name})`,
    totalBytes: () => device.totalBytes,
    freeBytes: () => look().freeBytes,
    usedBytes,
    peak: () => ({
      bytes: usedBytes(),
      measure: "GPU memory taken by the end, of which none is given back (nvidia-smi)",
    }),
  };
}

/** Memory of a WebGPU adapter, which says how large a buffer may be and not how much memory there is: a batch may take
 * what four of the largest buffers hold, and no more than the machine has free. `allocatedBytes`: what TensorFlow.js holds;
 * it keeps buffers for the next tensor. */
export function adapterMemory(name: string, maxTensorBytes: number, allocatedBytes: () => number): DeviceMemory {
  const most = 4 * maxTensorBytes;
  return {
    place: `the adapter (${name}; from its limits)`,
    totalBytes: () => most,
    freeBytes: () => Math.min(most, hostMemory.freeBytes()),
    usedBytes: allocatedBytes,
    peak: () => ({
      bytes: allocatedBytes(),
      measure: "buffers of the WebGPU device at the end, kept for the next tensors",
    }),
  };
}
