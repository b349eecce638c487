/** What MaskPrune's options leave open, decided by what is measured before the first step.
 *
 * A run's steps repair what pruning broke, and learn what the text has that the dense model does not know. Two numbers tell
 * which: the damage of removing all units at once, and the text's surprise, both in nats per token. Where the text holds
 * nothing new there is only repair: all units go before the first step. Where the damage is many times the surprise, repair
 * comes first, unless least squares do it: units are ranked by the cost of removal, which takes it that the others stand in
 * for them and that the dense model has nothing to learn from the text, and each window has a step. Else what the text
 * teaches matters more than what the dense model would have said. Hidden states lead a model back that was thrown off. The
 * limits were chosen on validation text (`docs/maskprune.md`).
 *
 * @module
 */
import { at, entry } from "../../core/util/indexing.ts";
import type { TrainingOptions } from "../../core/schema/schema.ts";
import type { DecoderModel } from "../../models/device.ts";
import type { MethodContext, Statistics } from "../define.ts";
import { surpriseOf } from "./distance.ts";
import type { Options } from "./options.ts";

/** Nats per token of surprise above which a text has something new for the model. */
const NEW_TEXT = 0.05;

/** Nats of KL per token from the dense model above which hidden states are compared. */
const GENTLE_DAMAGE = 0.5;

/** Damage over surprise above which repair comes first. */
export const REPAIR_RATIO = 6;

/** Weight of the hidden-state term where it is in. */
export const HIDDEN_WEIGHT = 5;

/** A number kept with the statistics of a run, so that one that was stopped goes on with the same. */
async function remembered(
  { remember }: Pick<MethodContext<unknown>, "remember">,
  key: string,
  compute: () => Promise<number>,
): Promise<number> {
  const kept = await remember(key, async (): Promise<Statistics> => ({
    value: { shape: [1], data: Float32Array.of(await compute()) },
  }));
  return at(entry(kept, "value").data, 0);
}

/** Whether the options leave anything to the text's surprise. */
export const isOpen = ({ course, updates, hidden, redundancy }: Options): boolean =>
  !course || !updates || hidden === undefined || redundancy === "measured";

/** The text's surprise, in nats per token. */
export function surpriseOfText(context: MethodContext<Options>, dense: DecoderModel): Promise<number> {
  const { learning, report } = context;
  return remembered(context, "surprise of the calibration text", async () => {
    const nats = await surpriseOf({ ...context, model: learning?.teacher ?? dense });
    report(`the text surprises the dense model by ${nats.toFixed(3)} nats per token more than it expects`);
    return nats;
  });
}

/** Windows that `rampStart`, `rampEnd` and `freeze` are parts of at most, and the steps that these are at least. */
const COURSE = { windows: 120, steps: 60 };

/** Steps that the parts of the course are of. Where it is open, a long run spends what it has more on the structure that was
 * found; large batches still leave steps to find it in. */
export const courseSteps = (
  { course }: Pick<Options, "course">,
  { steps, batch }: Pick<TrainingOptions, "steps" | "batch">,
): number => course ? steps : Math.min(steps, Math.max(COURSE.steps, Math.round(COURSE.windows / batch)));

/** Whether the steps repair before they learn: where much was broken for what there is to learn, and is not compensated. */
export const isRepair = (
  { learning }: Pick<MethodContext<unknown>, "learning">,
  { damage, surprise }: { damage: number; surprise: number },
): boolean => !learning?.compensate && damage > REPAIR_RATIO * surprise;

/** The options with what the calibration text decides alone: where it holds nothing new, what is open is set to repair. */
export function settledByText(options: Options, surprise: number): Options {
  const { course, updates, hidden, redundancy } = options;
  if (surprise > NEW_TEXT) return { ...options, course: course ?? "gradual" };
  return {
    ...options,
    course: course ?? "at-once",
    updates: updates ?? "window",
    hidden: hidden ?? HIDDEN_WEIGHT,
    redundancy: redundancy === "measured" ? "full" : redundancy,
  };
}

/** The weight of the hidden-state term and how often there is a step, by the damage where they are open: `damage` measures
 * it, in nats of KL per token, when it is needed. */
export async function settledByDamage(
  context: MethodContext<Options>,
  { surprise, damage }: { surprise: number; damage: () => Promise<number> },
): Promise<Pick<Options, "hidden" | "updates">> {
  const { options, target, learning } = context;
  const hidden = learning?.options.hidden || (options.distillation ? options.hidden : 0);
  if (hidden !== undefined && options.updates) return { hidden, updates: options.updates };
  // What is compensated may have another metric.
  const key = JSON.stringify({ options, target, compensated: learning?.compensate !== undefined });
  const nats = await remembered(context, `damage, mask-prune ${key}`, damage);
  return {
    hidden: hidden ?? (nats > GENTLE_DAMAGE ? HIDDEN_WEIGHT : 0),
    updates: options.updates ?? (isRepair(context, { damage: nats, surprise }) ? "window" : "batch"),
  };
}
