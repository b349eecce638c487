/** GPUs that a dry run may name instead of this machine.
 *
 * @module
 */
import { unknownName } from "../../core/util/errors.ts";

/** A GPU by its maker's numbers. */
export interface DeviceSheet {
  name: string;
  memoryBytes: number;
  /** Peak rate, multiply and add counted as two: f32 on the vector units (`--arithmetic exact`). */
  f32FlopsPerS: number;
  /** Peak rate of TF32 products without sparsity (`--arithmetic fast`); f32's if the GPU has none. */
  tf32FlopsPerS: number;
}

const sheet = (name: string, gigabytes: number, f32Tflops: number, tf32Tflops = f32Tflops): DeviceSheet => ({
  name,
  memoryBytes: gigabytes * 1e9,
  f32FlopsPerS: f32Tflops * 1e12,
  tf32FlopsPerS: tf32Tflops * 1e12,
});

/** Devices by the name that `--on` takes. Source: NVIDIA's data sheets; for GeForce, its architecture papers. */
export const DEVICES: Readonly<Record<string, DeviceSheet>> = {
  "h200": sheet("NVIDIA H200 SXM", 141, 67, 494.5),
  "h100": sheet("NVIDIA H100 SXM", 80, 67, 494.5),
  "a100": sheet("NVIDIA A100 SXM 80 GB", 80, 19.5, 156),
  "a100-40gb": sheet("NVIDIA A100 SXM 40 GB", 40, 19.5, 156),
  "l40s": sheet("NVIDIA L40S", 48, 91.6, 183),
  "l4": sheet("NVIDIA L4", 24, 30.3, 60),
  "v100": sheet("NVIDIA V100 SXM2 32 GB", 32, 15.7),
  "rtx-4090": sheet("NVIDIA GeForce RTX 4090", 24, 82.6),
  "rtx-3090": sheet("NVIDIA GeForce RTX 3090", 24, 35.6),
};

/** The device that `--on` names, in any case.
 * @throws {UsageError} when it is none of {@linkcode DEVICES}. */
export function deviceSheet(id: string): DeviceSheet {
  const found = Object.entries(DEVICES).find(([name]) => name === id.toLowerCase())?.[1];
  if (!found) throw unknownName("device", id, Object.keys(DEVICES));
  return found;
}
