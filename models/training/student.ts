/** A frozen model with trained adapters, and one optimiser step of it on a batch. Masks, where a method has them, are
 * handed in as plain arrays and their gradients come back the same way.
 *
 * @module
 */
import { at, lookUp } from "../../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "../../core/engine/engine.ts";
import type { Rng } from "../../core/util/rng.ts";
import type { TrainingOptions, UnitType } from "../../core/schema/schema.ts";
import { type DecoderConfig, LINEAR_NAMES } from "../config.ts";
import type { DecoderModel } from "../device.ts";
import { takeColumns, takeRows } from "../host_matrix.ts";
import type { HiddenMask, LayerMasks } from "../masks.ts";
import { keptLayers, type PrunePlan } from "../plan.ts";
import { keptOfLinear } from "../surgery.ts";
import { UNITS } from "../units.ts";
import { fetchMoments, forgetDevice, stepOnDevice } from "./device_optimizer.ts";
import { type BatchGradientOptions, batchGradients, deviceGradients } from "./gradients.ts";
import { adapterName, type Adapters, createAdapters, createWeights, disposeAdapters, withAdapters } from "./lora.ts";
import type { LossTerms } from "./loss.ts";
import { checkNorm, createOptimizer, type Moments, type Optimizer, readTensors, stepParameters } from "./optimizer.ts";
import type { TeacherTargets } from "./teacher.ts";

/** How a student learns. */
export interface StudentOptions extends TrainingOptions {
  /** The linear maps themselves learn, at `learningRate`, in place of adapters. */
  allWeights?: boolean;
}

/** What a layer may have a mask for: its units, or `layer`, itself as a whole. */
export type MaskType = UnitType | "layer";

/** Mask values of one layer; a missing type is not masked. */
export type HostMasks = Partial<Record<MaskType, Float32Array>>;

/** Mask values of a model. */
export interface ModelMasks {
  /** Masks per layer, [units]. */
  masks?: readonly HostMasks[];
  /** Mask of the hidden dimensions, [D]. */
  hidden?: Float32Array;
}

/** Where a mask of each type goes in {@linkcode LayerMasks}. */
const maskField = (type: MaskType): keyof LayerMasks => type === "layer" ? "layer" : UNITS[type].mask;

/** A model that learns. Free it with {@linkcode disposeStudent}; `base` stays the caller's. */
export interface Student {
  /** Frozen weights. */
  base: DecoderModel;
  /** `base` with the adapters on. */
  model: DecoderModel;
  /** Trained tensors; none when the rank is 0. */
  adapters: Adapters;
  /** Of the adapters. */
  optimizer: Optimizer;
  /** Whether adapters and moments stay on the device; as the engine is faster unless set. */
  stepsOnDevice: boolean;
}

/** AdamW over the adapters: warm-up, then cosine. */
function adapterOptimizer(adapters: Adapters, options: TrainingOptions): Optimizer {
  const { steps, warmup, finalRate, learningRate, clipNorm } = options;
  return createOptimizer({
    clipNorm,
    groups: [{
      name: "adapters",
      rule: { betas: [0.9, 0.99] },
      learningRate,
      schedule: {
        warmupSteps: Math.round(warmup * steps),
        totalSteps: steps,
        finalFraction: finalRate,
      },
      parameters: adapters.parameters,
    }],
  });
}

/** A student of `base` with new adapters, which change nothing yet. */
export function createStudent(base: DecoderModel, options: StudentOptions, rng: Rng): Student {
  const { rank, alpha, allWeights = false } = options;
  const none: Adapters = { rank: 0, scale: 0, parameters: {} };
  const low = () => rank > 0 ? createAdapters(base.config, { rank, alpha, rng }) : none;
  const adapters = allWeights ? createWeights(base) : low();
  return {
    base,
    model: withAdapters(base, adapters),
    adapters,
    optimizer: adapterOptimizer(adapters, options),
    stepsOnDevice: currentEngine().stepsOnDevice,
  };
}

/** Frees the adapters and their moments. */
export function disposeStudent({ adapters, optimizer }: Student): void {
  disposeAdapters(adapters);
  forgetDevice(optimizer);
}

/** What one step reads. */
export interface StudentStep extends ModelMasks {
  /** Windows of one length. */
  windows: readonly Int32Array[];
  /** The teacher's targets of each window; needed when it distils. */
  targets?: readonly TeacherTargets[];
  /** The teacher; needed for the hidden-state loss. */
  teacher?: DecoderModel;
  /** See {@linkcode BatchGradientOptions}. */
  teacherLayers?: readonly number[];
  /** Weights of the loss and the micro-batch. */
  options: Pick<TrainingOptions, "crossEntropy" | "distillation" | "temperature" | "hidden" | "microBatch">;
}

/** What one step gives. */
export interface StepResult {
  /** Loss terms before the step. */
  terms: LossTerms;
  /** Gradients of the masks, as `masks`. */
  maskGradients: HostMasks[];
  /** Gradient of the mask of the hidden dimensions, if there is one: [D]. */
  hiddenGradient?: Float32Array;
  /** Global norm of the adapters' gradient before clipping. */
  gradientNorm: number;
}

