/** Prunes a dense model: the method chooses the units to keep, least squares may correct for the others, and the model
 * is cut.
 *
 * @module
 */
import type { Compensation, RunUnit, TrainingReport } from "../../core/schema/schema.ts";
import { UsageError } from "../../core/util/errors.ts";
import { createRng } from "../../core/util/rng.ts";
import type { DrawnWindows } from "../../datasets/calibration.ts";
import { layersByLoss, onDepth } from "../../methods/_shared/depth.ts";
import type { MethodContext, Statistics } from "../../methods/define.ts";
import { getMethod, parseOptions } from "../../methods/mod.ts";
import { modelSize } from "../../models/count.ts";
import { plannedConfig, type PrunePlan } from "../../models/plan.ts";
import { pruneModel } from "../../models/surgery.ts";
import type { Resource } from "../../models/resource.ts";
import { afterDepth, resolveTarget } from "../../models/target.ts";
import { compensateInTurn } from "../../models/training/cut_in_turn.ts";
import { compensate as leastSquares, gramMatrices } from "../../models/training/least_squares.ts";
import { areVectors, foldParts, type Rebuild } from "../../models/training/rebuild.ts";
import type { SnapshotPlace } from "../../models/training/snapshot.ts";
import type { TrainingData } from "./calibrate.ts";
import type { LoadedModel } from "./load.ts";
import { checkBudget, runMethod } from "./method_result.ts";
import { type StepOptions, withDefaults } from "./step.ts";

/** A model that was pruned. */
export interface PrunedModel extends LoadedModel {
  /** Units that stayed. */
  plan: PrunePlan;
  /** Prunable parameters removed, as a fraction of the dense model's. */
  sparsity: number;
  /** Stages of learning and recovery, in order. */
  training: TrainingReport[];
  /** Times that the method raised the ridge of an inverse; absent when never. */
  raisedRidges?: number;
  /** Largest relative residual of least squares that did not converge; absent when all did. */
  openResidual?: number;
  /** Whether weights that stayed are others than the dense model's. */
  changed: boolean;
  /** What makes the model again from the dense one; null where that is no less than its weights. */
  rebuild: Rebuild | null;
}

/** How to prune. */
export interface PruneOptions extends StepOptions {
  /** Id of a method, see `bench ls methods`. */
  method: string;
  /** Options of the method; its defaults unless given. */
  options?: Record<string, unknown>;
  /** Part of the resource to remove, in [0, 1). */
  sparsity: number;
  /** What is counted; the prunable parameters by default. See `resourceOf`. */
  resource?: Resource;
  /** What may be removed; FFN channels and key/value groups by default. */
  units?: readonly RunUnit[];
  /** Number of whole layers to remove first, ranked by greedy removal; see `TargetOptions`. */
  dropLayers?: number;
  /** FFN widths are multiples of this. */
  ffnMultiple?: number;
  /** For methods that read data, and for `compensate`. */
  calibration?: Pick<DrawnWindows, "windows">;
  /** For methods that learn. */
  training?: TrainingData;
  /** Corrects the maps that read removed units. */
  compensate?: Compensation;
  /** Seed of the method's random streams. */
  seed?: number;
  /** Where a training keeps snapshots; without it a stopped one begins again. */
  snapshots?: SnapshotPlace;
}

/** A smaller model by the method; `dense` stays as it is.
 * @throws {UsageError} when method, options or budget do not fit the model, or windows are missing.
 * @throws {NumericError} when the method's tensors or the loss are not finite. */
export async function prune(dense: LoadedModel, given: PruneOptions): Promise<PrunedModel> {
  const { sparsity, units = ["ffn", "kv-groups"], ffnMultiple = 1, dropLayers, resource, seed = 0, training } = given;
  const { windows: calibration = [] } = given.calibration ?? {};
  const step = withDefaults(given);
  const { config } = dense.model;
  const method = getMethod(given.method);
  const options = parseOptions(method, given.options ?? {});
  const target = resolveTarget(config, { sparsity, units, ffnMultiple, dropLayers, resource });
  const isLearned = method.kind === "learned";
  if (isLearned && !training) throw new UsageError(`Method "${method.id}" needs training data: give \`training\``);
  const own = afterDepth(method, config, target);
  method.check?.(own.config, own.target, options, { compensate: given.compensate, training: training?.options });
  let openResidual = 0;
  const onUnsolved = (residual: number) => void (openResidual = Math.max(openResidual, residual));
  const compensated = (plan: PrunePlan, replaced?: Statistics) =>
    compensate(dense, { plan, replaced, windows: calibration, how: given.compensate, onUnsolved, ...step });
  const learning = isLearned && training && {
    options: training.options,
    windows: training.windows,
    snapshots: given.snapshots,
    remember: training.remember ?? step.remember,
    ...given.compensate && { compensate: compensated },
  };
  const context: MethodContext<unknown> = {
    model: dense.model,
    calibration,
    options,
    seed,
    rng: (name) => createRng(seed, `${method.id} ${name}`),
    target,
    ...step,
    compensates: given.compensate !== undefined,
    ...learning && { learning },
  };
  const removed = await layersByLoss(context, own.removed);
  const { plan, replaced = {}, trained, raisedRidges, training: reports = [] } = await onDepth(
    context,
    removed,
    (inner) => runMethod(method, inner),
  );
  const tensors = given.compensate && !isLearned ? await compensated(plan, replaced) : replaced;
  checkBudget(method, options, { dense: config, left: plannedConfig(config, plan), plan, target });
  const model = await pruneModel(dense.model, plan, tensors);
  if (trained) foldParts(model, trained);
  // What a learned method replaced where the run compensates is of least squares, which are computed again.
  const replacedAlone = given.compensate && isLearned ? {} : replaced;
  const rebuild = {
    plan,
    replaced: replacedAlone,
    windows: given.compensate ? calibration : [],
    ...trained && { trained },
  };
  return {
    ...dense,
    model,
    plan,
    sparsity: modelSize(model.config, config).sparsityOfPrunable,
    training: reports,
    ...raisedRidges && { raisedRidges },
    ...openResidual > 0 && { openResidual },
    changed: trained !== undefined || Object.keys(tensors).length > 0,
    rebuild: areVectors(replacedAlone) ? rebuild : null,
  };
}

/** Tensors at dense shape that correct for the units that `plan` removes, by least squares of the outputs on the
 * calibration windows, and those that the method `replaced`. */
export async function compensate(
  dense: Pick<LoadedModel, "model">,
  { plan, replaced, windows, how = "least-squares", onUnsolved, ...given }: StepOptions & {
    plan: PrunePlan;
    replaced?: Statistics;
    windows: Int32Array[];
    how?: Compensation;
    /** Gets the relative residual of every system that did not converge. */
    onUnsolved?(residual: number): void;
  },
): Promise<Statistics> {
  const { report, signal, remember } = withDefaults(given);
  const options = { replaced, onUnsolved, report, signal };
  if (how === "least-squares-in-turn") {
    return { ...replaced, ...await compensateInTurn(dense.model, plan, { windows, ...options }) };
  }
  const gram = await remember("gram matrices", () => gramMatrices(dense.model, windows, { report, signal }), true);
  return { ...replaced, ...await leastSquares(dense.model, plan, { gram, ...options }) };
}
