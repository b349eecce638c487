/** Peak rates and memory of well-known devices, for plans of runs: the least time that arithmetic and memory allow.
 *
 * @module
 */
import { unknownName } from "../../core/util/errors.ts";

/** A device as its maker describes it. */
export interface DeviceSheet {
  /** Full name. */
  name: string;
  /** Multiply and add counted as two, per second: f32 on the vector units, as arithmetic `exact` has it. */
  f32FlopsPerS: number;
  /** The same with TF32 products on the tensor cores, dense, as arithmetic `fast` has it; absent where there is none. */
  tf32FlopsPerS?: number;
  /** Device memory. */
  memoryBytes: number;
  /** Of the device memory. */
  bytesPerS: number;
  /** Where the numbers stand. */
  source: string;
}

const sheet = (
  name: string,
  [f32, tf32]: [f32Tflops: number, tf32Tflops?: number],
  [gigabytes, gigabytesPerS]: [number, number],
  source: string,
): DeviceSheet => ({
  name,
  f32FlopsPerS: f32 * 1e12,
  ...tf32 !== undefined && { tf32FlopsPerS: tf32 * 1e12 },
  memoryBytes: gigabytes * 1e9,
  bytesPerS: gigabytesPerS * 1e9,
  source,
});

/** Devices that a plan may name. TF32 rates are those without sparsity, half of what NVIDIA's sheets print with it. */
export const DEVICES: Readonly<Record<string, DeviceSheet>> = {
  "h200": sheet("NVIDIA H200 SXM", [67, 494.5], [141, 4800], "NVIDIA H200 data sheet"),
  "h100": sheet("NVIDIA H100 SXM", [67, 494.5], [80, 3350], "NVIDIA H100 data sheet"),
  "a100": sheet("NVIDIA A100 SXM 80 GB", [19.5, 156], [80, 2039], "NVIDIA A100 data sheet"),
  "a100-40gb": sheet("NVIDIA A100 SXM 40 GB", [19.5, 156], [40, 1555], "NVIDIA A100 data sheet"),
  "l40s": sheet("NVIDIA L40S", [91.6, 183], [48, 864], "NVIDIA L40S data sheet"),
  "l4": sheet("NVIDIA L4", [30.3, 60], [24, 300], "NVIDIA L4 data sheet"),
  "v100": sheet("NVIDIA V100 SXM2 32 GB", [15.7], [32, 900], "NVIDIA V100 data sheet"),
  "rtx-4090": sheet("NVIDIA GeForce RTX 4090", [82.6, 82.6], [24, 1008], "NVIDIA Ada architecture paper, appendix A"),
  "rtx-3090": sheet("NVIDIA GeForce RTX 3090", [35.6, 35.6], [24, 936], "NVIDIA Ampere GA102 paper, appendix A"),
};

/** The device that `--on` names.
 * @throws {UsageError} when it is none of {@linkcode DEVICES}. */
export function deviceSheet(id: string): DeviceSheet {
  const found = Object.hasOwn(DEVICES, id.toLowerCase()) ? DEVICES[id.toLowerCase()] : undefined;
  if (!found) throw unknownName("device", id, Object.keys(DEVICES));
  return found;
}
