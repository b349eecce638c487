/** A frozen model with trained adapters and scales, and one optimiser step of them on a batch. Masks, where a method
 * has them, are handed in as plain arrays and their gradients come back the same way.
 *
 * @module
 */
import { at, entry, lookUp } from "../../core/util/indexing.ts";
import * as tf from "@tensorflow/tfjs";
import { currentEngine } from "../../core/engine/engine.ts";
import type { Rng } from "../../core/util/rng.ts";
import { type Recovery, scaleRateOf, type TrainingOptions, type UnitType } from "../../core/schema/schema.ts";
import { type DecoderConfig, LINEAR_NAMES } from "../config.ts";
import type { DecoderModel } from "../device.ts";
import { takeColumns, takeRows } from "../host_matrix.ts";
import type { HiddenMask, LayerMasks } from "../masks.ts";
import { keptLayers, type PrunePlan } from "../plan.ts";
import { keptOfLinear } from "../surgery.ts";
import { UNITS } from "../units.ts";
import { fetchMoments, forgetDevice, stepOnDevice } from "./device_optimizer.ts";
import { deviceGradients } from "./gradients.ts";
import {
  adapterName,
  type Adapters,
  createAdapters,
  createScales,
  disposeAdapters,
  SCALED_TYPES,
  scaleName,
  withAdapters,
} from "./lora.ts";
import type { LossTerms } from "./loss.ts";
import {
  checkNorm,
  createOptimizer,
  type Moments,
  type Optimizer,
  type ParameterGroup,
  readVariables,
  stepParameters,
} from "./optimizer.ts";
import type { TeacherTargets } from "./teacher.ts";

/** How a student learns: a run's `training`, and its `recover`. */
export interface StudentOptions extends TrainingOptions {
  recover: Recovery;
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
  base: DecoderModel;
  /** `base` with the adapters on. */
  model: DecoderModel;
  /** Trained tensors of `recover: lora`; else none. */
  adapters: Adapters;
  /** Trained tensors by `scaleName`, [units] each; none with `recover: none`. */
  scales: Record<string, tf.Variable>;
  optimizer: Optimizer;
  /** Whether what trains and its moments stay on the device; as the engine is faster unless set. */
  stepsOnDevice: boolean;
}

/** AdamW over adapters and scales: warm-up, then cosine. */
function studentOptimizer(
  { parameters: adapters }: Adapters,
  scales: Student["scales"],
  options: StudentOptions,
): Optimizer {
  const { steps, warmup, finalRate, learningRate, recover, clipNorm } = options;
  const group = (name: string, learningRate: number, parameters: ParameterGroup["parameters"]): ParameterGroup => ({
    name,
    rule: { betas: [0.9, 0.99] },
    learningRate,
    schedule: { warmupSteps: Math.round(warmup * steps), totalSteps: steps, finalFraction: finalRate },
    parameters,
  });
  const groups = [group("adapters", learningRate, adapters), group("scales", scaleRateOf(options, recover), scales)];
  return createOptimizer({ clipNorm, groups: groups.filter(({ parameters }) => Object.keys(parameters).length > 0) });
}

/** A student of `base` with new adapters and scales, which change nothing yet. */
export function createStudent(base: DecoderModel, options: StudentOptions, rng: Rng): Student {
  const { rank, alpha, recover } = options;
  const adapters = recover === "lora"
    ? createAdapters(base.config, { rank, alpha, rng })
    : { rank: 0, scale: 0, parameters: {} };
  const scales = recover === "none" ? {} : createScales(base.config);
  return {
    base,
    model: withAdapters(base, adapters),
    adapters,
    scales,
    optimizer: studentOptimizer(adapters, scales, options),
    stepsOnDevice: currentEngine().stepsOnDevice,
  };
}

/** Everything that trains, by name. */
export function trainedTensors({ adapters, scales }: Student): Record<string, tf.Variable> {
  return { ...adapters.parameters, ...scales };
}

/** Frees what trains and its moments. */
export function disposeStudent({ adapters, scales, optimizer }: Student): void {
  disposeAdapters(adapters);
  tf.dispose(Object.values(scales));
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
  /** See `BatchGradientOptions`. */
  teacherLayers?: readonly number[];
  /** Whether adapters and scales, which have not moved yet, stay as they are: masks alone get gradients. */
  frozen?: boolean;
  options: Pick<TrainingOptions, "crossEntropy" | "distillation" | "temperature" | "hidden" | "microBatch">;
}

