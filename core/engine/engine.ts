/** Starts a TensorFlow.js backend, checks that it is the requested one and computes correctly, and turns device errors
 * into exceptions. A process runs one engine at a time.
 *
 * - `wasm`: needs nothing but npm; single-threaded under Deno, SIMD on. For models up to about 10 M parameters.
 * - `tensorflow`: `@tensorflow/tfjs-node-gpu` on a current TensorFlow (CPU or CUDA), from `deno task setup:tensorflow`.
 * - `webgpu`: GPUs without CUDA, through Deno's `navigator.gpu`.
 * - `cpu`: plain JavaScript; the slow reference of tests.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { join } from "node:path";
import util from "node:util";
import type { Arithmetic, EngineName } from "../schema/schema.ts";
import { type CudaDevice, listCudaDevices, visibleDevices, visibleSetting, whyNoGpu } from "./cuda.ts";
import { adapterMemory, cudaMemory, type DeviceMemory, hostMemory, memoryWords } from "./device_memory.ts";
import { EngineError, unknownName } from "../util/errors.ts";
import { at } from "../util/indexing.ts";
import { loadDecoderOps } from "./native_ops.ts";
import { isThere } from "../util/paths.ts";
import { ROOT } from "../util/user_folder.ts";
import { counted } from "../util/words.ts";

/** Settings of an engine. */
export interface EngineOptions {
  /** `cuda` or `cpu` for `tensorflow`, part of the adapter's name for `webgpu`, `cpu` for the others. Default: any. */
  device?: string;
  arithmetic?: Arithmetic;
}

/** A started engine. */
export interface Engine {
  name: EngineName;
  /** Library versions, such as `tfjs-node-gpu 4.22.0, TensorFlow 2.21.0`. */
  library: string;
  /** Device, such as `cpu (2 threads)`, `cuda (NVIDIA H100)` or the adapter's name. */
  device: string;
  isCuda: boolean;
  /** `exact`: products in f32. `fast`: factors in TF32 (CUDA) or bfloat16 (CPU), sums in f32. */
  arithmetic: Arithmetic;
  memory: DeviceMemory;
  threads: number;
  /** Largest tensor of the device, in bytes; `Infinity` if only memory limits it. */
  maxTensorBytes: number;
  /** Whether TensorFlow's operations can be called by name: see {@linkcode nativeOp}. */
  namedOps: boolean;
  /** Whether the compiled operations of `core/engine/native/` are loaded: see {@linkcode decoderOp}. */
  decoderOps: boolean;
  /** Why there is no fast arithmetic; null if there is. */
  whyNotFast: string | null;
  /** Whether matrix products with a transposed operand, or with two batched ones, run in a slow loop. */
  needsPlainProducts: boolean;
  /** Whether an optimiser's steps are faster on the device than on the host with two transfers. */
  stepsOnDevice: boolean;
  /** Whether each read waits for all earlier work, so that one joined read is faster than several. */
  readsWaitForQueue: boolean;
  /** Throws an error that the device reported since the last call.
   * @throws {EngineError} on a device error, such as a tensor over a WebGPU buffer limit. */
  check(): void;
}

/** The compiled operations of `core/engine/native/`; see {@linkcode loadDecoderOps}. */
export const DECODER_OPS: string = join(ROOT, "node_modules/@tensorflow/tfjs-node-gpu/lib/napi-v8/decoder_ops.so");

/** The command that builds the native engine, for messages. */
export const SETUP_COMMAND = "deno task setup:tensorflow";

type Started = Omit<Engine, "name" | "arithmetic">;

const PLAIN = {
  isCuda: false,
  memory: hostMemory,
  threads: 1,
  maxTensorBytes: Infinity,
  namedOps: false,
  decoderOps: false,
  whyNotFast: "only the engine tensorflow has it",
  needsPlainProducts: false,
  stepsOnDevice: false,
  readsWaitForQueue: false,
  check: () => {},
};

/** @throws {EngineError} unless `device` is the CPU, on which `name` runs. */
function needsCpu(name: EngineName, { device = "cpu" }: EngineOptions): void {
  if (device === "cpu") return;
  throw new EngineError(`Engine "${name}" runs only on the CPU, not on "${device}": leave out --device`);
}

