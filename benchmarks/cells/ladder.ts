/** A ladder: one trajectory of training that meets the levels of a sweep in turn, so that the whole sweep reads 1.25 times
 * the tokens of one independent run.
 *
 * The last level takes half the steps of such a run, the others share three quarters of them, each on windows of its own.
 * A level starts from the model that the level before left: removed units cut out, masks and adapters folded in. Masks,
 * adapters and learning rates start afresh, the dense model stays the teacher, and the budget is counted against the
 * dense model. So every level ends like a run of its own, with a low learning rate, and its units are among those of the
 * level before. Methods see calibration data anew at every level, above the first a quarter of it.
 *
 * Every level but the last is written to the folder of statistics, so that the processes of the levels, in any order and
 * also after they were killed, compute each level once.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { type Cell, pruningOf, type TrainingOptions, type TrainingReport } from "../../core/schema/schema.ts";
import type { PruneResult } from "../../methods/define.ts";
import type { HostTensor } from "../../models/config.ts";
import { type DecoderModel, disposeModel } from "../../models/device.ts";
import { composePlans, densePlan, type PrunePlan } from "../../models/plan.ts";
import { linearTensors, pruneModel, replaceLinears } from "../../models/surgery.ts";
import { type BudgetTarget, resolveTarget, targetFrom } from "../../models/target.ts";
import type { Domain } from "../../models/training/domains.ts";
import { loadSnapshot, saveSnapshot } from "../../models/training/snapshot.ts";
import { outlineOf, type PruneStage, type StageOutline, stagesOf, stageTensors } from "../../models/training/stages.ts";
import { hashWindows } from "../../models/training/teacher.ts";
import { canonicalJson } from "../../core/schema/cell_names.ts";
import { at } from "../../core/util/indexing.ts";

/** What the level before left. */
export interface Rung {
  /** The pruned model; the dense one before the first level. */
  model: DecoderModel;
  /** Units of the dense model that are left. */
  plan: PrunePlan;
  /** Of all levels so far. */
  reports: TrainingReport[];
  /** From the dense model to `model`; null where a level left no more than its weights. */
  stages: PruneStage[] | null;
}

/** What of a rung is plain, in the file of a level. */
type PlainRung = Pick<Rung, "plan" | "reports"> & { outlines?: StageOutline[] | null };

/** What one level learns from. */
export interface LevelGiven {
  /** The model to prune. */
  base: DecoderModel;
  /** The level's budget, as seen from `base`. */
  target: BudgetTarget;
  /** The level's share of the steps. */
  options: TrainingOptions;
  /** Its windows. */
  windows: Int32Array[];
  /** What they were drawn from, with as many windows each. */
  domains?: Domain[];
  /** Part of the calibration windows that the method sees. */
  calibrationShare: number;
  /** The cell of this level, for names of files. */
  cell: Cell;
  /** Keeps statistics of one level's base apart from those of others; empty for the dense model. */
  prefix: string;
}

/** What {@linkcode climb} reads. */
export interface Ladder {
  /** With `ladder` and `training`; its own `sparsity` is the level to reach. */
  cell: Cell & { ladder: number[]; training: TrainingOptions };
  dense: DecoderModel;
  /** Training windows of the whole ladder, {@linkcode ladderSteps} batches. */
  windows: Int32Array[];
  /** What they were drawn from, with as many windows each. */
  domains?: Domain[];
  /** Names everything that the result depends on and the cell does not: weights, calibration data. */
  key: string;
  /** Folder for the levels. */
  folder: string;
  /** Does `work`, which is to wait for another process. */
  waiting<T>(work: () => Promise<T>): Promise<T>;
  /** Prunes one level; the plan is for `base`. */
  prune(given: LevelGiven): Promise<PruneResult>;
  /** What makes that level again; null where that is no less than its weights. */
  stageOf(result: PruneResult): PruneStage | null;
}

/** Steps of levels but the last, and of the last, as parts of an independent run's. */
const [EARLIER, LAST] = [0.75, 0.5];
const CALIBRATION_SHARE = 0.25;

/** Steps of a whole ladder whose independent runs would take `steps` each. */
export function ladderSteps(steps: number): number {
  return Math.floor(EARLIER * steps) + Math.ceil(LAST * steps);
}

/** Steps before level `i` of `n`; `i` may be n. */
function stepsBefore(i: number, n: number, steps: number): number {
  return i === n ? ladderSteps(steps) : Math.floor(EARLIER * steps * i / (n - 1));
}