/** What one step gives. */
export interface StepResult {
  terms: LossTerms;
  /** Gradients of the masks, as `masks`. */
  maskGradients: HostMasks[];
  /** Gradient of the mask of the hidden dimensions, if there is one: [D]. */
  hiddenGradient?: Float32Array;
  /** Global norm of the gradient of adapters and scales before clipping. */
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

/** The scales as masks, layer by layer; undefined without scales. */
function scaleMasks({ base, scales }: Student): LayerMasks[] | undefined {
  if (Object.keys(scales).length === 0) return undefined;
  return base.config.layers.map((_, l) =>
    Object.fromEntries(SCALED_TYPES.map((type) => [maskField(type), scales[scaleName(l, type)]]))
  );
}

/** Gradients of a batch; moves adapters and scales and leaves the masks to the caller.
 * @throws {NumericError} when the norm of their gradient is not finite; nothing has moved then. */
export async function studentStep(student: Student, step: StudentStep): Promise<StepResult> {
  const { windows, targets, teacher, teacherLayers, masks = [], frozen = false, options } = step;
  const layerMasks = uploadMasks(masks);
  const hidden = uploadHidden(step.hidden);
  const maskTensors = [
    ...layerMasks.flatMap((layer) => Object.values(layer) as tf.Tensor1D[]),
    ...hidden ? [hidden.mask] : [],
  ];
  const trained = frozen ? {} : trainedTensors(student);
  const names = Object.keys(trained);
  const onDevice = student.stepsOnDevice && names.length > 0;
  const variables = [...maskTensors, ...Object.values(trained)];
  let left: tf.Tensor | undefined;
  try {
    const { terms, gradients, rest, norm } = await deviceGradients({
      model: frozen ? student.base : student.model,
      masks: masks.length > 0 ? layerMasks : undefined,
      scales: frozen ? undefined : scaleMasks(student),
      hidden,
      windows,
      targets,
      teacher,
      teacherLayers,
      weights: options,
      microBatch: options.microBatch,
      variables,
    }, onDevice ? maskTensors.length : variables.length);
    left = rest;
    let next = 0;
    const maskGradients = masks.map((layer) =>
      Object.fromEntries(Object.keys(layer).map((type) => [type, gradients[next++]])) as HostMasks
    );
    const hiddenGradient = hidden && gradients[next++];
    if (onDevice) {
      // Neither gradients nor values of what trains are read or written.
      checkNorm(norm, student.optimizer.step);
      stepOnDevice(student.optimizer, rest, norm);
      return { terms, maskGradients, hiddenGradient, gradientNorm: norm };
    }
    const slopes = Object.fromEntries(names.map((name, i) => [name, at(gradients, next + i)]));
    const gradientNorm = names.length > 0 ? await stepParameters(student.optimizer, slopes) : 0;
    return { terms, maskGradients, hiddenGradient, gradientNorm };
  } finally {
    tf.dispose([...maskTensors, ...left ? [left] : []]);
  }
}

/** Masks of the units times the student's scales: what merging folds into weights. */
export async function scaledMasks({ base, scales }: Student, masks: readonly HostMasks[] = []): Promise<HostMasks[]> {
  if (Object.keys(scales).length === 0) return [...masks];
  const values = await readVariables(scales);
  return base.config.layers.map((_, l) => {
    const own = masks[l] ?? {};
    const scaled = SCALED_TYPES.map((type) => {
      const mask = own[type];
      return [type, entry(values, scaleName(l, type)).data.map((value, i) => value * (mask ? at(mask, i) : 1))];
    });
    return { ...own, ...Object.fromEntries(scaled) };
  });
}

/** The student of `compact`, which is `student.base` after cutting by `plan`: what trains and its moments lose the rows
 * and columns of what went, and learning goes on where it was. The old student is freed. */
export async function cutStudent(
  student: Student,
  { compact, plan, config, options }: {
    compact: DecoderModel;
    plan: PrunePlan;
    config: DecoderConfig;
    options: StudentOptions;
  },
): Promise<Student> {
  const { adapters: { rank, scale }, optimizer, stepsOnDevice } = student;
  await fetchMoments(optimizer);
  const values = await readVariables(trainedTensors(student));
  const parameters: Record<string, tf.Variable> = {};
  const scales: Record<string, tf.Variable> = {};
  const moments = new Map<string, Moments>();
  const move = (from: string, to: string, shape: number[], cut: (x: Float32Array) => Float32Array) => {
    const value = values[from]?.data;
    if (!value) return {};
    const { first, second } = lookUp(optimizer.moments, from);
    moments.set(to, { first: cut(first), second: cut(second) });
    return { [to]: tf.tidy(() => tf.variable(tf.tensor(cut(value), shape))) };
  };
  for (const [l, from] of keptLayers(plan).entries()) {
    for (const name of LINEAR_NAMES) {
      const { inputs, outputs } = keptOfLinear(plan, from, name, config.headSize);
      const width = at(student.model.layers, from)[name].weight.shape[1];
      const [rows, columns] = at(compact.layers, l)[name].weight.shape;
      const down = (x: Float32Array) => inputs ? takeRows(x, rank, inputs) : x.slice();
      const up = (x: Float32Array) => outputs ? takeColumns(x, width, outputs) : x.slice();
      const place = (part: "down" | "up") => [adapterName(from, name, part), adapterName(l, name, part)] as const;
      Object.assign(parameters, move(...place("down"), [rows, rank], down), move(...place("up"), [rank, columns], up));
    }
    for (const type of SCALED_TYPES) {
      const kept = at(plan.layers, from)[UNITS[type].plan];
      const cut = (x: Float32Array) => Float32Array.from(kept, (unit) => at(x, unit));
      Object.assign(scales, move(scaleName(from, type), scaleName(l, type), [kept.length], cut));
    }
  }
  const adapters: Adapters = { rank, scale, parameters };
  const fresh = studentOptimizer(adapters, scales, options);
  fresh.step = optimizer.step;
  fresh.moments = moments;
  disposeStudent(student);
  return { base: compact, model: withAdapters(compact, adapters), adapters, scales, optimizer: fresh, stepsOnDevice };
}