const starters: Record<EngineName, (options: EngineOptions) => Promise<Started>> = {
  wasm: async (options) => {
    needsCpu("wasm", options);
    const wasm = await import("@tensorflow/tfjs-backend-wasm");
    await select("wasm");
    return {
      ...PLAIN,
      library: `tfjs ${tf.version_core}, tfjs-backend-wasm ${wasm.version_wasm}`,
      device: "cpu (1 thread, SIMD)",
      needsPlainProducts: true,
    };
  },
  cpu: async (options) => {
    needsCpu("cpu", options);
    await select("cpu");
    // The backend prints advice for Node that does not apply to Deno.
    (tf.backend() as unknown as { firstUse: boolean }).firstUse = false;
    return { ...PLAIN, library: `tfjs ${tf.version_core}`, device: "cpu (1 thread, JavaScript)" };
  },
  tensorflow: startTensorflow,
  webgpu: startWebgpu,
};

async function select(name: EngineName): Promise<void> {
  let started: boolean;
  try {
    started = await tf.setBackend(name);
    await tf.ready();
  } catch (cause) {
    throw new EngineError(`Engine "${name}" did not start: ${(cause as Error).message}`, { cause });
  }
  // setBackend() returns false and keeps another backend if one cannot start.
  if (!started || tf.getBackend() !== name) {
    throw new EngineError(`Engine "${name}" did not start: TensorFlow.js stayed on "${tf.getBackend()}"`);
  }
}

async function startTensorflow({ device: asked, arithmetic }: EngineOptions): Promise<Started> {
  if (asked !== undefined && asked !== "cuda" && asked !== "cpu") {
    throw new EngineError(`Engine "tensorflow" runs on cuda or cpu, not on "${asked}": use one of them`);
  }
  setEnvironment(asked, arithmetic);
  const cuda = asked === "cpu" ? {} : chooseGpu();
  // Removed from Node 23 and from Deno; the package still calls it.
  const nodeUtil = util as unknown as Record<string, unknown>;
  nodeUtil.isNullOrUndefined ??= (value: unknown) => value === null || value === undefined;
  try {
    await import("@tensorflow/tfjs-node-gpu");
  } catch (cause) {
    const reason = (cause as Error).message.split("\n")[0];
    throw new EngineError(
      `Engine "tensorflow" is not set up on this machine (${reason}): run \`${SETUP_COMMAND}\`, with --cuda for a GPU`,
      { cause },
    );
  }
  await select("tensorflow");
  const backend = tf.backend() as unknown as { binding: { TF_Version?: string }; isUsingGpuDevice?: boolean };
  const isCuda = backend.isUsingGpuDevice === true;
  if (asked === "cuda" && !isCuda) {
    const reason = whyNoGpu() ??
      `TensorFlow cannot load CUDA's libraries, run \`${SETUP_COMMAND} --cuda\` (TF_CPP_MIN_LOG_LEVEL=0 shows which)`;
    throw new EngineError(`Device "cuda" is not available: ${reason}`);
  }
  if (asked === "cpu" && isCuda) {
    throw new EngineError('TensorFlow already runs on CUDA in this process: start another process for device "cpu"');
  }
  const given = Number(Deno.env.get("TF_NUM_INTRAOP_THREADS"));
  const threads = given > 0 ? given : navigator.hardwareConcurrency;
  const fused = isCuda ? null : loadFused(threads);
  return {
    ...PLAIN,
    library: `tfjs-node-gpu ${tf.version_core}, TensorFlow ${backend.binding?.TF_Version ?? "unknown"}` +
      (fused ? ", fused decoder operations" : ""),
    device: isCuda ? `cuda${cuda.gpu ? ` (${cuda.gpu.name})` : ""}` : `cpu (${counted(threads, "thread")})`,
    isCuda,
    stepsOnDevice: isCuda,
    ...isCuda && cuda.gpu && { memory: cudaMemory(cuda.gpu) },
    threads,
    namedOps: true,
    decoderOps: fused !== null,
    whyNotFast: isCuda || fused?.bf16Products
      ? null
      : "on a CPU it needs AVX512-BF16 (avx512_bf16), which is missing here",
  };
}