/** Masks on the device. */
export function uploadMasks(masks: readonly HostMasks[]): LayerMasks[] {
  return masks.map((layer) =>
    Object.fromEntries(
      Object.entries(layer).map(([type, values]) => [maskField(type as MaskType), tf.tensor1d(values)]),
    )
  );
}

/** The mask of the hidden dimensions on the device, if there is one. */
export function uploadHidden(values: Float32Array | undefined): HiddenMask | undefined {
  return values && { mask: tf.tensor1d(values), open: values.filter((value) => value !== 0).length };
}

/** Moves the adapters without reading or writing them: gives what of the gradients is read, those of the masks, and the
 * norm of the others.
 * @throws {NumericError} when that is not finite; the adapters have not moved then. */
async function moveOnDevice(
  { optimizer }: Student,
  work: BatchGradientOptions,
  read: number,
): Promise<{ terms: LossTerms; gradients: Float32Array[]; move: number }> {
  const { terms, gradients, rest, norm } = await deviceGradients(work, read);
  try {
    checkNorm(norm, optimizer.step);
    stepOnDevice(optimizer, rest, norm);
  } finally {
    rest.dispose();
  }
  return { terms, gradients, move: norm };
}

/** Gradients of a batch; moves the adapters and leaves the masks to the caller. */
export async function studentStep(student: Student, step: StudentStep): Promise<StepResult> {
  const { windows, targets, teacher, teacherLayers, masks = [], options } = step;
  const layerMasks = uploadMasks(masks);
  const hidden = uploadHidden(step.hidden);
  const maskTensors = [
    ...layerMasks.flatMap((layer) => Object.values(layer) as tf.Tensor1D[]),
    ...hidden ? [hidden.mask] : [],
  ];
  const names = Object.keys(student.adapters.parameters);
  try {
    const work: BatchGradientOptions = {
      model: student.model,
      masks: masks.length > 0 ? layerMasks : undefined,
      hidden,
      windows,
      targets,
      teacher,
      teacherLayers,
      weights: options,
      microBatch: options.microBatch,
      variables: [...maskTensors, ...Object.values(student.adapters.parameters)],
    };
    const onDevice = student.stepsOnDevice && names.length > 0;
    const { terms, gradients, move } = onDevice
      ? await moveOnDevice(student, work, maskTensors.length)
      : { ...await batchGradients(work), move: null };
    let next = 0;
    const maskGradients = masks.map((layer) =>
      Object.fromEntries(Object.keys(layer).map((type) => [type, gradients[next++]])) as HostMasks
    );
    const hiddenGradient = hidden && gradients[next++];
    if (move !== null) return { terms, maskGradients, hiddenGradient, gradientNorm: move };
    const slopes = Object.fromEntries(names.map((name, i) => [name, at(gradients, next + i)]));
    const gradientNorm = names.length > 0 ? await stepParameters(student.optimizer, slopes) : 0;
    return { terms, maskGradients, hiddenGradient, gradientNorm };
  } finally {
    tf.dispose(maskTensors);
  }
}

/** The student of `compact`, which is `student.base` after cutting by `plan`: adapters and their moments lose the rows
 * and columns of what went, and learning goes on where it was. The old student is freed. */
export async function cutStudent(
  student: Student,
  { compact, plan, config, options }: {
    compact: DecoderModel;
    plan: PrunePlan;
    config: DecoderConfig;
    options: TrainingOptions;
  },
): Promise<Student> {
  const { adapters, optimizer, stepsOnDevice } = student;
  await fetchMoments(optimizer);
  const { rank } = adapters;
  const names = Object.keys(adapters.parameters);
  const values = new Map((await readTensors(Object.values(adapters.parameters))).map((data, i) => [names[i], data]));
  const parameters: Record<string, tf.Variable> = {};
  const moments = new Map<string, Moments>();
  for (const [l, from] of keptLayers(plan).entries()) {
    for (const name of LINEAR_NAMES) {
      const { inputs, outputs } = keptOfLinear(plan, from, name, config.headSize);
      const dense = at(student.model.layers, from)[name].weight.shape;
      const [rows, columns] = at(compact.layers, l)[name].weight.shape;
      for (const part of ["down", "up", "weight"] as const) {
        const old = adapterName(from, name, part);
        const data = values.get(old);
        if (!data) continue;
        const cut = (x: Float32Array) => {
          const taken = part !== "up" && inputs ? takeRows(x, part === "down" ? rank : dense[1], inputs) : x.slice();
          return part !== "down" && outputs ? takeColumns(taken, dense[1], outputs) : taken;
        };
        const shape: [number, number] = [part === "up" ? rank : rows, part === "down" ? rank : columns];
        const key = adapterName(l, name, part);
        parameters[key] = tf.tidy(() => tf.variable(tf.tensor2d(cut(data), shape)));
        const { first, second } = lookUp(optimizer.moments, old);
        moments.set(key, { first: cut(first), second: cut(second) });
      }
    }
  }
  const smaller: Adapters = { rank, scale: adapters.scale, parameters };
  const fresh = adapterOptimizer(smaller, options);
  fresh.step = optimizer.step;
  fresh.moments = moments;
  disposeStudent(student);
  return { base: compact, model: withAdapters(compact, smaller), adapters: smaller, optimizer: fresh, stepsOnDevice };
}
