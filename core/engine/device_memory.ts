/** Memory of the device: of this process on the CPU, of the GPU on CUDA, of the adapter on WebGPU.
 *
 * @module
 */
import process from "node:process";
import { type CudaDevice, listCudaDevices } from "./cuda.ts";
import { EngineError } from "../util/errors.ts";
import { at } from "../util/indexing.ts";

/** The memory that holds tensors. */
export interface DeviceMemory {
  /** Owner of the memory, in words. */
  place: string;
  totalBytes(): number;
  /** Bytes that tensors may still take. */
  freeBytes(): number;
  usedBytes(): number;
  /** Largest use so far, and what the number means, for records. */
  peak(): { bytes: number; measure: string };
}

/** Free and total memory, for messages. */
export function memoryWords({ place, totalBytes, freeBytes }: DeviceMemory): string {
  const gibibytes = (bytes: number) => (bytes / 2 ** 30).toFixed(1);
  return `${place}: ${gibibytes(freeBytes())} of ${gibibytes(totalBytes())} GiB free`;
}

/** Memory of the process.
 *
 * The peak is the operating system's record (`getrusage`), so no moment is missed. On Linux the record begins with the
 * resident set of the process that launched this one: start cells from a small process. Without such a record, the peak
 * is the current resident set and named so. */
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

/** Memory of a GPU as `ask` reports it (default `nvidia-smi`). TensorFlow never returns memory, so its use at the end
 * is its peak. `device` is the GPU before TensorFlow started: memory of other processes at that time is not counted. */
export function cudaMemory(
  device: CudaDevice,
  ask: () => CudaDevice = () => at(listCudaDevices(device.uuid), 0),
): DeviceMemory {
  let latest = device;
  const look = (): CudaDevice => {
    try {
      latest = ask();
    } catch (error) {
      // A failed query must not lose the results of a long cell.
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

/** Memory of a WebGPU adapter. An adapter reports its largest buffer and not its memory, so a batch may take four of
 * the largest buffers, and at most the machine's free memory. `allocatedBytes`: buffers of TensorFlow.js, which it
 * reuses. */
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