/** Sets the variables that TensorFlow and its libraries read while they load. */
function setEnvironment(device: string | undefined, arithmetic: EngineOptions["arithmetic"]): void {
  // 2 shows errors only.
  if (!Deno.env.get("TF_CPP_MIN_LOG_LEVEL")) Deno.env.set("TF_CPP_MIN_LOG_LEVEL", "2");
  if (device === "cpu") Deno.env.set("CUDA_VISIBLE_DEVICES", "-1");
  // Otherwise TensorFlow allocates nearly all of a GPU at once, and its need cannot be measured.
  Deno.env.set("TF_FORCE_GPU_ALLOW_GROWTH", "true");
  // TensorFlow rounds the factors of f32 products to TF32 on GPUs since Ampere, and its C interface has no switch for
  // it; NVIDIA's libraries follow this variable whatever a program asks of them.
  if (arithmetic === "fast") Deno.env.delete("NVIDIA_TF32_OVERRIDE");
  else Deno.env.set("NVIDIA_TF32_OVERRIDE", "0");
}

/** The first GPU that this process may use. The others are hidden, since TensorFlow would hold memory on each. None if
 * there is none, or if `nvidia-smi` fails. */
function chooseGpu(): { gpu?: CudaDevice } {
  let gpu: CudaDevice | undefined;
  try {
    [gpu] = visibleDevices(listCudaDevices(), visibleSetting());
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
  }
  if (gpu) Deno.env.set("CUDA_VISIBLE_DEVICES", gpu.uuid);
  return { gpu };
}

function loadFused(threads: number): { bf16Products: boolean } | null {
  if (!isThere(DECODER_OPS)) return null;
  try {
    return loadDecoderOps(DECODER_OPS, threads);
  } catch (cause) {
    throw new EngineError(
      `The decoder's operations do not load (${(cause as Error).message}): run \`${SETUP_COMMAND}\` again`,
      { cause },
    );
  }
}

/** Name of the fastest adapter.
 * @throws {EngineError} when there is none, or its name does not contain `asked`. */
async function findAdapter(asked = ""): Promise<string> {
  const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new EngineError('Engine "webgpu" did not start: no WebGPU adapter was found on this machine');
  const { vendor, architecture, device, description } = adapter.info;
  const name = [vendor, architecture, device, description].filter(Boolean).join(" ") || "unknown adapter";
  if (name.toLowerCase().includes(asked.toLowerCase())) return name;
  throw new EngineError(`Device "${asked}" is not available: WebGPU offers ${name}`);
}

async function startWebgpu({ device: asked }: EngineOptions): Promise<Started> {
  await import("@tensorflow/tfjs-backend-webgpu");
  const name = await findAdapter(asked);
  await select("webgpu");
  const { device, bufferManager } = tf.backend() as unknown as {
    device: GPUDevice;
    bufferManager: { numBytesAllocated: number };
  };
  const errors: string[] = [];
  // Without this, a tensor over a buffer limit silently becomes zeros.
  device.addEventListener("uncapturederror", (event) => {
    event.preventDefault();
    errors.push((event as GPUUncapturedErrorEvent).error.message);
  });
  const maxTensorBytes = Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
  return {
    ...PLAIN,
    library: `tfjs ${tf.version_core}, tfjs-backend-webgpu ${tf.version_core}`,
    device: name,
    memory: adapterMemory(name, maxTensorBytes, () => bufferManager.numBytesAllocated),
    readsWaitForQueue: true,
    maxTensorBytes,
    check: () => {
      if (errors.length === 0) return;
      const [first] = errors;
      errors.length = 0;
      throw new EngineError(`The WebGPU device reported: ${first}`);
    },
  };
}

/** Compares a matrix product, a softmax and a gradient with values computed by hand. */
async function selfTest(name: EngineName): Promise<void> {
  const [product, softmax, gradient] = tf.tidy((): [tf.Tensor, tf.Tensor, tf.Tensor] => {
    const a = tf.tensor2d([1, 2, 3, 4, 5, 6], [2, 3]);
    const b = tf.tensor2d([1, 0, 2, 1, 0, 1], [3, 2]);
    // d/da sum((a b)^2) = 2 (a b) bᵀ
    const gradient = tf.grad((x: tf.Tensor) => tf.sum(tf.square(tf.matMul(x as tf.Tensor2D, b))))(a);
    return [tf.matMul(a, b), tf.softmax(tf.tensor1d([0, Math.log(3)])), gradient];
  });
  const expected: [string, tf.Tensor, number[]][] = [
    ["matrix product", product, [5, 5, 14, 11]],
    ["softmax", softmax, [0.25, 0.75]],
    ["gradient", gradient, [10, 30, 10, 28, 78, 22]],
  ];
  try {
    for (const [what, tensor, values] of expected) {
      const got = await tensor.data();
      if (!values.every((value, i) => Math.abs(at(got, i) - value) <= 1e-4 * Math.max(1, Math.abs(value)))) {
        throw new EngineError(`Engine "${name}" computes a wrong ${what}: [${[...got]}] instead of [${values}]`);
      }
    }
  } finally {
    tf.dispose([product, softmax, gradient]);
  }
}

