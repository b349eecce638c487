/** Starts a TensorFlow.js backend, proves that it is the one asked for and that it computes, and turns device errors
 * into exceptions. One engine runs at a time in a process.
 *
 * - `wasm`: needs nothing but npm; single-threaded under Deno, SIMD on. For models up to about 10 M parameters.
 * - `tensorflow`: `@tensorflow/tfjs-node-gpu` on a current TensorFlow (CPU or CUDA); `deno task setup:tensorflow` makes it.
 * - `webgpu`: GPUs without CUDA, through Deno's `navigator.gpu`.
 * - `cpu`: plain JavaScript; the slow reference of tests.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import util from "node:util";
import type { EngineName } from "./schema.ts";
import { EngineError } from "./errors.ts";
import { at } from "./indexing.ts";
import { loadDecoderOps } from "./native_ops.ts";

/** A started engine. */
export interface Engine {
  name: EngineName;
  /** Library versions, such as `tfjs-node-gpu 4.22.0, TensorFlow 2.21.0`. */
  library: string;
  /** What it runs on, such as `cpu (2 threads)` or the adapter's name. */
  device: string;
  threads: number;
  /** Largest tensor the device can hold, in bytes; `Infinity` when only memory limits it. */
  maxTensorBytes: number;
  /** Whether TensorFlow's operations can be called by name: see {@linkcode nativeOp}. */
  namedOps: boolean;
  /** Whether the compiled operations of `core/native/` are loaded: see {@linkcode decoderOp}. */
  decoderOps: boolean;
  /** Whether a matrix product with a transposed operand, or with two batched ones, falls to a slow loop. */
  needsPlainProducts: boolean;
  /** Whether each read waits for all work before it, so that several are better joined into one. */
  readsWaitForQueue: boolean;
  /** Throws what the device reported since the last call.
   * @throws {EngineError} on a device error, such as a tensor over a WebGPU buffer limit. */
  check(): void;
}

/** The compiled operations of `core/native/`; see {@linkcode loadDecoderOps}. */
export const DECODER_OPS =
  new URL("../node_modules/@tensorflow/tfjs-node-gpu/lib/napi-v8/decoder_ops.so", import.meta.url).pathname;

/** The command that builds the native engine, for messages. */
export const SETUP_COMMAND = "deno task setup:tensorflow";

const PLAIN = {
  threads: 1,
  maxTensorBytes: Infinity,
  namedOps: false,
  decoderOps: false,
  needsPlainProducts: false,
  readsWaitForQueue: false,
  check: () => {},
};

const starters: Record<EngineName, () => Promise<Omit<Engine, "name">>> = {
  wasm: async () => {
    const wasm = await import("@tensorflow/tfjs-backend-wasm");
    await select("wasm");
    return {
      ...PLAIN,
      library: `tfjs ${tf.version_core}, tfjs-backend-wasm ${wasm.version_wasm}`,
      device: "cpu (1 thread, SIMD)",
      needsPlainProducts: true,
    };
  },
  cpu: async () => {
    await select("cpu");
    // The backend greets Node users with advice that does not hold under Deno.
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
  // setBackend() answers false and stays on another backend when one cannot start.
  if (!started || tf.getBackend() !== name) {
    throw new EngineError(`Engine "${name}" did not start: TensorFlow.js stayed on "${tf.getBackend()}"`);
  }
}

async function startTensorflow(): Promise<Omit<Engine, "name">> {
  // Must be set before the library loads; 2 hides what is not an error.
  if (!Deno.env.get("TF_CPP_MIN_LOG_LEVEL")) Deno.env.set("TF_CPP_MIN_LOG_LEVEL", "2");
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
  const gpu = backend.isUsingGpuDevice === true;
  const asked = Number(Deno.env.get("TF_NUM_INTRAOP_THREADS"));
  const threads = asked > 0 ? asked : navigator.hardwareConcurrency;
  const decoderOps = !gpu && loadFused(threads);
  return {
    ...PLAIN,
    library: `tfjs-node-gpu ${tf.version_core}, TensorFlow ${backend.binding?.TF_Version ?? "unknown"}` +
      (decoderOps ? ", fused decoder operations" : ""),
    device: gpu ? "cuda" : `cpu (${threads} thread${threads === 1 ? "" : "s"})`,
    threads,
    namedOps: true,
    decoderOps,
  };
}

/** Loads the decoder's operations, if set-up has built them. */
function loadFused(threads: number): boolean {
  try {
    Deno.statSync(DECODER_OPS);
  } catch {
    return false;
  }
  try {
    loadDecoderOps(DECODER_OPS, threads);
  } catch (cause) {
    throw new EngineError(
      `The decoder's operations do not load (${(cause as Error).message}): run \`${SETUP_COMMAND}\` again`,
      { cause },
    );
  }
  return true;
}

async function startWebgpu(): Promise<Omit<Engine, "name">> {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw new EngineError(`Engine "webgpu" did not start: no WebGPU adapter was found on this machine`);
  await import("@tensorflow/tfjs-backend-webgpu");
  await select("webgpu");
  const { device } = tf.backend() as unknown as { device: GPUDevice };
  const errors: string[] = [];
  // Without this a tensor over a buffer limit silently becomes zeros.
  device.addEventListener("uncapturederror", (event) => {
    event.preventDefault();
    errors.push((event as GPUUncapturedErrorEvent).error.message);
  });
  const { info } = adapter;
  return {
    ...PLAIN,
    library: `tfjs ${tf.version_core}, tfjs-backend-webgpu ${tf.version_core}`,
    device: [info.vendor, info.architecture, info.device, info.description].filter(Boolean).join(" ") ||
      "unknown adapter",
    readsWaitForQueue: true,
    maxTensorBytes: Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize),
    check: () => {
      if (errors.length === 0) return;
      const [first] = errors;
      errors.length = 0;
      throw new EngineError(`The WebGPU device reported: ${first}`);
    },
  };
}

/** Compares a matrix product, a softmax and a gradient with values worked out by hand. */
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
        throw new EngineError(`Engine "${name}" computes a wrong ${what}: [${[...got]}] must be [${values}]`);
      }
    }
  } finally {
    tf.dispose([product, softmax, gradient]);
  }
}

let current: Engine | undefined;

/** Starts `name`, checks its arithmetic, and makes it the process's engine.
 * @throws {EngineError} when it cannot start, with the reason; another engine is never taken instead. */
export async function startEngine(name: EngineName): Promise<Engine> {
  const engine = { name, ...await starters[name]() };
  await selfTest(name);
  engine.check();
  current = engine;
  return engine;
}

/** The started engine. Any module that computes may ask it for what the engine is good at.
 * @throws {EngineError} when none was started. */
export function currentEngine(): Engine {
  if (!current) throw new EngineError("No engine is running: call startEngine() first");
  return current;
}

/** Starts the engine that `auto` stands for: `tensorflow` when it is set up, else `wasm`. `note` says why. */
export async function startBestEngine(): Promise<{ engine: Engine; note: string }> {
  try {
    return { engine: await startEngine("tensorflow"), note: "native TensorFlow is set up" };
  } catch (error) {
    return { engine: await startEngine("wasm"), note: (error as Error).message };
  }
}
