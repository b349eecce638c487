/** Counts what crosses between host and device, and how many operations the device is given.
 *
 * @module
 */
import * as tf from "@tensorflow/tfjs";

/** Counts of a piece of work. */
export interface Traffic {
  /** Tensors read to the host. */
  reads: number;
  /** Tensors written from the host. */
  writes: number;
  /** f32 values in them; axes and shapes are others. */
  writtenValues: number;
  /** Operations launched: TensorFlow's on the native engine, TensorFlow.js kernels on the others. */
  launches: number;
}

const sizeOf = (shape: unknown): number => Array.isArray(shape) ? shape.reduce((size, own) => size * own, 1) : 0;

type Methods = Record<string, (...given: unknown[]) => unknown>;

/** Calls `run` and gives its result with what it cost; `onEvent` is told each count as it happens. */
export async function countTraffic<Result>(
  run: () => Promise<Result>,
  onEvent: (what: keyof Traffic) => void = () => {},
): Promise<Traffic & { result: Result }> {
  const traffic: Traffic = { reads: 0, writes: 0, writtenValues: 0, launches: 0 };
  const tensor = tf.Tensor.prototype as unknown as Methods;
  const engine = tf.engine() as unknown as Methods;
  const backend = tf.backend() as unknown as Methods;
  const counted: [object: Methods, name: string, what: keyof Traffic][] = [
    [tensor, "data", "reads"],
    [tensor, "dataSync", "reads"],
    [engine, "makeTensor", "writes"],
    ...(tf.getBackend() === "tensorflow"
      ? [[backend, "executeSingleOutput", "launches"], [backend, "executeMultipleOutputs", "launches"]] as const
      : [[engine, "runKernel", "launches"]] as const).map((entry): typeof counted[number] => [...entry]),
  ];
  const restore = counted.map(([object, name, what]) => {
    const own = Object.getOwnPropertyDescriptor(object, name);
    const method = object[name];
    if (!method) throw new TypeError(`The engine has no ${name}()`);
    object[name] = function (...given) {
      traffic[what]++;
      onEvent(what);
      if (what === "writes" && given[2] === "float32") traffic.writtenValues += sizeOf(given[1]);
      return method.apply(this, given);
    };
    return () => own ? Object.defineProperty(object, name, own) : delete object[name];
  });
  try {
    return { result: await run(), ...traffic };
  } finally {
    restore.forEach((undo) => undo());
  }
}