/** Whether products keep what f32 holds of their factors: 1 + 2^-12 is 1 in TF32 and in bf16. The matrices are large
 * enough for the units of a GPU that round. */
export async function keepsFactors(product: (a: tf.Tensor2D, b: tf.Tensor2D) => tf.Tensor): Promise<boolean> {
  const size = 128;
  const factor = 1 + 2 ** -12;
  const first = tf.tidy(() => tf.slice(product(tf.fill([size, size], factor), tf.eye(size)), [0, 0], [1, 1]));
  try {
    const [number = NaN] = await first.data();
    return Math.abs(number - factor) < 2 ** -20;
  } finally {
    first.dispose();
  }
}

let current: Engine | undefined;

/** Starts `name`, checks its arithmetic, and makes it the process's engine. Another engine is never used instead.
 * @throws {EngineError} when it cannot start or the device is not available, with the reason. */
export async function startEngine(name: EngineName, options: EngineOptions = {}): Promise<Engine> {
  const { arithmetic = "exact" } = options;
  if (!(name in starters)) throw unknownName("engine", name, Object.keys(starters));
  const engine: Engine = { name, arithmetic, ...await starters[name](options) };
  if (arithmetic === "fast" && engine.whyNotFast !== null) {
    throw new EngineError(`Engine "${name}" has no fast arithmetic: ${engine.whyNotFast}. Leave out --arithmetic`);
  }
  await selfTest(name);
  if (arithmetic === "exact" && !await keepsFactors((a, b) => tf.matMul(a, b))) {
    const problem = "rounds the factors of products below f32 precision";
    throw new EngineError(`Engine "${name}" ${problem}: to accept that, use --arithmetic fast`);
  }
  engine.check();
  current = engine;
  return engine;
}

/** The started engine.
 * @throws {EngineError} when none was started. */
export function currentEngine(): Engine {
  if (!current) throw new EngineError("No engine is running: call startEngine() first");
  return current;
}

/** The memory of the started engine's device in words, for error messages; undefined if none was started. */
export const deviceMemoryWords = (): string | undefined => current && memoryWords(current.memory);

/** Starts the engine for `auto`: `tensorflow` if it is set up, else `wasm`. `note` says why. A requested device or fast
 * arithmetic is never dropped for another engine. */
export async function startBestEngine(options: EngineOptions = {}): Promise<{ engine: Engine; note: string }> {
  const { device = "cpu", arithmetic } = options;
  if (device !== "cpu" && device !== "cuda") {
    return { engine: await startEngine("webgpu", options), note: `device "${device}" is WebGPU's` };
  }
  try {
    return { engine: await startEngine("tensorflow", options), note: "native TensorFlow is set up" };
  } catch (error) {
    if (device === "cuda" || arithmetic === "fast") throw error;
    return { engine: await startEngine("wasm", options), note: (error as Error).message };
  }
}

/** Multiply-adds per second of the started engine, counted as two: the best of several products of [size, size]. */
export async function measureRate(size = 512): Promise<number> {
  const matrix = tf.randomNormal([size, size]) as tf.Tensor2D;
  let bestMs = Infinity;
  for (let i = 0; i <= 8; i++) {
    const start = performance.now();
    // One number is read, so that the transfer takes no time.
    const corner = tf.tidy(() => tf.slice(tf.matMul(matrix, matrix), [0, 0], [1, 1]));
    await corner.data();
    corner.dispose();
    if (i > 0) bestMs = Math.min(bestMs, performance.now() - start);
  }
  matrix.dispose();
  return 2 * size ** 3 / (bestMs / 1000);
}
