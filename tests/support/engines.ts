/** Runs a test on every engine that starts, and says which do not and why.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";
import { assert, assertEquals, AssertionError } from "@std/assert";
import { at } from "../../core/util/indexing.ts";
import { type Engine, startEngine } from "../../core/engine/engine.ts";
import { unknownName } from "../../core/util/errors.ts";
import { ENGINE_NAMES, type EngineName } from "../../core/schema/schema.ts";

/** Engines to test on: those that `MASKPRUNE_ENGINES` names, separated by commas, all by default; `wasm` alone for a
 * user's own methods. */
const asked = Deno.env.get("MASKPRUNE_ENGINES") || (Deno.env.get("MASKPRUNE_METHOD_FILE") ? "wasm" : undefined);
const names = asked?.split(",") ?? ENGINE_NAMES;
const unknown = names.find((name) => !ENGINE_NAMES.includes(name as EngineName));
if (unknown !== undefined) throw unknownName("engine of MASKPRUNE_ENGINES", unknown, ENGINE_NAMES);

/** Engines that start on this machine. */
export const startable: EngineName[] = [];

const skipped: string[] = [];
// In an order of their own: WebGPU's drivers must not be loaded before TensorFlow's library.
for (const name of ENGINE_NAMES.filter((name) => names.includes(name))) {
  try {
    await startEngine(name);
    startable.push(name);
  } catch (error) {
    // What was asked for by name must be tested.
    if (asked !== undefined) throw error;
    skipped.push(name);
    console.log(`skipped engine ${name}: ${(error as Error).message}`);
  }
}
console.log(
  `engines: ${startable.length} start (${startable.join(", ")}), ${skipped.length} skipped` +
    (asked === undefined ? "" : `, ${asked} asked for`),
);

/** Tolerances of {@linkcode assertClose}. */
export interface Tolerance {
  /** Absolute part. */
  atol?: number;
  /** Relative part, of the expected value. */
  rtol?: number;
}

/** What f32 arithmetic on a tiny model keeps to, against double precision. */
export const F32_TOLERANCE = { atol: 1e-5, rtol: 1e-4 };

/** Throws unless `|actual - expected| <= atol + rtol |expected|` in every place; the message has the largest excess. */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { atol = F32_TOLERANCE.atol, rtol = F32_TOLERANCE.rtol }: Tolerance = {},
  what = "values",
): void {
  assertEquals(
    actual.length,
    expected.length,
    `${what}: ${actual.length} values where ${expected.length} are expected`,
  );
  let [worst, place, wrong] = [0, -1, 0];
  for (let i = 0; i < expected.length; i++) {
    const excess = Math.abs(at(actual, i) - at(expected, i)) - (atol + rtol * Math.abs(at(expected, i)));
    // NaN compares false with everything, so the test is for what is right.
    if (excess <= 0) continue;
    wrong++;
    if (place < 0 || !(excess <= worst)) [worst, place] = [excess, i];
  }
  if (wrong === 0) return;
  const difference = Math.abs(at(actual, place) - at(expected, place));
  throw new AssertionError({
    message: `${what}: ${wrong} of ${expected.length} differ by more than ${atol} + ${rtol} |expected|; the largest ` +
      `difference is ${difference} at ${place}: ${actual[place]} must be ${expected[place]}`,
  });
}

/** One array of all rows. */
export function flat(rows: readonly ArrayLike<number>[]): Float64Array {
  return Float64Array.from(rows.flatMap((row) => Array.from(row)));
}

/** Registers `run` as one test per engine that starts. It fails too when tensors are left on the device, or when the
 * device reported an error.
 *
 * One process holds all engines and they take turns, so a test must not keep tensors from one to the next. */
export function testOnEngines(
  title: string,
  run: (engine: Engine) => void | Promise<void>,
  { except = [] }: { except?: readonly EngineName[] } = {},
): void {
  for (const name of startable.filter((name) => !except.includes(name))) {
    // Native addons and the worker of wasm live as long as the process.
    Deno.test({ name: `${title} [${name}]`, sanitizeOps: false, sanitizeResources: false, fn: () => once(name, run) });
  }
}

/** Runs on the engine that has operations of our own: on a CPU it must have them, on a GPU it has none. */
export function testOwnOperations(title: string, run: (engine: Engine) => void | Promise<void>): void {
  testOnEngines(title, (engine) => {
    if (engine.device.startsWith("cuda")) return;
    assert(engine.decoderOps, `the operations of core/engine/native are missing: ${engine.library}`);
    return run(engine);
  }, { except: ENGINE_NAMES.filter((name) => name !== "tensorflow") });
}

async function once(name: EngineName, run: (engine: Engine) => void | Promise<void>): Promise<void> {
  const engine = await startEngine(name);
  const before = tf.memory().numTensors;
  await run(engine);
  engine.check();
  assertEquals(tf.memory().numTensors - before, 0, "tensors were left on the device");
}