/** Steps of the level `sparsity` of a ladder whose independent runs would take `steps` each. */
export function levelSteps(
  { ladder, sparsity }: { ladder: readonly number[]; sparsity: number },
  steps: number,
): number {
  const i = ladder.indexOf(sparsity);
  return stepsBefore(i + 1, ladder.length, steps) - stepsBefore(i, ladder.length, steps);
}

/** The model at the level of the cell, by way of the levels before. Free it with `disposeModel`.
 * @throws {UsageError} as the method does. */
export function climb(ladder: Ladder): Promise<Rung> {
  return reach(ladder, ladder.cell.ladder.indexOf(ladder.cell.sparsity));
}

/** Names the model that level `i` leaves: everything that it depends on. */
function levelKey({ cell, windows, domains = [], key }: Ladder, i: number): string {
  const { model: _path, sparsity: _level, ...decisive } = pruningOf(cell);
  const read = [windows, ...domains.flatMap(({ windows, heldOut }) => [windows, heldOut])].map(hashWindows);
  return canonicalJson({ ...decisive, level: i, windows: read, key });
}

const shortHash = (text: string) => createHash("sha256").update(text).digest("hex").slice(0, 16);

async function reach(ladder: Ladder, i: number): Promise<Rung> {
  const { cell, dense, folder } = ladder;
  if (i < 0) return { model: dense, plan: densePlan(dense.config), reports: [], stages: [] };
  if (i === cell.ladder.length - 1) return await step(ladder, i);
  const key = levelKey(ladder, i);
  const place = join(folder, `ladder-${shortHash(key)}`);
  Deno.mkdirSync(folder, { recursive: true });
  // Others that need this level wait for it.
  using lock = Deno.openSync(`${place}.lock`, { read: true, write: true, create: true });
  await ladder.waiting(() => lock.lock(true));
  const found = loadSnapshot(place, key);
  if (found) return restore(dense, found.state as PlainRung, found.tensors);
  const rung = await step(ladder, i);
  const { plan, reports, stages } = rung;
  const state: PlainRung = { plan, reports, outlines: stages?.map(outlineOf) ?? null };
  const tensors = await linearTensors(rung.model);
  for (const [name, tensor] of stageTensors(stages ?? [])) tensors.set(STAGES + name, tensor);
  saveSnapshot(place, { key, step: i, state, tensors });
  return rung;
}

/** From the level before to level `i`. */
async function step(ladder: Ladder, i: number): Promise<Rung> {
  const { cell, dense, windows, domains, prune, stageOf } = ladder;
  const { ladder: levels, training: { batch, steps } } = cell;
  const before = await reach(ladder, i - 1);
  try {
    const sparsity = at(levels, i);
    const target = resolveTarget(dense.config, { ...cell, sparsity });
    const from = stepsBefore(i, levels.length, steps);
    const to = stepsBefore(i + 1, levels.length, steps);
    const result = await prune({
      base: before.model,
      target: i === 0 ? target : targetFrom(before.model.config, target),
      options: { ...cell.training, steps: to - from },
      windows: windows.slice(from * batch, to * batch),
      domains: domains?.map((one) => ({ ...one, windows: one.windows.slice(from * batch, to * batch) })),
      calibrationShare: i === 0 ? 1 : CALIBRATION_SHARE,
      cell: { ...cell, sparsity },
      prefix: i === 0 ? "" : `after level ${shortHash(levelKey(ladder, i - 1))}: `,
    });
    const { plan, replaced, training = [] } = result;
    const stage = stageOf(result);
    return {
      model: pruneModel(before.model, plan, replaced),
      plan: composePlans(before.plan, plan),
      reports: [...before.reports, ...training.map((report) => ({ ...report, level: sparsity }))],
      stages: before.stages && stage && [...before.stages, stage],
    };
  } finally {
    if (before.model !== dense) disposeModel(before.model);
  }
}

/** Before the names of tensors of stages in the file of a level. */
const STAGES = "stages/";

function restore(dense: DecoderModel, { plan, reports, outlines }: PlainRung, tensors: Map<string, HostTensor>): Rung {
  const ofStages = new Map(
    [...tensors].flatMap(([name, tensor]) => name.startsWith(STAGES) ? [[name.slice(STAGES.length), tensor]] : []),
  );
  const model = replaceLinears(pruneModel(dense, plan), tensors);
  return { model, plan, reports, stages: outlines ? stagesOf(outlines, ofStages, dense.config) : null };
}
